"""Tests that one entry in the registry adds a pass to the whole program.

The entry names ``run`` below. No module of the package knows this pass.
"""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
import yaml

from ops_worker import loop, settings
from ops_worker.adapters.postgres import pass_writes
from ops_worker.adapters.postgres.specs import LOCK_SPACE
from ops_worker.cli import _parser, main
from ops_worker.commands import run_loop, trigger
from ops_worker.core.model import Outcome, Recorded, Result
from ops_worker.core.passes import MAINTENANCE_TABLE, PASSES, PassSpec, TransactionSpec
from ops_worker.core.samples import PASS_SUCCESS

if TYPE_CHECKING:
    from ops_worker.adapters.postgres import Transaction
    from ops_worker.passes import Context
    from tests.conftest import Database
    from tests.stubs import Stubs

K8S = Path(__file__).parent.parent / "k8s"
RECORDED = (
    "SELECT count(*) FROM system_metrics WHERE service = 'ops_worker'"
    " AND tags ->> 'pass' = 'archive' AND metric_name = 'pass_success'"
)
ARCHIVE = PassSpec(
    name="archive",
    summary="archive old samples",
    run="tests.test_third_pass:run",
    transaction=TransactionSpec(lock=200, required_tables=("system_metrics",)),
    marker=PASS_SUCCESS,
    interval_setting="metrics_collection_interval",
)


class Written(NamedTuple):
    """The result of the transaction."""

    peer: Recorded
    warnings: tuple[str, ...]


def run(context: Context) -> Outcome:
    """Record only the self-metrics of this pass."""
    begun = context.clock()
    with context.recording():
        work = partial(_write, context, begun)
        written = context.transact(ARCHIVE, work, (MAINTENANCE_TABLE, "fleet_alert", "tenants"))
    if written is None:
        context.require_live_holder(ARCHIVE.name)
        return Outcome(ARCHIVE.name, Result.SKIPPED)
    return Outcome(
        name=ARCHIVE.name,
        result=Result.DRY_RUN if context.dry_run else Result.RECORDED,
        opened=written.peer.opened,
        closed=written.peer.closed,
        warnings=written.warnings,
    )


def _write(context: Context, begun: float, transaction: Transaction) -> Written:
    if not context.dry_run:
        samples = context.self_metrics(ARCHIVE, (), begun)
        pass_writes.record_self_metrics(transaction, begun, samples)
    peer = context.watch_peers(transaction, ARCHIVE, begun, may_open=True)
    return Written(peer, tuple(transaction.warnings))


FLUSHED: list[Context] = []
"""The contexts that ``flush`` received."""


def flush(context: Context, end: float) -> int:
    """Record the context of the loop."""
    assert end > time.monotonic()
    FLUSHED.append(context)
    return 0


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the pass."""
    monkeypatch.setitem(PASSES, ARCHIVE.name, ARCHIVE)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, database: Database, stubs: Stubs) -> Database:
    """Return the database of the test. The settings name it and the stubs."""
    for name, value in (stubs.env | {"DATABASE_URL": database.url, "SIDECAR_PORT": "0"}).items():
        monkeypatch.setenv(name, value)
    return database


@pytest.mark.unit
class TestCommandLine:
    """Help, variables and loops."""

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The help lists the pass after the other passes, and before the other commands."""
        assert main(["--help"]) == 0
        out = capsys.readouterr().out
        assert "archive old samples" in out
        assert (
            out.index("\n    metrics ") < out.index("\n    archive ") < out.index("\n    sidecar ")
        )

    def test_own_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The help of the pass has the options and the variables that every pass has."""
        helps = {}
        for name in ("health", "metrics", "archive"):
            assert main([name, "--help"]) == 0
            helps[name] = capsys.readouterr().out
        assert "usage: ops-worker archive" in helps["archive"]
        assert "Archive old samples." in helps["archive"]
        variables = {
            name: {line.split()[0] for line in text.splitlines() if line[:3].strip(" ") and
                   line.startswith("  ") and line.strip()[:1].isupper()}
            for name, text in helps.items()
        }  # fmt: skip
        assert {"PASS_PERIOD", "PASS_DEADLINE", "DATABASE_URL"} <= variables["archive"]
        assert variables["archive"] == variables["health"] & variables["metrics"]
        for option in ("--dry-run", "--output", "--shard", "--every", "--for"):
            assert option in helps["archive"]
        assert _parser().parse_args(["archive", "--shard", "0/2"]).shard == (0, 2)

    def test_intervals(self) -> None:
        """``sidecar`` uses the interval of the setting, ``--every`` its own."""
        values = settings.Settings.model_construct(
            health_check_interval=60.0, metrics_collection_interval=7.0, rollup_interval=9.0
        )

        def intervals(*arguments: str) -> dict[str, float]:
            return run_loop.intervals_of(_parser().parse_args(arguments), values)

        assert intervals("sidecar") == {
            "health": 60.0,
            "metrics": 7.0,
            "rollup": 9.0,
            "archive": 7.0,
        }
        assert intervals("sidecar", "archive") == {"archive": 7.0}
        assert intervals("archive", "--every", "3") == {"archive": 3.0}
        assert intervals("archive") == {}

    def test_suggestions(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A misspelled name has a suggestion, as a command and as an argument of ``sidecar``."""
        for line in ("archiv", "sidecar archiv"):
            assert main(line.split()) == 2
            assert capsys.readouterr().err.rstrip("\n").endswith("; did you mean archive?")
        assert main(["sidecar", "--help"]) == 0
        assert "health, metrics, rollup, archive" in " ".join(capsys.readouterr().out.split())

    def test_trigger(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """``trigger archive`` starts the CronJob ops-worker-archive; the help lists the pass."""
        owners: list[str] = []

        class Cluster:
            namespace = "test"

            def cronjob_of(self, command: str) -> dict[str, Any]:
                return {
                    "metadata": {"name": f"ops-worker-{command}", "uid": "u"},
                    "spec": {"jobTemplate": {"spec": {}}},
                }

            def create_job(self, job: dict[str, Any]) -> str:
                owners.append(job["metadata"]["ownerReferences"][0]["name"])
                return str(job["metadata"]["name"])

        monkeypatch.setattr(trigger, "connect", lambda _: Cluster())
        assert main(["trigger", "archive"]) == 0
        assert owners == ["ops-worker-archive"]
        capsys.readouterr()
        assert main(["trigger", "--help"]) == 0
        assert "health, metrics, rollup, archive, init-db" in " ".join(
            capsys.readouterr().out.split()
        )


@pytest.mark.unit
class TestManifests:
    """``ops-worker manifests check`` recognises a container that runs the pass."""

    @staticmethod
    def faults(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], *, period: str, schedule: str
    ) -> str:
        """Check a CronJob of this pass with the ConfigMaps of the base; return the output."""
        for path in K8S.glob("[0-3]*.yaml"):
            (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        text = (K8S / "40-cronjob-health.yaml").read_text(encoding="utf-8")
        document: dict[str, Any] = yaml.safe_load(
            text.replace("ops-worker-health", "ops-worker-archive")
        )
        document["spec"]["schedule"] = schedule
        job = document["spec"]["jobTemplate"]["spec"]
        container = job["template"]["spec"]["containers"][0]
        # Only the arguments show that this container is the worker's.
        container |= {"image": "registry.example/tools:1.0", "args": ["archive"], "name": "job"}
        for rule in job["podFailurePolicy"]["rules"]:
            if "onExitCodes" in rule:
                rule["onExitCodes"]["containerName"] = "job"
        variables = [variable for variable in container["env"] if variable["name"] != "PASS_PERIOD"]
        container["env"] = [*variables, {"name": "PASS_PERIOD", "value": period}]
        (tmp_path / "archive.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        capsys.readouterr()
        main(["manifests", "check", str(tmp_path)])
        captured = capsys.readouterr()
        return captured.out + captured.err

    def test_recognised(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The container is the worker's, so a PASS_PERIOD below the schedule's is a fault."""
        output = self.faults(tmp_path, capsys, schedule="*/5 * * * *", period="60")
        (line,) = [line for line in output.splitlines() if "archive.yaml" in line]
        assert "PASS_PERIOD is 60: set it to 300" in line

    def test_right_period(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With the right period, the CronJob has no fault."""
        output = self.faults(tmp_path, capsys, schedule="*/5 * * * *", period="300")
        assert "archive.yaml" not in output


@pytest.mark.integration
class TestDatabase:
    """The pass on the platform's database."""

    def test_single_pass(self, platform: Database, capsys: pytest.CaptureFixture[str]) -> None:
        """A single pass records its self-metrics, and prints a closing line or a document."""
        assert main(["archive", "--dry-run"]) == 0
        assert platform.value(RECORDED) == 0
        assert main(["archive"]) == 0
        assert platform.value(RECORDED) == 1
        assert "\narchive: " in "\n" + capsys.readouterr().out
        assert main(["archive", "--output", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["pass"], document["result"]) == ("archive", "recorded")

    @pytest.mark.parametrize(
        ("name", "result"),
        [("health", "recorded"), ("metrics", "recorded"), ("archive", "skipped")],
    )
    def test_lock(
        self,
        platform: Database,
        capsys: pytest.CaptureFixture[str],
        name: str,
        result: str,
    ) -> None:
        """The pass has its own lock. While another process holds it, only this pass is skipped."""
        with psycopg.connect(platform.url) as other:
            lock = ARCHIVE.transaction.lock
            other.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_SPACE, lock])
            assert main([name, "--output", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["result"] == result

    def test_every(self, platform: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """``--every`` runs the pass in a loop. The self-metrics have its interval."""
        _signal_when(monkeypatch, threading.Event().wait)
        assert main(["archive", "--every", "3600", "--for", "0.1"]) == 0
        periods = (
            "SELECT tags ->> 'period_s' FROM system_metrics"
            " WHERE tags ->> 'pass' = 'archive' LIMIT 1"
        )
        assert platform.value(periods) == "3600"

    def test_flush(self, platform: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """At the end of a loop, only the ``flush`` of its entry is called."""
        FLUSHED.clear()
        spec = ARCHIVE._replace(flush="tests.test_third_pass:flush")
        monkeypatch.setitem(PASSES, ARCHIVE.name, spec)
        monkeypatch.setattr("ops_worker.passes.metrics.flush", lambda *_: pytest.fail("metrics"))
        _signal_when(monkeypatch, threading.Event().wait)
        assert main(["archive", "--every", "3600", "--for", "0.1"]) == 0
        (context,) = FLUSHED
        assert context.backlog is not None
        assert platform.value(RECORDED) >= 1

    def test_sidecar(self, platform: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """The sidecar runs this pass and the other passes until a signal arrives."""
        passes = "SELECT count(DISTINCT tags ->> 'pass') FROM system_metrics"
        _signal_when(monkeypatch, lambda: _until(lambda: platform.value(passes) == 4))
        assert main(["sidecar"]) == 0
        assert platform.value(RECORDED) >= 1

    def test_status(self, platform: Database, capsys: pytest.CaptureFixture[str]) -> None:
        """``status`` shows the pass as never run, then on time, then stale."""
        assert main(["health"]) == main(["metrics"]) == 0
        assert _row_of_status(capsys) == ["never"]
        assert main(["archive"]) == 0
        assert _row_of_status(capsys) == ["on", "time"]
        _age(platform)
        assert _row_of_status(capsys) == ["stale"]

    def test_explain(self, platform: Database, capsys: pytest.CaptureFixture[str]) -> None:
        """``explain ops_worker`` lists the pass, and reports that it stopped."""
        for name in PASSES:
            assert main([name]) == 0
        document = _explained(capsys)
        assert [item["pass"] for item in document["passes"]] == [
            "archive",
            "health",
            "metrics",
            "rollup",
        ]
        assert document["state"] == "healthy"
        _age(platform)
        document = _explained(capsys)
        assert (document["state"], document["reason"]) == (
            "stale",
            "not recorded for 3 periods: archive",
        )

    @pytest.mark.usefixtures("platform")
    def test_report(self, tmp_path: Path) -> None:
        """``report`` has a row for the pass, even if it was never recorded."""
        assert main(["health"]) == main(["metrics"]) == 0
        page = tmp_path / "page.html"
        for _ in range(2):
            assert main(["report", "-o", str(page)]) == 0
            assert "archive" in page.read_text(encoding="utf-8")
            assert main(["archive"]) == 0

    @pytest.mark.parametrize("watcher", ["health", "metrics"])
    def test_peers_notice_its_end(
        self, platform: Database, capsys: pytest.CaptureFixture[str], watcher: str
    ) -> None:
        """If the pass stops, a peer opens an alert with its name. Later the peer closes it."""
        for name in PASSES:
            assert main([name]) == 0
        _age(platform)
        capsys.readouterr()
        assert main([watcher, "--output", "json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["alerts"]["opened"] == ["ops_worker"]
        (alert,) = platform.alerts()
        assert alert["fingerprint"] == "system-health:ops_worker"
        assert "no archive pass was recorded for " in alert["summary"]
        assert alert["details"]["evidence"]["seen_by"] == f"{watcher} pass"
        (line,) = [line for line in captured.err.splitlines() if '"alert opened"' in line]
        assert "archive" in json.loads(line)["reason"]

        platform.rows("UPDATE system_metrics SET time = now() WHERE tags ->> 'pass' = 'archive'")
        assert main([watcher, "--output", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["alerts"]["closed"] == ["ops_worker"]
        assert [row["status"] for row in platform.alerts()] == ["CLOSED"]

    def test_it_notices_the_end_of_a_peer(self, platform: Database) -> None:
        """The pass watches its peers, as they watch it."""
        for name in PASSES:
            assert main([name]) == 0
        _age(platform, "health")
        assert main(["archive"]) == 0
        (alert,) = platform.alerts()
        assert "no health pass was recorded" in alert["summary"]
        assert main(["health"]) == main(["archive"]) == 0
        assert [row["status"] for row in platform.alerts()] == ["CLOSED"]

    def test_check(self, platform: Database, capsys: pytest.CaptureFixture[str]) -> None:
        """``check`` tests the tables that the pass needs."""
        platform.rows("DROP TABLE system_metrics CASCADE")
        assert main(["check"]) == 3
        assert "system_metrics" in capsys.readouterr().out


def _age(database: Database, name: str = "archive") -> None:
    """Move all records of a pass one hour into the past."""
    database.rows(
        "UPDATE system_metrics SET time = time - interval '1 hour' WHERE tags ->> 'pass' = %s", name
    )


def _row_of_status(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the words of STATE that ``status`` shows for the pass."""
    capsys.readouterr()
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line.split() for line in lines if line.startswith("archive ")]
    return line[1:3] if line[1] == "on" else line[1:2]


def _explained(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["explain", "ops_worker", "--output", "json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def _signal_when(monkeypatch: pytest.MonkeyPatch, wait: Any) -> None:
    """Let loops of this process get one signal when ``wait`` returns."""
    waits = iter([wait])

    def await_signal() -> None:
        next(waits, threading.Event().wait)()

    monkeypatch.setattr(loop, "run", partial(loop.run, await_signal=await_signal))


def _until(holds: Any) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
