"""The outbound heartbeat: start, success and fail, told to a service that misses them (healthchecks.io and its like)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from ops_worker.core.model import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 3.0
"""Seconds for a ping: it is worth no more, and its failure never fails a pass."""
ACCEPTED = tuple(range(200, 300))

_log = logging.getLogger("ops_worker")


@contextlib.contextmanager
def heartbeat(url: str, end: float) -> Iterator[None]:
    """Tell ``url`` that the pass inside begins, and how it ended: ``/start``, then nothing more or ``/fail``. Empty: tell nobody.

    Both are added to its path; its query stays behind them.
    Nothing of it goes on after ``end``, a moment of the monotonic clock: a pass that is recorded must not miss its deadline for it.
    """
    if not url:
        yield
        return
    start = threading.Thread(
        target=_ping, args=(_of(url, "/start"), end), name="heartbeat", daemon=True
    )
    start.start()
    try:
        yield
    except BaseException:
        start.join(_left(end))  # in this order, or it would seem to run still
        _ping(_of(url, "/fail"), end)
        raise
    start.join(_left(end))
    _ping(_of(url), end)


def _of(url: str, what: str = "") -> str:
    base, mark, query = url.partition("?")
    return f"{base.rstrip('/')}{what}{mark}{query}"


def _left(end: float) -> float:
    return max(0.0, min(DEADLINE_S, end - time.monotonic()))


def _ping(url: str, end: float) -> None:
    from ops_worker.adapters import http

    error = "the pass had no time left for it"
    if deadline_s := _left(end):
        (seen,) = http.observe(
            [Target("heartbeat", url, "", (), json=False, expect=ACCEPTED, deadline_s=deadline_s)]
        )
        if seen.http_status in ACCEPTED:
            return
        error = seen.error or f"http {seen.http_status}"
    _log.warning(
        "no heartbeat", extra={"action": "no heartbeat", "error": error}
    )  # without the URL, which is a secret
