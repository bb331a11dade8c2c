"""Error budgets as documents, and their table on a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import slo
from ops_worker.history.screen import Column, ScreenTable, flexible
from ops_worker.text import format_age, percent_rounded_down

if TYPE_CHECKING:
    from collections.abc import Iterable


class BudgetDocument(NamedTuple):
    """The rest of a service's error budget over ``window_days``, in seconds and as a share.

    ``left_s`` and ``left`` are negative if the objective was missed. ``least_s`` and ``most_s`` are
    the bounds of ``left_s``. ``coverage`` is the share of the window in which the service was seen.
    ``slo`` is the objective in percent.
    """

    slo: float
    window_days: int
    left_s: float
    least_s: float
    most_s: float
    left: float
    coverage: float


def budget_document(budget: slo.Budget) -> BudgetDocument:
    """Return an error budget in the form of the documents."""
    return BudgetDocument(
        slo=budget.objective.percent,
        window_days=budget.objective.days,
        left_s=budget.left_s,
        least_s=budget.least_s,
        most_s=budget.most_s,
        left=budget.left,
        coverage=budget.coverage,
    )


def budgets_table(budgets: Iterable[tuple[str, BudgetDocument | None]]) -> ScreenTable:
    """Return the table of error budgets. A service without an error budget has no row."""
    rows = tuple(
        (
            service,
            f"{budget.slo:g} %",
            f"{format_age(_budget_s(budget))} in {budget.window_days} d",
            _used(budget),
            _left(budget),
            _bounds(budget),
            _seen(budget.coverage),
        )
        for service, budget in budgets
        if budget is not None
    )
    columns = (
        Column("SERVICE", least=12),
        Column("SLO"),
        Column("ERROR BUDGET", drop=3),
        Column("USED", drop=4),
        Column("LEFT"),
        Column("BOUNDS", drop=1),
        Column("SEEN", drop=2),
    )
    return flexible("Service level objectives", columns, rows)


def _budget_s(budget: BudgetDocument) -> float:
    """Return the seconds of the window in which the service may be unhealthy."""
    return slo.Objective(budget.slo, budget.window_days).budget_s


def _used(budget: BudgetDocument) -> str:
    """Return how long the service was unhealthy in the window."""
    if not budget.coverage:
        return "-"
    return format_age(max(0.0, _budget_s(budget) - budget.left_s))


def _left(budget: BudgetDocument) -> str:
    if not budget.coverage:
        return "unknown"
    return share_left(budget.left_s, _budget_s(budget))


def _bounds(budget: BudgetDocument) -> str:
    """Return the bounds of the rest of the budget, as shares of the budget."""
    if not budget.coverage:
        return "-"
    return bounds_of_left(budget.least_s, budget.most_s, _budget_s(budget)) or "-"


def share_left(left_s: float, budget_s: float) -> str:
    """Return the rest of a budget as a percentage, or ``none`` if the rest is negative."""
    if left_s < 0:
        return "none"
    return _whole_percent(left_s / budget_s)


def bounds_of_left(least_s: float, most_s: float, budget_s: float) -> str:
    """Return the bounds of the rest of a budget; empty if both bounds are shown the same."""
    least, most = share_left(least_s, budget_s), share_left(most_s, budget_s)
    if least == most:
        return ""
    return f"{least.removesuffix(' %')} to {most}"


def _seen(coverage: float) -> str:
    """Return how much of the window was seen. A new installation has seen little of it."""
    return "< 1 %" if 0 < coverage < 0.01 else _whole_percent(coverage)  # noqa: PLR2004


def _whole_percent(share: float) -> str:
    return f"{percent_rounded_down(share, 0):.0f} %"
