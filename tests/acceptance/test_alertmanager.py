"""A real Alertmanager with a real receiver: the alerts that fire there are those that are open.

A drill is a random sequence of outages, recoveries, acknowledgements, overlapping passes, restarts
of the Alertmanager, and passes that are killed between commit and post. The default is a few
drills. OPS_TEST_FULL=1 runs a thousand, and OPS_TEST_DRILLS any number.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker import settings
from ops_worker.adapters.postgres import Store
from ops_worker.commands import post_alerts
from ops_worker.core import notify
from ops_worker.passes import Context, function_of
from tests.alertmanager import MISSING, PROGRAM, START_S, Alertmanager, Inbox, eventually
from tests.looks import NO_BUILTIN, observation
from tests.proxy import Switchboard

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ops_worker.core.model import Observation, Target
    from tests.conftest import Database, Worker
    from tests.stubs import Stubs

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(PROGRAM is None, reason=MISSING),
]

DRILLS = int(os.environ.get("OPS_TEST_DRILLS") or (1000 if os.environ.get("OPS_TEST_FULL") else 5))
SERVICES = ("a", "b", "c")
PERIOD_S = 60.0
STEPS = 12
LIMIT_S = 300 + PERIOD_S
"""Seconds after which an alert that is over no longer fires."""


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """Yield the receiver of the Alertmanager's notifications."""
    with Inbox() as running:
        yield running


@pytest.fixture
def alertmanager(tmp_path: Path, inbox: Inbox) -> Iterator[Alertmanager]:
    """Yield an Alertmanager with its own folder."""
    with Alertmanager(tmp_path / "alertmanager", inbox) as running:
        yield running


class Installation:
    """Health passes of three services whose states the test sets, and their posts."""

    def __init__(self, database: Database, folder: Path, env: pytest.MonkeyPatch) -> None:
        self.database = database
        self.states = dict.fromkeys(SERVICES, "healthy")
        self.period_s = PERIOD_S
        entries = [f'[services.{name}]\nurl = "http://127.0.0.1:1"\n' for name in SERVICES]
        (folder / "catalogue.toml").write_text(NO_BUILTIN + "\n".join(entries))
        env.setenv("DATABASE_URL", database.url)
        env.setenv("OPS_WORKER_CATALOGUE", str(folder / "catalogue.toml"))
        env.setenv("RECORD_OWN_METRICS", "false")
        self._env = env

    def check(self) -> None:
        """Run a health pass up to its commit, without a post."""

        def observe(targets: Sequence[Target]) -> list[Observation]:
            """Return the states that the test has set."""
            return [
                observation(target, time.monotonic(), self.states[target.name])
                for target in targets
            ]

        loaded = settings.load()
        with contextlib.closing(Store(loaded.connection)) as store:
            context = Context(
                settings=loaded,
                observe=observe,
                store=store,
                clock=time.monotonic,
                period_s=self.period_s,
            )
            function_of("health")(context)

    def post(self, url: str, budget_s: float = START_S) -> None:
        """Post as a pass does after its commit."""
        self._env.setenv("ALERTMANAGER_URL", url)
        loaded = settings.load()
        with contextlib.closing(Store(loaded.connection)) as store:
            post_alerts.post(loaded, store, self.period_s, budget_s)

    def run(self, url: str) -> None:
        """Run a whole health pass."""
        self.check()
        self.post(url)

    def open(self) -> dict[str, datetime]:
        """Return when each open alert began, by service."""
        return {
            row["fingerprint"].removeprefix("system-health:"): row["created_at"]
            for row in self.database.alerts()
            if row["status"] != "CLOSED"
        }


@pytest.fixture
def installation(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """Return an installation with its own database."""
    return Installation(database, tmp_path, monkeypatch)


class Drills:
    """Random sequences of steps. Each post that arrives is followed by a check."""

    def __init__(
        self, installation: Installation, alertmanager: Alertmanager, inbox: Inbox
    ) -> None:
        self.installation = installation
        self.alertmanager = alertmanager
        self.inbox = inbox
        self.chance = random.Random()
        # The number of notifications before the last start of the Alertmanager, and whether it
        # started on an empty disk. A stopped Alertmanager may have sent a notification without
        # recording it, or recorded one without sending it. Then its receiver misses that one until
        # the next notification of the service.
        self.before = 0
        self.is_fresh = True
        self.counts = dict.fromkeys(
            (
                "change",
                "complete",
                "killed",
                "overlap",
                "restart",
                "crash",
                "acknowledge",
                "away",
            ),
            0,
        )

    def run(self, seed: int) -> None:
        """Do the steps, then a pass, and one more pass with healthy services."""
        self.chance.seed(seed)
        steps = [*self.counts, "change", "change", "complete", "complete", "overlap", "killed"]
        for step in self.chance.choices(steps, k=STEPS):
            self.counts[step] += 1
            getattr(self, step)()
        self.complete()
        self.installation.states = dict.fromkeys(SERVICES, "healthy")
        self.complete()
        assert self.alertmanager.alerts() == {}
        assert eventually(lambda: "firing" not in self.notified().values()), (
            f"{seed}: {self.notified()}"
        )

    def notified(self) -> dict[str, str]:
        """Return the last notification of each service since the start of the Alertmanager."""
        heard = self.inbox.notifications()[self.before :]
        return {alert["labels"]["service"]: alert["status"] for alert in heard}

    def is_notified(self, firing: Collection[str]) -> bool:
        """Return whether the last notification of each of these services says that it fires."""
        notified = self.notified()
        silence = "nothing" if self.is_fresh else "firing"
        return all(notified.get(service, silence) == "firing" for service in firing)

    def started(self, *, is_fresh: bool) -> None:
        """Record a start of the Alertmanager, and whether its disk is empty."""
        self.before = len(self.inbox.notifications())
        self.is_fresh = is_fresh

    def complete(self) -> None:
        """Run a pass whose post arrives."""
        self.installation.run(self.alertmanager.url)
        self.compare()

    def compare(self) -> None:
        """Compare the alerts that fire with those that are open. Check when they would end."""
        firing = self.alertmanager.alerts()
        began = self.installation.open()
        assert firing.keys() == began.keys()
        assert eventually(lambda: self.is_notified(firing))
        for service, alert in firing.items():
            # If no post comes between a close and the next open, the Alertmanager sees one alert.
            assert datetime.fromisoformat(alert["startsAt"]) <= began[service]
            ends = datetime.fromisoformat(alert["endsAt"])
            assert ends <= datetime.now(UTC) + timedelta(seconds=LIMIT_S)

    def change(self) -> None:
        """Set a service to a random state."""
        service = self.chance.choice(SERVICES)
        states = ["healthy", "down", "degraded", "timeout"]
        self.installation.states[service] = self.chance.choice(states)

    def killed(self) -> None:
        """Run a pass that is killed between its commit and its post."""
        self.installation.check()

    def away(self) -> None:
        """Run a pass while the Alertmanager does not run."""
        self.alertmanager.stop()
        self.installation.run(self.alertmanager.url)
        self.alertmanager.start()
        self.started(is_fresh=False)

    def restart(self) -> None:
        """Restart the Alertmanager, which then has no alerts."""
        self.alertmanager.restart()
        self.started(is_fresh=False)

    def crash(self) -> None:
        """Kill the Alertmanager and start it on an empty disk, without its notification log."""
        self.alertmanager.lose()
        self.started(is_fresh=True)

    def acknowledge(self) -> None:
        """Acknowledge or close the open alerts, as a person does."""
        status = self.chance.choice(["ACKNOWLEDGED", "CLOSED"])
        closed = "now()" if status == "CLOSED" else "NULL"
        self.installation.database.rows(
            f"UPDATE fleet_alert SET status = '{status}', acknowledged_by = 'kim',"
            f" closed_at = {closed} WHERE tenant_id = '__system__' AND status = 'OPEN'"
        )

    def overlap(self) -> None:
        """Run two passes. Deliver the post of the first one after that of the second one.

        The first post is then out of date.
        """
        with Switchboard(int(self.alertmanager.url.rpartition(":")[2])) as slow:
            arrived = threading.Event()
            released = threading.Event()
            passed_on = slow._pass_on

            def hold(source: Any, sink: Any) -> None:
                """Keep the bytes of the first post until the second pass has ended."""
                arrived.set()
                released.wait(START_S)
                passed_on(source, sink)

            slow._pass_on = hold  # type: ignore[method-assign]
            self.installation.check()
            first = threading.Thread(
                target=self.installation.post, args=(f"http://127.0.0.1:{slow.port}",)
            )
            first.start()
            while first.is_alive() and not arrived.wait(0.01):
                pass  # without an alert there is no post
            self.change()
            self.installation.run(self.alertmanager.url)
            released.set()
            first.join(START_S)
            assert not first.is_alive()
        self.compare()


def test_drills(
    installation: Installation,
    alertmanager: Alertmanager,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After each post, the alerts that fire are those that are open. At the end none fires."""
    monkeypatch.setattr(post_alerts, "REQUEST_DEADLINE_S", START_S)
    drills = Drills(installation, alertmanager, inbox)
    for seed in range(DRILLS):
        drills.run(seed)
    print(f"{DRILLS} drills: {drills.counts}, {len(inbox.notifications())} notifications")
    rows = {str(row["id"]): row for row in installation.database.alerts()}
    for alert in inbox.notifications():
        row = rows[alert["annotations"]["alert_id"]]
        assert row["fingerprint"] == f"system-health:{alert['labels']['service']}"
        if alert["status"] == "resolved":
            assert row["status"] == "CLOSED"


def test_killed_between_commit_and_post(
    worker: Worker, database: Database, stubs: Stubs, alertmanager: Alertmanager
) -> None:
    """If a process is killed between commit and post, the next pass posts.

    The test does this with an alert that opens, and with one that closes.
    """
    for mode, status, firing in (("down", "OPEN", {"ingest"}), ("ok", "CLOSED", set())):
        stubs["ingest"].mode = mode
        with Inbox() as silent:
            arrived, gone = threading.Event(), threading.Event()
            silent.before = lambda _, arrived=arrived, gone=gone: (  # type: ignore[misc]
                arrived.set(),
                gone.wait(START_S),
            )
            with worker.start("health", ALERTMANAGER_URL=silent.url) as process:
                assert arrived.wait(START_S)
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            gone.set()
        assert [alert["status"] for alert in database.alerts()] == [status]
        assert alertmanager.alerts().keys() == firing ^ {"ingest"}
        assert worker("health", ALERTMANAGER_URL=alertmanager.url).returncode == 0
        assert alertmanager.alerts().keys() == firing


def test_processes(
    worker: Worker, database: Database, stubs: Stubs, alertmanager: Alertmanager, inbox: Inbox
) -> None:
    """With single passes and with a loop, the receiver gets each change once."""
    stubs["ingest"].mode = "503"
    env = {"ALERTMANAGER_URL": alertmanager.url, "ALERT_LABELS": "env=test"}
    assert worker("health", **env).returncode == 0
    assert eventually(lambda: len(inbox.notifications()) == 1)
    stubs["ingest"].mode = "ok"
    stubs["dispatcher"].mode = "down"
    done = worker("health", "--every", "0.1", "--for", "0.3", **env)
    assert done.returncode == 0
    assert "did not receive" not in done.stderr
    assert alertmanager.alerts().keys() == {"dispatcher"}
    assert eventually(lambda: len(inbox.notifications()) == 3)
    heard = {
        (alert["labels"]["service"], alert["status"]): alert for alert in inbox.notifications()
    }
    assert heard.keys() == {
        ("ingest", "firing"),
        ("ingest", "resolved"),
        ("dispatcher", "firing"),
    }
    row = database.alerts()[0]
    resolved = heard["ingest", "resolved"]
    assert resolved["labels"]["env"] == "test"
    assert resolved["annotations"]["reason"] == "http 503"
    # The Alertmanager writes times with milliseconds.
    for name, column in (("startsAt", "created_at"), ("endsAt", "closed_at")):
        difference = datetime.fromisoformat(resolved[name]) - row[column]
        assert abs(difference) < timedelta(milliseconds=2)


def test_no_more_passes(
    installation: Installation,
    alertmanager: Alertmanager,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If no more passes run, an open alert ends by itself after the horizon."""
    monkeypatch.setattr(notify, "MIN_HORIZON_S", 1.0)
    installation.period_s = 0.1
    installation.states["a"] = "down"
    installation.check()

    def is_firing() -> bool:
        """Post, and return whether the receiver has heard of the alert."""
        installation.post(alertmanager.url)
        return bool(inbox.notifications())

    assert eventually(is_firing)
    assert eventually(lambda: inbox.notifications()[-1]["status"] == "resolved")
    assert installation.open().keys() == {"a"}


@pytest.mark.parametrize("count", [1, 600])
def test_odd_rows(
    installation: Installation,
    alertmanager: Alertmanager,
    count: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The Alertmanager accepts a post of odd rows, so that no other row is lost."""
    tomorrow = "2126-01-01"
    odd = [
        (tomorrow, None, "OPEN", "x"),
        ("-infinity", None, "OPEN", "x"),
        ("infinity", None, "ACKNOWLEDGED", "x"),
        ("0044-03-15 BC", "infinity", "CLOSED", "x"),
        ("now", "yesterday", "CLOSED", "x"),
        (tomorrow, "now", "CLOSED", "x"),
        ("now", None, "OPEN", "a\nb<b>\x1b[2J\u2028" + "x" * 5000),
    ]
    rows = [
        (f"system-health:{number:04} {name}", status, name, created, closed)
        for number, (created, closed, status, name) in zip(
            range(count), itertools.cycle(odd), strict=False
        )
    ]
    database = installation.database
    database.rows("INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'x')")
    with psycopg.connect(database.url) as connection:
        connection.cursor().executemany(
            "INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint,"
            " status, summary, details, created_at, closed_at)"
            " VALUES ('__system__', 's', 'd', 'X', %s, %s, %s, '[1]', %s, %s)",
            rows,
        )
    installation.states["a"] = "down"
    installation.run(alertmanager.url)
    assert not caplog.records
    is_open = "tenant_id = '__system__' AND status <> 'CLOSED'"
    opened = database.value(f"SELECT count(*) FROM fleet_alert WHERE {is_open}")
    assert len(alertmanager.alerts()) == opened


def test_configuration_of_the_page(tmp_path: Path) -> None:
    """The Alertmanager accepts the configuration in the documentation."""
    page = Path(__file__).parents[2] / "docs" / "alertmanager.md"
    (text,) = re.findall(
        r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "alertmanager.yml").write_text(text)
    amtool = shutil.which("amtool")
    assert amtool is not None
    done = subprocess.run(
        [amtool, "check-config", str(tmp_path / "alertmanager.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_check(worker: Worker, alertmanager: Alertmanager) -> None:
    """`check` reports the version of a real Alertmanager."""
    done = worker("check", ALERTMANAGER_URL=alertmanager.url)
    pattern = rf"^ok +Alertmanager {alertmanager.url} +it answers: version \d"
    assert re.search(pattern, done.stdout, re.MULTILINE)
