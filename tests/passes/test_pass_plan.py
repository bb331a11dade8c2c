"""What the health and the metrics pass decide and write, on a database in memory."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.adapters import machine
from ops_worker.adapters.postgres import own_alert, pass_writes
from ops_worker.adapters.postgres.pass_writes import StateRow
from ops_worker.core.decoding import parse_time
from ops_worker.core.doubt import DoubtRow
from ops_worker.core.model import Failure, Observation, Recorded, Result
from ops_worker.core.passes import DOUBT_TABLE
from ops_worker.errors import DatabaseError
from tests.looks import NO_BUILTIN, observation
from tests.memory import NOW, Memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ops_worker.core.model import Outcome, Target

pytestmark = pytest.mark.unit

CATALOGUE = f"""{NO_BUILTIN}
[services.a]
url = "http://a:1"
[services.b]
url = "http://b:1"
needs = "a"
"""
UP = {"a": "healthy", "b": "healthy"}
DOWN = {"a": "down", "b": "down"}
SILENT = {"a": "timeout", "b": "timeout"}
"""Nothing came back from two hosts: the pass may be blind."""
SUSPECT = "no packet came back from 2 hosts"
WRITES = ("upsert", "open", "close", "insert", "record")
"""How the names of statements begin that write."""
both_passes = pytest.mark.parametrize("name", ["health", "metrics"])


class Fleet(Memory):
    """A database that has states of services, alerts, counts of blind passes, and samples."""

    def __init__(self) -> None:
        """Create the tables. No pass has run."""
        super().__init__()
        self.tables = {"service_health", "system_metrics", DOUBT_TABLE}
        self.states: dict[str, StateRow] = {}
        self.alerts: set[str] = set()
        self.doubts: dict[str, DoubtRow] = {}
        self.samples: list[dict[str, Any]] = []
        self.watches: list[own_alert.Watch] = []

    def __call__(self, name: str, states: Mapping[str, str], **options: bool) -> Outcome:
        """Run a pass that finds services in these states, a minute after the one before."""
        self.moment += 60
        self.statements.clear()
        self.samples.clear()

        def observe(targets: Sequence[Target]) -> list[Observation]:
            probed = [target for target in targets if target.name in states]
            return [observation(target, self.moment, states[target.name]) for target in probed]

        return self.run(name, observe, **options)

    def answer(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Return the rows of a statement."""
        match name:
            case "remembered":
                names = json.loads(parameters["services"])
                return [row for service, row in self.states.items() if service in names]
            case "alerted":
                return [{"service": service} for service in self.alerts]
            case "upsert_health":
                self._upsert(json.loads(parameters["rows"]))
            case "open_alerts":
                return self._open({alert["service"] for alert in json.loads(parameters["alerts"])})
            case "close_alerts":
                return self._close({*json.loads(parameters["services"])})
            case "doubt_rows":
                return list(self.doubts.values())
            case "record_doubt":
                self.doubts[parameters["name"]] = DoubtRow(**parameters)
            case "insert_samples":
                self._insert(json.loads(parameters["passes"]))
            case _:
                assert name == "ensure_system_tenant"
        return []

    def _open(self, services: set[str]) -> list[dict[str, str]]:
        opened = sorted(services - self.alerts)
        self.alerts |= services
        return [{"service": service} for service in opened]

    def _close(self, services: set[str]) -> list[dict[str, str]]:
        closed = sorted(services & self.alerts)
        self.alerts -= services
        return [{"service": service} for service in closed]

    def _insert(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            self.samples += entry["samples"]

    def _upsert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            checked_at = parse_time(row["checked_at"])
            assert checked_at is not None
            self.states[row["service"]] = StateRow(
                service=row["service"],
                status=row["status"],
                streak=row["details"]["streak"],
                since=row["details"]["since"],
                checked_at=checked_at,
                installation=row["details"].get("installation", "ops-worker"),
            )

    @property
    def written(self) -> list[str]:
        """Return the names of the writing statements of the newest pass."""
        return [name for name, _ in self.statements if name.startswith(WRITES)]

    def values(self, metric: str) -> dict[str, float]:
        """Return the values of a metric that the newest pass wrote, by service."""
        rows = [row for row in self.samples if row["metric"] == metric]
        return {row["service"]: row["value"] for row in rows}


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleet:
    """Return a database that monitors two services. The own alert has tests of its own."""
    (tmp_path / "catalogue.toml").write_text(CATALOGUE)
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "catalogue.toml"))
    monkeypatch.setenv("PG_PASS", "x")
    memory = Fleet()

    def update(_: object, watch: own_alert.Watch) -> Recorded:
        memory.watches.append(watch)
        return pass_writes.NOTHING

    monkeypatch.setattr(own_alert, "update", update)
    return memory


def test_states_and_alerts(fleet: Fleet) -> None:
    """A pass records every state. An alert opens once, and closes when its service is healthy."""
    first = fleet("health", UP | {"a": "down"})
    assert (first.result, first.opened, first.alerted) == (Result.RECORDED, ("a",), ("a",))
    assert {name: row.status for name, row in fleet.states.items()} == {
        "a": "unhealthy",
        "b": "healthy",
    }
    again = fleet("health", UP | {"a": "down"})
    assert (again.opened, again.alerted, fleet.alerts) == ((), ("a",), {"a"})
    assert fleet("health", UP).closed == ("a",)
    assert fleet.alerts == set()


def test_samples(fleet: Fleet) -> None:
    """A metrics pass writes whether each service is healthy, and how many are not."""
    outcome = fleet("metrics", UP | {"a": "down"})
    assert outcome.result is Result.RECORDED
    assert fleet.values("healthy") == {"a": 0.0, "b": 1.0, "postgres": 1.0}
    assert fleet.values("services_unhealthy") == {"ops_worker": 1.0}
    assert [verdict.target.name for verdict in outcome.verdicts] == ["a", "b"]


def test_a_service_that_was_not_probed(fleet: Fleet) -> None:
    """Nothing is recorded about a service for which there was no time. The outcome names it."""
    outcome = fleet("health", {"a": "healthy"})
    assert outcome.unprobed == ("b",)
    assert list(fleet.states) == ["a"]


def test_no_alert_because_of_another_service(fleet: Fleet) -> None:
    """Only the cause has an alert. The state of the other service is recorded."""
    outcome = fleet("health", DOWN)
    assert outcome.opened == ("a",)
    assert outcome.because_of == {"b": ("a",)}
    assert fleet.states["b"].status == "unhealthy"


def test_maintenance(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a maintenance of everything, states are recorded, and no alert opens."""
    until = NOW + timedelta(hours=1)
    monkeypatch.setenv("MAINTENANCE_UNTIL", until.isoformat())
    outcome = fleet("health", DOWN)
    assert (outcome.opened, outcome.maintenance_until) == ((), until)
    assert outcome.under_maintenance == {"a": until, "b": until}
    assert fleet.states["a"].status == "unhealthy"
    assert fleet.values("maintenance") == {"ops_worker": 1.0}
    fleet("metrics", DOWN)
    assert [watch.may_open for watch in fleet.watches] == [False, False]


def test_services_of_another_installation(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation that recorded a service first decides about it. The other one warns."""
    fleet("health", UP)
    monkeypatch.setenv("INSTALLATION", "second")
    outcome = fleet("health", DOWN)
    assert outcome.decided_by == {"a": "ops-worker", "b": "ops-worker"}
    assert (outcome.verdicts, fleet.alerts) == ((), set())
    (warning,) = outcome.warnings
    assert warning.startswith("installation ops-worker watches the same services")
    assert {row.status for row in fleet.states.values()} == {"healthy"}


@both_passes
def test_dry_run(fleet: Fleet, name: str) -> None:
    """A dry run decides as a pass does, and writes nothing."""
    outcome = fleet(name, UP | {"a": "down"}, dry_run=True)
    assert outcome.result is Result.DRY_RUN
    assert [verdict.healthy for verdict in outcome.verdicts] == [False, True]
    assert outcome.opened == (("a",) if name == "health" else ())
    assert fleet.written == []
    assert [watch.dry_run for watch in fleet.watches] == [True]


@both_passes
def test_waiting(fleet: Fleet, name: str) -> None:
    """In a loop, a pass does not use the database while an earlier one is being recorded."""
    outcome = fleet(name, UP, waits=True)
    assert (outcome.result, fleet.statements) == (Result.WAITING, [])


@both_passes
def test_skipped(fleet: Fleet, name: str) -> None:
    """While another process has the lock, a pass is skipped: that process does the work."""
    fleet.locked_after = 0
    assert fleet(name, UP).result is Result.SKIPPED
    assert list(fleet.sightings.waiting()) == [], "nothing waits for the ledger"
    fleet.lock_holder = SimpleNamespace(pid=7, application="x", wait_event=None, held_s=180.0)
    assert fleet(name, UP).result is Result.SKIPPED
    assert fleet.statements == []


@both_passes
@pytest.mark.parametrize(
    ("wait_event", "words"),
    [
        (None, "process 7 (x) has held its lock for 3 min"),
        ("ClientRead", "which waits for ClientRead"),
    ],
)
def test_skipped_for_too_long(fleet: Fleet, name: str, wait_event: str | None, words: str) -> None:
    """If that process seems to hang, the pass fails, and says what it waits for."""
    fleet.locked_after = 0
    fleet.lock_holder = SimpleNamespace(pid=7, application="x", wait_event=wait_event, held_s=181.0)
    with pytest.raises(DatabaseError, match=f"the {name} pass is skipped") as raised:
        fleet(name, UP)
    assert words in str(raised.value)
    assert "pg_terminate_backend(7)" in str(raised.value)


def test_without_system_alerts(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without system alerts there is no health pass, and no pass watches the others."""
    monkeypatch.setenv("SYSTEM_ALERT_ENABLED", "false")
    assert fleet("health", UP).result is Result.OFF
    assert fleet.statements == []
    assert fleet("metrics", UP).result is Result.RECORDED
    assert fleet.watches == []


def test_own_alert(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of each pass says what became of the worker's own alert."""
    peer = Recorded((), opened=("ops_worker",), closed=(), own_reason="no metrics pass")
    monkeypatch.setattr(own_alert, "update", lambda *_: peer)
    health = fleet("health", UP | {"a": "down"})
    assert (health.opened, health.own_reason) == (("a", "ops_worker"), "no metrics pass")
    metrics = fleet("metrics", UP)
    assert (metrics.opened, metrics.own_reason) == (("ops_worker",), "no metrics pass")


@both_passes
def test_without_self_metrics(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With RECORD_OWN_METRICS=false, a pass writes no self-metrics, and watches no peers."""
    monkeypatch.setenv("RECORD_OWN_METRICS", "false")
    fleet(name, UP)
    assert fleet.values("pass_success") == {}
    assert [watch.peers for watch in fleet.watches] == [False]


def test_latency_and_certificates(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A health pass writes both with its self-metrics, for every service that answered."""

    def observe(targets: Sequence[Target]) -> list[Observation]:
        first, second = targets
        answer = observation(first, fleet.moment, "healthy")
        return [
            answer._replace(certificate_days_left=9),
            observation(second, fleet.moment, "down"),
        ]

    fleet.run("health", observe)
    assert fleet.values("probe_latency_ms") == {"a": 3.0}
    assert fleet.values("certificate_days_left") == {"a": 9.0}
    fleet.samples.clear()
    monkeypatch.setenv("RECORD_OWN_METRICS", "false")
    fleet.run("health", observe)
    assert fleet.samples == []


@both_passes
def test_shards(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The self-metrics of a shard name it. Only the first shard records figures."""
    monkeypatch.setenv("SHARD_COUNT", "2")
    for index in ("0", "1"):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
        fleet(name, UP)
        (own,) = [row for row in fleet.samples if row["metric"] == "pass_success"]
        assert own["tags"] == {"pass": name, "period_s": "60", "shard": f"{index}/2"}
        has_figures = name == "metrics" and index == "0"
        assert ("postgres" in fleet.values("healthy")) == has_figures


@both_passes
def test_blind(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A blind pass changes nothing about the services. After some of them, a pass believes."""
    monkeypatch.setenv("DOUBT_PASSES", "2")
    fleet(name, UP)
    assert fleet.values("blind") == {"ops_worker": 0.0}
    states = dict(fleet.states)
    for _ in range(2):
        outcome = fleet(name, SILENT)
        assert (outcome.result, outcome.verdicts) == (Result.RECORDED, ())
        (suspect,) = outcome.blind_because
        assert suspect.startswith(SUSPECT)
        assert (fleet.states, fleet.alerts) == (states, set())
        assert fleet.values("blind") == {"ops_worker": 1.0}
        assert fleet.values("services_unhealthy") == {}
        assert fleet.values("healthy").keys() <= {"postgres"}
        doubt = fleet.watches[-1].doubt
        assert doubt is not None
        assert doubt.is_blind
    outcome = fleet(name, SILENT)
    assert [verdict.healthy for verdict in outcome.verdicts] == [False, False]
    assert outcome.blind_because == ()
    (warning,) = outcome.warnings
    assert "after 2 blind passes in a row, this pass believes what it sees" in warning


@both_passes
def test_a_skipped_pass_that_may_be_blind(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A skipped pass has no count from the database, so its outcome does not say if it is blind."""
    monkeypatch.setenv("DOUBT_PASSES", "2")
    fleet.locked_after = 0
    outcome = fleet(name, SILENT)
    assert (outcome.result, outcome.verdicts) == (Result.SKIPPED, ())


@both_passes
def test_no_doubt_by_default(fleet: Fleet, name: str) -> None:
    """Without DOUBT_PASSES, a pass believes what it sees, and counts nothing."""
    outcome = fleet(name, SILENT)
    assert (outcome.blind_because, len(outcome.verdicts)) == ((), 2)
    assert fleet.values("blind") == {}
    assert fleet.doubts == {}
    assert fleet.watches[-1].doubt is None


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ((1.0, 3.5), "(throttled by its CPU limit for 2.5 s)"),
        ((1.0, 1.0), "not run for 3.0 s: 2 of 2"),
        ((None, 3.5), "not run for 3.0 s: 2 of 2"),
        ((1.0, None), "not run for 3.0 s: 2 of 2"),
    ],
)
def test_throttling(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    readings: tuple[float | None, float | None],
    words: str,
) -> None:
    """A stall during which the CPU limit throttled this process names the limit as its cause."""
    monkeypatch.setenv("DOUBT_PASSES", "2")
    moments = iter(readings)
    monkeypatch.setattr(machine, "throttled_s", lambda: next(moments))

    def observe(targets: Sequence[Target]) -> list[Observation]:
        return [
            Observation(
                target,
                fleet.moment,
                failure=Failure.NO_ANSWER,
                error="timeout after 5 s",
                reason_class="timeout",
                stalled_s=3.0,
            )
            for target in targets
        ]

    (suspect,) = fleet.run("health", observe).blind_because
    assert words in suspect
    assert ("throttled" in suspect) == ("throttled" in words)
