"""The ledger: the states of each service over years, in few rows.

There are two kinds of rows. A **run** is an unbroken sequence of passes of one pass and shard. A
**span** is a service in one state, as one pass saw it. A pass in which nothing changed extends its
run and writes no span. A time in which no pass ran ends a run, but no span.

``Book`` decides which rows passes write. ``core.timeline`` computes the state at any time from the
rows. docs/contract.md, "Ledger", has the rules.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.staleness import stale_after_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from ops_worker.core.model import Condition, Target, Thresholds

HEALTHY = "healthy"
UNKNOWN = "unknown"
STATES = (HEALTHY, "degraded", "down", UNKNOWN)
"""The states that a pass records (``service_health.details.status``)."""
UNSEEN = "unseen"
"""The state of a service while nobody looked."""
NEW = -1
"""The ``id`` of a span that the database does not have yet."""
ENDED = "ended"
"""The digest of a run that a blind pass ended. The next pass begins a new run."""


class Sight(NamedTuple):
    """The state of a service as one pass saw it. ``reason_class`` is empty if it is healthy."""

    service: str
    at: datetime
    state: str
    reason_class: str = ""
    reason: str = ""


class Sighting(NamedTuple):
    """What one pass saw of all its services.

    ``begun`` is the time at which the pass began, ``period_s`` its period in seconds. ``config`` is
    the hash of the configuration (``config_hash``).
    """

    begun: datetime
    sights: tuple[Sight, ...]
    period_s: float
    config: str


class Run(NamedTuple):
    """An unbroken sequence of passes of one pass and shard.

    ``first_at`` is the earliest sight of its first pass, ``last_at`` the latest sight of its last
    pass. ``period_s`` and ``config`` are those of its passes (``Sighting``), ``passes`` is their
    number. ``shard`` has the number of the shard and the number of shards.

    ``digest`` is the digest of the states of all services in the last pass. If the next pass has
    the same digest, no span changes, and no span has to be read. It is empty if the last pass does
    not give the states of all open spans, and ENDED if the next pass must begin a new run.
    """

    id: int
    period_s: float
    config: str
    first_at: datetime
    last_at: datetime
    passes: int
    digest: str = ""
    shard: str = "0/1"


class Span(NamedTuple):
    """A service in one state, as one pass saw it. ``last_at`` is None while the state lasts.

    The first sight is in pass number ``first_no`` of the run ``run``, the last sight in pass number
    ``last_no`` of the run ``last_run``. The first pass of a run has the number 1.
    """

    id: int
    service: str
    state: str
    reason_class: str
    reason: str
    first_at: datetime
    first_no: int
    run: int
    last_at: datetime | None = None
    last_no: int | None = None
    last_run: int | None = None


class Book:
    """The changes of the ledger of one pass and shard. Sightings are entered oldest first.

    - ``newest``: the run that was written last; None if there is none.
    - ``runs``: the runs that are new or changed, oldest first.
    - ``ended``: the spans of the database that ended.
    - ``begun``: the spans that began. Some of them may have ended again.

    New runs have negative numbers until the database numbers them.
    """

    def __init__(
        self, newest: Run | None, read_open_spans: Callable[[], Iterable[Span]], now: datetime
    ) -> None:
        """Begin with the newest run of the database, or None if it has no run.

        ``read_open_spans`` returns the spans of the database that have not ended. It is called at
        most once, and only if a state changed. ``now`` is the time of the database's clock.
        """
        self.ended: list[Span] = []
        self.newest = newest
        self._read_open_spans = read_open_spans
        self._now = now
        self._runs: dict[int, Run] = {}
        self._begun: list[Span] = []
        self._open: list[Span] | None = None

    @property
    def runs(self) -> list[Run]:
        """The runs that are new or changed, oldest first."""
        return list(self._runs.values())

    @property
    def begun(self) -> list[Span]:
        """The spans that began. Those that have ended again are first."""
        lasting = [span for span in self._open or () if span.id == NEW]
        return [*self._begun, *lasting]

    def enter(self, sighting: Sighting) -> None:
        """Enter what a pass saw.

        A sight that is not newer than the newest run is ignored: the pass is late, was paused or is
        repeated. If a pass has sights and all of them are ignored, the pass is ignored.
        """
        newest = self.newest
        # A run from the future was written before a clock was set back. Then no sight is too old.
        is_set_back = newest is not None and newest.last_at > self._now
        fresh = sighting.sights if is_set_back else _newer(sighting.sights, newest)
        if sighting.sights and not fresh:
            return
        stale = {sight.service for sight in sighting.sights} - {sight.service for sight in fresh}
        run = self._extended(sighting, fresh, newest=None if is_set_back else newest)
        if stale:
            run = run._replace(digest="")
        is_same = newest is not None and run.digest and run.digest == newest.digest
        if is_set_back or not is_same:
            self._change_spans(fresh, stale, run, ends_all=is_set_back)
        self._runs[run.id] = run
        self.newest = run

    def end_run(self) -> None:
        """End the newest run because a blind pass followed it. No span changes."""
        if self.newest is not None:
            self.newest = self.newest._replace(digest=ENDED)
            self._runs[self.newest.id] = self.newest

    def _extended(self, sighting: Sighting, sights: Sequence[Sight], newest: Run | None) -> Run:
        """Return the newest run with one more pass, or a new run.

        If the pass has no services, the time at which it began counts as its sight.
        """
        times = [sight.at for sight in sights] or [sighting.begun]
        first_at, last_at, digest = min(times), max(times), digest_of(sights)
        if newest is not None and _is_extended(newest, sighting, first_at):
            last_at = max(last_at, newest.last_at)
            return newest._replace(last_at=last_at, passes=newest.passes + 1, digest=digest)
        return Run(
            # Negative, because the database has not numbered this run yet.
            id=-1 - len(self._runs),
            period_s=sighting.period_s,
            config=sighting.config,
            first_at=first_at,
            last_at=last_at,
            passes=1,
            digest=digest,
        )

    def _change_spans(
        self, sights: Sequence[Sight], stale: set[str], run: Run, *, ends_all: bool
    ) -> None:
        """End the spans whose state changed or whose service was left out, and begin new ones.

        The span of a ``stale`` service lasts: its sight is not newer than the newest run. With
        ``ends_all``, every open span ends.
        """
        sight_of = {sight.service: sight for sight in sights}
        lasting: dict[str, Span] = {}
        for span in self._open_spans():
            service = span.service
            is_same = service in stale or _has_state(span, sight_of.get(service))
            # Damaged rows may have several open spans of a service: only the first one lasts.
            if is_same and not ends_all and service not in lasting:
                lasting[service] = span
            else:
                self._end(span)
        begun = [_begun_span(sight, run) for sight in sights if sight.service not in lasting]
        self._open = [*lasting.values(), *begun]

    def _open_spans(self) -> list[Span]:
        if self._open is None:
            self._open = list(self._read_open_spans())
        return self._open

    def _end(self, span: Span) -> None:
        """End a span with the pass before this one, which had the last sight of its state.

        If no run is as new as the span, its first sight is its last one.
        """
        newest = self.newest
        if newest is not None and newest.last_at >= span.first_at:
            ended = span._replace(last_at=newest.last_at, last_no=newest.passes, last_run=newest.id)
        else:
            ended = span._replace(last_at=span.first_at, last_no=span.first_no, last_run=span.run)
        spans = self._begun if span.id == NEW else self.ended
        spans.append(ended)


def _newer(sights: tuple[Sight, ...], newest: Run | None) -> tuple[Sight, ...]:
    """Return the sights that are newer than all sights of the newest run."""
    if newest is None:
        return sights
    return tuple(sight for sight in sights if sight.at > newest.last_at)


def _is_extended(run: Run, sighting: Sighting, first_at: datetime) -> bool:
    """Return whether a pass whose first sight is at ``first_at`` extends the run."""
    return (
        run.digest != ENDED
        and (run.period_s, run.config) == (sighting.period_s, sighting.config)
        and not is_hole(run.last_at, run.period_s, first_at, sighting.period_s)
    )


def _has_state(span: Span, sight: Sight | None) -> bool:
    """Return whether a sight has the state and reason class of a span; False without a sight."""
    if sight is None:
        return False
    return (sight.state, sight.reason_class) == (span.state, span.reason_class)


def _begun_span(sight: Sight, run: Run) -> Span:
    return Span(
        id=NEW,
        service=sight.service,
        state=sight.state,
        reason_class=sight.reason_class,
        reason=sight.reason,
        first_at=sight.at,
        first_no=run.passes,
        run=run.id,
    )


def digest_of(sights: Iterable[Sight]) -> str:
    """Return a digest of the states and reason classes. The order of the sights does not matter."""
    lines = sorted(f"{sight.service}\0{sight.state}\0{sight.reason_class}" for sight in sights)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def is_hole(
    earlier: datetime, earlier_period_s: float, later: datetime, later_period_s: float
) -> bool:
    """Return whether the time between two sights is longer than the patience, so that it is unseen.

    Each sight has the period of its pass. The longer patience of the two passes counts.
    """
    patience_s = max(stale_after_s(earlier_period_s), stale_after_s(later_period_s))
    return (later - earlier).total_seconds() > patience_s


def is_cut(before: Run, after: Run) -> bool:
    """Return whether a blind pass was between two consecutive runs of a shard.

    The time between them must not be longer than the patience. Then nothing else separates two runs
    of the same period and configuration.
    """
    return (before.period_s, before.config) == (after.period_s, after.config)


def config_of(targets: Sequence[Target], thresholds: Thresholds) -> dict[str, Any]:
    """Return the configuration that decides verdicts and alerts, as a document without secrets."""
    return {
        "alert_after": thresholds.alert_after,
        "resolve_after": thresholds.resolve_after,
        "services": {target.name: _target_config(target) for target in targets},
    }


def config_hash(document: dict[str, Any]) -> str:
    """Return the hash of the document of a configuration: 32 hexadecimal digits."""
    text = json.dumps(document, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _target_config(target: Target) -> dict[str, Any]:
    """Return the part of a target that decides its verdicts. Of headers, it has only the names."""
    counters = None
    if target.counters is not None:
        counters = [list(counter) for counter in target.counters]
    document = {
        "url": target.shown_url,
        "series": target.series,
        "counters": counters,
        "counters_at": target.counters_at,
        "expect": list(target.expect),
        "deadline_s": target.deadline_s,
        "json": target.json,
        "headers": [name for name, _ in target.headers],
        "tls": [target.tls.ca, target.tls.certificate, target.tls.key],
        "conditions": [_condition_config(condition) for condition in target.conditions],
        "max_latency_ms": target.max_latency_ms,
        "tags": dict(target.tags),
        "alert_after": target.alert_after,
        "resolve_after": target.resolve_after,
    }
    # Keys of later releases are left out if they are not used: an upgrade alone must not begin a
    # new configuration.
    newer = {
        "method": target.method if target.method != "GET" else "",
        "body": bool(target.body),
        "redirects": target.redirects,
        "redirect_hosts": list(target.redirect_hosts),
        "skip_verify": target.tls.skip_verify,
        "needs": list(target.needs),
    }
    if target.certificate_days is not None:
        document["certificate_days"] = target.certificate_days
    return document | {key: value for key, value in newer.items() if value}


def _condition_config(condition: Condition) -> list[Any]:
    header = [condition.header] if condition.header else []
    return [condition.pointer, condition.relation, condition.value, *header]
