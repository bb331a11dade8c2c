"""Passes that doubt what they saw: the rows that they write and keep, on a real database."""

from __future__ import annotations

import contextlib
import json
import random
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker import settings
from ops_worker.adapters import machine
from ops_worker.adapters.postgres import Store
from ops_worker.adapters.postgres.specs import LOCK_SPACE
from ops_worker.cli import main
from ops_worker.core.backlog import Backlog
from ops_worker.core.ledger import Run, Span
from ops_worker.core.model import Failure, Observation, Outcome, Result
from ops_worker.core.passes import HEALTH
from ops_worker.core.sightings import Sightings
from ops_worker.core.timeline import Coverage
from ops_worker.errors import DatabaseError
from ops_worker.passes import Context, function_of
from tests.looks import START_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ops_worker.core.model import Target
    from tests.conftest import Database

pytestmark = pytest.mark.integration

AWAY = "postgresql://a:b@127.0.0.1:9/d"
SERVICES = ("a", "b", "e")
"""The services. With two shards, the first shard has ``a`` and ``b``."""
PERIOD_S = 60.0
UP = "up"
SILENT = dict.fromkeys(SERVICES, "timeout")
UNNAMED = dict.fromkeys(SERVICES, "name")
LIMITED = dict.fromkeys(SERVICES, "limit")
STALLED = dict.fromkeys(SERVICES, "stall")
GONE = {**dict.fromkeys(SERVICES, UP), "b": "timeout"}
KINDS = {
    "timeout": {"failure": Failure.NO_ANSWER, "error": "timeout", "reason_class": "timeout"},
    "stall": {
        "failure": Failure.NO_ANSWER,
        "error": "timeout",
        "reason_class": "timeout",
        "stalled_s": 4.0,
    },
    "name": {
        "failure": Failure.NO_CONNECTION,
        "error": "name resolution failed: x",
        "reason_class": "name",
    },
    "limit": {"failure": Failure.NOT_PROBED, "error": "this process is out of file descriptors"},
    "refused": {
        "failure": Failure.NO_CONNECTION,
        "error": "Connection refused",
        "reason_class": "refused",
        "sign": True,
    },
}
KEPT = """
SELECT jsonb_build_array(
    (SELECT jsonb_agg(to_jsonb(h) ORDER BY service) FROM service_health AS h),
    (SELECT jsonb_agg(to_jsonb(r) - 'digest' ORDER BY id) FROM ops_worker_run AS r),
    (SELECT jsonb_agg(to_jsonb(s) ORDER BY id) FROM ops_worker_span AS s),
    (SELECT jsonb_agg(to_jsonb(m) ORDER BY service, time) FROM system_metrics AS m
     WHERE m.service IN ('a', 'b', 'e')),
    (SELECT jsonb_agg(to_jsonb(f) ORDER BY id) FROM fleet_alert AS f
     WHERE f.fingerprint <> 'system-health:ops_worker')
)
"""
"""All rows that a blind pass must keep. The digest of its run says that the run ended."""


class Installation:
    """Passes one minute apart that see what the test sets."""

    def __init__(self, env: pytest.MonkeyPatch, folder: Path, database: Database) -> None:
        self.env = env
        self.database = database
        self.url = database.url
        self.moment = START_S
        self.is_now = False
        self.sightings = Sightings()
        self.backlog = Backlog(100)
        entries = [f'[services.{name}]\nurl = "http://{name}.example"\n' for name in SERVICES]
        (folder / "catalogue.toml").write_text("builtin = false\n" + "\n".join(entries))
        env.setenv("DATABASE_URL", database.url)
        env.setenv("OPS_WORKER_CATALOGUE", str(folder / "catalogue.toml"))
        env.setenv("DOUBT_PASSES", "2")

    def __call__(
        self,
        kinds: dict[str, str] | str,
        name: str = "health",
        *,
        dry_run: bool = False,
        loop: bool = False,
    ) -> Outcome:
        """Run the next pass, one period after the last one."""
        self.moment += PERIOD_S
        moment = time.monotonic() if self.is_now else self.moment
        states = dict.fromkeys(SERVICES, kinds) if isinstance(kinds, str) else kinds

        def observe(targets: Sequence[Target]) -> list[Observation]:
            """Return the observations that the test sets."""
            return [_observation(target, moment, states[target.name]) for target in targets]

        with contextlib.closing(Store({"conninfo": self.url})) as store:
            context = Context(
                settings=settings.load(),
                observe=observe,
                store=store,
                clock=lambda: moment,
                dry_run=dry_run,
                period_s=PERIOD_S,
                backlog=self.backlog if loop else None,
                sightings=self.sightings,
            )
            return function_of(name)(context)

    def run_now(self) -> None:
        """Run the next passes now, because a pass of the past is too old to judge its peers.

        Remove the records of the past: the time since then would count as an outage.
        """
        self.database.rows("DELETE FROM system_metrics")
        self.is_now = True
        self(UP)
        self(UP, "metrics")

    def rows_to_keep(self) -> Any:
        """Return all rows that a blind pass must keep."""
        return self.database.value(KEPT)

    def states(self) -> dict[str, str]:
        """Return the status of each service."""
        return {name: row["status"] for name, row in self.database.health().items()}

    def own_alert(self) -> tuple[str, list[str]] | None:
        """Return the summary and the causes of the worker's open alert."""
        for row in self.database.alerts():
            if row["details"]["service"] == "ops_worker" and row["status"] == "OPEN":
                return row["summary"], row["details"]["causes"]
        return None

    def open_services(self) -> list[str]:
        """Return the services whose alert is open."""
        return sorted(
            row["details"]["service"]
            for row in self.database.alerts()
            if row["status"] == "OPEN" and row["details"]["service"] != "ops_worker"
        )

    def flags(self, name: str) -> list[float]:
        """Return the metric ``blind`` of a pass, oldest first."""
        rows = self.database.rows(
            "SELECT value FROM system_metrics WHERE metric_name = 'blind'"
            " AND tags ->> 'pass' = %s ORDER BY time",
            name,
        )
        return [row["value"] for row in rows]


def _observation(target: Target, moment: float, kind: str) -> Observation:
    if kind == UP:
        return Observation(target, moment, 200, 3, body=b'{"counters": {"n": 1}}')
    if kind.isdigit():
        return Observation(target, moment, int(kind), 3)
    fields: dict[str, Any] = KINDS[kind]
    return Observation(target, moment, **fields)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database) -> Installation:
    """Return an installation with healthy services."""
    running = Installation(monkeypatch, tmp_path, database)
    running(UP)
    running(UP, "metrics")
    return running


@pytest.mark.parametrize(
    ("kinds", "because"),
    [
        (SILENT, "no packet came back from 3 hosts"),
        (UNNAMED, "no name could be resolved: 3 of 3"),
        (STALLED, "this process was not run for 4.0 s: 3 of 3"),
        (LIMITED, "this process is out of file descriptors: 3 of 3"),
    ],
)
@pytest.mark.parametrize("name", ["health", "metrics"])
def test_a_blind_pass_changes_nothing(
    installed: Installation, kinds: dict[str, str], because: str, name: str
) -> None:
    """A blind pass keeps states, alerts, samples and history, and opens the worker's alert."""
    before = installed.rows_to_keep()
    outcome = installed(kinds, name)
    assert outcome.result is Result.RECORDED
    assert (outcome.verdicts, outcome.updates, outcome.superseded) == ((), (), ())
    (suspect,) = outcome.blind_because
    # The name servers of this machine may follow in the text.
    assert suspect.startswith(because)
    assert outcome.opened == ("ops_worker",)
    assert installed.rows_to_keep() == before
    alert = installed.own_alert()
    assert alert is not None
    assert alert[0].startswith(
        f"Service unhealthy: ops_worker (the {name} pass is blind: {because}"
    )
    assert alert[1] == ["blind"]
    assert installed.flags(name)[-1] == 1.0


def test_a_blind_metrics_pass_still_records_the_database(installed: Installation) -> None:
    """A blind metrics pass records the figures of the database, which need no service."""
    installed(SILENT, "metrics")
    rows = installed.database.rows(
        "SELECT service, metric_name FROM system_metrics WHERE time = (SELECT max(time)"
        " FROM system_metrics)"
    )
    recorded = {(row["service"], row["metric_name"]) for row in rows}
    assert ("postgres", "healthy") in recorded
    assert ("ops_worker", "blind") in recorded
    # The number of unhealthy services is unknown.
    assert ("ops_worker", "services_unhealthy") not in recorded
    assert {service for service, _ in recorded}.isdisjoint(SERVICES)


def test_a_pass_believes_after_some_blind_ones(installed: Installation) -> None:
    """After DOUBT_PASSES blind passes the alerts open, and the worker's alert closes."""
    assert installed(SILENT).opened == ("ops_worker",)
    assert installed(SILENT).opened == ()
    outcome = installed(SILENT)
    assert (outcome.blind_because, outcome.closed) == ((), ("ops_worker",))
    assert outcome.opened == SERVICES
    (warning,) = outcome.warnings
    assert warning.startswith(
        "no packet came back from 3 hosts; after 2 blind passes in a row, this pass believes"
    )
    assert installed.own_alert() is None
    assert installed.open_services() == [*SERVICES]
    assert installed(SILENT).blind_because == ()
    assert installed(UP).closed == SERVICES
    # A sign of life ended the doubt, so that the next pass is blind again.
    assert installed(SILENT).blind_because
    assert installed.flags("health") == [0, 1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("name", ["health", "metrics"])
def test_blind_passes_are_unseen_in_the_ledger(installed: Installation, name: str) -> None:
    """Blind passes make unseen time even if it is shorter than the patience."""
    for kinds in (UP, UP, SILENT, SILENT, UP, UP):
        installed(kinds, name)
    columns = ", ".join(Run._fields)
    query = f"SELECT {columns} FROM ops_worker_run WHERE pass = %s ORDER BY id"
    runs = [Run(**row) for row in installed.database.rows(query, name)]
    assert [run.passes for run in runs] == [3, 2]
    columns = ", ".join(Span._fields)
    query = f"SELECT {columns} FROM ops_worker_span WHERE pass = %s AND service = 'a'"
    spans = [Span(**row) for row in installed.database.rows(query, name)]
    begun, ended = runs[0].first_at, runs[1].last_at
    pieces = Coverage(runs, ended).timeline(spans, begun, ended)
    assert [piece.state for piece in pieces] == ["healthy", "unseen", "healthy"]
    # The time of the blind passes, give or take the jitter of two clocks.
    assert pieces[1].seconds == pytest.approx(2 * PERIOD_S, abs=PERIOD_S / 2)


def test_limits_are_never_believed(installed: Installation) -> None:
    """A pass that probed nothing never changes a service, even after many such passes."""
    before = installed.rows_to_keep()
    for _ in range(4):
        assert installed(LIMITED).blind_because
    assert installed.rows_to_keep() == before
    assert len([row for row in installed.database.alerts() if row["status"] == "OPEN"]) == 1
    assert installed(UP).closed == ("ops_worker",)


@pytest.mark.parametrize("kinds", [{**SILENT, "a": "503"}, {**SILENT, "a": "refused"}, GONE])
@pytest.mark.parametrize("doubt_passes", ["0", "2"])
def test_services_that_are_down_are_not_doubted(
    installed: Installation, kinds: dict[str, str], doubt_passes: str
) -> None:
    """If any service gives a sign of life, alerts open as early as without doubt."""
    installed.env.setenv("DOUBT_PASSES", doubt_passes)
    outcome = installed(kinds)
    expected = sorted(name for name, kind in kinds.items() if kind != UP)
    assert (outcome.blind_because, outcome.opened) == ((), tuple(expected))
    assert installed.open_services() == expected


def test_no_doubt_by_default(installed: Installation) -> None:
    """Without DOUBT_PASSES, a pass records what it sees, and writes no metric ``blind``."""
    installed.env.delenv("DOUBT_PASSES")
    assert installed(STALLED).opened == SERVICES
    assert set(installed.states().values()) == {"unhealthy"}
    assert len(installed.flags("health")) == 1


def test_names_that_fail_while_others_answer(installed: Installation) -> None:
    """Services whose names fail are recorded as usual. One warning names the resolver."""
    outcome = installed({"a": UP, "b": "name", "e": "name"})
    assert outcome.opened == ("b", "e")
    (warning,) = [text for text in outcome.warnings if "resolver" in text]
    assert warning.startswith(
        "names could not be resolved, although other services gave a sign of life: b, e"
    )


def test_both_passes_share_one_alert(installed: Installation) -> None:
    """The worker's alert closes once neither pass is blind."""
    assert installed(SILENT).opened == ("ops_worker",)
    assert installed(SILENT, "metrics").opened == ()
    outcome = installed(UP)
    assert (outcome.opened, outcome.closed) == ((), ())
    assert installed(UP, "metrics").closed == ("ops_worker",)
    assert [row["fingerprint"] for row in installed.database.alerts()] == [
        "system-health:ops_worker"
    ]


def test_causes_come_and_go(installed: Installation) -> None:
    """One alert lists a stopped pass and a blind pass. It closes when no cause is left."""
    installed.run_now()
    moved = "UPDATE system_metrics SET time = time - interval '1 hour' WHERE tags ->> 'pass' = %s"
    installed.database.rows(moved, "metrics")
    outcome = installed(UP)
    assert outcome.opened == ("ops_worker",)
    assert outcome.own_reason.startswith("no metrics pass was recorded for ")
    alert = installed.own_alert()
    assert alert is not None and alert[1] == ["metrics pass stopped"]
    assert installed(SILENT).opened == ()
    alert = installed.own_alert()
    assert alert is not None and alert[1] == ["metrics pass stopped", "blind"]
    assert installed(UP, "metrics").closed == ()
    outcome = installed(SILENT)
    assert outcome.closed == ()
    alert = installed.own_alert()
    assert alert is not None and alert[1] == ["blind"]
    assert installed(UP).closed == ("ops_worker",)


def test_odd_causes(installed: Installation) -> None:
    """An alert closes even if an older release or a person wrote its details."""
    installed.run_now()
    installed(SILENT)
    for details in ('"text"', '{"service": "ops_worker", "causes": {"a": 1}}'):
        installed.database.rows(
            "UPDATE fleet_alert SET details = %s::jsonb"
            " WHERE fingerprint = 'system-health:ops_worker'",
            details,
        )
        assert installed(LIMITED).warnings == ()
    assert installed(UP).closed == ("ops_worker",)


def test_a_dry_run_doubts_as_well(installed: Installation) -> None:
    """A dry run shows what the pass would do, and does not count."""
    for _ in range(4):
        outcome = installed(SILENT, dry_run=True)
        assert outcome.result is Result.DRY_RUN
        assert (bool(outcome.blind_because), outcome.opened) == (True, ("ops_worker",))
    assert installed.database.alerts() == []
    assert installed.database.rows("SELECT * FROM ops_worker_doubt") == []
    installed(SILENT)
    installed(SILENT)
    outcome = installed(SILENT, dry_run=True)
    assert (outcome.blind_because, outcome.opened, outcome.closed) == (
        (),
        SERVICES,
        ("ops_worker",),
    )


@pytest.fixture
def writer(installed: Installation) -> Iterator[str]:
    """Yield a role for the passes. The test revokes some of its privileges."""
    rows = installed.database.rows
    rows("REVOKE ALL ON ops_worker_doubt FROM PUBLIC")
    rows("CREATE ROLE doubt_writer LOGIN PASSWORD 'x' BYPASSRLS")
    rows("GRANT USAGE ON SCHEMA public TO doubt_writer")
    rows("GRANT ALL ON ALL TABLES IN SCHEMA public TO doubt_writer")
    rows("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO doubt_writer")
    owner = installed.url
    installed.url = installed.database.as_user("doubt_writer")
    yield "doubt_writer"
    installed.url = owner
    rows("DROP OWNED BY doubt_writer; DROP ROLE doubt_writer")


def test_a_pass_that_may_not_count_believes(installed: Installation, writer: str) -> None:
    """A pass that cannot count blind passes believes what it sees. It must not doubt forever."""
    installed.database.rows(f"REVOKE INSERT, UPDATE ON ops_worker_doubt FROM {writer}")
    outcome = installed(SILENT)
    assert (outcome.blind_because, outcome.opened) == ((), SERVICES)
    assert any(warning.startswith("DOUBT_PASSES has no effect") for warning in outcome.warnings)


@pytest.mark.parametrize(
    "change",
    [
        "REVOKE INSERT, UPDATE ON ops_worker_doubt FROM doubt_writer",
        "DROP TABLE ops_worker_doubt; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    ],
)
@pytest.mark.parametrize("kinds", [LIMITED, STALLED])
@pytest.mark.usefixtures("writer")
def test_what_was_not_probed_needs_no_count(
    installed: Installation, change: str, kinds: dict[str, str]
) -> None:
    """A pass that probed nothing is blind, and opens its alert, without the table of the count."""
    installed.database.rows(change)
    before = installed.rows_to_keep()
    outcome = installed(kinds)
    assert outcome.blind_because
    assert outcome.opened == ("ops_worker",)
    assert installed.rows_to_keep() == before
    assert any(warning.startswith("DOUBT_PASSES has no effect") for warning in outcome.warnings)
    assert installed(UP).closed == ("ops_worker",)


def test_who_may_not_read_the_count_still_watches(installed: Installation, writer: str) -> None:
    """The alert about a stopped pass does not depend on the table of blind passes."""
    installed.env.setenv("DOUBT_PASSES", "0")
    installed.run_now()
    installed.database.rows(f"REVOKE SELECT ON ops_worker_doubt FROM {writer}")
    moved = "UPDATE system_metrics SET time = time - interval '1 hour' WHERE tags ->> 'pass' = %s"
    installed.database.rows(moved, "metrics")
    outcome = installed(UP)
    assert (outcome.opened, outcome.warnings) == (("ops_worker",), ())


def test_a_ledger_that_refuses_the_last_statement(installed: Installation, writer: str) -> None:
    """A pass that the ledger refuses is written with the next transaction."""
    rows = installed.database.rows
    rows(f"REVOKE INSERT ON ops_worker_span FROM {writer}")
    (warning,) = installed(GONE).warnings
    assert warning.startswith("the history of the services is not recorded")
    assert len(installed.sightings) == 1
    rows(f"GRANT INSERT ON ops_worker_span TO {writer}")
    assert installed(GONE).warnings == ()
    assert len(installed.sightings) == 0
    (run,) = rows("SELECT passes FROM ops_worker_run WHERE pass = 'health'")
    assert run["passes"] == 3


def test_without_its_table_a_pass_believes(installed: Installation) -> None:
    """A pass without the table of the count believes what it sees, and its warning says why."""
    installed.database.rows("DROP TABLE ops_worker_doubt")
    installed.database.rows("CREATE VIEW ops_worker_doubt AS SELECT 1 AS odd")
    outcome = installed(SILENT)
    assert outcome.opened == SERVICES
    (warning,) = [text for text in outcome.warnings if "DOUBT_PASSES" in text]
    assert warning.startswith("DOUBT_PASSES has no effect, because blind passes cannot be counted:")
    installed.database.rows("DROP VIEW ops_worker_doubt")


@pytest.mark.parametrize(
    "odd",
    [
        "last_at = 'infinity'",
        "since = '-infinity'",
        "last_at = now() + interval '9 years'",
        "period_s = 'NaN'",
        "blind_passes = -5, period_s = 'infinity'",
        "suspects = repeat(E'\\n', 5000)",
        "blind_passes = NULL",
        "period_s = NULL",
        "suspects = NULL",
    ],
)
def test_odd_rows(installed: Installation, odd: str) -> None:
    """A row that a person or a restored backup left makes no pass fail, and is repaired."""
    installed(SILENT)
    for column in ("blind_passes", "period_s", "suspects"):
        installed.database.rows(f"ALTER TABLE ops_worker_doubt ALTER {column} DROP NOT NULL")
    installed.database.rows(f"UPDATE ops_worker_doubt SET {odd}")
    assert main(["status"]) == 0
    assert installed(SILENT).warnings == ()
    assert installed(UP).warnings == ()
    assert installed.own_alert() is None


@pytest.mark.parametrize("self_metrics", ["true", "false"])
def test_the_alert_closes_when_doubt_is_turned_off(
    installed: Installation, self_metrics: str
) -> None:
    """With doubt turned off, the row of a blind pass becomes too old to be a cause."""
    installed.env.setenv("RECORD_OWN_METRICS", self_metrics)
    installed(SILENT)
    installed.env.setenv("DOUBT_PASSES", "0")
    installed.database.rows("UPDATE ops_worker_doubt SET last_at = last_at - interval '181 s'")
    assert installed(UP).closed == ("ops_worker",)


def test_a_count_below_zero(installed: Installation) -> None:
    """A negative count does not prolong the doubt."""
    installed(SILENT)
    installed.database.rows("UPDATE ops_worker_doubt SET blind_passes = -2147483648")
    for is_blind in (True, True, False):
        assert bool(installed(SILENT).blind_because) == is_blind


def test_maintenance(installed: Installation) -> None:
    """No alert opens during a maintenance, not even that of the worker."""
    installed.env.setenv("MAINTENANCE_UNTIL", "2999-01-01T00:00:00Z")
    outcome = installed(SILENT)
    assert outcome.blind_because
    assert installed.database.alerts() == []


def test_without_self_metrics(installed: Installation) -> None:
    """Without self-metrics, the worker's alert opens and closes as usual."""
    installed.env.setenv("RECORD_OWN_METRICS", "false")
    assert installed(SILENT).opened == ("ops_worker",)
    assert installed(UP).closed == ("ops_worker",)


def test_without_system_alerts(installed: Installation) -> None:
    """Without system alerts, a blind metrics pass opens no alert."""
    installed.env.setenv("SYSTEM_ALERT_ENABLED", "false")
    outcome = installed(SILENT, "metrics")
    assert (bool(outcome.blind_because), outcome.opened) == (True, ())


@pytest.mark.parametrize("name", ["health", "metrics"])
def test_a_loop_without_its_database(installed: Installation, name: str) -> None:
    """A loop that loses the network and its database keeps no blind pass for later."""
    installed.url = AWAY
    for _ in range(3):
        with pytest.raises(DatabaseError):
            installed(SILENT, name, loop=True)
    installed.url = installed.database.url
    outcome = installed(UP, name, loop=True)
    assert outcome.blind_because == ()
    runs = installed.database.rows("SELECT * FROM ops_worker_run WHERE pass = %s", name)
    # The time between is unseen: four periods are longer than the patience.
    assert [run["passes"] for run in runs] == [1, 1]
    spans = installed.database.rows("SELECT DISTINCT state FROM ops_worker_span")
    assert [span["state"] for span in spans] == ["healthy"]
    if name == "metrics":
        assert installed.flags("metrics") == [0, 1, 1, 1, 0]
        healthy = installed.database.rows(
            "SELECT value FROM system_metrics WHERE service = 'a' AND metric_name = 'healthy'"
        )
        assert [row["value"] for row in healthy] == [1.0, 1.0]


def test_shards_judge_their_own_targets(installed: Installation) -> None:
    """A blind shard reports itself. The other shard records its services."""
    installed.env.setenv("SHARD_COUNT", "2")
    installed.env.setenv("JOB_COMPLETION_INDEX", "0")
    assert [target.name for target in settings.load().targets] == ["a", "b"]
    assert installed(SILENT).blind_because == ("no packet came back from 2 hosts",)
    alert = installed.own_alert()
    assert alert is not None and "the health 0/2 pass is blind" in alert[0]
    installed.env.setenv("JOB_COMPLETION_INDEX", "1")
    # This shard has one host, which may really be gone.
    outcome = installed(SILENT)
    assert (outcome.blind_because, outcome.opened) == ((), ("e",))
    rows = installed.database.rows("SELECT shard, blind_passes FROM ops_worker_doubt")
    assert [(row["shard"], row["blind_passes"]) for row in rows] == [("0/2", 1)]
    alert = installed.own_alert()
    assert alert is not None


def test_a_skipped_pass_counts_nothing(installed: Installation) -> None:
    """A pass that is skipped, because another process holds the lock, keeps the count as it is."""
    installed(SILENT)
    counted = installed.database.rows("SELECT * FROM ops_worker_doubt")
    with psycopg.connect(installed.url) as holder:
        holder.execute(
            "SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_SPACE, HEALTH.transaction.lock)
        )
        assert installed(UP).result is Result.SKIPPED
        skipped = installed(SILENT)
        assert (skipped.result, skipped.blind_because) == (Result.SKIPPED, ())
    assert installed.database.rows("SELECT * FROM ops_worker_doubt") == counted
    assert installed(SILENT).blind_because
    assert not installed(SILENT).blind_because


@pytest.mark.parametrize(
    ("totals_s", "evidence"),
    [((None, None), ""), ((1.0, 4.0), " (throttled by its CPU limit for 3.0 s)")],
)
def test_throttling_is_evidence(
    installed: Installation,
    totals_s: tuple[float | None, float | None],
    evidence: str,
) -> None:
    """The reason names the time for which the cgroup throttled this process, if it is known."""
    totals = iter(totals_s)
    installed.env.setattr(machine, "throttled_s", lambda: next(totals))
    because = (f"this process was not run for 4.0 s{evidence}: 3 of 3",)
    assert installed(STALLED).blind_because == because


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Return the JSON document of a command that only reads."""
    assert main([*arguments, "--output", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_readers(installed: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """While the health pass is blind, no command shows an old state as the current one."""
    installed.run_now()
    installed(SILENT)
    since = installed.database.value("SELECT since FROM ops_worker_doubt")
    document = shown(capsys, "status")
    assert document["verdict"] == (
        "All 3 services are stale; 1 alert is not acknowledged; the health pass is blind"
    )
    passes = {row["pass"]: row for row in document["passes"]}
    assert passes["health"]["blind_because"] == "no packet came back from 3 hosts"
    assert datetime.fromisoformat(passes["health"]["blind_since"]) == since
    assert passes["metrics"]["blind_since"] is None
    reason = (
        f"blind since {since:%Y-%m-%d %H:%M:%S}, no packet came back from 3 hosts; it was healthy"
    )
    assert {row["reason"] for row in document["services"]} == {reason}
    document = shown(capsys, "explain", "a")
    assert (document["state"], document["reason"]) == ("stale", reason)
    document = shown(capsys, "explain", "ops_worker")
    assert (document["state"], document["reason"]) == (
        "stale",
        "the health pass is blind: no packet came back from 3 hosts",
    )
    assert document["alerts"][0]["open"]


def test_readers_before_and_after_a_blind_pass(
    installed: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before and after a blind pass, each command shows the current state."""
    installed.run_now()
    document = shown(capsys, "status")
    assert document["verdict"] == "All 3 services are healthy"
    assert {row["blind_since"] for row in document["passes"]} == {None}
    installed(SILENT)
    installed(UP)
    assert shown(capsys, "explain", "a")["state"] == "healthy"
    assert shown(capsys, "explain", "ops_worker")["state"] == "healthy"
    assert shown(capsys, "status")["verdict"] == "All 3 services are healthy"


def test_readers_without_the_table(
    installed: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the table of blind passes, the commands work as before."""
    installed.run_now()
    installed.database.rows("DROP TABLE ops_worker_doubt")
    assert shown(capsys, "status")["verdict"] == "All 3 services are healthy"
    assert shown(capsys, "explain", "a")["state"] == "healthy"


@pytest.mark.parametrize(
    ("self_metrics", "doubt_passes", "expected"),
    [
        ("true", "0", "3 of its periods, at least 90 s; another pass sees that"),
        ("false", "2", "a pass is blind, at most 2 times in a row"),
        ("false", "0", "never: RECORD_OWN_METRICS is off"),
    ],
)
def test_the_rule_of_the_own_alert(
    installed: Installation,
    capsys: pytest.CaptureFixture[str],
    self_metrics: str,
    doubt_passes: str,
    expected: str,
) -> None:
    """The rule in `explain` says when the worker's own alert opens."""
    installed.run_now()
    installed.env.setenv("RECORD_OWN_METRICS", self_metrics)
    installed.env.setenv("DOUBT_PASSES", doubt_passes)
    assert expected in json.dumps(shown(capsys, "explain", "ops_worker")["rule"])


@pytest.mark.parametrize("seed", range(3))
def test_random_sequences(installed: Installation, seed: int) -> None:
    """In any sequence, a blind pass keeps all rows, and the alert is open while a pass is blind."""
    installed.run_now()
    chosen = random.Random(seed)
    counts = {"health": 0, "metrics": 0}
    blind = {"health": False, "metrics": False}
    for _ in range(25):
        name = chosen.choice(["health", "metrics"])
        kinds = chosen.choice(
            [SILENT, UNNAMED, LIMITED, STALLED, GONE, dict.fromkeys(SERVICES, UP)]
        )
        before = installed.rows_to_keep()
        outcome = installed(kinds, name)
        if kinds in (LIMITED, STALLED):
            blind[name] = True
        elif kinds in (SILENT, UNNAMED):
            blind[name] = counts[name] < 2
            counts[name] += blind[name]
        else:
            blind[name] = False
            counts[name] = 0
        assert bool(outcome.blind_because) is blind[name]
        assert (installed.rows_to_keep() == before) is blind[name]
        assert (installed.own_alert() is not None) is any(blind.values())
