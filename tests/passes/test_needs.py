"""Dependencies on a real database: the alerts that open with shards, stale rows and people."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main
from ops_worker.core.model import Result
from ops_worker.core.output import as_json, as_table, text
from ops_worker.core.shards import shard_of
from tests.looks import NO_BUILTIN, START_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.looks import Looks

    Needs = Mapping[str, Sequence[str]]

pytestmark = pytest.mark.integration

HISTORIES = 100 if os.environ.get("OPS_TEST_FULL") else 10
PASSES = 25
PERIOD_S = 3600.0
"""The period of the passes. It is so long that a row is stale only if the test ages it."""
SERVICES = "abcdef"
STATES = ("healthy", "healthy", "down", "timeout", "http 503")
OPEN = "SELECT details FROM fleet_alert WHERE tenant_id = '__system__' AND status <> 'CLOSED'"
CLOSE = "UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() WHERE fingerprint = %s"
MAKE_STALE = (
    "UPDATE service_health SET checked_at = checked_at - interval '1 day' WHERE service = %s"
)


def monitor(look: Looks, needs: Needs) -> None:
    """Monitor these services with their needs."""
    entries = [
        f'[services.{name}]\nurl = "http://127.0.0.1:1"\nneeds = {json.dumps(list(direct))}\n'
        for name, direct in needs.items()
    ]
    (look.folder / "catalogue.toml").write_text(NO_BUILTIN + "\n".join(entries))


def start(look: Looks, ago_s: float) -> None:
    """Begin the history so many seconds ago."""
    look.now += -START_S - ago_s


def alerts(look: Looks) -> set[str]:
    """Return the services with an alert that is not closed."""
    rows = look.database.rows(OPEN)
    return {row["details"]["service"] for row in rows}


def reachable(needs: Needs, name: str) -> set[str]:
    """Return the services that a service needs, directly and through others."""
    names: set[str] = set()
    for needed in needs[name]:
        names |= {needed} | reachable(needs, needed)
    return names


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_random_histories(look: Looks, seed: int) -> None:
    """After each pass of a shard, exactly the alerts that the rules demand are open.

    Every service is judged and recorded. An alert opens if its service is unhealthy and no service
    that it needs is known to be unhealthy. It closes if its service is healthy. In between, people
    close alerts, passes leave services out, and rows become stale.
    """
    rng = random.Random(seed)
    order = rng.sample(SERVICES, len(SERVICES))
    needs: dict[str, list[str]] = {}
    for place, name in enumerate(order):
        needs[name] = rng.sample(order[:place], rng.randint(0, min(2, place)))
    monitor(look, needs)
    start(look, 10 * PASSES)
    look.env.setenv("SHARD_COUNT", "2")
    fresh: dict[str, bool] = {}
    opened: set[str] = set()
    for number in range(PASSES):
        shard = rng.randrange(2)
        look.env.setenv("JOB_COMPLETION_INDEX", str(shard))
        own = [name for name in needs if shard_of(name, 2) == shard and rng.random() < 0.9]
        states = {name: rng.choice(STATES) for name in own}
        outcome = look(10 * number, states, period_s=PERIOD_S)
        assert outcome.result is Result.RECORDED
        assert {verdict.target.name for verdict in outcome.verdicts} == states.keys()
        fresh |= {name: state == "healthy" for name, state in states.items()}
        causes = {}
        for name in states:
            bad = {needed for needed in reachable(needs, name) if fresh.get(needed) is False}
            roots = {root for root in bad if not bad & reachable(needs, root)}
            if fresh[name]:
                opened.discard(name)
            elif bad:
                causes[name] = tuple(sorted(roots))
            else:
                opened.add(name)
        assert outcome.because_of == causes
        assert alerts(look) == opened
        recorded = {
            row["service"]: row["status"] == "healthy"
            for row in look.database.rows("SELECT service, status FROM service_health")
        }
        assert {name: recorded[name] for name in states} == {
            name: state == "healthy" for name, state in states.items()
        }
        if opened and rng.random() < 0.3:
            closed = rng.choice(sorted(opened))
            look.database.rows(CLOSE, f"system-health:{closed}")
            opened.discard(closed)
        if fresh and rng.random() < 0.2:
            name = rng.choice(sorted(fresh))
            look.database.rows(MAKE_STALE, name)
            del fresh[name]


WELL = {"db": "healthy", "shop": "healthy", "page": "healthy"}
CHAIN = {"page": ["shop"], "shop": ["db"], "db": []}


def test_outage(look: Looks) -> None:
    """In a chain, only the cause has an alert.

    A service that is still unhealthy when its cause ends gets an alert then.
    """
    monitor(look, CHAIN)
    start(look, 600)
    look(0, WELL)
    for second in (60, 120):
        outcome = look(second, dict.fromkeys(WELL, "down"))
    assert alerts(look) == {"db"}
    assert text(outcome).startswith("health: 3 services, 3 down; 2 unhealthy because of db (")
    services = json.loads(as_json(outcome))["services"]
    assert {service["service"]: service["because_of"] for service in services} == {
        "page": ["db"],
        "shop": ["db"],
        "db": [],
    }
    assert "because of db: Connection refused" in as_table(outcome)
    outcome = look(180, {"db": "healthy", "shop": "down", "page": "healthy"})
    assert (outcome.opened, outcome.closed, outcome.because_of) == (("shop",), ("db",), {})
    (row,) = look.database.rows(OPEN)
    assert row["details"]["evidence"]["streak"] == 3
    outcome = look(240, {"db": "down", "shop": "healthy", "page": "down"})
    assert (outcome.opened, outcome.closed) == (("db",), ("shop",))
    assert alerts(look) == {"db"}


def test_open_alert(look: Looks) -> None:
    """An alert that opened before its cause stays open, and can close while the cause lasts."""
    monitor(look, CHAIN)
    start(look, 600)
    look(0, WELL | {"page": "down"})
    look(60, WELL | {"page": "down", "db": "down"})
    assert alerts(look) == {"db", "page"}
    outcome = look(120, WELL | {"db": "down"})
    assert (outcome.opened, outcome.closed) == ((), ("page",))


def test_dry_run(look: Looks) -> None:
    """A dry run shows which alerts would open, and which are held back by a cause."""
    monitor(look, CHAIN)
    start(look, 600)
    look(0, WELL)
    outcome = look(60, dict.fromkeys(WELL, "down"), dry_run=True)
    assert (outcome.opened, outcome.because_of) == (("db",), {"page": ("db",), "shop": ("db",)})
    assert alerts(look) == set()


def test_own_alert(look: Looks) -> None:
    """No dependency holds back the worker's own alert."""
    monitor(look, CHAIN)
    look.env.setenv("RECORD_OWN_METRICS", "true")
    start(look, 900)
    look(0, WELL, name="metrics")
    look(880, dict.fromkeys(WELL, "down"))
    outcome = look(890, dict.fromkeys(WELL, "down"))
    assert "ops_worker" in alerts(look)
    assert "ops_worker" in outcome.alerted
    assert alerts(look) == {"ops_worker", "db"}


def test_log(look: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a pass names the services whose alerts are held back, and the cause."""
    monitor(look, CHAIN)
    capsys.readouterr()
    assert main(["health"]) == 0
    output = capsys.readouterr()
    assert "; 2 unhealthy because of db; 1 alert opened: db (" in output.out
    entries = [json.loads(line) for line in output.err.splitlines()]
    (entry,) = [entry for entry in entries if entry.get("action") == "no alert opens"]
    assert (entry["count"], entry["first"], entry["causes"]) == (2, "page shop", "db")
    assert main(["health", "--dry-run"]) == 0
    assert "no alert opens" not in capsys.readouterr().err


def test_faults(look: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """A cycle and an unknown name are faults of the catalogue. No pass runs with them."""
    monitor(look, {"a": ["b"], "b": ["a"], "c": ["nobody"]})
    capsys.readouterr()
    assert main(["health"]) == 2
    error = capsys.readouterr().err
    assert "services.a: needs itself: a needs b needs a" in error
    assert "services.c: needs nobody, which is not a service of the catalogue" in error
    assert main(["catalogue", "check"]) == 4
    assert capsys.readouterr().out.count("needs") == 4


def read(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Return the document of a command that only reads."""
    capsys.readouterr()
    assert main([*arguments, "--output", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def look_at_an_outage(look: Looks) -> None:
    """Record passes of four services: two are unhealthy because of `db`, and `a` is alone."""
    monitor(look, CHAIN | {"a": []})
    start(look, 240)
    look(0, WELL | {"a": "down"})
    look(120, {"db": "down", "shop": "timeout", "page": "http 503", "a": "down"})
    look(235, {"db": "down", "shop": "timeout", "page": "http 503", "a": "down"})


def test_status(look: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` names the cause, and shows it above its dependents."""
    look_at_an_outage(look)
    document = read(capsys, "status")
    assert document["verdict"].startswith("All 4 services are unhealthy; 2 because of db; 2 alerts")
    assert {service["service"]: service["because_of"] for service in document["services"]} == {
        "a": [],
        "db": [],
        "page": ["db"],
        "shop": ["db"],
    }
    look.env.setenv("COLUMNS", "160")
    assert main(["status"]) == 0
    rows = capsys.readouterr().out.partition("SERVICE")[2].splitlines()[1:5]
    assert [row.split()[0] for row in rows] == ["a", "db", "page", "shop"]
    assert "because of db: http 503" in rows[2]


def test_explain(look: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` names the cause at any time, and the rule."""
    look_at_an_outage(look)
    document = read(capsys, "explain", "page")
    assert document["because_of"] == ["db"]
    assert document["alert"] == (
        "no alert is open: none opens while services that it needs are unhealthy: db"
    )
    assert document["rule"]["needs"] == "shop; no alert opens while one of them is unhealthy"
    assert main(["explain", "page"]) == 0
    assert ": because of db: http 503 (seen by" in " ".join(capsys.readouterr().out.split())
    assert read(capsys, "explain", "db")["because_of"] == []
    assert read(capsys, "explain", "page", "--at", "1m")["because_of"] == ["db"]
    assert read(capsys, "explain", "page", "--at", "200s")["because_of"] == []


def test_report(look: Looks, tmp_path: Path) -> None:
    """`report` names the cause."""
    look_at_an_outage(look)
    page = tmp_path / "page.html"
    assert main(["report", "-o", str(page), "--since", "1h"]) == 0
    assert "because of db: http 503" in page.read_text()
