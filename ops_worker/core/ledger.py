"""The ledger: what each service was, in few rows, for years.

There are two kinds of rows. A **run** is an unbroken sequence of passes of one pass and shard. A
**span** is a service in one state, as one pass saw it. A pass in which nothing changed extends its
run and writes no span. A time in which no pass looked ends a run, and no span.

``Book`` decides what passes write. ``core.timeline`` turns the rows back into what a service was at
any time. docs/contract.md, "Ledger", has the rules.
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
"""The number of a span that the database does not have yet."""
ENDED = "ended"
"""The digest of a run that a blind pass ended: the next pass begins a new one."""


class Sight(NamedTuple):
    """A service as one pass saw it. ``reason_class`` is empty when it is healthy."""

    service: str
    at: datetime
    state: str
    reason_class: str = ""
    reason: str = ""


class Sighting(NamedTuple):
    """What one pass saw of all its services.

    ``begun`` is the time at which it began, ``period_s`` the seconds from one pass to the next.
    ``config`` is the hash of what decides verdicts and alerts.
    """

    begun: datetime
    sights: tuple[Sight, ...]
    period_s: float
    config: str


class Run(NamedTuple):
    """An unbroken sequence of passes of one pass and shard.

    ``first_at`` is the earliest sight of its first pass, ``last_at`` the latest sight of its last
    one. ``digest`` stands for the states of all services in its last pass: if the next pass has the
    same, no span changes, and none has to be read. It is empty if it says nothing about the spans,
    and ENDED if the next pass must begin a new run.
    ``shard`` is its number and the number of shards.
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
    """A service in one state. ``last_at`` is None while it lasts.

    ``first_no`` and ``last_no`` are the numbers of the passes of its first and last sight in the
    runs ``run`` and ``last_run``. They begin at 1 in each run.
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
    """The ledger of one pass and shard, while sightings are entered into it, oldest first.

    - ``newest``: the run that was written last.
    - ``runs``: the runs that are new or changed, oldest first.
    - ``ended``: spans of the database that ended.
    - ``begun``: spans that began; they may have ended again.

    New runs have negative numbers until the database gives them theirs.
    """

    def __init__(
        self, newest: Run | None, read_open_spans: Callable[[], Iterable[Span]], now: datetime
    ) -> None:
        """Open the book at the newest run; ``read_open_spans`` is called if a state changed.

        ``now`` is the time of the database's clock.
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
        """The spans that began, those that have ended again first."""
        lasting = [span for span in self._open or () if span.id == NEW]
        return [*self._begun, *lasting]

    def enter(self, sighting: Sighting) -> None:
        """Enter what a pass saw.

        A sight that is not newer than the newest run changes nothing: the pass is late, was paused
        or is repeated. A pass without any newer sight does not count.
        """
        newest = self.newest
        # The newest run is from the future: a clock was set back. Nothing is older than it.
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
            self._change_spans(fresh, stale, run, keeps_spans=not is_set_back)
        self._runs[run.id] = run
        self.newest = run

    def end_run(self) -> None:
        """End the newest run, because a blind pass followed it; no span changes."""
        if self.newest is not None:
            self.newest = self.newest._replace(digest=ENDED)
            self._runs[self.newest.id] = self.newest

    def _extended(self, sighting: Sighting, sights: Sequence[Sight], newest: Run | None) -> Run:
        """Return the newest run with one more pass, or a new run.

        A pass without services counts with the time at which it began.
        """
        times = [sight.at for sight in sights] or [sighting.begun]
        first_at, last_at, digest = min(times), max(times), digest_of(sights)
        is_same = newest is not None and (newest.period_s, newest.config) == (
            sighting.period_s,
            sighting.config,
        )
        if (
            newest is not None
            and is_same
            and newest.digest != ENDED
            and not is_hole(newest.last_at, newest.period_s, first_at, sighting.period_s)
        ):
            last_at = max(last_at, newest.last_at)
            return newest._replace(last_at=last_at, passes=newest.passes + 1, digest=digest)
        return Run(
            id=-1 - len(self._runs),  # the number of a run that the database does not have yet
            period_s=sighting.period_s,
            config=sighting.config,
            first_at=first_at,
            last_at=last_at,
            passes=1,
            digest=digest,
        )

    def _change_spans(
        self, sights: Sequence[Sight], stale: set[str], run: Run, *, keeps_spans: bool
    ) -> None:
        """End the spans of other states and of services that were left out; begin the new ones.

        A service that the pass saw before the newest run (``stale``) keeps its span.
        """
        seen = {sight.service: sight for sight in sights}
        lasting: list[Span] = []
        kept: set[str] = set()
        for span in self._open_spans():
            sight = seen.get(span.service)
            is_same = sight is not None and (sight.state, sight.reason_class) == (
                span.state,
                span.reason_class,
            )
            if keeps_spans and span.service not in kept and (is_same or span.service in stale):
                kept.add(span.service)
                lasting.append(span)
            else:
                self._end(span)
        lasting += [_begun_span(sight, run) for sight in sights if sight.service not in kept]
        self._open = lasting

    def _open_spans(self) -> list[Span]:
        if self._open is None:
            self._open = list(self._read_open_spans())
        return self._open

    def _end(self, span: Span) -> None:
        """End a span with the last sight of its state: in the pass before this one."""
        ended = span._replace(last_at=span.first_at, last_no=span.first_no, last_run=span.run)
        newest = self.newest
        if newest is not None and newest.last_at >= span.first_at:
            ended = span._replace(last_at=newest.last_at, last_no=newest.passes, last_run=newest.id)
        (self._begun if span.id == NEW else self.ended).append(ended)


def _newer(sights: tuple[Sight, ...], newest: Run | None) -> tuple[Sight, ...]:
    """Return the sights that are newer than all sights of the newest run."""
    if newest is None:
        return sights
    return tuple(sight for sight in sights if sight.at > newest.last_at)


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
    """Return a digest of the states of all services; the order of the sights does not matter."""
    lines = sorted(f"{sight.service}\0{sight.state}\0{sight.reason_class}" for sight in sights)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def is_hole(last: datetime, period_s: float, then: datetime, then_period_s: float) -> bool:
    """Return whether nobody looked between two sights, which passes with these periods had."""
    patience_s = max(stale_after_s(period_s), stale_after_s(then_period_s))
    return (then - last).total_seconds() > patience_s


def is_cut(before: Run, after: Run) -> bool:
    """Return whether a blind pass was between two runs of a shard that are within the patience.

    Nothing else divides two such runs of the same period and configuration.
    """
    return (before.period_s, before.config) == (after.period_s, after.config)


def config_of(targets: Sequence[Target], thresholds: Thresholds) -> dict[str, Any]:
    """Return what decides verdicts and alerts, without a secret."""
    return {
        "alert_after": thresholds.alert_after,
        "resolve_after": thresholds.resolve_after,
        "services": {target.name: _target_config(target) for target in targets},
    }


def config_hash(document: dict[str, Any]) -> str:
    """Return the hash of a configuration."""
    text = json.dumps(document, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _target_config(target: Target) -> dict[str, Any]:
    """Return what a service's verdicts depend on; its headers only by name."""
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
    # Keys of later releases only where they are used: an upgrade is not a new configuration.
    later = {
        "method": target.method if target.method != "GET" else "",
        "body": bool(target.body),
        "redirects": target.redirects,
        "redirect_hosts": list(target.redirect_hosts),
        "skip_verify": target.tls.skip_verify,
        "needs": list(target.needs),
    }
    if target.certificate_days is not None:
        document["certificate_days"] = target.certificate_days
    return document | {key: value for key, value in later.items() if value}


def _condition_config(condition: Condition) -> list[Any]:
    header = [condition.header] if condition.header else []
    return [condition.pointer, condition.relation, condition.value, *header]
