"""`ops-worker history`: the ledger as people, spreadsheets and scripts read it."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker import sql
from ops_worker.cli import main
from ops_worker.commands import history as command
from tests.looks import START_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database
    from tests.looks import Looks

pytestmark = pytest.mark.integration

WELL = {"a": "healthy", "b": "healthy", "c": "healthy"}
History = dict[str, Any]


@pytest.fixture
def begun(look: Looks) -> datetime:
    """Record a history of an hour with a hole of ten minutes. Return the time of its begin.

    The health pass looks every 60 s. It sees a down from 600 to 900 s, and b in a timeout once.
    The metrics pass looks every 20 s from 1820 to 2420 s, and sees a down from 2000 to 2100 s.
    """
    for second in [*range(0, 1800, 60), *range(2400, 3601, 60)]:
        states = dict(WELL)
        if 600 <= second < 900:
            states["a"] = "down"
        if second == 1200:
            states["b"] = "timeout"
        look(second, states)
    for second in range(1820, 2421, 20):
        state = "down" if 2000 <= second < 2100 else "healthy"
        look(second, WELL | {"a": state}, name="metrics", period_s=20.0)
    first: datetime = look.database.value("SELECT min(first_at) FROM ops_worker_run")
    return first.astimezone(UTC)


@pytest.fixture
def history(capsys: pytest.CaptureFixture[str]) -> Callable[..., History]:
    """Return a function that runs the command and returns its document."""

    def read(*arguments: str) -> History:
        capsys.readouterr()
        assert main(["history", "--output", "json", *arguments]) == 0
        document: History = json.loads(capsys.readouterr().out)
        return document

    return read


def period(begun: datetime, since_s: float, until_s: float) -> list[str]:
    """Return the options of a period, in seconds after the beginning of the history."""
    times = [(begun + timedelta(seconds=second)).isoformat() for second in (since_s, until_s)]
    return ["--from", times[0], "--to", times[1]]


def spans_of(entry: History, begun: datetime) -> list[tuple[object, ...]]:
    """Return the spans of an entry: state, seen, begin and end in whole seconds, class."""
    return [
        (
            span["state"],
            span["seen"],
            round((datetime.fromisoformat(span["from"]) - begun).total_seconds()),
            round((datetime.fromisoformat(span["to"]) - begun).total_seconds()),
            span["reason_class"],
        )
        for span in entry["spans"]
    ]


def test_spans(begun: datetime, history: Callable[..., History]) -> None:
    """The spans of each pass, and of both together, are as the passes saw them."""
    options = period(begun, -60, 3600)
    document = history("a", "--pass", "health", *options)
    assert list(document) == ["from", "to", "services", "actions", "maintenances"]
    assert (datetime.fromisoformat(document["from"]) - begun) == timedelta(seconds=-60)
    (entry,) = document["services"]
    assert (entry["service"], entry["pass"]) == ("a", "health")
    assert spans_of(entry, begun) == [
        ("unknown", False, -60, 0, ""),
        ("healthy", True, 0, 600, ""),
        ("down", True, 600, 900, "refused"),
        ("healthy", True, 900, 1800, ""),
        ("unknown", False, 1800, 2400, ""),
        ("healthy", True, 2400, 3600, ""),
    ]
    (entry,) = history("a", "--pass", "metrics", *options)["services"]
    assert spans_of(entry, begun) == [
        ("unknown", False, -60, 1820, ""),
        ("healthy", True, 1820, 2000, ""),
        ("down", True, 2000, 2100, "refused"),
        ("healthy", True, 2100, 2440, ""),
        ("unknown", False, 2440, 3600, ""),
    ]
    (entry,) = history("a", *options)["services"]
    assert entry["pass"] == "all"
    assert spans_of(entry, begun) == [
        ("unknown", False, -60, 0, ""),
        ("healthy", True, 0, 600, ""),
        ("down", True, 600, 900, "refused"),
        ("healthy", True, 900, 1800, ""),
        ("unknown", False, 1800, 1820, ""),
        ("healthy", True, 1820, 2000, ""),
        ("down", True, 2000, 2100, "refused"),
        ("healthy", True, 2100, 3600, ""),
    ]
    down = entry["spans"][2]
    assert down["reason"] == "Connection refused"
    earliest = datetime.fromisoformat(down["from_earliest"]) - begun
    assert abs(earliest - timedelta(seconds=540)) <= timedelta(seconds=1)


def test_in_parts(
    begun: datetime,
    history: Callable[..., History],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If services are read in parts, documents, tables and rows are the same."""
    times = period(begun, -60, 3600)
    expected = history(*times)
    texts = []
    for chunk in (200, 1):
        monkeypatch.setattr(command, "CHUNK", chunk)
        for output in ("table", "csv"):
            assert main(["history", "--output", output, *times]) == 0
            texts.append(capsys.readouterr().out)
    assert [entry["service"] for entry in expected["services"]] == ["a", "b", "c"]
    assert history(*times) == expected
    assert texts[:2] == texts[2:]


def test_sums(begun: datetime, history: Callable[..., History]) -> None:
    """The seconds of the states add up to the period, and equal those of the spans."""
    document = history(*period(begun, -60, 3600))
    assert [entry["service"] for entry in document["services"]] == ["a", "b", "c"]
    for entry in document["services"]:
        seconds = entry["seconds"]
        assert list(seconds) == ["healthy", "degraded", "down", "unknown", "unseen"]
        assert sum(seconds.values()) == pytest.approx(3660, abs=1e-4)
        availability = entry["availability"]
        seen_s = 3660 - seconds["unseen"]
        assert availability["coverage"] == pytest.approx(seen_s / 3660)
        assert availability["value"] == pytest.approx(seconds["healthy"] / seen_s)
        assert availability["least"] <= availability["value"] <= availability["most"]
    first, second, third = document["services"]
    assert first["seconds"]["down"] == pytest.approx(400, abs=1)
    assert second["seconds"]["unknown"] == pytest.approx(60, abs=1)
    assert third["availability"]["value"] == 1
    assert second["availability"]["most"] == pytest.approx(1, abs=1e-6), (
        "the timeout may have been short"
    )


def test_by_hand(look: Looks, begun: datetime, history: Callable[..., History]) -> None:
    """A span has the begin, end and reason of its row in the ledger."""
    (entry,) = history("b", "--pass", "health", *period(begun, 1000, 1500))["services"]
    (row,) = look.database.rows(
        "SELECT * FROM ops_worker_span WHERE service = 'b' AND state = 'unknown'"
    )
    after = look.database.value(
        "SELECT first_at FROM ops_worker_span WHERE service = 'b' AND pass = 'health' "
        "AND first_at > %s ORDER BY first_at",
        row["first_at"],
    )
    span = entry["spans"][1]
    assert datetime.fromisoformat(span["from"]) == row["first_at"]
    assert datetime.fromisoformat(span["to"]) == after
    assert (span["reason"], span["reason_class"]) == (row["reason"], "timeout")


def test_now(look: Looks, history: Callable[..., History]) -> None:
    """While no pass is overdue, a state counts up to now. The default is seven days."""
    look.now += -START_S - 30
    look(0, WELL)
    document = history("a")
    length = datetime.fromisoformat(document["to"]) - datetime.fromisoformat(document["from"])
    assert length == timedelta(days=7)
    (entry,) = document["services"]
    assert [span["seen"] for span in entry["spans"]] == [False, True]
    assert entry["spans"][-1]["to"] == document["to"]
    assert 30 <= entry["seconds"]["healthy"] < 60
    begun = datetime.fromisoformat(entry["spans"][-1]["from"])
    assert history("a", "--since", begun.isoformat())["services"][0]["seconds"]["unseen"] == 0
    recent = history("a", "--since", "10s")
    assert recent["services"][0]["seconds"]["healthy"] == 10
    day = history("a", "--until", "1s")
    assert day["services"][0]["seconds"]["unseen"] > 6.9 * 86_400


@pytest.mark.usefixtures("look")
def test_table(
    begun: datetime,
    capsys: pytest.CaptureFixture[str],
    history: Callable[..., History],
) -> None:
    """For people: a line for each span of the document, in 80 columns."""
    document = history(*period(begun, -60, 3600))
    assert main(["history", *period(begun, -60, 3600)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert re.fullmatch(r"[\d: -]+ to [\d: -]+ UTC, as all passes saw it", lines[0])
    assert lines[1].split() == ["SERVICE", "STATE", "FROM", "TO", "LASTED", "BOUNDS/REASON"]
    rows = [line.split() for line in lines[2:] if re.match(r"[abc] ", line)]
    assert [(row[0], row[1]) for row in rows] == [
        (entry["service"], span["state"] if span["seen"] else "unseen")
        for entry in document["services"]
        for span in entry["spans"]
    ]
    assert any(
        re.match(r"a +down .* [45] min.* -(1 min|60 s) Connection r", line) for line in lines
    )
    shares = [line for line in lines if ": healthy " in line]
    assert re.fullmatch(r"a: healthy 8\d\.\d+ % \(8\S+ % to \S+ %\), seen \S+ % of time", shares[0])
    assert len(shares) == 3


@pytest.mark.parametrize(("columns", "width"), [(60, 80), (130, 130)])
def test_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, width: int) -> None:
    """A wide terminal is used in full; a narrow one gets the width for a pipe."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert command._width() == width


def test_csv(
    begun: datetime, capsys: pytest.CaptureFixture[str], history: Callable[..., History]
) -> None:
    """For spreadsheets: a row for each span of the document, with all its fields."""
    document = history(*period(begun, -60, 3600))
    assert main(["history", "--output", "csv", *period(begun, -60, 3600)]) == 0
    text = capsys.readouterr().out
    rows = [*csv.DictReader(io.StringIO(text, newline=""))]
    assert [
        {
            "service": entry["service"],
            "pass": "all",
            **span,
            "seen": str(span["seen"]).lower(),
        }
        for entry in document["services"]
        for span in entry["spans"]
    ] == [{key: row[key] for key in row if key != "seconds"} for row in rows]
    assert sum(float(row["seconds"]) for row in rows) == pytest.approx(3 * 3660, abs=1e-3)


def test_removed_services(
    look: Looks,
    begun: datetime,
    history: Callable[..., History],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`history` does not list a pruned service, but shows its history by its name."""
    look.services("a", "b")
    look(3660, {"a": "healthy", "b": "healthy"})
    listed = history(*period(begun, 0, 3600))["services"]
    assert [entry["service"] for entry in listed] == ["a", "b", "c"], "its row is still there"
    assert main(["alerts", "prune"]) == 0
    listed = history(*period(begun, 0, 3600))["services"]
    assert [entry["service"] for entry in listed] == ["a", "b"]
    (entry,) = history("c", *period(begun, 0, 4000))["services"]
    assert entry["seconds"]["healthy"] == pytest.approx(3660 - 20, abs=1)
    assert entry["spans"][-1]["seen"] is False
    capsys.readouterr()


@pytest.mark.usefixtures("begun")
def test_unknown_service(look: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown service is refused with a suggestion, as in `explain`."""
    look.services("ingest", "evaluator")
    for name, hint in (("ingset", "did you mean ingest?"), ("x", "monitored services: ")):
        assert main(["history", name]) == 2
        assert hint in capsys.readouterr().err
    assert main(["history", "ingest"]) == 0, "it is monitored, and nobody has looked yet"
    assert capsys.readouterr().out.endswith("ingest: nobody looked\n")


def test_series_name(look: Looks, history: Callable[..., History]) -> None:
    """A service is found by its name in system_metrics as well."""
    (look.folder / "catalogue.toml").write_text("")
    for name in ("INGEST", "EVALUATOR", "DISPATCHER", "DELIVERY"):
        look.env.setenv(f"{name}_HEALTH_URL", "http://127.0.0.1:1")
    look(0, {"delivery_worker": "healthy"}, name="metrics")
    assert history("delivery", "--since", "2d")["services"][0]["service"] == "delivery_worker"


@pytest.mark.usefixtures("begun")
def test_period(capsys: pytest.CaptureFixture[str]) -> None:
    """A period is refused if it is empty, not in the past, or given twice."""
    for arguments, problem in (
        (["--to", "2999-01-01"], "2999-01-01T00:00:00Z: this time is in the future; the database"),
        (["--from", "2998-01-01"], "2998-01-01T00:00:00Z: this time is in the future"),
        (["--since", "1h", "--to", "2h"], "is empty; the database's clock says "),
        (["--since", "0"], "is empty"),
        (["--since", "1h", "--from", "2h"], "argument --from: not allowed with argument --since"),
        (["--since", "soon"], "soon is not a time; write 2026-03-01, "),
        (["--pass", "helth"], "did you mean health?"),
    ):
        assert main(["history", *arguments]) == 2
        assert problem in capsys.readouterr().err


def test_nothing_recorded(look: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the tables of the ledger, the message says how to create them."""
    assert main(["history"]) == 3
    assert re.search(
        r"no table ops_worker_run, ops_worker_span in database \S+ for role \w+: run "
        r"`ops-worker init-db`; passes create the tables of the ledger as well",
        capsys.readouterr().err,
    )
    assert main(["init-db"]) == main(["history"]) == 0
    assert capsys.readouterr().out.endswith("no pass has recorded anything yet\n")
    look.database.rows("DROP TABLE service_health CASCADE")
    assert main(["history", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["services"] == []


@pytest.mark.usefixtures("begun")
def test_without_the_right_to_read(look: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """If the role may not read the ledger, the error names the table."""
    look.database.rows("CREATE ROLE ops_blind LOGIN PASSWORD 'x' BYPASSRLS")
    look.env.setenv("DATABASE_URL", look.database.as_user("ops_blind"))
    try:
        assert main(["history"]) == 3
        assert "permission denied for table ops_worker_span" in capsys.readouterr().err
    finally:
        look.database.rows("DROP ROLE ops_blind")


ODD = {
    "an open span from the future": (
        "UPDATE ops_worker_span SET first_at = 'infinity' WHERE last_at IS NULL"
    ),
    "spans without an end": "UPDATE ops_worker_span SET last_at = 'infinity'",
    "spans of all time": "UPDATE ops_worker_span SET first_at = '-infinity', last_at = 'infinity'",
    "spans before all time": "UPDATE ops_worker_span SET last_at = '-infinity'",
    "spans that end before they begin": (
        "UPDATE ops_worker_span SET last_at = first_at - interval '1 day'"
    ),
    "spans of runs that are gone": "UPDATE ops_worker_span SET run = -1, last_run = NULL",
    "words that no pass writes": (
        "UPDATE ops_worker_span SET state = 'sleepy', reason = E'a\\nb\\x1b[31m'"
    ),
    "runs of all time": "UPDATE ops_worker_run SET first_at = '-infinity', last_at = 'infinity'",
    "runs before all time": (
        "UPDATE ops_worker_run SET first_at = '-infinity', last_at = '-infinity'"
    ),
    "runs that end before they begin": (
        "UPDATE ops_worker_run SET last_at = first_at - interval '1 year'"
    ),
    "runs in the year 20000": (
        "UPDATE ops_worker_run SET first_at = '20000-01-01', last_at = '20000-01-02'"
    ),
    "periods that are no number": "UPDATE ops_worker_run SET period_s = 'NaN'",
    "infinite periods": "UPDATE ops_worker_run SET period_s = 'infinity'",
    "negative periods": "UPDATE ops_worker_run SET period_s = -1e300",
    "no runs": "DELETE FROM ops_worker_run",
    "shards without sense": "UPDATE ops_worker_run SET shard = id::text, passes = -1",
    "a ledger of another installation": "UPDATE ops_worker_run SET installation = 'other'",
}


@pytest.mark.parametrize("statement", ODD.values(), ids=ODD)
def test_odd_rows(
    look: Looks, history: Callable[..., History], capsys: pytest.CaptureFixture[str], statement: str
) -> None:
    """With odd rows, from a person or a backup, the command succeeds, and its sums add up."""
    for second, state in ((0, "healthy"), (60, "down"), (120, "healthy"), (1000, "healthy")):
        for name in ("health", "metrics"):
            look(second, WELL | {"a": state}, name=name)
    look.database.rows(statement)
    for since in ("2d", "10y"):
        for name in ("all", "health"):
            document = history("--pass", name, "--since", since)
            ends = [datetime.fromisoformat(document[key]) for key in ("from", "to")]
            for entry in document["services"]:
                total_s = sum(entry["seconds"].values())
                assert total_s == pytest.approx((ends[1] - ends[0]).total_seconds(), abs=1e-3)
                spans = entry["spans"]
                assert (spans[0]["from"], spans[-1]["to"]) == (document["from"], document["to"])
                for earlier, later in pairwise(spans):
                    assert earlier["to"] == later["from"]
    assert main(["history", "--since", "2d"]) == main(["history", "--output", "csv"]) == 0
    assert "\x1b" not in capsys.readouterr().out.partition("service,pass")[0]


def test_reads_by_index(look: Looks, begun: datetime) -> None:
    """The spans of one service are read by an index, also among many other services."""
    database: Database = look.database
    database.rows(
        "INSERT INTO ops_worker_span (pass, service, state, first_at, first_no, run, last_at) "
        "SELECT 'health', 's' || n % 2000, 'healthy', now() - n * interval '1 min', 1, 1, now() "
        "FROM generate_series(1, 20000) AS n"
    )
    database.rows("ANALYZE ops_worker_span")
    parameters = {
        "pass": "health",
        "services": ["a"],
        "since": begun,
        "until": begun + timedelta(hours=1),
        "latest": begun + timedelta(days=9),
        "margin_s": 90.0,
    }
    with psycopg.connect(database.url) as connection:
        statement = "EXPLAIN " + sql.queries()["ledger_spans"]
        plan = "\n".join(row[0] for row in connection.execute(statement.encode(), parameters))
    assert "ops_worker_span_service" in plan
    assert "Seq Scan" not in plan
