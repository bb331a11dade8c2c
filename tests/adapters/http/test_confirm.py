"""The number of rounds of a confirmation and the time they need, without clock and network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters import http
from ops_worker.core.model import Failure, Observation, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.unit

DEADLINE_S = 4.0
DELAY_S = 1.0


class Probes:
    """Stand-in for ``observe`` and the clock. Only the waits between probes take time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: dict[str, Failure]) -> None:
        """Replace the probes and the clock of the module."""
        self.failures = failures
        self.probed: list[list[str]] = []
        self.now = 1000.0
        self.waits: list[float] = []
        monkeypatch.setattr(http, "observe", self.observe)
        monkeypatch.setattr(http, "fitting", lambda concurrency: concurrency)
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(http, "time", clock)

    def observe(self, targets: Sequence[Target], **_: Any) -> list[Observation]:
        """Return the failure that is set for each target, or an answer."""
        self.probed.append([target.name for target in targets])
        return [
            Observation(target, self.now, failure=failure)
            if (failure := self.failures.get(target.name))
            else Observation(target, self.now, http_status=200)
            for target in targets
        ]

    def sleep(self, seconds: float) -> None:
        """Advance the clock by this time."""
        self.waits.append(seconds)
        self.now += seconds


def targets(count: int, deadline_s: float = DEADLINE_S) -> list[Target]:
    """Return this number of targets: a, b, c …."""
    return [
        Target(name, f"http://{name}/", name, (), deadline_s=deadline_s)
        for name in "abcdefghij"[:count]
    ]


def confirmed(
    count: int, *, times: int = 1, concurrency: int = 2, budget_s: float = 100.0
) -> list[int]:
    """Run the probes and return the attempts of each service."""
    observations = http.confirm(
        targets(count), times=times, delay_s=DELAY_S, concurrency=concurrency, budget_s=budget_s
    )
    assert [observation.target.name for observation in observations] == list("abcdefghij"[:count])
    return [observation.attempts for observation in observations]


@pytest.mark.parametrize(
    ("failing", "concurrency", "needed_s"),
    [
        (1, 2, 5.0),  # one round of 4 s, after a delay of 1 s
        (2, 2, 5.0),
        (3, 2, 9.0),
        (4, 2, 9.0),
        (5, 2, 13.0),
        (5, 5, 5.0),
        (5, 1, 21.0),
    ],
)
def test_needs_all_rounds(
    monkeypatch: pytest.MonkeyPatch, failing: int, concurrency: int, needed_s: float
) -> None:
    """A confirmation needs the delay and the longest deadline for every round of probes."""
    failures = dict.fromkeys("abcdefghij"[:failing], Failure.NO_CONNECTION)
    Probes(monkeypatch, failures)
    assert confirmed(failing, concurrency=concurrency, budget_s=needed_s) == [2] * failing
    too_little = Probes(monkeypatch, failures)
    attempts = confirmed(failing, concurrency=concurrency, budget_s=needed_s - 0.01)
    assert attempts == [1] * failing
    assert too_little.waits == []


@pytest.mark.parametrize(("times", "rounds"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_times(monkeypatch: pytest.MonkeyPatch, times: int, rounds: int) -> None:
    """A service without an answer is probed ``times`` more times, with a delay before each."""
    probes = Probes(monkeypatch, {"a": Failure.NO_ANSWER})
    assert confirmed(1, times=times) == [rounds]
    assert probes.probed == [["a"]] * rounds
    assert probes.waits == [1.0] * times


def test_budget_covers_all_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget counts from the first probe and covers all waits."""
    probes = Probes(monkeypatch, {"a": Failure.NO_CONNECTION})
    assert confirmed(1, times=9, budget_s=7.0) == [4]
    assert probes.waits == [1.0, 1.0, 1.0], "after three waits, 4 s are left for a probe of 5 s"


def test_longest_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest deadline of the services without an answer counts."""
    first, second = targets(2)
    slow, quick = first._replace(deadline_s=9.0), second
    for failing, needed_s in (({"a", "b"}, 10.0), ({"b"}, 5.0)):
        for budget_s, attempt in ((needed_s, 2), (needed_s - 0.01, 1)):
            Probes(monkeypatch, dict.fromkeys(failing, Failure.NO_CONNECTION))
            observations = http.confirm([slow, quick], times=1, delay_s=DELAY_S, budget_s=budget_s)
            assert observations[1].attempts == attempt


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (Failure.NO_CONNECTION, True),
        (Failure.NO_ANSWER, True),
        (Failure.NOT_PROBED, False),
        (None, False),
    ],
)
def test_who_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, failure: Failure | None, again: bool
) -> None:
    """Only a service without an HTTP answer is probed again. The others keep their result."""
    probes = Probes(monkeypatch, {} if failure is None else {"b": failure})
    assert confirmed(3) == [1, 2 if again else 1, 1]
    assert probes.probed == [["a", "b", "c"], *([["b"]] if again else [])]


def test_faulty_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target with a fault is not probed again."""
    probes = Probes(monkeypatch, {"a": Failure.NO_ANSWER})
    (target,) = targets(1)
    http.confirm([target._replace(faults=("no URL",))], times=3, delay_s=DELAY_S)
    assert probes.probed == [["a"]]


def test_second_probe_was_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a limit of this process prevents the second probe, the first result stays."""
    probes = Probes(monkeypatch, {"a": Failure.NO_CONNECTION})

    def sleep(seconds: float) -> None:
        probes.failures = {"a": Failure.NOT_PROBED}
        probes.now += seconds

    monkeypatch.setattr(probes, "sleep", sleep)
    clock = SimpleNamespace(monotonic=lambda: probes.now, sleep=sleep)
    monkeypatch.setattr(http, "time", clock)
    (observation,) = http.confirm(targets(1), times=1, delay_s=DELAY_S)
    assert (observation.failure, observation.attempts) == (Failure.NO_CONNECTION, 1)
