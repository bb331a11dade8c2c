"""``ops-worker sidecar`` and ``--every``: the context, the reports and the end of loops."""

from __future__ import annotations

import json
import logging
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import settings
from ops_worker.cli import _parser
from ops_worker.commands import run_loop
from ops_worker.core.backlog import MEBIBYTE, Backlog, Pending
from ops_worker.core.model import Outcome, Result, Sample, State, Target, Tick, Verdict
from ops_worker.core.passes import HEALTH, METRICS, PASSES
from ops_worker.errors import DatabaseError, OpsWorkerError, SchemaError
from ops_worker.passes import metrics

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

DOWN = Verdict(Target("ingest", "", "ingest", ()), 0.0, State.DOWN, "Connection refused")


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> settings.Settings:
    """Return settings with a termination message."""
    monkeypatch.setenv("PG_PASS", "not-used")
    monkeypatch.setenv("TERMINATION_MESSAGE_PATH", str(tmp_path / "message"))
    return settings.load()


def options(*arguments: str) -> Any:
    """Parse a command line."""
    return _parser().parse_args(arguments)


def waiting(count: int) -> Backlog:
    """Return a backlog with this number of samples."""
    backlog = Backlog(100, MEBIBYTE)
    for number in range(count):
        backlog.add(Pending(float(number), (Sample("ingest", "jobs", 1.0),)))
    return backlog


class TestContext:
    """The context of a pass in a loop."""

    def test_backlog(self, values: settings.Settings) -> None:
        """A pass that buffers has a backlog for one hour of samples.

        The setting can change the number of samples.
        """
        parsed = options("metrics", "--every", "7")
        backlog = run_loop._context(parsed, values, METRICS, 7.0).backlog
        assert backlog is not None
        assert (backlog._limit, backlog._limit_bytes) == (515, values.metrics_buffer_mib * MEBIBYTE)
        few = values.model_copy(update={"metrics_buffer_samples": 3})
        backlog = run_loop._context(parsed, few, METRICS, 7.0).backlog
        assert backlog is not None and backlog._limit == 3

    def test_no_backlog(self, values: settings.Settings) -> None:
        """A health pass and a dry run have no backlog; a dry run must never write later."""
        assert run_loop._context(options("sidecar"), values, HEALTH, 60.0).backlog is None
        dry = run_loop._context(options("metrics", "--every", "1", "--dry-run"), values, METRICS, 1)
        assert (dry.backlog, dry.dry_run) == (None, True)

    def test_period(self, values: settings.Settings) -> None:
        """The period of the loop's passes is its interval, not PASS_PERIOD."""
        assert run_loop._context(options("sidecar"), values, HEALTH, 7.0).period_s == 7.0

    def test_connections(self, values: settings.Settings) -> None:
        """Every loop has a connection of its own."""
        contexts = [run_loop._context(options("sidecar"), values, METRICS, 7.0) for _ in range(2)]
        assert contexts[0].store is not contexts[1].store


class TestReporter:
    """The report of a tick."""

    def test_worst_message_stays(
        self, values: settings.Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The termination message is that of the worst pass; of equal ones, the latest."""
        report = run_loop._Reporter(
            options("health", "--every", "1", "--fail-on-unhealthy"), values, None
        )
        healthy = Outcome("health", Result.RECORDED)
        unhealthy = Outcome("health", Result.RECORDED, (DOWN,))
        ticks = [
            (Tick("health", 0.1, outcome=healthy), 0, 0),
            (Tick("health", 0.1, outcome=unhealthy), 4, 4),
            (Tick("health", 0.1, outcome=healthy), 0, 4),
            (Tick("health", 0.1, error=SchemaError("no table x")), 3, 3),
            (Tick("health", 0.1, error=DatabaseError("away")), 1, 3),
            (Tick("health", 0.1, error=SchemaError("no table y")), 3, 3),
        ]
        path = values.termination_message_path
        for tick, code, worst in ticks:
            assert report(tick) == code
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a name from the settings
                document = json.load(file)
            assert document["exit_code"] == worst
        assert document["error"] == "no table y"
        assert len(capsys.readouterr().out.splitlines()) == 3, "one closing line for each outcome"

    def test_crash(self, values: settings.Settings) -> None:
        """The message of a bug has only the class of the error."""
        report = run_loop._Reporter(options("sidecar"), values, None)
        assert report(Tick("health", 0.1, error=ValueError("s3cret"))) == 1
        with open(values.termination_message_path, encoding="utf-8") as file:  # noqa: PTH123
            text = file.read()
        assert "ValueError" in text and "s3cret" not in text

    def test_telemetry(self, values: settings.Settings) -> None:
        """The endpoint gets every tick."""
        ticks: list[Tick] = []
        telemetry: Any = SimpleNamespace(record=ticks.append)
        tick = Tick("health", 0.1, error=DatabaseError("away"))
        run_loop._Reporter(options("sidecar"), values, telemetry)(tick)
        assert ticks == [tick]

    def test_no_endpoint(self, values: settings.Settings) -> None:
        """Only a sidecar with a port has an endpoint."""
        closed = values.model_copy(update={"sidecar_port": 0})
        assert run_loop._telemetry(options("sidecar"), closed, {"health": 60.0}) is None
        assert (
            run_loop._telemetry(options("health", "--every", "1"), values, {"health": 1.0}) is None
        )


def stub(name: str, *, finished: bool = True, backlog: Backlog | None = None) -> Any:
    """Return a stand-in for a loop. Its ``closed`` is not empty after its connection was closed."""
    closed: list[str] = []
    store = SimpleNamespace(close=lambda: closed.append(name))
    context = SimpleNamespace(store=store, backlog=backlog)
    return SimpleNamespace(name=name, finished=finished, context=context, closed=closed)


class TestClose:
    """The end of the loops, after their last tick."""

    def test_flush(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        """Waiting samples are written until the deadline; a loop that fails stops no other loop.

        Only passes that can flush are asked to.
        """
        caplog.set_level(logging.INFO, "ops_worker")
        loops = [stub("first"), stub("running", finished=False), stub("away"), stub("last")]
        for loop in loops:
            monkeypatch.setitem(PASSES, loop.name, METRICS._replace(name=loop.name))
        loops.append(stub("health"))
        deadlines: list[float] = []

        def flush(context: Any, until: float) -> int:
            deadlines.append(until)
            if context is loops[2].context:
                raise DatabaseError("away")
            return 5 if context is loops[3].context else 0

        monkeypatch.setattr(metrics, "flush", flush)
        run_loop._close(loops, 1234.5)
        assert deadlines == [1234.5] * 3, "a pass that still runs uses its connection"
        assert [loop.closed for loop in loops] == [["first"], [], ["away"], ["last"], ["health"]]
        (record,) = caplog.records
        assert (vars(record)["action"], vars(record)["count"]) == ("flushed", 5)

    def test_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        """Samples that the database did not take are counted and logged, for every loop."""
        loops = [stub("health"), stub("a", backlog=waiting(0)), stub("b", backlog=waiting(3))]
        loops.append(stub("c", backlog=waiting(2)))
        assert run_loop._report_lost(loops) == 5
        entries = [
            (vars(record)["action"], vars(record)["loop"], vars(record)["count"])
            for record in caplog.records
        ]
        assert entries == [("samples lost", "b", 3), ("samples lost", "c", 2)]

    @pytest.mark.parametrize(
        ("code", "lost", "seconds", "expected"),
        [(0, 2, "5", 1), (0, 0, "5", 0), (4, 2, "5", 4), (0, 2, None, 0)],
    )
    def test_exit_code(
        self,
        values: settings.Settings,
        monkeypatch: pytest.MonkeyPatch,
        code: int,
        lost: int,
        seconds: str | None,
        expected: int,
    ) -> None:
        """With --for, lost samples change exit code 0 to 1. Without it, the exit code stays."""

        def run(loops: Any, _: Any, *, grace_s: float, close: Any) -> int:
            assert grace_s == values.shutdown_grace
            assert callable(close)
            for number in range(lost):
                loops[0].context.backlog.add(Pending(float(number), ()))
            return code

        monkeypatch.setattr("ops_worker.loop.run", run)
        words = ["metrics", "--every", "1", *(["--for", seconds] if seconds else [])]
        parsed = options(*words)
        assert (parsed.for_s == math.inf) == (seconds is None)
        assert run_loop.run(parsed, values) == expected

    @pytest.mark.parametrize(
        ("words", "code", "is_complete", "raises"),
        [
            (["--for", "60"], 1, False, True),
            (["--for", "60"], 3, False, False),
            (["--for", "60"], 1, True, False),
            ([], 0, False, False),
        ],
    )
    def test_cut_short(
        self,
        values: settings.Settings,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        code: int,
        is_complete: bool,
        raises: bool,
    ) -> None:
        """A signal before the end of --for is an error, unless a pass has a worse exit code."""

        def run(loops: Any, stop: Any, **_: Any) -> int:
            stop.set()
            loops[0].is_complete = is_complete
            return code

        monkeypatch.setattr("ops_worker.loop.run", run)
        parsed = options("metrics", "--every", "1", *words)
        if raises:
            with pytest.raises(OpsWorkerError, match="before the end of --for"):
                run_loop.run(parsed, values)
        else:
            assert run_loop.run(parsed, values) == code
