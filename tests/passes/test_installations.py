"""Two installations in one database: neither changes rows of the other one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker import settings
from ops_worker.adapters.postgres import Store
from ops_worker.adapters.postgres.specs import LOCK_SPACE, lock_space
from ops_worker.cli import main
from ops_worker.core.model import Result
from ops_worker.core.passes import HEALTH, METRICS, ROLLUP
from ops_worker.core.sightings import Sightings
from ops_worker.passes import Context, function_of
from tests.looks import NO_BUILTIN, observation, passes_in_ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ops_worker.core.model import Observation, Outcome, Target
    from tests.conftest import Database

pytestmark = pytest.mark.integration

ROUNDS = 60 if os.environ.get("OPS_TEST_FULL") else 8
UP = "healthy"
STATES = (UP, "down", "timeout", "http 503")
OWN = "system-health:ops_worker"
LOCKS = "SELECT classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory'"


class Installation:
    """An installation with its own catalogue whose passes see what the test sets."""

    def __init__(
        self,
        env: pytest.MonkeyPatch,
        folder: Path,
        database: Database,
        name: str,
        services: str,
        **variables: str,
    ) -> None:
        self.name = name
        self.database = database
        self.file = folder / f"{name}.toml"
        entries = [
            f'[services.{service}]\nurl = "http://host-{service}:1"\n' for service in services
        ]
        self.file.write_text(NO_BUILTIN + "\n".join(entries))
        self.env = env
        self.variables = variables
        self.sightings = {"health": Sightings(), "metrics": Sightings()}
        self.select()
        self.settings = settings.load()

    def select(self) -> None:
        """Set the environment of this process to this installation."""
        self.env.setenv("DATABASE_URL", self.database.url)
        self.env.setenv("OPS_WORKER_CATALOGUE", str(self.file))
        self.env.setenv("INSTALLATION", self.name)
        for variable in ("DOUBT_PASSES", "PASS_PERIOD"):
            self.env.delenv(variable, raising=False)
        for variable, value in self.variables.items():
            self.env.setenv(variable, value)

    def __call__(
        self, states: dict[str, str] | str = UP, name: str = "health", *, dry_run: bool = False
    ) -> Outcome:
        """Run a pass now. A single word is the state of all services."""
        moment = time.monotonic()

        def observe(targets: Sequence[Target]) -> list[Observation]:
            """Return the observations that the test sets."""
            return [
                observation(
                    target, moment, states if isinstance(states, str) else states[target.name]
                )
                for target in targets
            ]

        connection = self.settings.connection
        with contextlib.closing(Store(connection, installation=self.name)) as store:
            context = Context(
                settings=self.settings,
                observe=observe,
                store=store,
                clock=time.monotonic,
                dry_run=dry_run,
                period_s=self.settings.pass_period,
                sightings=self.sightings[name],
            )
            return function_of(name)(context)

    def rollup(self) -> Outcome:
        """Run a rollup, which is due once an hour."""
        connection = self.settings.connection
        with contextlib.closing(Store(connection, installation=self.name)) as store:
            context = Context(
                settings=self.settings,
                observe=lambda _: [],
                store=store,
                clock=time.monotonic,
                period_s=ROLLUP.least_period_s,
            )
            return function_of("rollup")(context)

    def both(self) -> None:
        """Run both passes with healthy services."""
        for name in self.sightings:
            assert self(UP, name).result is Result.RECORDED


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database) -> Installation:
    """Return the default installation."""
    database.create_ledger()
    return Installation(monkeypatch, tmp_path, database, "ops-worker", "ab")


@pytest.fixture
def second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database, first: Installation
) -> Installation:
    """Return another installation with other services."""
    assert first.name != "b"
    return Installation(monkeypatch, tmp_path, database, "b", "xy")


def open_alerts(database: Database) -> set[str]:
    """Return the fingerprints of the alerts that are open."""
    return {row["fingerprint"] for row in database.alerts() if row["status"] != "CLOSED"}


def moved(database: Database, name: str, installation: str, seconds: int = 3600) -> None:
    """Age the records of a pass of an installation, as if it had stopped."""
    tag = "coalesce(tags ->> 'installation', 'ops-worker')"
    database.move_samples(
        f"time - interval '{seconds} s'", f"tags ->> 'pass' = '{name}' AND {tag} = '{installation}'"
    )


class TestTheDefault:
    """Without a name, an installation works as before there were names."""

    def test_locks(self, first: Installation) -> None:
        """The keys of the locks are the same as in every release."""
        locks: list[list[tuple[int, ...]]] = []
        commit = Store._commit

        def look(store: Store, connection: Any, xid: str | None) -> None:
            """Read the advisory locks of the transaction before it ends."""
            rows = connection.execute(LOCKS).fetchall()
            locks.append(sorted(tuple(row.values()) for row in rows))
            commit(store, connection, xid)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "_commit", look)
            first()
            first(name="metrics")
        assert locks == [[(0x6F707377, 1)], [(0x6F707377, 2)]]
        assert lock_space("ops-worker") == LOCK_SPACE == 0x6F707377
        assert lock_space("b") not in {LOCK_SPACE, lock_space("c")}
        assert 0 <= lock_space("b") < 2**31

    def test_rows(self, first: Installation, database: Database) -> None:
        """Only runs have the name of the default installation. Rows, tags and alerts do not."""
        first("down")
        first("down", "metrics")
        moved(database, "metrics", "ops-worker")
        first("down")
        tags = database.rows(
            "SELECT DISTINCT tags::text FROM system_metrics WHERE service = 'ops_worker' ORDER BY 1"
        )
        assert [row["tags"] for row in tags] == [
            '{"pass": "health", "period_s": "60"}',
            '{"pass": "metrics", "period_s": "60"}',
        ]
        for row in database.health().values():
            assert set(row["details"]) == {"status", "error", "streak", "since"}
        assert open_alerts(database) == {OWN, "system-health:a", "system-health:b"}
        for alert in database.alerts():
            assert "installation" not in json.dumps(alert["details"])
        runs = database.rows("SELECT DISTINCT installation, shard FROM ops_worker_run")
        assert runs == [{"installation": "ops-worker", "shard": "0/1"}]


def test_rows_of_a_named_installation(second: Installation, database: Database) -> None:
    """The rows, tags, alerts and evidence of a named installation have its name."""
    second("down")
    second("down", "metrics")
    moved(database, "metrics", "b")
    assert second("down").opened == ("ops_worker#b",)
    tags = database.rows("SELECT DISTINCT tags FROM system_metrics WHERE service = 'ops_worker'")
    assert {row["tags"]["installation"] for row in tags} == {"b"}
    assert {row["details"]["installation"] for row in database.health().values()} == {"b"}
    for alert in database.alerts():
        assert alert["details"]["evidence"]["installation"] == "b"
    assert open_alerts(database) == {f"{OWN}#b", "system-health:x", "system-health:y"}
    assert second(UP).alerted == ("ops_worker#b",)


@pytest.mark.parametrize("spec", [HEALTH, METRICS])
def test_the_lock_of_one_stops_no_other(
    first: Installation, second: Installation, database: Database, spec: Any
) -> None:
    """A pass is recorded while another process holds the lock of the other installation."""
    for holder, other in ((first, second), (second, first)):
        key = [lock_space(holder.name), spec.transaction.lock]
        with psycopg.connect(database.url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", key)
            assert holder(name=spec.name).result is Result.SKIPPED
            assert other(name=spec.name).result is Result.RECORDED


def test_passes_in_any_order(first: Installation, second: Installation, database: Database) -> None:
    """Random passes of both installations, some at once, are all recorded in their own rows."""
    chance = random.Random(7)
    services = {first.name: "ab", second.name: "xy"}
    rounds = {first.name: 0, second.name: 0}
    problems: list[object] = []

    def run(installation: Installation, name: str, states: dict[str, str]) -> None:
        """Run a pass in a thread, and record problems."""
        try:
            outcome = installation(states, name)
            if outcome.result is not Result.RECORDED or outcome.warnings:
                problems.append((outcome.result, outcome.warnings))
        except Exception as error:  # noqa: BLE001 - a thread reports it
            problems.append(error)

    for _ in range(ROUNDS):
        states = {service: chance.choice(STATES) for service in "abxy"}
        passes = [
            (installation, name)
            for installation in (first, second)
            for name in ("health", "metrics")
        ]
        chance.shuffle(passes)
        always = [(first, "health"), (second, "health")]
        passes = [*dict.fromkeys([*passes[: chance.randint(2, 4)], *always])]
        threads = [threading.Thread(target=run, args=(*pass_, states)) for pass_ in passes]
        for thread in threads:
            thread.start()
            if chance.random() < 0.3:
                thread.join()
        for thread in threads:
            thread.join()
        for installation, _name in passes:
            rounds[installation.name] += 1
        health = database.health()
        words = {name: row["status"] for name, row in health.items()}
        expected = {name: UP if state == UP else "unhealthy" for name, state in states.items()}
        assert words == expected
        down = {f"system-health:{name}" for name, state in states.items() if state != UP}
        assert open_alerts(database) == down
        for name, owned in services.items():
            keepers = {
                health[service]["details"].get("installation", "ops-worker") for service in owned
            }
            assert keepers == {name}
    assert problems == []
    assert passes_in_ledger(database) == sum(rounds.values())
    counted = database.rows(
        "SELECT coalesce(tags ->> 'installation', 'ops-worker') AS name, count(*) AS passes"
        " FROM system_metrics WHERE metric_name = 'pass_success' GROUP BY 1"
    )
    assert {row["name"]: row["passes"] for row in counted} == rounds
    in_runs = database.rows(
        "SELECT installation AS name, sum(passes)::int AS passes FROM ops_worker_run GROUP BY 1"
    )
    assert {row["name"]: row["passes"] for row in in_runs} == rounds


class TestOwnAlert:
    """Each installation has its own alert about the worker."""

    def test_stopped(self, first: Installation, second: Installation, database: Database) -> None:
        """A pass notices only peers of its own installation, and closes only its own alert."""
        first.both()
        second.both()
        moved(database, "metrics", "ops-worker")
        assert second().opened == ()
        assert first().opened == ("ops_worker",)
        assert (second().closed, second(name="metrics").closed) == ((), ())
        moved(database, "health", "b")
        assert first().opened == ()
        assert second(name="metrics").opened == ("ops_worker#b",)
        assert open_alerts(database) == {OWN, f"{OWN}#b"}
        assert first(name="metrics").closed == ("ops_worker",)
        assert open_alerts(database) == {f"{OWN}#b"}
        assert first().closed == first(name="metrics").closed == ()
        assert second().closed == ("ops_worker#b",)

    @pytest.mark.parametrize("neighbour_s", [1200, 12_000, None])
    def test_rollup(
        self,
        first: Installation,
        second: Installation,
        database: Database,
        capsys: pytest.CaptureFixture[str],
        neighbour_s: int | None,
    ) -> None:
        """A rollup of the other installation is enough if its own is skipped or removed."""
        assert main(["init-db"]) == 0
        rollups = ("b",) if neighbour_s is None else ("b", "ops-worker")
        for installation in (first, second):
            installation.both()
            if installation.name in rollups:
                installation.rollup()
        moved(database, "rollup", "b", 4 * 3600)
        moved(database, "rollup", "ops-worker", neighbour_s or 0)
        has_stopped = neighbour_s != 1200
        assert second().opened == (("ops_worker#b",) if has_stopped else ())
        # An installation that never ran a rollup misses none.
        misses = neighbour_s == 12_000
        assert first(name="metrics").opened == (("ops_worker",) if misses else ())
        second.select()
        capsys.readouterr()
        assert main(["status", "--output", "json"]) == 0
        passes = json.loads(capsys.readouterr().out)["passes"]
        assert [row["stale"] for row in passes if row["pass"] == "rollup"] == [has_stopped]
        first.rollup()
        assert second().closed == (("ops_worker#b",) if has_stopped else ())

    def test_a_long_period_beside_a_fast_neighbour(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        database: Database,
    ) -> None:
        """A pass finds its own peers behind many records of another installation."""
        monkeypatch.setattr("ops_worker.adapters.postgres.own_alert.WATCH_ROWS", 8)
        slow = Installation(monkeypatch, tmp_path, database, "b", "x", PASS_PERIOD="3600")
        slow.both()
        moved(database, "health", "b", 3600)
        moved(database, "metrics", "b", 4 * 3600)
        database.rows(
            "INSERT INTO system_metrics (time, metric_name, service, tags, value) "
            "SELECT now() - make_interval(secs => number), metric, 'ops_worker', "
            """'{"pass": "health", "period_s": "1"}', 1 """
            "FROM generate_series(1, 100) AS number, "
            "unnest(ARRAY['pass_success', 'maintenance']) AS metric"
        )
        assert slow().opened == ("ops_worker#b",)
        assert slow(name="metrics").closed == ("ops_worker#b",)

    def test_a_rollup_judges_by_its_own_records(
        self, first: Installation, second: Installation, database: Database
    ) -> None:
        """After its own outage, the rollup gives the other passes time, whoever rolled up."""
        assert main(["init-db"]) == 0
        first.both()
        first.rollup()
        second.both()
        second.rollup()
        for name in ("health", "metrics", "rollup"):
            moved(database, name, "b", 5 * 3600)
        moved(database, "rollup", "ops-worker", 1200)
        assert second.rollup().opened == ()
        moved(database, "rollup", "b", 1200)
        moved(database, "health", "b", 3600)
        assert second.rollup().opened == ("ops_worker#b",)

    def test_blind(self, first: Installation, second: Installation, database: Database) -> None:
        """A blind pass is a cause only in its own installation. Each one has its own count."""
        second.variables["DOUBT_PASSES"] = "2"
        second.select()
        second.settings = settings.load()
        first.settings = first.settings.model_copy(update={"doubt_passes": 2})
        second()
        assert second("timeout").opened == ("ops_worker#b",)
        assert first().opened == first().closed == ()
        assert second("timeout", dry_run=True).opened == ()
        assert first("timeout").opened == ("ops_worker",)
        assert second().closed == ("ops_worker#b",)
        assert open_alerts(database) == {OWN}
        counts = database.rows("SELECT installation, blind_passes FROM ops_worker_doubt ORDER BY 1")
        assert [tuple(row.values()) for row in counts] == [("b", 0), ("ops-worker", 1)]

    def test_maintenance(
        self, first: Installation, second: Installation, database: Database
    ) -> None:
        """A maintenance of `ops_worker` holds back the worker's alerts of all installations."""
        first.both()
        second.both()
        assert main(["maintenance", "start", "--service", "ops_worker", "--for", "1h"]) == 0
        moved(database, "metrics", "ops-worker")
        moved(database, "metrics", "b")
        assert first().opened == second().opened == ()


class TestContested:
    """A service that two installations monitor."""

    @pytest.fixture
    def rival(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database
    ) -> Installation:
        """Return an installation that also monitors a service of the first one."""
        return Installation(monkeypatch, tmp_path, database, "b", "bx")

    def test_the_first_one_keeps_it(
        self, first: Installation, rival: Installation, database: Database
    ) -> None:
        """Only the first installation decides about the service: its alert does not flap."""
        first(UP)
        for _ in range(3):
            outcome = rival("down")
            assert outcome.opened in {("x",), ()}
            (warning,) = outcome.warnings
            assert warning.startswith("installation ops-worker watches the same services")
            assert ": b: remove" in warning
            assert outcome.decided_by == {"b": "ops-worker"}
            assert first(UP).warnings == ()
        assert open_alerts(database) == {"system-health:x"}
        assert database.health()["b"]["status"] == "healthy"
        (outcome,) = [first("down")]
        assert set(outcome.opened) == {"a", "b"}
        assert rival(UP).closed == ("x",)
        assert "system-health:b" in open_alerts(database)

    def test_the_other_one_takes_over(
        self, first: Installation, rival: Installation, database: Database
    ) -> None:
        """A row that the first installation has not written for three periods is the other's."""
        first(UP)
        rival(UP)
        database.rows("UPDATE service_health SET checked_at = checked_at - interval '170 s'")
        assert rival("down", dry_run=True).warnings
        database.rows("UPDATE service_health SET checked_at = checked_at - interval '20 s'")
        outcome = rival("down")
        assert (set(outcome.opened), outcome.warnings) == ({"b", "x"}, ())
        assert database.health()["b"]["details"]["installation"] == "b"
        (warning,) = first(UP).warnings
        assert warning.startswith("installation b watches the same services")
        assert "system-health:b" in open_alerts(database)
        assert set(rival(UP).closed) == {"b", "x"}

    def test_check(
        self,
        first: Installation,
        rival: Installation,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`ops-worker check` of either installation names the other one and the service."""
        first.both()
        rival.both()
        for installation, other in ((first, "b"), (rival, "ops-worker")):
            installation.select()
            main(["check", "--output", "json"])
            findings = json.loads(capsys.readouterr().out)["findings"]
            (finding,) = [
                row for row in findings if row["subject"] == f"installation {installation.name}"
            ]
            assert finding["state"] == "warning"
            assert finding["found"] == f"installation {other} watches b as well"
            assert "the catalogue of one" in finding["remedy"]

    def test_history(
        self,
        first: Installation,
        rival: Installation,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The history of a service that both monitor is one timeline without a gap."""
        first.both()
        rival("down")
        rival("down", "metrics")
        for installation in (first, rival):
            installation.select()
            assert main(["history", "b", "--since", "10m", "--output", "json"]) == 0
            document = json.loads(capsys.readouterr().out)
            spans = [span for span in document["services"][0]["spans"] if span["seen"]]
            assert [span["state"] for span in spans] == ["healthy", "down"]
            assert spans[0]["to"] == spans[1]["from"]

    def test_explain(
        self,
        first: Installation,
        rival: Installation,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """If only the other installation sees a fault, `explain` of this one expects no alert."""
        first.both()
        rival("down")
        rival.select()
        assert main(["explain", "b", "--output", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["state"], document["is_elsewhere"]) == ("down", True)
        assert document["alert"] == "no alert is open: installation ops-worker decides about it"


class TestPrune:
    """`alerts prune` removes services that no installation monitors."""

    def test_others_stay(
        self,
        first: Installation,
        second: Installation,
        database: Database,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """An installation does not remove the services or the worker's alert of the other one."""
        first("down")
        second("down")
        second("down", "metrics")
        moved(database, "metrics", "b")
        second("down")
        before = open_alerts(database)
        assert f"{OWN}#b" in before
        for installation, services in ((first, "xy"), (second, "ab")):
            installation.select()
            for arguments in (["--dry-run"], []):
                assert main(["alerts", "prune", *arguments]) == 0
                out = capsys.readouterr().out
                for service in services:
                    assert f"kept {service}: installation " in out
                assert "0 services w" in out
        assert set(database.health()) == {*"abxy"}
        assert open_alerts(database) == before
        lasting = "SELECT DISTINCT service FROM ops_worker_span WHERE last_at IS NULL ORDER BY 1"
        assert [row["service"] for row in database.rows(lasting)] == [*"abxy"]

    @pytest.mark.parametrize("kept_by", ["runs", "self-metrics", "nothing"])
    def test_the_own_alert_of_one_without_services(
        self,
        first: Installation,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        database: Database,
        capsys: pytest.CaptureFixture[str],
        kept_by: str,
    ) -> None:
        """The worker's alert of an installation is kept until its last record is a week old."""
        empty = Installation(monkeypatch, tmp_path, database, "b", "")
        empty.both()
        moved(database, "metrics", "b")
        assert empty().opened == ("ops_worker#b",)
        if kept_by != "self-metrics":
            for name in ("health", "metrics"):
                moved(database, name, "b", 8 * 86_400)
        if kept_by != "runs":
            database.rows("UPDATE ops_worker_run SET last_at = last_at - interval '8 days'")
        first.select()
        assert main(["alerts", "prune"]) == 0
        out = capsys.readouterr().out
        is_kept = kept_by != "nothing"
        assert ("kept ops_worker#b: installation b" in out) is is_kept
        assert ("removed ops_worker#b" in out) is not is_kept
        assert open_alerts(database) == ({f"{OWN}#b"} if is_kept else set())

    def test_leftovers_go(
        self,
        first: Installation,
        second: Installation,
        database: Database,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """An installation removes its own leftovers, and after a week those of any other."""
        first("down")
        second("down")
        second.file.write_text(NO_BUILTIN + '[services.x]\nurl = "http://host-x:1"\n')
        second.select()
        assert main(["alerts", "prune"]) == 0
        assert "removed y: " in capsys.readouterr().out
        assert set(database.health()) == {*"abx"}
        database.rows("UPDATE service_health SET checked_at = checked_at - interval '8 days'")
        database.rows("UPDATE ops_worker_run SET last_at = last_at - interval '8 days'")
        first.select()
        assert main(["alerts", "prune"]) == 0
        assert "removed x: " in capsys.readouterr().out
        assert open_alerts(database) == {"system-health:a", "system-health:b"}

    def test_a_service_that_moved(
        self, first: Installation, second: Installation, database: Database
    ) -> None:
        """A row of this installation stays if the other one monitors the service now."""
        first(UP)
        second.file.write_text(NO_BUILTIN + '[services.b]\nurl = "http://host-b:1"\n')
        second.select()
        second.settings = settings.load()
        second(UP)
        first.file.write_text(NO_BUILTIN + '[services.a]\nurl = "http://host-a:1"\n')
        first.select()
        assert main(["alerts", "prune"]) == 0
        assert set(database.health()) == {"a", "b"}

    def test_after_a_new_name(
        self,
        first: Installation,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        database: Database,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A renamed installation removes only what it has taken over."""
        first.both()
        database.rows("UPDATE service_health SET checked_at = checked_at - interval '200 s'")
        database.rows("UPDATE ops_worker_run SET last_at = last_at - interval '200 s'")
        renamed = Installation(monkeypatch, tmp_path, database, "new", "b")
        renamed("down")
        renamed.file.write_text(NO_BUILTIN)
        assert main(["alerts", "prune"]) == 0
        out = capsys.readouterr().out
        assert "kept a: installation ops-worker watches it" in out
        assert "removed b: " in out
        assert set(database.health()) == {"a"}


class TestReaders:
    """The screens of one installation and what they show of the other one."""

    def document(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
        """Return the JSON document of a command."""
        assert main([*arguments, "--output", "json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    def test_status(
        self,
        first: Installation,
        second: Installation,
        database: Database,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`status` shows the own passes and all services, and names the other installation."""
        first.both()
        second.both()
        moved(database, "health", "b", 7200)
        first.select()
        document = self.document(capsys, "status")
        assert (document["installation"], document["other_installations"]) == ("ops-worker", ["b"])
        assert [(row["pass"], row["stale"]) for row in document["passes"]] == [
            ("health", False),
            ("metrics", False),
        ]
        assert [row["service"] for row in document["services"]] == [*"abxy"]
        assert main(["status"]) == 0
        assert "the passes of installation b in this database are not shown" in " ".join(
            capsys.readouterr().out.split()
        )
        second.select()
        document = self.document(capsys, "status")
        assert document["installation"] == "b"
        assert {row["pass"]: row["stale"] for row in document["passes"]} == {
            "health": True,
            "metrics": False,
        }

    def test_alone(self, first: Installation, capsys: pytest.CaptureFixture[str]) -> None:
        """With a single installation, no screen mentions installations."""
        first.both()
        for command in (["status"], ["explain", "a"], ["explain", "ops_worker"]):
            assert main(command) == 0
            assert "installation" not in capsys.readouterr().out

    @pytest.mark.parametrize("age_s", [200, 8_000])
    def test_each_row_by_its_own_period(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        database: Database,
        capsys: pytest.CaptureFixture[str],
        age_s: int,
    ) -> None:
        """In `status`, `explain` and the view, a row is stale by its own installation's period."""
        fast = Installation(monkeypatch, tmp_path, database, "ops-worker", "a")
        slow = Installation(monkeypatch, tmp_path, database, "b", "x", PASS_PERIOD="2000")
        assert main(["init-db"]) == 0
        fast.both()
        slow.both()
        database.rows(
            "UPDATE service_health SET checked_at = checked_at - make_interval(secs => %s)", age_s
        )
        database.move_samples(
            f"time - interval '{age_s} s'", "service IN ('a', 'x') AND metric_name = 'healthy'"
        )
        capsys.readouterr()
        expected = {"a": True, "x": age_s > 6000}
        for installation in (fast, slow):
            installation.select()
            document = self.document(capsys, "status", "--since", "1d")
            assert {row["service"]: row["stale"] for row in document["services"]} == expected
            of_series = {
                row["service"]: row["stale"]
                for row in document["series"]
                if row["service"] in expected
            }
            assert of_series == expected
            for service, is_stale in expected.items():
                state = self.document(capsys, "explain", service)["status_shows"]
                assert (state == "stale") is is_stale
        view = database.rows("SELECT service, status FROM service_health_current")
        assert {row["service"]: row["status"] == "stale" for row in view} == expected

    def test_a_blind_one(
        self, first: Installation, second: Installation, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every command shows the services of the blind installation as stale, and no others."""
        second.settings = second.settings.model_copy(update={"doubt_passes": 2})
        first.both()
        second.both()
        second("timeout")
        for installation in (first, second):
            installation.select()
            document = self.document(capsys, "status")
            stale = [row["service"] for row in document["services"] if row["stale"]]
            assert stale == ["x", "y"]
            is_blind = [row["blind_since"] is not None for row in document["passes"]]
            assert any(is_blind) is (installation is second)

    def test_explain(
        self,
        first: Installation,
        second: Installation,
        database: Database,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`explain` shows a service of the other installation with the passes of that one."""
        first.both()
        second("down")
        second("down", "metrics")
        moved(database, "metrics", "b")
        second("down")
        first.select()
        document = self.document(capsys, "explain", "x")
        assert (document["installation"], document["is_elsewhere"]) == ("b", True)
        assert document["state"] == "down"
        assert document["rule"] == {"watched": "by installation b, not by this one"}
        assert main(["explain", "x"]) == 0
        assert "installation b keeps its state and its alert" in " ".join(
            capsys.readouterr().out.split()
        )
        document = self.document(capsys, "explain", "ops_worker")
        assert (document["state"], document["alerts"]) == ("healthy", [])
        assert document["other_installations"] == ["b"]
        second.select()
        document = self.document(capsys, "explain", "ops_worker")
        assert document["state"] == "stale"
        assert [alert["open"] for alert in document["alerts"]] == [True]

    def own_alert_of(self, second: Installation, first: Installation, database: Database) -> int:
        """Let the worker of the second installation stop, and return its alert's number.

        Then select the first installation.
        """
        first.both()
        second.both()
        moved(database, "metrics", second.name)
        assert second().opened == (f"ops_worker#{second.name}",)
        (row,) = database.alerts()
        first.select()
        return int(row["id"])

    def test_explain_the_own_alert_of_another_one(
        self,
        first: Installation,
        second: Installation,
        database: Database,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`explain ops_worker#NAME` shows the worker of another installation and its alert."""
        number = self.own_alert_of(second, first, database)
        capsys.readouterr()
        document = self.document(capsys, "explain", "ops_worker#b")
        assert (document["service"], document["state"]) == ("ops_worker", "stale")
        assert (document["installation"], document["is_elsewhere"]) == ("b", True)
        assert [alert["id"] for alert in document["alerts"]] == [number]
        assert document["rule"] == {"watched": "by installation b, not by this one"}
        assert self.document(capsys, "explain", "ops_worker#ops-worker")["state"] == "healthy"
        assert main(["explain", "ops_worker#c"]) == 2
        assert "ops_worker#c is not monitored" in capsys.readouterr().err

    def test_act_on_the_own_alert_of_another_one(
        self,
        first: Installation,
        second: Installation,
        database: Database,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A person can close the alert of another installation, but not begin a maintenance."""
        number = self.own_alert_of(second, first, database)
        assert main(["alerts", "close", str(number), "--by", "ann"]) == 0
        capsys.readouterr()
        document = self.document(capsys, "explain", "ops_worker#b")
        assert document["alert"] == "no alert is open: installation b decides about it"
        assert [action["by"] for action in document["actions"]] == ["ann"]
        for service in ("ops_worker#b", "ops_worker#c"):
            assert main(["maintenance", "start", "--service", service, "--for", "1h"]) == 2
            assert "maintenance of ops_worker holds back" in capsys.readouterr().err

    def test_report(self, first: Installation, second: Installation, tmp_path: Path) -> None:
        """The report counts the own passes and names the other installation."""
        first.both()
        second.both()
        first.select()
        page = tmp_path / "report.html"
        assert main(["report", "-o", str(page)]) == 0
        text = " ".join(page.read_text().split())
        assert (
            "These are the passes of installation ops-worker. Others in this database: b." in text
        )
