"""A real Alertmanager with a real receiver: what fires there is what is open in the database.

A drill is a random sequence of outages, recoveries, acknowledgements, passes that are killed between
commit and post, passes that overlap, and restarts of the Alertmanager. The default is a few of them;
OPS_TEST_FULL=1 makes it a thousand, and OPS_TEST_DRILLS any number.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import settings
from ops_worker.adapters.postgres import Store
from ops_worker.commands import post_alerts
from ops_worker.passes import Context, function_of
from tests.alertmanager import MISSING, PROGRAM, START_S, Alertmanager, Inbox, eventually
from tests.looks import NO_BUILTIN, observation
from tests.proxy import Switchboard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ops_worker.core.model import Observation, Target
    from tests.conftest import Database

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(PROGRAM is None, reason=MISSING),
]

DRILLS = int(os.environ.get("OPS_TEST_DRILLS") or (1000 if os.environ.get("OPS_TEST_FULL") else 5))
SERVICES = ("a", "b", "c")
PERIOD_S = 60.0
STEPS = 12
LIMIT_S = 300 + PERIOD_S
"""Seconds after which nothing may fire any more of an alert that is over."""


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """Who is told by the Alertmanager."""
    with Inbox() as running:
        yield running


@pytest.fixture
def alertmanager(tmp_path: Path, inbox: Inbox) -> Iterator[Alertmanager]:
    """The Alertmanager of this machine, with a folder of its own."""
    with Alertmanager(tmp_path / "alertmanager", inbox) as running:
        yield running


class Installation:
    """Health passes of three services, whose states the test decides, and their posts."""

    def __init__(self, database: Database, folder: Path, env: pytest.MonkeyPatch) -> None:
        self.database = database
        self.states = dict.fromkeys(SERVICES, "healthy")
        entries = [f'[services.{name}]\nurl = "http://127.0.0.1:1"\n' for name in SERVICES]
        (folder / "catalogue.toml").write_text(NO_BUILTIN + "\n".join(entries))
        env.setenv("DATABASE_URL", database.url)
        env.setenv("OPS_WORKER_CATALOGUE", str(folder / "catalogue.toml"))
        env.setenv("RECORD_OWN_METRICS", "false")
        self._env = env

    def check(self) -> None:
        """Run a health pass to its commit, and do not post."""

        def observe(targets: Sequence[Target]) -> list[Observation]:
            """Return what the services are decided to be."""
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
                period_s=PERIOD_S,
            )
            function_of("health")(context)

    def post(self, url: str, budget_s: float = START_S) -> None:
        """Post as a pass does after its commit."""
        self._env.setenv("ALERTMANAGER_URL", url)
        loaded = settings.load()
        with contextlib.closing(Store(loaded.connection)) as store:
            post_alerts.post(loaded, store, PERIOD_S, budget_s)

    def run(self, url: str) -> None:
        """Run a whole health pass."""
        self.check()
        self.post(url)

    def open(self) -> dict[str, datetime]:
        """Return the open alerts by service: when they began."""
        return {
            row["fingerprint"].removeprefix("system-health:"): row["created_at"]
            for row in self.database.alerts()
            if row["status"] != "CLOSED"
        }


@pytest.fixture
def installation(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """An installation on a database of its own."""
    return Installation(database, tmp_path, monkeypatch)


class Drill:
    """One random sequence. It checks after each post that arrived."""

    def __init__(
        self,
        chance: random.Random,
        installation: Installation,
        alertmanager: Alertmanager,
        inbox: Inbox,
    ) -> None:
        self.chance = chance
        self.installation = installation
        self.alertmanager = alertmanager
        self.inbox = inbox
        # Services that a crash made the Alertmanager forget: it told its receiver that they fire,
        # and cannot take that back if they are well before the next post.
        self.forgotten: set[str] = set()
        self.counts = dict.fromkeys(("change", "pass", "killed", "overlap", "restart", "crash", "acknowledge", "away"), 0)  # fmt: skip

    def run(self) -> None:
        """Do the steps, and then a pass that finds all services well, and one more."""
        steps = [*self.counts, "change", "change", "pass", "pass", "overlap", "killed"]
        for _ in range(STEPS):
            step = self.chance.choice(steps)
            self.counts[step] += 1
            getattr(self, step)() if step != "pass" else self.complete()
        self.complete()
        self.installation.states = dict.fromkeys(SERVICES, "healthy")
        self.complete()
        assert self.alertmanager.alerts() == {}
        assert eventually(lambda: self.told() <= self.forgotten), self.told()

    def told(self) -> set[str]:
        """Return the services of which the receiver heard last that they fire."""
        last = {alert["labels"]["service"]: alert["status"] for alert in self.inbox.notifications()}
        return {service for service, status in last.items() if status == "firing"}

    def complete(self) -> None:
        """Run a pass whose post arrives."""
        self.installation.run(self.alertmanager.url)
        self.compare()

    def compare(self) -> None:
        """Compare what fires with what is open, and when it would end by itself."""
        firing = self.alertmanager.alerts()
        began = self.installation.open()
        assert firing.keys() == began.keys()
        assert eventually(lambda: firing.keys() <= self.told())
        self.forgotten -= firing.keys()
        for service, alert in firing.items():
            # An alert that a pass closed and another one opened, with no post between, is one there.
            assert datetime.fromisoformat(alert["startsAt"]) <= began[service]
            ends = datetime.fromisoformat(alert["endsAt"])
            assert ends <= datetime.now(UTC) + timedelta(seconds=LIMIT_S)

    def change(self) -> None:
        """Let a service fail or recover."""
        service = self.chance.choice(SERVICES)
        states = ["healthy", "down", "degraded", "timeout"]
        self.installation.states[service] = self.chance.choice(states)

    def killed(self) -> None:
        """Run a pass that is killed between its commit and its post. Nothing else is kept."""
        self.installation.check()

    def away(self) -> None:
        """Run a pass while the Alertmanager does not run."""
        self.alertmanager.stop()
        self.installation.run(self.alertmanager.url)
        self.alertmanager.start()

    def restart(self) -> None:
        """Restart the Alertmanager: it forgets all alerts."""
        self.alertmanager.restart()

    def crash(self) -> None:
        """Kill the Alertmanager and start it: it also forgets what it has sent."""
        self.forgotten |= self.told()
        self.alertmanager.restart(signal.SIGKILL)

    def acknowledge(self) -> None:
        """Acknowledge or close what is open, as a person does."""
        status = self.chance.choice(["ACKNOWLEDGED", "CLOSED"])
        closed = "now()" if status == "CLOSED" else "NULL"
        self.installation.database.rows(
            f"UPDATE fleet_alert SET status = '{status}', acknowledged_by = 'kim',"
            f" closed_at = {closed} WHERE tenant_id = '__system__' AND status = 'OPEN'"
        )

    def overlap(self) -> None:
        """Run two passes. The post of the first one is on its way while the second one does all.

        It arrives last, and what it says is old by then.
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


def test_drills(installation: Installation, alertmanager: Alertmanager, inbox: Inbox) -> None:
    """In every sequence, what fires is what is open after each post, and nothing fires at the end."""
    post_alerts.REQUEST_DEADLINE_S, kept = START_S, post_alerts.REQUEST_DEADLINE_S
    totals: dict[str, int] = {}
    try:
        for seed in range(DRILLS):
            drill = Drill(random.Random(seed), installation, alertmanager, inbox)
            drill.run()
            for step, count in drill.counts.items():
                totals[step] = totals.get(step, 0) + count
    finally:
        post_alerts.REQUEST_DEADLINE_S = kept
    print(f"{DRILLS} drills: {totals}, {len(inbox.notifications())} notifications")
    rows = {str(row["id"]): row for row in installation.database.alerts()}
    for alert in inbox.notifications():
        row = rows[alert["annotations"]["alert_id"]]
        assert row["fingerprint"] == f"system-health:{alert['labels']['service']}"
        if alert["status"] == "resolved":
            assert row["status"] == "CLOSED"
