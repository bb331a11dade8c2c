"""Decide whether a pass believes what it saw, or is blind because the observer may have failed.

A pass is blind if it probed nothing, or if no service gave a sign of life although more than one
host is monitored. Signs of life prove that packets came back: an answer, a completed connection, a
refusal, a reset. After DOUBT_PASSES blind passes in a row, a pass believes what it sees.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ops_worker.core.installations import DEFAULT
from ops_worker.core.model import Failure
from ops_worker.core.passes import HEALTH
from ops_worker.core.shards import MAX_SHARDS, UNDIVIDED, shard_of
from ops_worker.core.staleness import is_current, label, stale_after_s
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ops_worker.core.model import Observation, Target

STALLED_SHARE = 0.5
"""A probe is void if this process was not run for more than this share of the probe's deadline."""
STALL_CLASSES = frozenset({"timeout", "name"})
"""Reason classes that a stall of this process can cause.

During a stall, the deadline of the probe or of the resolver can pass. A service may also close a
connection on which it has waited for too long (``Observation.cut_off``). A bad certificate or a bad
answer always comes from the service.
"""
COUNT_VALID_S = 86_400.0
"""The least number of seconds for which a count of blind passes is valid: a day.

Passes that were skipped or killed do not reset the count. But a blind pass some days ago and a
blind pass now are not in a row.
"""
MAX_NAMES = 10
"""The most services that a warning lists."""
MAX_NAMESERVERS = 3
"""The most name servers that a message lists.

The resolver asks at most three (resolv.conf(5)).
"""


class Evidence(NamedTuple):
    """Facts about this machine that do not come from the probes.

    - ``throttled_s``: the seconds during the probes in which the cgroup throttled this process;
      None if the cgroup does not report them.
    - ``nameservers``: the addresses of the resolver's name servers.
    """

    throttled_s: float | None = None
    nameservers: tuple[str, ...] = ()


NO_EVIDENCE = Evidence()
"""The evidence of a machine that reports nothing."""


class Assessment(NamedTuple):
    """The observations of a pass, and whether they can be trusted.

    - ``observations``: what the pass saw. A probe that a stall made void counts as not probed.
    - ``suspects``: the parts that have probably failed instead of the services; empty if the
      observations can be trusted.
    - ``is_probed``: whether any service was probed.
    - ``warnings``: warnings for people. There may be warnings without suspects.
    """

    observations: tuple[Observation, ...]
    suspects: tuple[str, ...] = ()
    is_probed: bool = True
    warnings: tuple[str, ...] = ()


class DoubtRow(NamedTuple):
    """A row of ``ops_worker_doubt``: the blind passes in a row of one pass and shard.

    Each installation has its own rows.

    - ``blind_passes``: the number of blind passes in a row.
    - ``since``: when the pass became blind; None if it is not blind.
    - ``last_at``: when the row was written.
    - ``period_s``: the period of the pass in seconds.
    """

    name: str
    shard: str
    blind_passes: int = 0
    since: datetime | None = None
    last_at: datetime | None = None
    period_s: float = 60.0
    suspects: str = ""
    installation: str = DEFAULT

    @property
    def is_blind(self) -> bool:
        """Whether the pass is blind: it did not believe what it saw."""
        return self.since is not None

    @property
    def reason(self) -> str:
        """The reason of the worker's own alert."""
        shard = None if self.shard == UNDIVIDED else self.shard
        return one_line(f"the {label(self.name, shard)} pass is blind: {self.suspects}")


def assess(
    observations: Sequence[Observation],
    targets: Sequence[Target],
    evidence: Evidence = NO_EVIDENCE,
) -> Assessment:
    """Return whether the observations of a pass can be trusted, by their signs of life.

    ``targets`` are all services of the pass, also those without an observation.
    """
    settled = _without_stalled(observations, evidence)
    # A target with faults cannot be probed.
    asked = [observation for observation in settled if not observation.target.faults]
    probed = [observation for observation in asked if observation.failure is not Failure.NOT_PROBED]
    # A completed connection is a sign of life, even if a stall then made its probe void.
    if probed and any(_has_sign(observation) for observation in asked):
        return Assessment(settled, warnings=tuple(_resolver_warnings(probed, evidence)))
    faulty_names = {observation.target.name for observation in settled if observation.target.faults}
    hosts = {host_of(target) for target in targets if target.name not in faulty_names}
    if not asked or (probed and len(hosts) < 2):  # noqa: PLR2004 - a single host may be down
        return Assessment(settled)
    return Assessment(
        observations=settled,
        suspects=tuple(_suspects(asked, evidence)),
        is_probed=bool(probed),
    )


def settle(
    assessment: Assessment, before: DoubtRow, doubt_passes: int, now: datetime, period_s: float
) -> DoubtRow:
    """Return the new row of a pass. The row records whether the pass is blind.

    ``before`` is the row of the pass before, and ``doubt_passes`` the setting DOUBT_PASSES.

    A pass that probed nothing has nothing to believe. It is blind, and the count of blind passes
    does not change. If no pass was recorded for COUNT_VALID_S seconds, and for longer than the
    patience, the count begins again at 0.
    """
    if _is_outdated(before, now):
        before = before._replace(blind_passes=0, since=None)
    after = before._replace(last_at=now, period_s=period_s)
    if not assessment.suspects:
        return after._replace(blind_passes=0, since=None, suspects="")
    suspects = "; ".join(assessment.suspects)
    if not assessment.is_probed:
        return after._replace(since=before.since or now, suspects=suspects)
    if before.blind_passes >= doubt_passes:
        return after._replace(since=None, suspects=suspects)
    return after._replace(
        blind_passes=before.blind_passes + 1,
        since=before.since or now,
        suspects=suspects,
    )


def belief_warning(row: DoubtRow) -> str:
    """Return a warning if a pass believes what it saw without a sign of life; empty otherwise."""
    if row.is_blind or not row.suspects:
        return ""
    return (
        f"{row.suspects}; after {row.blind_passes} blind passes in a row, this pass believes what "
        "it sees: check the services, and the network and resolver of this machine"
    )


def blind_rows(rows: Iterable[DoubtRow], now: datetime) -> list[DoubtRow]:
    """Return the rows of the passes that are blind. The pass that became blind first comes first.

    A row is ignored if its pass has not written it for three periods, and at least 90 s. Then the
    pass has stopped, or its shard no longer exists.
    """
    current = [
        row
        for row in rows
        if row.since is not None
        and row.last_at is not None
        and is_current((now - row.last_at).total_seconds(), row.period_s)
    ]
    return sorted(current, key=lambda row: row.since or now)


def blind_to(
    service: str, rows: Iterable[DoubtRow], installation: str = DEFAULT
) -> DoubtRow | None:
    """Return the row of the blind health pass whose shard has a service; None if there is none.

    ``rows`` are the result of ``blind_rows``. ``installation`` is the installation that keeps the
    row of the service.
    """
    for row in rows:
        if row.installation != installation:
            continue
        index, _, count = row.shard.partition("/")
        is_shard = index.isdecimal() and count.isdecimal() and 0 < int(count) <= MAX_SHARDS
        if row.name == HEALTH.name and is_shard and shard_of(service, int(count)) == int(index):
            return row
    return None


def _is_outdated(row: DoubtRow, now: datetime) -> bool:
    """Return whether the count of a row is too old to be continued."""
    if row.last_at is None:
        return False
    valid_s = max(COUNT_VALID_S, stale_after_s(row.period_s))
    return (now - row.last_at).total_seconds() > valid_s


def host_of(target: Target) -> str:
    """Return the host of a target's URL in lower case; empty if it has none."""
    try:
        return urlsplit(target.url).hostname or ""
    except ValueError:
        return ""


def _has_sign(observation: Observation) -> bool:
    return observation.sign or observation.http_status is not None


def _without_stalled(
    observations: Sequence[Observation], evidence: Evidence
) -> tuple[Observation, ...]:
    """Return the observations without the effects of stalls of this process.

    An observation that a stall made void counts as not probed. From the latency of the others,
    their stall is subtracted.
    """
    stalls_s = (observation.stalled_s for observation in observations if _is_stalled(observation))
    longest_s = max(stalls_s, default=0.0)
    reason = f"this process was not run for {longest_s:.1f} s"
    if evidence.throttled_s:
        reason += f" (throttled by its CPU limit for {evidence.throttled_s:.1f} s)"
    return tuple(
        observation._replace(failure=Failure.NOT_PROBED, error=reason)
        if _is_stalled(observation)
        else observation._replace(latency_ms=_own_latency_ms(observation))
        for observation in observations
    )


def _own_latency_ms(observation: Observation) -> int | None:
    """Return the latency in ms that the service certainly caused: without the stall, at least 0.

    The answer may have come at any moment of the stall. The stall may also have been earlier.
    """
    if observation.latency_ms is None:
        return None
    return max(0, observation.latency_ms - round(observation.stalled_s * 1000))


def _is_stalled(observation: Observation) -> bool:
    """Return whether a stall of this process made an observation void."""
    return (
        observation.failure in {Failure.NO_CONNECTION, Failure.NO_ANSWER}
        and (observation.cut_off or observation.reason_class in STALL_CLASSES)
        and observation.stalled_s > STALLED_SHARE * observation.target.deadline_s
    )


def _suspects(asked: Sequence[Observation], evidence: Evidence) -> Iterator[str]:
    """Yield the suspects, each with the number of services or hosts that it affects."""
    unprobed_reasons = Counter(
        one_line(observation.error)
        for observation in asked
        if observation.failure is Failure.NOT_PROBED
    )
    for reason, count in unprobed_reasons.items():
        yield f"{reason}: {count} of {len(asked)}"
    silent = [observation for observation in asked if observation.failure is not Failure.NOT_PROBED]
    unresolved = [observation for observation in silent if observation.reason_class == "name"]
    if unresolved:
        share = f"{len(unresolved)} of {len(asked)}"
        yield f"no name could be resolved: {share}{_of_resolver(evidence)}"
    hosts = {
        host_of(observation.target) for observation in silent if observation.reason_class != "name"
    }
    if hosts:
        plural = "" if len(hosts) == 1 else "s"
        yield f"no packet came back from {len(hosts)} host{plural}"


def _resolver_warnings(probed: Sequence[Observation], evidence: Evidence) -> Iterator[str]:
    """Yield one warning if names could not be resolved, although there are signs of life."""
    names = [
        observation.target.name for observation in probed if observation.reason_class == "name"
    ]
    if not names:
        return
    listed = ", ".join(names[:MAX_NAMES])
    if len(names) > MAX_NAMES:
        listed += f" and {len(names) - MAX_NAMES} more"
    yield (
        f"names could not be resolved, although other services gave a sign of life: {listed}"
        f"{_of_resolver(evidence)}: check the resolver and these names"
    )


def _of_resolver(evidence: Evidence) -> str:
    """Return the name servers in brackets; empty if none is known."""
    if not evidence.nameservers:
        return ""
    return f" (name server {', '.join(evidence.nameservers[:MAX_NAMESERVERS])})"
