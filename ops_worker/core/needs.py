"""Dependencies between services, and the causes of unhealthy services.

While a service is unhealthy, no alert opens for the services that need it, because its own alert
has the reason. The dependent services are still probed and recorded, and their alerts still close.

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
"""The maximum number of causes of a service; the first ones by name. More would not help."""
MAX_LISTED = 3
"""The maximum number of causes that a line names."""
MAX_CYCLES = 10
"""The maximum number of cycles that are reported at once."""


def needs_of(targets: Iterable[Target]) -> dict[str, tuple[str, ...]]:
    """Return the services that each service needs directly. Only monitored services count."""
    needs = {target.name: target.needs for target in targets}
    return {
        name: tuple(needed for needed in direct if needed in needs)
        for name, direct in needs.items()
    }


def all_needed(needs: Needs, services: Iterable[str]) -> set[str]:
    """Return the services that these services need, directly or through others."""
    needed: set[str] = set()
    queue = list(services)
    while queue:
        new_names = [name for name in needs.get(queue.pop(), ()) if name not in needed]
        needed.update(new_names)
        queue += new_names
    return needed


def unprobed_needs(needs: Needs, verdicts: Sequence[Verdict]) -> list[str]:
    """Return the services that unhealthy services need and this pass did not probe, sorted by name.

    Such a service is in another shard, or the pass had no time left for it.
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
    """Return whether each service is healthy. Services of unknown health are left out.

    The verdict of this pass counts. If this pass has no verdict on a service, its row in the
    database counts, unless the row is stale. ``period_s`` is the period of the health pass in
    seconds.
    """
    health = {}
    for name, state in known.items():
        if state.healthy is None or state.checked_at is None:
            continue
        if is_current((now - state.checked_at).total_seconds(), period_s):
            health[name] = state.healthy
    return health | {verdict.target.name: verdict.healthy for verdict in verdicts}


def causes_of(needs: Needs, health: Mapping[str, bool]) -> dict[str, tuple[str, ...]]:
    """Return the causes, sorted by name, of each unhealthy service that needs an unhealthy service.

    A cause is an unhealthy service that needs no unhealthy service. A service of unknown health,
    which is not in ``health``, is not a cause. ``needs`` must not have a cycle.
    """
    if all(health.get(name, True) or not direct for name, direct in needs.items()):
        return {}
    # The import takes some milliseconds, and most passes do not need it.
    from graphlib import TopologicalSorter

    causes: dict[str, tuple[str, ...]] = {}
    # In this order, every service comes after the services that it needs.
    for name in TopologicalSorter(needs).static_order():
        roots: set[str] = set()
        for needed in needs.get(name, ()):
            if causes[needed]:
                roots.update(causes[needed])
            elif not health.get(needed, True):
                roots.add(needed)
        causes[name] = tuple(sorted(roots)[:MAX_CAUSES])
    return {name: names for name, names in causes.items() if names and not health.get(name, True)}


def causes_in_pass(
    needs: Needs,
    verdicts: Sequence[Verdict],
    known: Mapping[str, KnownState],
    now: datetime,
    period_s: float,
) -> dict[str, tuple[str, ...]]:
    """Return the causes of the services that this pass judged unhealthy because of others.

    ``known`` has at least the known states of ``unprobed_needs``. ``period_s`` is the period of the
    health pass in seconds.
    """
    causes = causes_of(needs, current_health(verdicts, known, now, period_s))
    judged = (verdict.target.name for verdict in verdicts)
    return {name: causes[name] for name in judged if name in causes}


def because_of(causes: Collection[str]) -> str:
    """Return the causes for people, for example ``because of ingest``; empty without causes."""
    if not causes:
        return ""
    names = sorted(causes)
    more = len(names) - MAX_LISTED
    if more > 0:
        return f"because of {', '.join(names[:MAX_LISTED])} and {more} more"
    if len(names) == 1:
        return f"because of {names[0]}"
    return f"because of {', '.join(names[:-1])} and {names[-1]}"


def with_causes(reason: str, causes: Collection[str]) -> str:
    """Return the causes of a service, for people, followed by its reason."""
    return ": ".join(filter(None, [because_of(causes), reason]))


def problems(needs: Needs) -> Iterator[tuple[str, str]]:
    """Yield each fault of the dependencies: a service, and an unknown service or a cycle as text.

    Here ``needs`` also has the services of the catalogue that are not monitored.
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
    """Return a cycle that begins and ends with its first name by the alphabet.

    In the cycle of graphlib, each service is needed by the next service, and the last service is
    the first one. In the result, each service needs the next service.
    """
    names = cycle[:0:-1]
    start = names.index(min(names))
    return [*names[start:], *names[:start], names[start]]
