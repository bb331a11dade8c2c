"""Post the system alerts to the Alertmanagers after a health pass, in its remaining time.

A post cannot make a pass fail or delay it beyond its deadline: it runs after the commit, in its own
thread, and a failure is only a warning. It posts the alerts in the database, even if the pass
failed.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from ops_worker.core.passes import MAINTENANCE_TABLES
from ops_worker.errors import OpsWorkerError
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.core.notify import SystemAlert
    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")

POST_DEADLINE_S = 5.0
"""Deadline in seconds for everything: the transactions that read, and the posts."""
REQUEST_DEADLINE_S = 3.0
"""Deadline in seconds for one post, which goes to all Alertmanagers at the same time."""
MIN_STEP_S = 0.1
"""The least time, in seconds, for one transaction or one post."""
CUT_S = 0.2
"""Seconds that a transaction needs to end after its connection was cut at the deadline."""
ROUNDS = 3
"""Maximum number of posts of one pass. It posts again if alerts changed in the meantime."""


def post_within(
    settings: Settings, store: Store, period_s: float, left_s: float, *, pass_failed: bool = False
) -> None:
    """Post the alerts of a single pass; return after ``left_s`` seconds at the latest.

    With ``pass_failed``, the error of the pass has the cause, so no warning repeats it.
    """
    budget_s = min(POST_DEADLINE_S, left_s - CUT_S)
    if budget_s <= 0:
        if not pass_failed:
            _warn("the pass had no time left for it")
        return
    thread = threading.Thread(
        target=post,
        args=(settings, store, period_s, budget_s),
        kwargs={"pass_failed": pass_failed},
        name="alertmanager",
        daemon=True,
    )
    try:
        thread.start()
    except RuntimeError as error:  # a limit of this process
        _warn(str(error))
        return
    thread.join(budget_s + CUT_S)
    if thread.is_alive() and not pass_failed:
        _warn(f"no answer within {budget_s:g} s")


def post(
    settings: Settings,
    store: Store,
    period_s: float,
    budget_s: float,
    *,
    pass_failed: bool = False,
) -> None:
    """Post the alerts in the database. Never raises: a failure is a warning.

    With ``pass_failed``, the error of the pass has already reported the problem with the database.
    Then only a failure of an Alertmanager is a warning. ``store`` has no connection during and
    after a request.
    """
    end = time.monotonic() + budget_s
    try:
        problem = _post_until_unchanged(settings, store, period_s, end)
    except OpsWorkerError as error:  # of the database
        problem = "" if pass_failed else str(error)
    except Exception as error:  # noqa: BLE001 - see above: never raises
        problem = f"{type(error).__name__}: {one_line(str(error))}"
    if problem:
        _warn(problem)


def _post_until_unchanged(settings: Settings, store: Store, period_s: float, end: float) -> str:
    """Post the alerts until the posted alerts equal those in the database; return what failed.

    Two passes may post at the same time. If the older post arrived last, a closed alert would fire
    until the next pass. So each pass reads the alerts again after its post.
    """
    from ops_worker.adapters.http import alertmanager

    receivers = alertmanager.Alertmanagers(
        urls=settings.alertmanager_urls,
        token_file=settings.alertmanager_token_file,
        ca=settings.alertmanager_ca,
    )
    posted: list[SystemAlert] | None = None
    problems: list[str] = []
    for _ in range(ROUNDS):
        rows, alerts = _read(settings, store, period_s, _left_s(end))
        if rows == posted or not alerts:
            break
        problems = alertmanager.post(receivers, alerts, min(REQUEST_DEADLINE_S, _left_s(end)))
        posted = rows
        if time.monotonic() >= end:
            break
    return "; ".join(problems)


def _left_s(end: float) -> float:
    """Return the seconds until ``end``, but at least MIN_STEP_S."""
    return max(MIN_STEP_S, end - time.monotonic())


def _read(
    settings: Settings, store: Store, period_s: float, left_s: float
) -> tuple[list[SystemAlert], list[dict[str, Any]]]:
    """Read the alerts in ``left_s`` seconds; return the rows, and the alerts to post.

    The connection is closed afterwards, so that no connection is open during a request.
    """
    from ops_worker.adapters.postgres.alert_reads import read_alerts_to_post
    from ops_worker.adapters.postgres.pass_writes import maintenance_of
    from ops_worker.core.notify import PostRules, alerts_to_post, parse_labels

    def read(transaction: Transaction) -> tuple[list[SystemAlert], list[dict[str, Any]]]:
        """Read the rows, and apply the rules to them."""
        rules = PostRules(
            now=transaction.now,
            period_s=period_s,
            labels=parse_labels(settings.alert_labels),
            runbook_url=settings.alert_runbook_url,
            under_maintenance=maintenance_of(transaction, settings.maintenance_until),
        )
        # Count the services of all shards, because one shard posts the alerts of all.
        rows = read_alerts_to_post(transaction, period_s, len(settings.catalogue.targets))
        return rows, alerts_to_post(rows, rules)

    store.limit(left_s)
    try:
        return store.read(read, required_tables=["fleet_alert"], optional_tables=MAINTENANCE_TABLES)
    finally:
        store.close()


def _warn(problem: str) -> None:
    extra = {"action": "alerts not posted", "error": problem}
    _log.warning("an Alertmanager did not receive the alerts", extra=extra)


class Poster:
    """Posts the alerts of a loop in its own thread, one post at a time.

    So no tick waits for a post, and no older post arrives after a newer post.
    """

    def __init__(self, post: Callable[..., object]) -> None:
        """Store the function that posts, with the argument ``pass_failed``. It never raises."""
        self._post = post
        self._lock = threading.Lock()  # guards the three attributes below
        self._is_requested = False
        self._pass_failed = False
        self._thread: threading.Thread | None = None

    def request(self, *, pass_failed: bool = False) -> None:
        """Request a post: at once, or after the post that is running."""
        with self._lock:
            self._is_requested = True
            self._pass_failed = pass_failed
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="alertmanager", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # a limit of this process; the next tick tries again
                _warn(str(error))
            else:
                self._thread = thread

    def finish(self, deadline: float) -> None:
        """Wait for the posts that were requested, until ``deadline`` (monotonic clock)."""
        thread = self._thread
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        """Post until nothing is requested."""
        while True:
            with self._lock:
                if not self._is_requested:
                    self._thread = None
                    return
                self._is_requested = False
                pass_failed = self._pass_failed
            self._post(pass_failed=pass_failed)
