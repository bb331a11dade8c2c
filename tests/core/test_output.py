from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from ops_worker.core.model import (
    Outcome,
    Result,
    Rolled,
    Sample,
    State,
    StateChange,
    Target,
    Verdict,
)
from ops_worker.core.output import (
    as_json,
    as_table,
    document,
    failure_summary,
    message,
    summary,
    text,
)

pytestmark = pytest.mark.unit

WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def verdict(name: str, state: State = State.HEALTHY, reason: str = "") -> Verdict:
    """Return a verdict on a service."""
    return Verdict(
        Target(name, "", name, ()), 0.0, state, reason, 3 if state is State.HEALTHY else None
    )


ONE, TWO = verdict("one"), verdict("two", State.DOWN, "Connection refused")
UPDATES = (StateChange(ONE, 2, WHEN, WHEN), StateChange(TWO, 1, WHEN, WHEN, opens=True))
SAMPLES = (Sample("one", "queue_depth", 3.0), Sample("postgres", "db_size_bytes", 12345678901.0))

LINES = [
    (
        Outcome("health", Result.RECORDED, (ONE, TWO), UPDATES, opened=("two",), duration_s=0.314),
        "health: 2 services, 1 healthy, 1 down; 1 alert opened: two (0.31 s)",
    ),
    (
        Outcome("health", Result.DRY_RUN, (ONE, TWO), UPDATES, opened=("two",), closed=("one",)),
        (
            "health: 2 services, 1 healthy, 1 down; 1 alert would open: two; "
            "1 alert would close: one; dry run, nothing was written (0.00 s)"
        ),
    ),
    (
        Outcome("health", Result.RECORDED, (ONE,), UPDATES[:1], closed=("one",)),
        "health: 1 service, 1 healthy; 1 alert closed: one (0.00 s)",
    ),
    (Outcome("health", Result.RECORDED), "health: 0 services (0.00 s)"),
    (
        Outcome("health", Result.RECORDED, (ONE,), superseded=("one",)),
        "health: 1 service, 1 healthy; 1 older than the database's row: one (0.00 s)",
    ),
    (
        Outcome(
            "health",
            Result.RECORDED,
            (ONE,),
            warnings=("a",),
            decided_by={"two": "b", "three": "b"},
        ),
        "health: 1 service, 1 healthy; 2 decided by another installation; 1 warning (0.00 s)",
    ),
    (
        Outcome("health", Result.SKIPPED, (ONE,)),
        "health: skipped: another health pass holds the lock; nothing was written (0.00 s)",
    ),
    (
        Outcome("health", Result.OFF),
        "health: off: SYSTEM_ALERT_ENABLED is off; nothing was probed or written (0.00 s)",
    ),
    (
        Outcome("metrics", Result.RECORDED, (ONE,), samples=SAMPLES, warnings=("a", "b")),
        "metrics: 1 service, 1 healthy; 2 samples written; 2 warnings (0.00 s)",
    ),
    (
        Outcome("health", Result.WAITING, (ONE,)),
        (
            "health: waiting: an earlier health pass is still being recorded; "
            "1 service, 1 healthy (0.00 s)"
        ),
    ),
    (
        Outcome(
            "health",
            Result.RECORDED,
            unprobed=("one",),
            unprobed_because=("no time", "no files"),
            maintenance_until=WHEN,
        ),
        (
            "health: 0 services; 1 not probed: no time, no files; "
            "maintenance until 2026-03-01 12:00 UTC: no alert opens (0.00 s)"
        ),
    ),
    (
        Outcome(
            "health",
            Result.RECORDED,
            (ONE, TWO),
            because_of={"two": ("b", "a"), "three": ("c", "d", "e")},
        ),
        "health: 2 services, 1 healthy, 1 down; 2 unhealthy because of a, b, c and 2 more (0.00 s)",
    ),
    (
        Outcome("health", Result.RECORDED, (ONE,), under_maintenance={"one": WHEN, "two": WHEN}),
        "health: 1 service, 1 healthy; 2 under maintenance: one, two (0.00 s)",
    ),
    (
        Outcome("health", Result.RECORDED, maintenance_until=WHEN, under_maintenance={"one": WHEN}),
        "health: 0 services; maintenance until 2026-03-01 12:00 UTC: no alert opens (0.00 s)",
    ),
    (
        Outcome("health", Result.RECORDED, opened=tuple("abcdefghijkl")),
        "health: 0 services; 12 alerts opened: a, b, c, d, e, f, g, h, i, j and 2 more (0.00 s)",
    ),
    (
        Outcome("metrics", Result.DRY_RUN, (ONE,), samples=SAMPLES[:1]),
        (
            "metrics: 1 service, 1 healthy; 1 sample would be written; "
            "dry run, nothing was written (0.00 s)"
        ),
    ),
]


@pytest.mark.parametrize(("outcome", "expected"), LINES)
def test_text(outcome: Outcome, expected: str) -> None:
    """The closing line has the counts, the changes and the duration."""
    assert expected == text(outcome)


def test_json() -> None:
    """The document has all of the outcome, with the state, reason and begin of each service."""
    outcome = Outcome(
        "health",
        Result.RECORDED,
        (ONE, TWO),
        UPDATES[1:],
        ("one",),
        ("two",),
        because_of={"two": ("one",)},
        samples=SAMPLES[:1],
        duration_s=0.31415,
        decided_by={"three": "b"},
    )
    assert json.loads(as_json(outcome)) == {
        "pass": "health",
        "result": "recorded",
        "services": [
            {
                "service": "one",
                "status": "healthy",
                "state": "healthy",
                "latency_ms": 3,
                "certificate_days_left": None,
                "reason": "",
                "because_of": [],
                "attempts": 1,
                "since": None,
            },
            {
                "service": "two",
                "status": "unhealthy",
                "state": "down",
                "latency_ms": None,
                "certificate_days_left": None,
                "reason": "Connection refused",
                "because_of": ["one"],
                "attempts": 1,
                "since": "2026-03-01T12:00:00+00:00",
            },
        ],
        "alerts": {"opened": ["two"], "closed": [], "open": []},
        "maintenance_until": None,
        "under_maintenance": {},
        "blind": False,
        "blind_because": [],
        "decided_by": {"three": "b"},
        "not_probed": [],
        "not_probed_because": [],
        "stale": ["one"],
        "samples": [{"service": "one", "metric": "queue_depth", "value": 3.0}],
        "warnings": [],
        "duration_s": 0.314,
    }


def test_blind() -> None:
    """A blind pass says what it suspects, and judges no service."""
    because = ("no name could be resolved: 3 of 4", "no packet came back from 1 host")
    outcome = Outcome(
        "health",
        Result.RECORDED,
        opened=("ops_worker",),
        unprobed=("one", "two"),
        unprobed_because=("limit",),
        blind_because=because,
    )
    assert text(outcome) == (
        "health: blind, no service was judged: no name could be resolved: 3 of 4, "
        "no packet came back from 1 host; 1 alert opened: ops_worker (0.00 s)"
    )
    assert text(outcome._replace(result=Result.WAITING)) == (
        "health: waiting: an earlier health pass is still being recorded; blind, no service was "
        "judged: no name could be resolved: 3 of 4, no packet came back from 1 host (0.00 s)"
    )
    document = json.loads(as_json(outcome))
    assert (document["blind"], document["blind_because"]) == (True, [*because])
    assert (document["services"], document["not_probed"]) == ([], ["one", "two"])
    assert summary(outcome, 0)["blind"] is True


def test_json_options() -> None:
    """The document has the tags of a sample and the end of the maintenance, if they exist."""
    tagged = Sample("one", "queue_depth", 3.0, {"queue": "a"})
    outcome = Outcome("health", Result.RECORDED, samples=(tagged,), maintenance_until=WHEN)
    printed = json.loads(as_json(outcome))
    assert printed["samples"][0]["tags"] == {"queue": "a"}
    assert printed["maintenance_until"] == "2026-03-01T12:00:00+00:00"
    with_window = document(Outcome("health", Result.RECORDED, under_maintenance={"one": WHEN}))
    assert with_window["under_maintenance"] == {"one": "2026-03-01T12:00:00+00:00"}


def test_table() -> None:
    """The table lines up services, then samples, then warnings, and ends in the closing line."""
    outcome = Outcome(
        "metrics",
        Result.RECORDED,
        (ONE, TWO),
        UPDATES[1:],
        samples=SAMPLES,
        warnings=("a counter",),
    )
    assert as_table(outcome).splitlines() == [
        "SERVICE  STATE    LATENCY  SINCE                    REASON",
        "one      healthy  3 ms     -                        -",
        "two      down     -        2026-03-01 12:00:00 UTC  Connection refused",
        "",
        "SERVICE   METRIC         VALUE",
        "one       queue_depth    3",
        "postgres  db_size_bytes  12345678901",
        "",
        "warning: a counter",
        "",
        "metrics: 2 services, 1 healthy, 1 down; 2 samples written; 1 warning (0.00 s)",
    ]
    assert as_table(Outcome("health", Result.OFF)) == text(Outcome("health", Result.OFF))


@pytest.mark.unit
def test_message_is_short() -> None:
    """The termination message is one line of JSON of less than 4 KiB, whatever the outcome."""
    target = Target("ingest", "http://x/health", "ingest", ())
    many = tuple(
        Verdict(target._replace(name=f"s{n}"), 0.0, State.DOWN, "x" * 500, attempts=2)
        for n in range(200)
    )
    for result in (
        summary(Outcome("health", Result.RECORDED, many[:3]), 0),
        summary(Outcome("health", Result.RECORDED, many), 0),
        failure_summary("health", "é" * 9000, 1),
    ):
        line = message(result)
        assert len(line.encode()) < 4096
        assert json.loads(line)["exit_code"] == result["exit_code"]
    assert (
        json.loads(message(summary(Outcome("health", Result.RECORDED, many[:3]), 0)))["confirmed"]
        == 3
    )
    assert "200 probed again, 200 confirmed" in text(Outcome("health", Result.RECORDED, many))


ROLLED = Rolled(
    hours=1,
    days=2,
    rows=30,
    removed={"system_metrics": 4, "ops_worker_hour": 0},
    until=datetime(2026, 3, 1, 13, tzinfo=UTC),
    behind_s=7200.0,
)


def test_rollup() -> None:
    """The closing line says what was written and removed, and where the pass is."""
    outcome = Outcome("rollup", Result.RECORDED, rolled=ROLLED)
    assert text(outcome) == (
        "rollup: 1 hour and 2 days written, 30 rows; rows removed: 4 of system_metrics; "
        "complete until 2026-03-01 13:00 UTC; behind by 2 h; the next pass continues (0.00 s)"
    )
    assert as_table(outcome) == text(outcome)
    assert summary(outcome, 0)["summary"] == text(outcome)
    assert document(outcome)["rollup"] == {
        "hours": 1,
        "days": 2,
        "rows": 30,
        "removed": {"system_metrics": 4, "ops_worker_hour": 0},
        "until": "2026-03-01T13:00:00+00:00",
        "behind_s": 7200,
    }
    assert "rollup" not in document(Outcome("health", Result.RECORDED))


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (
            Result.DRY_RUN,
            "0 hours and 0 days would be written, 0 rows; dry run, nothing was written",
        ),
        (Result.OFF, "off: the pass of shard 0 does it for all shards"),
        (Result.WAITING, "waiting: an earlier rollup pass is still being recorded"),
        (Result.SKIPPED, "skipped: another rollup pass holds the lock; nothing was written"),
    ],
)
def test_rollup_without_work(result: Result, line: str) -> None:
    """The closing line of the rollup pass counts no services, because it probes none."""
    outcome = Outcome("rollup", result, rolled=Rolled())
    assert text(outcome) == f"rollup: {line} (0.00 s)"
    assert document(outcome)["rollup"]["until"] is None
