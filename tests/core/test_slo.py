"""Service level objectives: error budgets, their remainder, and whether they can be measured."""

from __future__ import annotations

import pytest

from ops_worker.core.model import Target
from ops_worker.core.slo import Objective, budget, objective_of, objectives, problem
from ops_worker.core.timeline import Availability, availability
from tests.recorder import Recorder, sight

pytestmark = pytest.mark.unit

DAY_S = 86_400


@pytest.mark.parametrize(
    ("percent", "days", "expected_s"),
    [(99.9, 30, 2592.0), (99.0, 1, 864.0), (50.0, 2, 86_400.0)],
)
def test_budget(percent: float, days: int, expected_s: float) -> None:
    """The budget is the part of the window that the objective leaves."""
    assert Objective(percent, days).budget_s == pytest.approx(expected_s)


def test_objectives() -> None:
    """Each service has its own objective. A service without one and an unknown one have none."""
    with_one = Target("a", "http://a", "a", (), slo=99.5, slo_window_days=7)
    without = Target("b", "http://b", "b", ())
    assert objective_of(with_one) == Objective(99.5, 7)
    assert objective_of(without) is objective_of(None) is None
    assert objectives([with_one, without]) == {"a": Objective(99.5, 7)}


def test_left() -> None:
    """An outage uses its duration, within the bounds of its changes. Unseen time uses nothing."""
    ledger = Recorder()
    for second in range(0, 6000, 60):
        ledger.record([sight("a", second, "down" if 1200 <= second < 1800 else "healthy")])
    summed = availability(ledger.pieces("a", -DAY_S, 6000, 6000))
    error_budget = budget(Objective(99.0, 1), summed)
    assert error_budget.left_s == pytest.approx(864 - 600)
    assert error_budget.left == pytest.approx(264 / 864)
    assert [error_budget.least_s, error_budget.most_s] == pytest.approx([864 - 660, 864 - 540])
    assert error_budget.coverage == pytest.approx(6000 / (6000 + DAY_S))


def test_missed() -> None:
    """A budget that is used up is negative."""
    ledger = Recorder()
    for second in range(0, 6000, 60):
        ledger.record([sight("a", second, "down")])
    summed = availability(ledger.pieces("a", 0, 6000, 6000))
    assert budget(Objective(99.0, 1), summed).left_s == pytest.approx(864 - 6000)


def test_never_seen() -> None:
    """A service that was never seen has used nothing. Its coverage is 0."""
    empty = Availability(dict.fromkeys(("healthy", "unseen"), 0.0), None, None, None, 0.0)
    error_budget = budget(Objective(99.0, 1), empty)
    assert (
        error_budget.left,
        error_budget.least_s,
        error_budget.most_s,
        error_budget.coverage,
    ) == (1.0, 864.0, 864.0, 0.0)


@pytest.mark.parametrize(
    ("percent", "days", "period_s", "measurable"),
    [
        (99.9, 30, 60, True),  # 2,592 s are 43 periods
        (99.99, 30, 60, False),  # 259 s are 4
        (99.99, 30, 5, True),
        (99.976, 30, 60, True),  # 622 s
        (99.977, 30, 60, False),  # 596 s
        (99.0, 1, 60, True),
        (99.5, 1, 60, False),
        (99.0, 1, 86.4, True),  # exactly ten
    ],
)
def test_measurable(percent: float, days: int, period_s: float, measurable: bool) -> None:
    """A budget of fewer than ten periods cannot be measured."""
    assert (problem(Objective(percent, days), period_s) == "") is measurable


def test_arithmetic() -> None:
    """The message has the budget, what the passes can measure, and what to do."""
    assert problem(Objective(99.99, 30), 60) == (
        "99.99 over 30 days allows 259 s (100 - 99.99 % of 2592000 s); passes every 60 s measure "
        "no less than 10 periods, 600 s: set at most 99.976, or a longer slo_window, or run a "
        "pass every 25.9 s"
    )
    assert problem(Objective(99.976, 30), 60) == ""


@pytest.mark.parametrize(
    ("objective", "period_s", "remedy"),
    [
        (Objective(99.99, 30), 60, "set at most 99.976, or a longer slo_window, or run a pass"
         " every 25.9 s"),
        (Objective(50, 1), 9000, "set a longer slo_window, or run a pass every 4320 s"),
        (Objective(99.999, 1), 60, "set at most 99.305, or a longer slo_window"),
        (Objective(99.999, 1), 9000, "set a longer slo_window"),
    ],
)  # fmt: skip
def test_remedies(objective: Objective, period_s: float, remedy: str) -> None:
    """Only values that are possible and that can be measured are suggested."""
    _, _, suggested = problem(objective, period_s).rpartition(": ")
    assert suggested == remedy
