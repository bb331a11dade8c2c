"""The post after a health pass: who sends it, how long it takes, and that it delays nothing."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker import settings
from ops_worker.adapters.postgres import Store
from ops_worker.cli import main
from ops_worker.commands import post_alerts, run_loop, run_pass
from ops_worker.commands.post_alerts import Poster
from ops_worker.core.model import Outcome, Result, Tick
from ops_worker.errors import DatabaseError
from tests.alertmanager import Inbox, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration

LONG_S = 60.0
"""A duration in seconds that no test reaches."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set long deadlines, so that no test fails on a slow machine."""
    monkeypatch.setattr(post_alerts, "POST_DEADLINE_S", LONG_S)
    monkeypatch.setattr(post_alerts, "REQUEST_DEADLINE_S", LONG_S)
    monkeypatch.setenv("PASS_DEADLINE", "600")


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Return an Alertmanager that the settings name."""
    with Inbox() as running:
        monkeypatch.setenv("ALERTMANAGER_URL", running.url)
        yield running


def services(alerts: list[dict[str, Any]]) -> list[str]:
    """Return the services whose alerts were posted."""
    return [alert["labels"]["service"] for alert in alerts]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the reasons why alerts were not posted."""
    records = [vars(record) for record in caplog.records]
    return [record["error"] for record in records if record.get("action") == "alerts not posted"]


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Return the log of commands that run in this process."""
    monkeypatch.setattr("ops_worker.log.setup", lambda _: None)
    caplog.set_level(logging.INFO, "ops_worker")
    return caplog


def test_outage(configured: Database, stubs: Stubs, inbox: Inbox) -> None:
    """Passes post open alerts, then closed ones. If all is well, they post nothing."""
    assert main(["health"]) == 0
    assert inbox.posts == []
    stubs["ingest"].mode = "down"
    assert main(["health"]) == main(["health"]) == 0
    assert [services(alerts) for alerts in inbox.posts] == [["ingest"], ["ingest"]]
    first, second = (alerts[0] for alerts in inbox.posts)
    (row,) = configured.alerts()
    assert first["startsAt"] == second["startsAt"]
    assert first["startsAt"] == row["created_at"].isoformat().replace("+00:00", "Z")
    assert first["endsAt"] < second["endsAt"]
    assert first["annotations"]["reason"] == "Connection refused"
    assert first["annotations"]["evidence"].startswith("state: down")
    stubs["ingest"].mode = "ok"
    assert main(["health"]) == main(["health"]) == 0
    (row,) = configured.alerts()
    ends = {alert["endsAt"] for alerts in inbox.posts[2:] for alert in alerts}
    assert ends == {row["closed_at"].isoformat().replace("+00:00", "Z")}


def test_maintenance(configured: Database, stubs: Stubs, inbox: Inbox) -> None:
    """Alerts of services under maintenance are posted again after its end, and not before."""
    stubs["ingest"].mode = stubs["evaluator"].mode = "down"
    assert main(["health"]) == 0
    start = ["maintenance", "start", "--for", "1h", "--by", "kim", "--reason", "new disk"]
    assert main([*start, "--service", "ingest"]) == 0
    assert main(["health"]) == 0
    assert main(start) == 0
    assert main(["health"]) == 0
    assert len(configured.alerts()) == 2
    assert [sorted(services(alerts)) for alerts in inbox.posts] == [
        ["evaluator", "ingest"],
        ["evaluator"],
    ]
    configured.rows("DELETE FROM ops_worker_maintenance")
    configured.rows("UPDATE ops_worker_maintenance_window SET ended_at = now()")
    assert main(["health"]) == 0
    assert sorted(services(inbox.posts[-1])) == ["evaluator", "ingest"]


def test_labels(
    configured: Database, stubs: Stubs, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert has the labels and the link of the settings, and who acknowledged it."""
    monkeypatch.setenv("ALERT_LABELS", "env=prod, team=iot")
    monkeypatch.setenv("ALERT_RUNBOOK_URL", "https://wiki.example/alerts#ops")
    stubs["ingest"].mode = "503"
    assert main(["health"]) == 0
    assert main(["alerts", "ack", str(configured.alerts()[0]["id"]), "--by", "kim"]) == 0
    assert main(["health"]) == 0
    for alerts in inbox.posts:
        assert alerts[0]["labels"] == {
            "alertname": "ServiceUnhealthy",
            "service": "ingest",
            "severity": "critical",
            "source": "ops-worker",
            "env": "prod",
            "team": "iot",
        }
        assert alerts[0]["annotations"]["runbook_url"] == "https://wiki.example/alerts#ops"
    assert [alerts[0]["annotations"].get("acknowledged_by") for alerts in inbox.posts] == [
        None,
        "kim",
    ]


POSTING = [
    (["health"], {}, True),
    (["health"], {"SYSTEM_ALERT_ENABLED": "false"}, True),
    (["health", "--shard", "0/2"], {}, True),
    (["health", "--shard", "1/2"], {}, False),
    (["health", "--dry-run"], {}, False),
    (["health"], {"ALERTMANAGER_URL": ""}, False),
    (["metrics"], {}, False),
    (["rollup"], {}, False),
    (["health", "--every", "0.1", "--for", "0.1"], {}, True),
    (["health", "--every", "0.1", "--for", "0.1", "--dry-run"], {}, False),
    (["health", "--every", "0.1", "--for", "0.1", "--shard", "1/2"], {}, False),
    (["metrics", "--every", "0.1", "--for", "0.1"], {}, False),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "env", "posts"), POSTING)
def test_who_posts(
    configured: Database,
    stubs: Stubs,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    env: dict[str, str],
    posts: bool,
) -> None:
    """Health passes post, also with alerts off. Of several shards, the first one posts.

    Dry runs do not post.
    """
    stubs["ingest"].mode = "down"
    monkeypatch.setenv("ALERTMANAGER_URL", "")
    assert main(["health"]) == 0
    monkeypatch.setenv("ALERTMANAGER_URL", inbox.url)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ops_worker.loop.run", run_to_the_end)
    assert main(arguments) == 0
    # A loop may have a second tick.
    assert bool(inbox.posts) is posts
    assert len(configured.alerts()) == 1


def run_to_the_end(loops: Any, _: object, *, grace_s: float, close: Any) -> int:
    """Run loops without their signals, which a test process cannot have."""
    for loop in loops:
        loop.run()
    close(time.monotonic() + max(grace_s, LONG_S))
    return 0


def test_skipped(configured: Database, stubs: Stubs, inbox: Inbox) -> None:
    """A skipped pass posts the alerts of the database, because the other pass may be dead."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    with psycopg.connect(configured.url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(1869640567, 1)")
        stubs["ingest"].mode = "ok"
        assert main(["health"]) == 0
    assert [alert["status"] for alert in configured.alerts()] == ["OPEN"]
    assert [services(alerts) for alerts in inbox.posts] == [["ingest"], ["ingest"]]


def test_failed_pass(
    configured: Database, stubs: Stubs, inbox: Inbox, log: pytest.LogCaptureFixture
) -> None:
    """A failed pass posts, too. Without a post, open alerts would end in Alertmanager."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    configured.rows("ALTER TABLE tenants RENAME TO elsewhere")
    assert main(["health"]) == 3
    assert [services(alerts) for alerts in inbox.posts] == [["ingest"], ["ingest"]]
    configured.rows("ALTER TABLE fleet_alert RENAME TO nowhere")
    assert main(["health"]) == 3
    assert len(inbox.posts) == 2
    assert warnings(log) == [], "the error of the pass contains the cause"


@pytest.mark.usefixtures("configured")
def test_database_is_away(
    inbox: Inbox, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the database is unreachable, the pass reports it, and no warning repeats it."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:9/d")
    assert main(["health"]) == 1
    monkeypatch.setattr("ops_worker.loop.run", run_to_the_end)
    assert main(["health", "--every", "0.1", "--for", "0.1"]) == 0
    assert warnings(log) == []
    assert inbox.requests == []


def test_no_row_of_a_service(configured: Database, stubs: Stubs, inbox: Inbox) -> None:
    """Alerts of the worker and of services that are no longer monitored are posted."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    configured.rows(
        "UPDATE fleet_alert SET fingerprint = 'system-health:gone' WHERE tenant_id = '__system__';"
        "INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, summary)"
        " VALUES ('__system__', 's', 'd', 'SYSTEM_HEALTH', 'system-health:ops_worker', 'stopped')"
    )
    stubs["ingest"].mode = "ok"
    assert main(["health"]) == 0
    assert services(inbox.posts[-1]) == ["gone", "ops_worker"]


@pytest.mark.parametrize(
    ("status", "problem"), [(503, "http 503"), (302, "http 302"), (400, "http 400")]
)
def test_failure(
    configured: Database,
    stubs: Stubs,
    inbox: Inbox,
    log: pytest.LogCaptureFixture,
    status: int,
    problem: str,
) -> None:
    """A post that fails is one warning; the pass is recorded and ends with 0."""
    inbox.status = status
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    assert warnings(log) == [f"{inbox.url}: {problem}"]
    assert len(configured.alerts()) == 1


@pytest.mark.usefixtures("configured")
def test_one_of_two_fails(
    stubs: Stubs, inbox: Inbox, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one Alertmanager fails, the other one still gets the post.

    The warning names its URL without the login.
    """
    with Inbox() as closed:
        closed_url = closed.url
    url = closed_url.replace("://", "://u:hunter2-login@")
    monkeypatch.setenv("ALERTMANAGER_URL", f" {url} ,, {inbox.url}/ ,{inbox.url}/")
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    assert warnings(log) == [f"{closed_url.replace('://', '://***@')}: Connection refused"]
    assert len(inbox.posts) == 1


def test_changed_during_the_post(
    configured: Database, stubs: Stubs, inbox: Inbox, log: pytest.LogCaptureFixture
) -> None:
    """An alert that another pass closes during the post is posted again, as closed."""
    stubs["ingest"].mode = "down"

    def close(_: object) -> None:
        if len(inbox.posts) == 1:
            configured.rows(
                "UPDATE fleet_alert SET status = 'CLOSED', closed_at = now()"
                " WHERE tenant_id = '__system__'"
            )

    inbox.before = close
    assert main(["health"]) == 0
    first, second = (alerts[0] for alerts in inbox.posts)
    closed_at = configured.alerts()[0]["closed_at"].isoformat().replace("+00:00", "Z")
    assert first["endsAt"] > closed_at == second["endsAt"]
    assert warnings(log) == []


def test_changes_without_end(
    configured: Database, stubs: Stubs, inbox: Inbox, log: pytest.LogCaptureFixture
) -> None:
    """A pass posts at most three times, and the next pass continues."""
    stubs["ingest"].mode = "down"
    inbox.before = lambda _: configured.rows("UPDATE fleet_alert SET summary = summary || '!'")
    assert main(["health"]) == 0
    assert len(inbox.posts) == post_alerts.ROUNDS
    assert warnings(log) == []


def connections(database: Database) -> int:
    """Return how many connections other programs have to the database."""
    return int(
        database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND application_name LIKE 'ops-worker%'"
        )
    )


def test_no_connection_is_held(configured: Database, stubs: Stubs, inbox: Inbox) -> None:
    """During the request the pass is committed, and has no connection to the database."""
    counts: list[tuple[int, int]] = []

    def look(_: object) -> None:
        eventually(lambda: connections(configured) == 0)
        counts.append((connections(configured), len(configured.alerts())))

    inbox.before = look
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    assert counts == [(0, 1)]


@pytest.mark.usefixtures("configured")
def test_it_ends_before_the_pass(
    stubs: Stubs, inbox: Inbox, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post may take the rest of PASS_DEADLINE, less one second."""
    limits_s: list[float] = []
    original = post_alerts.post_within

    def note(loaded: Any, store: Any, period_s: float, left_s: float, **_: object) -> None:
        limits_s.append(left_s)
        original(loaded, store, period_s, -1.0)

    monkeypatch.setattr(post_alerts, "post_within", note)
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    assert 0 < limits_s[0] <= 599
    assert inbox.posts == []
    assert warnings(log) == ["the pass had no time left for it"]


def test_hanging_database(
    configured: Database, stubs: Stubs, inbox: Inbox, log: pytest.LogCaptureFixture
) -> None:
    """A locked table prevents the post, and its connection is closed."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    loaded = settings.load()
    with psycopg.connect(configured.url) as connection:
        connection.execute("LOCK TABLE fleet_alert")
        with contextlib.closing(run_pass.store(loaded, "health")) as database:
            post_alerts.post(loaded, database, 60.0, 0.3)
            assert database._connection is None
        assert len(warnings(log)) == 1
        with contextlib.closing(run_pass.store(loaded, "health")) as database:
            post_alerts.post_within(loaded, database, 60.0, 0.3 + post_alerts.CUT_S)
    assert eventually(lambda: len(warnings(log)) >= 2)
    assert len(inbox.posts) == 1


def test_time_is_up(
    configured: Database,
    stubs: Stubs,
    inbox: Inbox,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a post that has used up its time, nothing more is read or posted."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    release = threading.Event()
    inbox.before = lambda _: release.wait(LONG_S)
    monkeypatch.setattr(post_alerts, "MIN_STEP_S", LONG_S)
    monkeypatch.setattr(post_alerts, "REQUEST_DEADLINE_S", 0.3)
    loaded = settings.load()
    with contextlib.closing(run_pass.store(loaded, "health")) as database:
        post_alerts.post(loaded, database, 60.0, 0.0)
    release.set()
    assert len(inbox.posts) == 2
    assert warnings(log) == [f"{inbox.url}: timeout after 0.3 s"]
    assert len(configured.alerts()) == 1


def test_not_waited_for(
    inbox: Inbox, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass does not wait for a post that exceeds its time, and logs a warning."""
    release = threading.Event()
    monkeypatch.setenv("PG_PASS", "x")
    monkeypatch.setattr(post_alerts, "post", lambda *_, **__: release.wait(LONG_S))
    with contextlib.closing(Store({"host": "127.0.0.1", "port": 9})) as database:
        post_alerts.post_within(settings.load(), database, 60.0, 0.5 + post_alerts.CUT_S)
    assert not release.is_set()
    release.set()
    assert warnings(log) == ["no answer within 0.5 s"]
    assert inbox.requests == []


def test_no_thread(monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> None:
    """A process that cannot start a thread posts nothing, and logs a warning."""
    problem = "can't start new thread"

    def fail(_: object) -> None:
        raise RuntimeError(problem)

    monkeypatch.setattr(threading.Thread, "start", fail)
    monkeypatch.setenv("PG_PASS", "x")
    with contextlib.closing(Store({"host": "127.0.0.1", "port": 9})) as database:
        post_alerts.post_within(settings.load(), database, 60.0, LONG_S)
    poster = Poster(lambda **_: None)
    poster.request()
    poster.finish(time.monotonic())
    assert warnings(log) == [problem, problem]


@pytest.mark.parametrize(
    ("raised", "problem"),
    [(ZeroDivisionError("x\ny"), "ZeroDivisionError: x y"), (None, "no connection to database")],
)
def test_never_raises(
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
    inbox: Inbox,
    raised: Exception | None,
    problem: str,
) -> None:
    """An unreachable database or a bug causes a warning, and no exception."""
    monkeypatch.setenv("PG_PASS", "x")
    database = Store({"host": "127.0.0.1", "port": 9, "password": "x"})
    if raised is not None:

        def fail(*_: object, **__: object) -> None:
            raise raised

        monkeypatch.setattr(database, "read", fail)
    post_alerts.post(settings.load(), database, 60.0, LONG_S)
    assert [warning.startswith(problem) for warning in warnings(log)] == [True]
    assert inbox.requests == []


class TestPoster:
    """Posts of a loop."""

    def test_one_at_a_time(self) -> None:
        """Requests during a post cause one more post after it, and no request waits."""
        started, release = threading.Semaphore(0), threading.Semaphore(0)
        running: list[int] = [0]
        counts: list[int] = []

        def work(**_: object) -> None:
            running[0] += 1
            counts.append(running[0])
            started.release()
            assert release.acquire(timeout=LONG_S)
            running[0] -= 1

        poster = Poster(work)
        poster.request()
        assert started.acquire(timeout=LONG_S)
        for _ in range(5):
            poster.request()
        release.release()
        assert started.acquire(timeout=LONG_S)
        release.release()
        poster.finish(time.monotonic() + LONG_S)
        assert counts == [1, 1]
        assert poster._thread is None

    def test_again(self) -> None:
        """After a post has ended, a request starts the next post."""
        posts: list[int] = []
        poster = Poster(lambda **_: posts.append(1))
        for count in (1, 2):
            poster.request()
            assert eventually(lambda count=count: len(posts) == count)  # type: ignore[misc]
            poster.finish(time.monotonic() + LONG_S)

    def test_finish_has_an_end(self) -> None:
        """`finish` waits for a hanging post only until the deadline."""
        release = threading.Event()
        poster = Poster(lambda **_: release.wait(LONG_S))
        poster.request()
        poster.finish(time.monotonic() + 0.01)
        assert not release.is_set()
        release.set()
        poster.finish(time.monotonic() + LONG_S)


@pytest.mark.parametrize(
    ("tick", "requests"),
    [
        (Tick("health", 0.1, outcome=Outcome("health", Result.RECORDED)), 1),
        (Tick("health", 0.1, outcome=Outcome("health", Result.SKIPPED)), 1),
        (Tick("health", 0.1, outcome=Outcome("health", Result.OFF)), 1),
        (Tick("health", 0.1, outcome=Outcome("health", Result.WAITING)), 1),
        (Tick("health", 0.1, error=DatabaseError("away")), 1),
        (Tick("metrics", 0.1, outcome=Outcome("metrics", Result.RECORDED)), 0),
    ],
)
def test_ticks(monkeypatch: pytest.MonkeyPatch, tick: Tick, requests: int) -> None:
    """Every tick of the health loop requests a post."""
    monkeypatch.setenv("PG_PASS", "x")
    parsed = run_loop_options("sidecar")
    requested: list[dict[str, bool]] = []
    poster: Any = type("", (), {"request": lambda _, **failed: requested.append(failed)})()
    run_loop._Reporter(parsed, settings.load(), None, poster)(tick)
    assert requested == [{"pass_failed": tick.error is not None}] * requests


def run_loop_options(*arguments: str) -> Any:
    """Parse a command line."""
    from ops_worker import cli

    return cli._parser().parse_args([*arguments])


@pytest.mark.usefixtures("inbox")
@pytest.mark.parametrize(
    ("arguments", "has_poster"),
    [(["sidecar"], True), (["sidecar", "health"], True), (["sidecar", "metrics"], False)],
)
def test_sidecar(monkeypatch: pytest.MonkeyPatch, arguments: list[str], has_poster: bool) -> None:
    """A sidecar with the health loop posts, and its period is the interval of that loop."""
    monkeypatch.setenv("PG_PASS", "x")
    monkeypatch.setenv("HEALTH_CHECK_INTERVAL", "90")
    loaded = settings.load()
    parsed = run_loop_options(*arguments)
    poster = run_loop._poster(parsed, loaded, run_loop.intervals_of(parsed, loaded))
    assert (poster is not None) is has_poster
    if poster is not None:
        posted: Any = poster._post
        assert posted.args[2:] == (90.0, post_alerts.POST_DEADLINE_S)


@pytest.mark.usefixtures("configured")
def test_after_a_bug(
    inbox: Inbox, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pass that ended with a bug, an unreachable database is a warning."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ops_worker.passes.function_of", lambda _: fail)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:9/d")
    assert main(["health"]) == 1
    (problem,) = warnings(log)
    assert problem.startswith("no connection to database")
    assert inbox.requests == []


def test_alertmanager_after_a_failure(
    configured: Database, stubs: Stubs, inbox: Inbox, log: pytest.LogCaptureFixture
) -> None:
    """After a failed pass, the failure of an Alertmanager is still a warning."""
    stubs["ingest"].mode = "down"
    assert main(["health"]) == 0
    configured.rows("ALTER TABLE tenants RENAME TO elsewhere")
    inbox.status = 503
    assert main(["health"]) == 3
    assert warnings(log) == [f"{inbox.url}: http 503"]


@pytest.mark.parametrize("pass_failed", [True, False])
def test_no_time_after_a_failure(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, pass_failed: bool
) -> None:
    """If no time is left for a post, there is a warning, unless the pass itself failed."""
    monkeypatch.setenv("PG_PASS", "x")
    with contextlib.closing(Store({"host": "127.0.0.1", "port": 9})) as database:
        post_alerts.post_within(settings.load(), database, 60.0, 0.0, pass_failed=pass_failed)
    assert bool(warnings(log)) is not pass_failed
