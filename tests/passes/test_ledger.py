"""The ledger that passes write: its rows, their number, and a comparison with a full record."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ops_worker.adapters.postgres import Store
from ops_worker.core.ledger import Run, Span
from ops_worker.core.model import Result
from ops_worker.core.passes import HEALTH
from ops_worker.core.shards import shard_of
from ops_worker.core.timeline import Coverage
from ops_worker.errors import OpsWorkerError
from tests.looks import NO_BUILTIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from tests.looks import Looks

pytestmark = pytest.mark.integration

HISTORIES = 100 if os.environ.get("OPS_TEST_FULL") else 12
JITTER = timedelta(seconds=1.25)
STATES = ("healthy", "down", "timeout", "http 503")
SERVICES = "abcdef"
NAMES = {"healthy": "healthy", "down": "down", "timeout": "unknown", "http 503": "degraded"}


@pytest.mark.parametrize("name", ["health", "metrics"])
def test_rows(look: Looks, name: str) -> None:
    """Spans are written when a state or its class changes. A run counts the passes."""
    well = {"a": "healthy", "b": "healthy", "c": "healthy"}
    for second, changed in enumerate([{}, {"b": "down"}, {"b": "down"}, {"b": "http 503"}, {}]):
        look(60 * second, well | changed, name=name)
    (run,) = look.rows("ops_worker_run")
    assert (run["pass"], run["shard"], run["installation"]) == (name, "0/1", "ops-worker")
    assert (run["period_s"], run["passes"]) == (60.0, 5)
    length = run["last_at"] - run["first_at"]
    assert abs(length - timedelta(seconds=240)) < JITTER, "each pass reads both clocks anew"
    assert look.spans() == [
        ("a", "healthy", "", 1, None),
        ("b", "healthy", "", 1, 1),
        ("b", "down", "refused", 2, 3),
        ("b", "degraded", "http_503", 4, 4),
        ("b", "healthy", "", 5, None),
        ("c", "healthy", "", 1, None),
    ]
    (config,) = look.database.rows("SELECT * FROM ops_worker_config")
    assert run["config"] == config["config"]
    assert config["document"]["services"]["a"]["url"] == "http://127.0.0.1:1/health"


def test_a_changed_number_is_no_change(look: Looks) -> None:
    """A reason that differs only in a number has the same class, and the span continues."""
    for second in (0, 60, 120):
        look(second, {"a": "timeout"})
    ((service, state, reason_class, first, last),) = look.spans()
    assert (service, state, reason_class, first, last) == ("a", "unknown", "timeout", 1, None)


def test_a_hole_costs_one_row(look: Looks) -> None:
    """A gap without passes begins a new run, but no new span."""
    for second in (0, 60, 6000):
        look(second, {"a": "healthy", "b": "down"})
    assert [row["passes"] for row in look.rows("ops_worker_run")] == [2, 1]
    assert len(look.spans()) == 2


def test_not_probed(look: Looks) -> None:
    """The span of a service that a pass left out ends with its last sight."""
    look(0, {"a": "healthy", "b": "healthy"})
    look(60, {"a": "healthy"})
    look(120, {"a": "healthy", "b": "healthy"})
    assert look.spans() == [
        ("a", "healthy", "", 1, None),
        ("b", "healthy", "", 1, 1),
        ("b", "healthy", "", 3, None),
    ]


def test_dry_run(look: Looks) -> None:
    """A dry run writes nothing and creates no table."""
    look(0, {"a": "down"}, dry_run=True)
    tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'ops_worker_span%'"
    assert (look.database.value(tables), len(look.sightings)) == (0, 0)


def test_secrets_are_not_in_the_configuration(look: Looks) -> None:
    """The document of the configuration has header names, but no header values or passwords."""
    (look.folder / "catalogue.toml").write_text(
        NO_BUILTIN
        + '[services.a]\nurl = "http://user:hush@127.0.0.1:1/x"\nheaders = {Token = "hush"}\n'
    )
    look(0, {"a": "healthy"})
    text = look.database.value("SELECT document::text FROM ops_worker_config")
    assert "hush" not in text
    assert "Token" in text


def test_configuration_begins_a_run(look: Looks) -> None:
    """Another set of services is another configuration. Spans of the common services continue."""
    look(0, {"a": "healthy", "b": "down"})
    look.services("a", "b", "d")
    look(60, {"a": "healthy", "b": "down", "d": "down"})
    assert [row["passes"] for row in look.rows("ops_worker_run")] == [1, 1]
    assert len(look.spans()) == 3
    assert look.database.value("SELECT count(*) FROM ops_worker_config") == 2


@pytest.mark.parametrize("name", ["health", "metrics"])
def test_passes_wait_for_the_database(look: Looks, name: str) -> None:
    """Passes of a loop that could not be recorded are written with the next one, in order."""
    look(0, {"a": "healthy"}, name=name)
    for second, state in ((60, "healthy"), (120, "down"), (180, "down"), (240, "healthy")):
        with pytest.raises(OpsWorkerError):
            look(second, {"a": state}, name=name, url="postgresql://a:b@127.0.0.1:9/x")
    look(300, {"a": "healthy"}, name=name)
    assert look.spans() == [
        ("a", "healthy", "", 1, 2),
        ("a", "down", "refused", 3, 4),
        ("a", "healthy", "", 5, None),
    ]
    assert [row["passes"] for row in look.rows("ops_worker_run")] == [6]
    assert len(look.sightings) == 0


def test_skipped(look: Looks) -> None:
    """A pass that is skipped, because another process holds the lock, is not written later."""
    look(0, {"a": "healthy"})
    with contextlib.closing(Store({"conninfo": look.database.url})) as other_store:
        outcome = other_store.write(HEALTH.transaction, lambda _: look(60, {"a": "down"}))
    assert outcome is not None
    assert outcome.result is Result.SKIPPED
    look(120, {"a": "healthy"})
    assert look.spans() == [("a", "healthy", "", 1, None)]


def test_entered_twice(look: Looks) -> None:
    """Passes that the ledger already has, after a COMMIT without an answer, change nothing."""
    look(0, {"a": "healthy", "b": "down"})
    before = (look.rows("ops_worker_run"), look.spans())
    look.now -= 5
    look(0, {"a": "down", "b": "healthy"})
    assert (look.rows("ops_worker_run"), look.spans()) == before


def test_without_the_right_to_create(look: Looks) -> None:
    """If the role may not create tables, passes record everything but the history."""
    look(0, {"a": "healthy"})
    look.database.rows("DROP TABLE ops_worker_run, ops_worker_span, ops_worker_config")
    look.database.rows("CREATE ROLE ops_small LOGIN BYPASSRLS PASSWORD 'x'")
    look.database.rows("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ops_small")
    look.database.rows("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ops_small")
    try:
        outcome = look(60, {"a": "down"}, url=look.database.as_user("ops_small"))
        assert (outcome.result, outcome.opened) == (Result.RECORDED, ("a",))
    finally:
        look.database.rows("DROP OWNED BY ops_small")
        look.database.rows("DROP ROLE ops_small")


def test_a_ledger_that_fails(look: Looks) -> None:
    """A failure of the ledger is a warning. The pass is written to the ledger later."""
    look(0, {"a": "healthy"})
    look.database.rows("ALTER TABLE ops_worker_span RENAME COLUMN state TO states")
    outcome = look(60, {"a": "down"})
    assert (outcome.result, outcome.opened) == (Result.RECORDED, ("a",))
    (warning,) = outcome.warnings
    assert warning.startswith("the history of the services is not recorded: column ")
    look.database.rows("ALTER TABLE ops_worker_span RENAME COLUMN states TO state")
    look(120, {"a": "down"})
    assert look.spans() == [
        ("a", "healthy", "", 1, 1),
        ("a", "down", "refused", 2, None),
    ]


@pytest.mark.parametrize("name", ["health", "metrics"])
@pytest.mark.parametrize("count", [10, 1000])
def test_nothing_changed(
    look: Looks, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """A pass without changes updates one row of the ledger, for any number of services."""
    names = [f"s{number}" for number in range(count)]
    look.services(*names)
    states = dict.fromkeys(names, "healthy") | {"s3": "down"}
    look(0, states, name=name)
    counts: list[dict[str, Any]] = []
    commit = Store._commit

    def counted(store: Store, connection: psycopg.Connection[Any], xid: str | None) -> None:
        """Count the rows that this transaction wrote, then commit."""
        counts.extend(connection.execute(WRITTEN).fetchall())
        commit(store, connection, xid)

    monkeypatch.setattr(Store, "_commit", counted)
    look.close()  # a new connection: an older one also counts earlier transactions
    look(60, states, name=name)
    assert counts == [
        {"relname": "ops_worker_config", "inserted": 0, "updated": 0, "deleted": 0},
        {"relname": "ops_worker_run", "inserted": 0, "updated": 1, "deleted": 0},
        {"relname": "ops_worker_span", "inserted": 0, "updated": 0, "deleted": 0},
    ]


WRITTEN = """
SELECT relname, n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_del AS deleted
FROM pg_stat_xact_user_tables
WHERE relname IN ('ops_worker_run', 'ops_worker_span', 'ops_worker_config')
ORDER BY relname
"""


class Recorded(NamedTuple):
    """A pass of the full record: its time and period in seconds, its states, and its shard."""

    second: float
    period_s: float
    states: dict[str, str]
    shard: str = "0/1"


def looked_up(record: list[Recorded], service: str, second: float, now: float) -> str:
    """Return the state of a service at a second, by the full record of passes."""
    passes = [entry for entry in record if service in entry.states]
    last = max((entry for entry in passes if entry.second <= second), default=None)
    if last is None or second >= now:
        return "unseen"
    after = min((entry for entry in passes if entry.second > second), default=None)
    is_near = second < last.second + last.period_s
    if after is not None:
        patience_s = 3 * max(last.period_s, after.period_s)
        is_near = is_near or after.second - last.second <= patience_s
    elif last is max(
        (entry for entry in record if entry.shard == last.shard), key=lambda entry: entry.second
    ):
        is_near = is_near or now - last.second <= 3 * last.period_s
    return last.states[service] if is_near else "unseen"


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_equals_a_record_of_every_pass(look: Looks, seed: int) -> None:
    """The ledger has for each second the state that a full record of passes has.

    The histories have gaps, services that were not probed, outages in which passes wait, late and
    repeated passes, and changes of the period. No gap is close to the patience, because two clocks
    of a busy machine could disagree about it.
    """
    chance = random.Random(seed)
    record: list[Recorded] = []
    states = dict.fromkeys("abc", "healthy")
    second = 0.0
    period_s = 600.0
    is_away = False
    for _ in range(60):
        second += 2.5 + chance.choice([period_s] * 3 + [period_s + 70, 950, 1810, 6000])
        if chance.random() < 0.1:
            period_s = chance.choice([600.0, 200.0])
        for service in "abc":
            if chance.random() < 0.15:
                states[service] = chance.choice(STATES)
        probed = {name: state for name, state in states.items() if chance.random() < 0.93}
        if not probed:
            continue
        is_away = chance.random() < (0.7 if is_away else 0.1)
        url = "postgresql://a:b@127.0.0.1:9/x" if is_away else ""
        with contextlib.suppress(OpsWorkerError):
            look(second, probed, period_s=period_s, url=url)
        record.append(Recorded(second, period_s, dict(probed)))
        if chance.random() < 0.1:  # late or repeated
            with contextlib.suppress(OpsWorkerError):
                look(
                    second - chance.choice([20, 300, 5000]),
                    dict.fromkeys(probed, "timeout"),
                    url=url,
                )
    look(second + 30, states, period_s=period_s)
    record.append(Recorded(second + 30, period_s, dict(states)))
    assert len(look.sightings) == 0
    compare(look, record, second + 5000)


def look_in_shards(
    look: Looks, second: float, shards: int, states: dict[str, str], *, apart_s: float = 5.0
) -> list[Recorded]:
    """Run the passes of all shards one after the other. Return what they saw."""
    passes = []
    for shard in range(shards):
        look.env.setenv("SHARD_COUNT", str(shards))
        look.env.setenv("JOB_COMPLETION_INDEX", str(shard))
        probed = {name: state for name, state in states.items() if shard_of(name, shards) == shard}
        moment = second + apart_s * shard
        look(moment, probed, period_s=600.0)
        passes.append(Recorded(moment, 600.0, probed, f"{shard}/{shards}"))
    return passes


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_resharded(look: Looks, seed: int) -> None:
    """The ledger equals the record while the number of shards and the services change.

    A service moves to another shard with its history. Each number of shards returns later, and
    its shards then find their earlier spans.
    """
    chance = random.Random(seed)
    record: list[Recorded] = []
    states = dict.fromkeys(SERVICES, "healthy")
    monitored = set(SERVICES[:4])
    shards = 1
    second = 0.0
    for _ in range(40):
        second += 20 + chance.choice([600.0] * 4 + [670, 950, 1810, 6000])
        if chance.random() < 0.25:
            shards = {1: 3, 3: 2, 2: 1}[shards]
        if chance.random() < 0.15:
            monitored ^= {chance.choice(SERVICES)}
        look.services(*sorted(monitored))
        for service in SERVICES:
            if chance.random() < 0.15:
                states[service] = chance.choice(STATES)
        probed = {name: states[name] for name in sorted(monitored)}
        record += look_in_shards(look, second, shards, probed)
    compare(look, record, second + 5000, SERVICES)


def test_resharded_and_back(look: Looks) -> None:
    """A number of shards that returns after one pass continues its spans."""
    record: list[Recorded] = []
    shards = [1, 1, 3, 1, 1, 1, 2, 2, 1, 1]
    for number, count in enumerate(shards):
        states = dict.fromkeys("abc", "healthy" if count == 1 else "down")
        record += look_in_shards(look, 600.0 * number, count, states, apart_s=0.0)
    compare(look, record, 600.0 * len(shards))


def compare(
    look: Looks, record: list[Recorded], now_s: float, services: Sequence[str] = "abc"
) -> None:
    """Compare the timelines of the database with the record of passes, at every change."""
    columns = ", ".join(Run._fields)
    runs = [Run(**row) for row in look.database.rows(f"SELECT {columns} FROM ops_worker_run")]
    columns = ", ".join(Span._fields)
    spans = [Span(**row) for row in look.database.rows(f"SELECT {columns} FROM ops_worker_span")]
    begun = min(run.first_at for run in runs) - timedelta(seconds=record[0].second)

    def at(second: float) -> datetime:
        """Return the time of a second in the history."""
        return begun + timedelta(seconds=second)

    moments = {0.0, now_s, *(entry.second for entry in record)}
    moments |= {entry.second + entry.period_s for entry in record}
    coverage = Coverage(runs, at(now_s))
    for service in services:
        pieces = coverage.timeline(
            [span for span in spans if span.service == service], at(0), at(now_s + 1000)
        )
        for earlier, later in itertools.pairwise(pieces):
            assert earlier.ended == later.begun
        for second in sorted(moments):
            # Events are 2.5 s apart or simultaneous, give or take the jitter of two clocks.
            middle = at(second) + JITTER
            (state,) = {piece.state for piece in pieces if piece.begun <= middle < piece.ended}
            expected = looked_up(record, service, second + JITTER.total_seconds(), now_s)
            assert state == NAMES.get(expected, expected), (service, second)
