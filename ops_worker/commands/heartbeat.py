"""The outbound heartbeat: start, success and fail, told to a service that misses them (healthchecks.io and its like)."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from ops_worker.core.model import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 3.0
"""Seconds for a ping: it is worth no more, and its failure never fails a pass."""
ACCEPTED = tuple(range(200, 300))

_log = logging.getLogger("ops_worker")


@contextlib.contextmanager
def heartbeat(url: str) -> Iterator[None]:
    """Tell ``url`` that the pass inside begins, and how it ended: ``/start``, then nothing more or ``/fail``. Empty: tell nobody."""
    if not url:
        yield
        return
    url = url.rstrip("/")
    start = threading.Thread(target=_ping, args=(f"{url}/start",), name="heartbeat", daemon=True)
    start.start()
    try:
        yield
    except BaseException:
        start.join(DEADLINE_S)  # in this order, or it would seem to run still
        _ping(f"{url}/fail")
        raise
    start.join(DEADLINE_S)
    _ping(url)


def _ping(url: str) -> None:
    from ops_worker.edges import probes

    (seen,) = probes.observe([Target("heartbeat", url, "", (), json=False, expect=ACCEPTED, deadline_s=DEADLINE_S)])
    if seen.http_status not in ACCEPTED:
        error = seen.error or f"http {seen.http_status}"
        _log.warning("no heartbeat", extra={"action": "no heartbeat", "error": error})  # without the URL, which is a secret
