"""Report start, success and failure of a pass to healthchecks.io or a similar service.

Such a service raises an alert when heartbeats stop.
"""

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
"""Deadline of one request in seconds. A heartbeat that fails must neither fail nor delay a pass."""
ACCEPTED = tuple(range(200, 300))
"""HTTP statuses of a successful heartbeat."""

_log = logging.getLogger("ops_worker")


@contextlib.contextmanager
def heartbeat(url: str, end: float) -> Iterator[None]:
    """Report to ``url`` that the pass inside this context begins, and how it ends.

    A start adds ``/start`` to the path of the URL, a failure adds ``/fail``, success adds nothing.
    A query stays at the end of the URL. With an empty URL, no heartbeat is sent.

    No request continues after ``end`` (a moment of the monotonic clock), so that a recorded pass
    does not exceed its deadline because of a heartbeat.
    """
    if not url:
        yield
        return
    start = threading.Thread(
        target=_send, args=(_with_suffix(url, "/start"), end), name="heartbeat", daemon=True
    )
    start.start()
    try:
        yield
    except BaseException:
        start.join(_time_left(end))  # a start that arrives last would look like a running pass
        _send(_with_suffix(url, "/fail"), end)
        raise
    start.join(_time_left(end))
    _send(_with_suffix(url, ""), end)


def _with_suffix(url: str, suffix: str) -> str:
    path, mark, query = url.partition("?")
    return f"{path.rstrip('/')}{suffix}{mark}{query}"


def _time_left(end: float) -> float:
    """Return the seconds that a request may take now: at most DEADLINE_S, 0 after ``end``."""
    return max(0.0, min(DEADLINE_S, end - time.monotonic()))


def _send(url: str, end: float) -> None:
    from ops_worker.adapters import http

    error = "the pass had no time left for it"
    deadline_s = _time_left(end)
    if deadline_s:
        target = Target(
            name="heartbeat",
            url=url,
            series="",
            counters=(),
            expect=ACCEPTED,
            deadline_s=deadline_s,
            json=False,
        )
        (observation,) = http.observe([target])
        if observation.http_status in ACCEPTED:
            return
        error = observation.error or f"http {observation.http_status}"
    # The URL is a secret, so it is not logged.
    _log.warning("no heartbeat", extra={"action": "no heartbeat", "error": error})
