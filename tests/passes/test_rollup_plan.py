"""What a rollup pass does next, and when it stops: in virtual time, on a database in memory."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters.postgres import ledger_fill, rollup_writes
from ops_worker.core.model import Result
from ops_worker.core.passes import LEDGER_TABLES, ROLLUP_TABLES
from ops_worker.core.rollup import DAY, HOUR, REPEAT_TIME, floor
from ops_worker.errors import (
    DatabaseError,
    SchemaError,
    StatementTimeoutError,
)
from tests.memory import NOW, Memory, without_builtin_services

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ops_worker.core.model import Outcome, Rolled

pytestmark = pytest.mark.unit

TODAY = floor(NOW, DAY)
LATEST = TODAY + timedelta(hours=14)
"""The newest complete hour."""
YESTERDAY = TODAY - timedelta(days=1)


class Samples(Memory):
    """A database that has samples in some hours.

    - ``seconds``: how long it takes to roll up a slice, by level.
    - ``old``: how many rows are too old, by statement.
    - ``refused``: the error of a statement, by its name or by the level of its slice.
    """

    def __init__(self, *begun: datetime, until: datetime | None = None) -> None:
        """Store which hours have samples. The hours before midnight ``until`` are rolled up."""
        super().__init__()
        self.tables = {"system_metrics", *ROLLUP_TABLES, *LEDGER_TABLES}
        self.samples = sorted(begun)
        self.rolled: dict[str, list[datetime]] = {HOUR: [], DAY: []}
        if until is not None:
            self.rolled[HOUR] = [until - timedelta(hours=1)]
            self.rolled[DAY] = [until - timedelta(days=1)]
        self.plain = True
        self.seconds = {HOUR: 0.0, DAY: 0.0}
        self.old: dict[str, int] = {}
        self.refused: dict[str, Exception] = {}

    def answer(self, name: str, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the row of a statement."""
        if error := self.refused.get(parameters.get("level", name)):
            raise error
        if name.startswith("remove_"):
            self.moment += 1
            count = min(self.old.get(name, 0), parameters["rows"])
            self.old[name] = self.old.get(name, 0) - count
            return [{"removed": count}]
        match name:
            case "rollup_state":
                return [{level: max(done, default=None) for level, done in self.rolled.items()}]
            case "plain_samples":
                return [{"plain": self.plain}]
            case "first_sample":
                since, until = parameters["since"], parameters["until"]
                return [{"first": next((at for at in self.samples if since <= at < until), None)}]
            case "roll_up":
                return [{"written": self._roll_up(parameters["level"], parameters["begun"])}]
            case "rollup_limits" | "insert_samples":
                return []
        pytest.fail(f"an unexpected statement: {name}")

    def _roll_up(self, level: str, begun: datetime) -> int:
        """Roll a slice up. Return how many rows are new: none the second time."""
        self.moment += self.seconds[level]
        is_new = begun not in self.rolled[level]
        self.rolled[level].append(begun)
        return int(is_new)

    @property
    def order(self) -> list[tuple[str, datetime]]:
        """Return the slices that were rolled up, in order."""
        return [(part["level"], part["begun"]) for part in self.parameters("roll_up")]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitor nothing, keep everything, and leave other passes and the ledger alone."""
    without_builtin_services(monkeypatch)
    monkeypatch.setenv("SYSTEM_ALERT_ENABLED", "false")
    monkeypatch.setenv("HISTORY_DAYS", "0")
    monkeypatch.setattr(ledger_fill, "fill", lambda *_: False)


def run(memory: Samples, *, dry_run: bool = False, waits: bool = False) -> Outcome:
    """Run one pass."""
    return memory.run(
        "rollup",
        lambda _: pytest.fail("it probes nothing"),
        dry_run=dry_run,
        waits=waits,
        period_s=3600.0,
    )


def rolled(memory: Samples, *, dry_run: bool = False) -> Rolled:
    """Run one pass. Return what it did."""
    outcome = run(memory, dry_run=dry_run)
    assert outcome.result is (Result.DRY_RUN if dry_run else Result.RECORDED)
    assert outcome.rolled is not None
    return outcome.rolled


def hours(since: datetime, until: datetime) -> list[datetime]:
    """Return the beginnings of the hours between two times."""
    return [since + timedelta(hours=n) for n in range(int((until - since) / timedelta(hours=1)))]


def test_oldest_first() -> None:
    """A day follows its last hour. A slice that is not complete is left for a later run."""
    memory = Samples(*hours(YESTERDAY + timedelta(hours=22), NOW), until=YESTERDAY)
    done = rolled(memory)
    late, today = hours(YESTERDAY + timedelta(hours=22), TODAY), hours(TODAY, NOW)
    expected = [(HOUR, begun) for begun in late] + [(DAY, YESTERDAY)]
    expected += [(HOUR, begun) for begun in today]
    assert memory.order[: len(expected)] == expected
    assert today[-1] == LATEST
    assert (done.hours, done.days, done.rows) == (17, 1, 18)
    assert (done.until, done.behind_s) == (LATEST + timedelta(hours=1), 0.0)


def test_time_without_samples() -> None:
    """A run goes at once to the next hour that has samples."""
    long_ago = YESTERDAY - timedelta(days=300)
    memory = Samples(long_ago, LATEST)
    done = rolled(memory)
    assert memory.order[:3] == [(HOUR, long_ago), (DAY, floor(long_ago, DAY)), (HOUR, LATEST)]
    assert (done.hours, done.days, done.behind_s) == (2, 1, 0.0)


def test_late_samples() -> None:
    """Slices that were completed in the last six hours are repeated, after the new slices."""
    memory = Samples(*hours(TODAY, NOW), until=TODAY)
    memory.rolled[HOUR] += hours(TODAY, LATEST)
    done = rolled(memory)
    assert memory.order[0] == (HOUR, LATEST)
    repeated = hours(floor(NOW - timedelta(minutes=10) - REPEAT_TIME, HOUR), LATEST)
    assert memory.order[1:] == [(HOUR, begun) for begun in repeated]
    assert (done.hours, done.rows) == (1, 1), "without a late sample, nothing was written"


def test_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice begins only if it probably ends within 75 % of PASS_DEADLINE. New ones go first."""
    monkeypatch.setenv("PASS_DEADLINE", "40")
    memory = Samples(*hours(TODAY, NOW), until=TODAY)
    memory.seconds[HOUR] = 4.0
    done = rolled(memory)
    # 24 s have passed after six hours; a seventh may take 6 s.
    assert memory.order == [(HOUR, begun) for begun in hours(TODAY, TODAY + timedelta(hours=7))]
    assert done.until == TODAY + timedelta(hours=7)
    assert done.behind_s == timedelta(hours=8).total_seconds()
    assert run(memory).rolled is not None
    assert memory.order[7] == (HOUR, TODAY + timedelta(hours=7)), "the next run continues"


def test_statements_end_with_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement may take longer than the time to the end of the pass, less 3 s."""
    monkeypatch.setenv("PASS_DEADLINE", "40")
    memory = Samples(TODAY, TODAY + timedelta(hours=1), until=TODAY)
    memory.seconds[HOUR] = 4.0
    rolled(memory)
    limits = [values["statement_ms"] for values in memory.parameters("rollup_limits")]
    assert limits[:3] == ["37000", "33000", "29000"]


def test_a_level_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other level goes on, and so does the retention. Then the pass fails with a remedy."""
    monkeypatch.setenv("HISTORY_DAYS", "30")
    memory = Samples(*hours(YESTERDAY, NOW))
    memory.refused[DAY] = StatementTimeoutError("canceling statement due to statement timeout")
    with pytest.raises(DatabaseError, match="a day of samples could not be") as raised:
        run(memory)
    assert "raise PASS_DEADLINE" in str(raised.value)
    assert memory.rolled[HOUR] == hours(YESTERDAY, NOW)
    assert memory.rolled[DAY] == []
    assert memory.named("remove_") != []
    assert memory.named("insert_samples") == [], "a failed pass records no self-metrics"


def test_nothing_is_repeated_while_something_is_new() -> None:
    """A run that is behind repeats no slice, because the new slices need its time."""
    memory = Samples(*hours(YESTERDAY, NOW), until=YESTERDAY)
    memory.rolled[HOUR] += hours(YESTERDAY, LATEST)
    memory.refused[DAY] = StatementTimeoutError("canceling statement due to statement timeout")
    with pytest.raises(DatabaseError):
        run(memory)
    assert memory.order == [(DAY, YESTERDAY), (HOUR, LATEST)]


def test_another_process_takes_over() -> None:
    """Without the lock, a run ends. What it did is recorded."""
    memory = Samples(*hours(TODAY, NOW), until=TODAY)
    memory.locked_after = 3  # the state, and two hours
    done = rolled(memory)
    assert (done.hours, len(memory.order)) == (2, 2)


def test_skipped() -> None:
    """A run that never gets the lock does nothing. If the other process hangs, it fails."""
    memory = Samples(LATEST)
    memory.locked_after = 0
    assert run(memory).result is Result.SKIPPED
    memory.lock_holder = SimpleNamespace(
        pid=7, application="ops-worker", wait_event="", held_s=3 * 3600.0 + 1
    )
    with pytest.raises(DatabaseError, match="the rollup pass is skipped: database process 7"):
        run(memory)
    assert memory.statements == []


def test_waiting() -> None:
    """In a loop, the pass waits while an earlier one is being recorded."""
    memory = Samples(LATEST)
    assert run(memory, waits=True).result is Result.WAITING
    assert memory.statements == []


def test_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first shard rolls up."""
    monkeypatch.setenv("SHARD_COUNT", "2")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    memory = Samples(LATEST)
    assert run(memory).result is Result.OFF
    assert memory.statements == []


def test_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run counts what it would roll up, and writes and removes nothing."""
    monkeypatch.setenv("HISTORY_DAYS", "30")
    monkeypatch.setattr(ledger_fill, "fill", lambda *_: pytest.fail("it fills the ledger"))
    memory = Samples(YESTERDAY, LATEST, until=YESTERDAY)
    done = rolled(memory, dry_run=True)
    assert (done.hours, done.days, done.rows, done.removed) == (2, 1, 0, {})
    assert memory.named("roll_up") + memory.named("remove") + memory.named("insert") == []


def test_self_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-metrics say how far the rollup is behind, unless they are off."""
    memory = Samples(LATEST)
    rolled(memory)
    (parameters,) = memory.parameters("insert_samples")
    assert '"rollup_behind_s"' in parameters["passes"]
    monkeypatch.setenv("RECORD_OWN_METRICS", "false")
    memory = Samples(LATEST)
    rolled(memory)
    assert memory.named("insert_samples") == []


def test_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old rows are removed in steps of one transaction each, until a step is not full."""
    monkeypatch.setenv("HISTORY_DAYS", "30")
    memory = Samples(LATEST)
    memory.old = {"remove_hours": 2 * rollup_writes.REMOVED_ROWS + 5, "remove_days": 7}
    removed = rolled(memory).removed
    assert removed["ops_worker_hour"] == 2 * rollup_writes.REMOVED_ROWS + 5
    assert removed["ops_worker_day"] == 7
    assert memory.named("remove_hours") == ["remove_hours"] * 3
    before = {values["before"] for name, values in memory.statements if "remove_" in name}
    assert before == {NOW - timedelta(days=30)}


def test_retention_without_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retention ends 3 s before PASS_DEADLINE. A later run removes the rest."""
    monkeypatch.setenv("HISTORY_DAYS", "30")
    monkeypatch.setenv("PASS_DEADLINE", "10")
    memory = Samples(LATEST)
    memory.old = {"remove_hours": 100 * rollup_writes.REMOVED_ROWS}
    assert rolled(memory).removed == {"ops_worker_hour": 7 * rollup_writes.REMOVED_ROWS}


def test_refused_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused removal is a warning. The other tables are cleaned up all the same."""
    monkeypatch.setenv("HISTORY_DAYS", "30")
    memory = Samples(LATEST)
    memory.refused["remove_hours"] = SchemaError("permission denied")
    memory.old = {"remove_days": 7}
    outcome = run(memory)
    assert outcome.warnings == ("old rows of ops_worker_hour are not removed: permission denied",)
    assert outcome.rolled is not None
    assert outcome.rolled.removed["ops_worker_day"] == 7


@pytest.mark.parametrize(("days", "plain"), [("0", True), ("2", False)])
def test_samples_stay(monkeypatch: pytest.MonkeyPatch, days: str, plain: bool) -> None:
    """Samples stay without SAMPLES_DAYS, and in a hypertable, which has its own retention."""
    monkeypatch.setenv("SAMPLES_DAYS", days)
    memory = Samples(LATEST)
    memory.plain = plain
    rolled(memory)
    assert memory.named("remove_") == []


def test_samples_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SAMPLES_DAYS, old samples of a plain table are removed."""
    monkeypatch.setenv("SAMPLES_DAYS", "2")
    memory = Samples(YESTERDAY, LATEST)
    memory.old = {"remove_samples": 9}
    assert rolled(memory).removed == {"system_metrics": 9}
    (values,) = memory.parameters("remove_samples")
    assert values["before"] == NOW - timedelta(days=2)


def test_ledger_is_filled_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is filled from older samples, a transaction for each step."""
    steps = iter([True, True, False])
    monkeypatch.setattr(ledger_fill, "fill", lambda *_: next(steps))
    assert run(Samples()).warnings == ()
    assert list(steps) == []


def test_ledger_without_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling the ledger ends at 75 % of PASS_DEADLINE, as rolling up does."""
    monkeypatch.setenv("PASS_DEADLINE", "40")
    memory = Samples()
    begun = memory.moment

    def fill(*_: object) -> bool:
        memory.moment += 4
        return True

    monkeypatch.setattr(ledger_fill, "fill", fill)
    rolled(memory)
    assert memory.moment - begun == 32


def test_refused_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that cannot be filled is a warning."""

    def fill(*_: object) -> bool:
        raise SchemaError("permission denied")

    monkeypatch.setattr(ledger_fill, "fill", fill)
    assert run(Samples(LATEST)).warnings == (
        "the ledger is not filled from older samples: permission denied",
    )


def test_without_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its tables, the ledger is not filled, and its old rows need no removal."""
    monkeypatch.setattr(ledger_fill, "fill", lambda *_: pytest.fail("there is no ledger"))
    monkeypatch.setenv("HISTORY_DAYS", "30")
    memory = Samples(LATEST)
    memory.tables -= {*LEDGER_TABLES}
    rolled(memory)
    assert memory.named("remove_") == ["remove_hours", "remove_days"]
