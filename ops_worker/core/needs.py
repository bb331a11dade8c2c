"""Dependencies: which services need which, and because of which one a service is unhealthy.

While a service is unhealthy, no alert opens for the services that need it: its own alert says what
is wrong. They are probed and recorded as always, and their alerts close as always.

Dependencies are transitive: if a needs b, and b needs c, then a needs c. ``needs`` is a mapping
from every monitored service to the services that it needs directly.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ops_worker.core.staleness import is_current

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import KnownState, Target, Verdict

    Needs = Mapping[str, Sequence[str]]

MAX_CAUSES = 10
"""Causes that are kept of a service: the first ones by name. More would help nobody."""
MAX_LISTED = 3
"""Causes that a line names."""
MAX_CYCLES = 10
"""Cycles that are reported at once."""


def needs_of(targets: Iterable[Target]) -> dict[str, tuple[str, ...]]:
    """Return what each service needs. Services that are not monitored are left out."""
    needs = {target.name: target.needs for target in targets}
    return {
        name: tuple(needed for needed in direct if needed in needs)
        for name, direct in needs.items()
    }


def all_needed(needs: Needs, services: Iterable[str]) -> set[str]:
    """Return what these services need, directly and through others."""
    needed: set[str] = set()
    waiting = list(services)
    while waiting:
        new = [name for name in needs.get(waiting.pop(), ()) if name not in needed]
        needed.update(new)
        waiting += new
    return needed


def unprobed_needs(needs: Needs, verdicts: Sequence[Verdict]) -> list[str]:
    """Return what the unhealthy services need and this pass did not probe, sorted by name.

    It is in another shard, or the pass had no time left for it.
    """
    judged = {verdict.target.name for verdict in verdicts}
    unhealthy = [verdict.target.name for verdict in verdicts if not verdict.healthy]
    return sorted(all_needed(needs, unhealthy) - judged)


def current_health(
    verdicts: Iterable[Verdict],
    known: Mapping[str, KnownState],
    now: datetime,
    period_s: float,
) -> dict[str, bool]:
    """Return which services are healthy, as far as it is known.

    The verdict of this pass counts. If this pass has no verdict on a service, its row in the
    database counts, unless that is stale. ``period_s`` is the period of the health pass in seconds.
    """
    health = {}
    for name, state in known.items():
        if state.healthy is None or state.checked_at is None:
            continue
        if is_current((now - state.checked_at).total_seconds(), period_s):
            health[name] = state.healthy
    return health | {verdict.target.name: verdict.healthy for verdict in verdicts}


def causes_of(needs: Needs, health: Mapping[str, bool]) -> dict[str, tuple[str, ...]]:
    """Return the causes of each unhealthy service that needs an unhealthy one, sorted by name.

    A cause is an unhealthy service that needs no unhealthy one itself. A service of unknown health,
    which is not in ``health``, is not a cause. ``needs`` must not have a cycle.
    """
    if all(health.get(name, True) or not direct for name, direct in needs.items()):
        return {}
    # It takes some milliseconds to import, and most passes do not need it.
    from graphlib import TopologicalSorter

    causes: dict[str, tuple[str, ...]] = {}
    for name in TopologicalSorter(needs).static_order():
        merged: set[str] = set()
        for needed in needs.get(name, ()):
            own = () if health.get(needed, True) else (needed,)
            merged.update(causes[needed] or own)
        causes[name] = tuple(sorted(merged)[:MAX_CAUSES])
    return {name: roots for name, roots in causes.items() if roots and not health.get(name, True)}


def causes_in_pass(
    needs: Needs,
    verdicts: Sequence[Verdict],
    known: Mapping[str, KnownState],
    now: datetime,
    period_s: float,
) -> dict[str, tuple[str, ...]]:
    """Return the causes of the services that a pass found unhealthy because of others.

    ``known`` has the states of ``unprobed_needs``, at least.
    """
    causes = causes_of(needs, current_health(verdicts, known, now, period_s))
    judged = (verdict.target.name for verdict in verdicts)
    return {name: causes[name] for name in judged if name in causes}


def because_of(causes: Collection[str]) -> str:
    """Return the causes for people: ``because of ingest``; empty if there are none."""
    if not causes:
        return ""
    names = sorted(causes)
    more = len(names) - MAX_LISTED
    if more > 0:
        return f"because of {', '.join(names[:MAX_LISTED])} and {more} more"
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"because of {listed}"


def with_causes(reason: str, causes: Collection[str]) -> str:
    """Return the reason of a service, with its causes in front."""
    return ": ".join(filter(None, [because_of(causes), reason]))


def problems(needs: Needs) -> Iterator[tuple[str, str]]:
    """Yield a service and what is wrong with its needs: an unknown service, or a cycle.

    Here ``needs`` also has the services that are not monitored.
    """
    if not any(needs.values()):
        return
    from graphlib import CycleError, TopologicalSorter

    from ops_worker.core.suggest import did_you_mean

    known: dict[str, list[str]] = {}
    for name, direct in needs.items():
        known[name] = [needed for needed in direct if needed in needs]
        for unknown in direct:
            if unknown not in needs:
                hint = did_you_mean(unknown, needs)
                yield name, f"needs {unknown}, which is not a service of the catalogue{hint}"
    for _ in range(MAX_CYCLES):
        try:
            TopologicalSorter(known).prepare()
        except CycleError as error:
            cycle = _from_first_name(error.args[1])
        else:
            return
        yield cycle[0], f"needs itself: {' needs '.join(cycle)}"
        for name, needed in pairwise(cycle):
            known[name].remove(needed)


def _from_first_name(cycle: list[str]) -> list[str]:
    """Return a cycle of graphlib from its first name by the alphabet, back to that name.

    In graphlib's list, each service is needed by the next one, and the last one is the first one.
    """
    names = cycle[:0:-1]
    start = names.index(min(names))
    return [*names[start:], *names[:start], names[start]]
