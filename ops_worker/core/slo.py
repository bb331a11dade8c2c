"""Service level objectives and their error budgets.

An objective is the minimum share of time in which a service is to be healthy, for example 99.9 %
over 30 days. The error budget is the rest of the time, in which the service may be unhealthy
(Google, "Site Reliability Engineering", chapter 4).
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
MIN_PERIOD_S = 1.0
"""The shortest period of a pass, in seconds (PASS_PERIOD, METRICS_COLLECTION_INTERVAL)."""
MIN_PERIODS = 10
"""The shortest error budget that can be measured, in periods of the pass.

The measured length of an outage may differ from its real length by almost two periods. With a
shorter budget, this error would be a large share of the budget.
"""


class Objective(NamedTuple):
    """At least ``percent`` of the time healthy, over a window of the last ``days`` days."""

    percent: float
    days: int = 30

    @property
    def budget_s(self) -> float:
        """The error budget: the seconds of the window in which the service may be unhealthy."""
        return (100.0 - self.percent) / 100.0 * self.days * DAY_S


def objective_of(target: Target | None) -> Objective | None:
    """Return the objective of a service; None without an objective or without a target."""
    if target is None or target.slo is None:
        return None
    return Objective(target.slo, target.slo_window_days)


def objectives(targets: Iterable[Target]) -> dict[str, Objective]:
    """Return the objectives by the names of the services. Services without one are left out."""
    pairs = ((target.name, objective_of(target)) for target in targets)
    return {name: objective for name, objective in pairs if objective is not None}


class Budget(NamedTuple):
    """The rest of an error budget at the end of the objective's window.

    - ``left_s``: the rest in seconds. It is negative if the objective was missed.
    - ``least_s``, ``most_s``: its bounds. The time of each change of state is only known to lie
      between two passes.
    - ``coverage``: the share of the window in which the service was seen, from 0 to 1. Unseen time
      uses no budget.
    """

    objective: Objective
    left_s: float
    least_s: float
    most_s: float
    coverage: float

    @property
    def left(self) -> float:
        """The rest as a share of the budget."""
        return self.left_s / self.objective.budget_s


def budget(objective: Objective, availability: Availability) -> Budget:
    """Return the rest of an error budget. ``availability`` must cover the objective's window."""
    seen_s = sum(length for state, length in availability.seconds.items() if state != UNSEEN)

    def left_s(healthy_share: float | None) -> float:
        """Return the rest in seconds for a share of the seen time; None: nothing was seen."""
        unhealthy_s = 0.0 if healthy_share is None else (1.0 - healthy_share) * seen_s
        return objective.budget_s - unhealthy_s

    return Budget(
        objective=objective,
        left_s=left_s(availability.value),
        least_s=left_s(availability.least),
        most_s=left_s(availability.most),
        coverage=availability.coverage,
    )


def problem(objective: Objective, period_s: float) -> str:
    """Return why passes cannot measure an objective; empty if they can measure it.

    ``period_s`` is their period in seconds.
    """
    min_budget_s = MIN_PERIODS * period_s
    if objective.budget_s >= min_budget_s:
        return ""
    window_s = objective.days * DAY_S
    # Both are rounded down: the message suggests values with which the objective can be measured.
    max_percent = math.floor(100_000.0 * (1.0 - min_budget_s / window_s)) / 1000.0
    max_period_s = math.floor(10.0 * objective.budget_s / MIN_PERIODS) / 10.0
    remedies = ["set a longer slo_window"]
    if max_percent > 0.0:
        remedies = [f"set at most {max_percent:g}", "or a longer slo_window"]
    if max_period_s >= MIN_PERIOD_S:
        remedies.append(f"or run a pass every {max_period_s:g} s")
    return (
        f"{objective.percent:g} over {objective.days} days allows {objective.budget_s:.0f} s "
        f"(100 - {objective.percent:g} % of {window_s:.0f} s); passes every {period_s:g} s "
        f"measure no less than {MIN_PERIODS} periods, {min_budget_s:.0f} s: {', '.join(remedies)}"
    )
