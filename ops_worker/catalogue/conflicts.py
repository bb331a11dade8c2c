"""Find conflicts between entries of a catalogue: reserved names, and rows written twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ops_worker.core.samples import OPS_WORKER, OWN_METRICS, RESERVED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ops_worker.core.model import Figure, Target


def conflicts(
    services: Iterable[str], targets: Sequence[Target], figures: Sequence[Figure]
) -> Iterator[str]:
    """Yield the conflicts between entries. Each conflict begins with the name of its entry.

    ``services`` has the names of all services, ``targets`` the monitored services.
    """
    yield from _reserved_services(services)
    yield from _series_conflicts(targets)
    by_series = {target.series: target for target in reversed(targets)}
    for figure in figures:
        if problem := _figure_conflict(figure, by_series):
            yield f"figures.{figure.name}: {problem}"
    yield from _shared_intervals(figures)


def _reserved_services(services: Iterable[str]) -> Iterator[str]:
    for name in services:
        if name in RESERVED:
            yield f"services.{name}: the name is reserved for the worker; choose another name"


def _series_conflicts(targets: Sequence[Target]) -> Iterator[str]:
    """Yield a conflict for each service whose series or name is reserved or used by another one."""
    owners: dict[str, Target] = {}
    for target in targets:
        subject = f"services.{target.name}: series {target.series}"
        if target.series in RESERVED and target.name not in RESERVED:
            yield f"{subject} is reserved for the worker; choose another `series`"
        elif target.series in owners:
            owner = owners[target.series]
            yield f"{subject} is already used by services.{owner.name}; choose another `series`"
        owners.setdefault(target.series, target)
    for target in targets:
        owner = owners.get(target.name, target)
        # If the name is also its own series, the conflict has already been reported.
        if target.name not in {owner.name, target.series}:
            yield (
                f"services.{target.name}: the name is already the series of "
                f"services.{owner.name}; choose another name"
            )


def _figure_conflict(figure: Figure, by_series: Mapping[str, Target]) -> str:
    """Return the conflict with other writers of a figure's rows; empty if there is none."""
    if figure.series == OPS_WORKER:
        return f"service {OPS_WORKER} is reserved for the worker; choose another service"
    owner = by_series.get(figure.series)
    if figure.metric in OWN_METRICS and (owner or figure.series in RESERVED):
        return "the worker already records this metric of the service; choose another name"
    if owner and figure.metric in {counter.name for counter in owner.counters or ()}:
        return f"services.{owner.name} already has a counter with this name; choose another name"
    return ""


def _shared_intervals(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield a conflict for each figure with its own interval that shares its metric with another.

    The rows of its metric show whether such a figure is due. So no other figure may write them.
    """
    metrics = Counter(figure.metric for figure in figures)
    for figure in figures:
        count = metrics[figure.metric]
        if figure.every_s and count > 1:
            yield (
                f"figures.{figure.name}: a figure with `every` needs a unique name, "
                f"but {count} figures have the name {figure.metric}"
            )
