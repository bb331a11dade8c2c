"""Service level objectives: the error budget, how much of it is used, and whether it is measurable.

An objective is a share of time, for example 99.9 % over 30 days. Its error budget is the rest: the
time that a service may be unhealthy (Google, "Site Reliability Engineering", chapter 4).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.ledger import UNSEEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ops_worker.core.model import Target
    from ops_worker.core.timeline import Availability

DAY_S = 86_400.0
PERIODS = 10
"""Periods that a budget must have at least.

An outage that a pass sees may be almost two periods longer or shorter than it is. With fewer
periods, one outage would be within the error of its measurement.
"""


class Objective(NamedTuple):
    """At least ``percent`` of the time healthy, over a window of a number of days up to now."""

    percent: float
    days: int = 30

    @property
    def budget_s(self) -> float:
        """Seconds of the window in which the service may be unhealthy."""
        return (100.0 - self.percent) / 100.0 * self.days * DAY_S


def objective_of(target: Target | None) -> Objective | None:
    """Return the objective of a service; None if it has none or is not monitored."""
    if target is None or target.slo is None:
        return None
    return Objective(target.slo, target.slo_window_days)


def objectives(targets: Iterable[Target]) -> dict[str, Objective]:
    """Return the objective of each service that has one, by its name."""
    pairs = ((target.name, objective_of(target)) for target in targets)
    return {name: objective for name, objective in pairs if objective is not None}


class Budget(NamedTuple):
    """What is left of an error budget, in seconds. It is negative once the objective is missed.

    ``least_s`` and ``most_s`` let each change of state happen as early or late as it may have
    happened. Time in which nobody looked uses nothing; ``coverage`` is the share that was seen.
    """

    objective: Objective
    left_s: float
    least_s: float
    most_s: float
    coverage: float

    @property
    def left(self) -> float:
        """The share of the budget that is left."""
        return self.left_s / self.objective.budget_s


def budget(objective: Objective, availability: Availability) -> Budget:
    """Return what is left of the budget. ``availability`` covers the objective's window."""
    seen_s = sum(length for state, length in availability.seconds.items() if state != UNSEEN)

    def left_s(healthy: float | None) -> float:
        """Return what is left if so large a share of the seen time was healthy."""
        unhealthy_s = 0.0 if healthy is None else (1.0 - healthy) * seen_s
        return objective.budget_s - unhealthy_s

    return Budget(
        objective=objective,
        left_s=left_s(availability.value),
        least_s=left_s(availability.least),
        most_s=left_s(availability.most),
        coverage=availability.coverage,
    )


def problem(objective: Objective, period_s: float) -> str:
    """Return why passes of this period cannot measure an objective; empty if they can."""
    needed_s = PERIODS * period_s
    if objective.budget_s >= needed_s:
        return ""
    window_s = objective.days * DAY_S
    highest = math.floor(100_000.0 * (1.0 - needed_s / window_s)) / 1000.0
    return (
        f"{objective.percent:g} over {objective.days} days allows {objective.budget_s:.0f} s "
        f"(100 - {objective.percent:g} % of {window_s:.0f} s); passes every {period_s:g} s "
        f"measure no less than {PERIODS} periods, {needed_s:.0f} s: set at most {highest:g}, "
        f"or a longer slo_window, or run a pass every {objective.budget_s / PERIODS:.3g} s"
    )
