"""The documents of `history`: keys, formats, the table for people and the rows of CSV."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.core.ledger import Run, Span
from ops_worker.history.documents import as_json
from ops_worker.history.ledger import CSV_HEAD, LedgerPeriod, LedgerRows, Table, csv_rows, documents

pytestmark = pytest.mark.unit

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a time after the beginning."""
    return BEGUN + timedelta(seconds=seconds)


def span(number: int, state: str, first: float, last: float | None, reason: str = "") -> Span:
    """Return a span of service `a` in run 1."""
    return Span(
        id=number,
        service="a",
        state=state,
        reason_class="refused" if reason else "",
        reason=reason,
        first_at=at(first),
        first_no=1,
        run=1,
        last_at=None if last is None else at(last),
        last_no=None if last is None else 1,
        last_run=None if last is None else 1,
    )


RUN = Run(1, 60.0, "c", at(60), at(600), 10)
ROWS = LedgerRows(
    now=at(600),
    since=at(0),
    until=at(600),
    services=["a"],
    runs={"health": [RUN], "metrics": []},
    spans={
        "health": [
            span(1, "healthy", 60, 120),
            span(2, "down", 180, 240, "Connection refused"),
            span(3, "healthy", 300, None),
        ],
        "metrics": [],
    },
)


@pytest.mark.parametrize("name", ["health", "all"])
def test_document(name: str) -> None:
    """The keys, their order and the formats do not change: other programs rely on them."""
    expected = {
        "service": "a",
        "pass": name,
        "spans": [
            {
                "state": "unknown",
                "reason": "",
                "reason_class": "",
                "seen": False,
                "from": "2026-03-01T00:00:00+00:00",
                "to": "2026-03-01T00:01:00+00:00",
                "from_earliest": "2026-03-01T00:00:00+00:00",
                "to_latest": "2026-03-01T00:01:00+00:00",
            },
            {
                "state": "healthy",
                "reason": "",
                "reason_class": "",
                "seen": True,
                "from": "2026-03-01T00:01:00+00:00",
                "to": "2026-03-01T00:03:00+00:00",
                "from_earliest": "2026-03-01T00:01:00+00:00",
                "to_latest": "2026-03-01T00:03:00+00:00",
            },
            {
                "state": "down",
                "reason": "Connection refused",
                "reason_class": "refused",
                "seen": True,
                "from": "2026-03-01T00:03:00+00:00",
                "to": "2026-03-01T00:05:00+00:00",
                "from_earliest": "2026-03-01T00:02:00+00:00",
                "to_latest": "2026-03-01T00:05:00+00:00",
            },
            {
                "state": "healthy",
                "reason": "",
                "reason_class": "",
                "seen": True,
                "from": "2026-03-01T00:05:00+00:00",
                "to": "2026-03-01T00:10:00+00:00",
                "from_earliest": "2026-03-01T00:04:00+00:00",
                "to_latest": "2026-03-01T00:10:00+00:00",
            },
        ],
        "seconds": {
            "healthy": 420.0,
            "degraded": 0.0,
            "down": 120.0,
            "unknown": 0.0,
            "unseen": 60.0,
        },
        "availability": {
            "value": 420 / 540,
            "least": 360 / 540,
            "most": 480 / 540,
            "coverage": 0.9,
        },
    }
    (document,) = documents(ROWS, name)
    assert json.dumps(as_json(document)) == json.dumps(expected)


def test_all_takes_the_finer_stream_where_it_knows() -> None:
    """The timeline of the metrics pass counts where it knows, else that of the health pass."""
    runs = {**ROWS.runs, "metrics": [Run(1, 5.0, "c", at(200), at(280), 17)]}
    spans = {**ROWS.spans, "metrics": [span(1, "healthy", 200, 280)]}
    (document,) = documents(ROWS._replace(runs=runs, spans=spans), "all")
    assert [(s.state, (s.to - s.from_).total_seconds()) for s in document.spans] == [
        ("unknown", 60),
        ("healthy", 120),
        ("down", 20),
        ("healthy", 85),
        ("down", 15),
        ("healthy", 300),
    ]


def lines(rows: LedgerRows, name: str = "health", width: int = 80) -> list[str]:
    """Return the lines of the table."""
    table = Table(LedgerPeriod(*rows[:4]), name, width=width)
    text = [*table.heading()]
    for document in documents(rows, name):
        text += table.lines(document)
    return text


def test_table() -> None:
    """Each span has a line with its bounds, the newest last. The availability follows."""
    assert (
        "\n".join(lines(ROWS))
        == """\
2026-03-01 00:00:00 to 2026-03-01 00:10:00 UTC, as the health pass saw it
SERVICE STATE    FROM           TO             LASTED      BOUNDS/REASON
a       unseen   03-01 00:00:00 03-01 00:01:00 1 min
a       healthy  03-01 00:01:00 03-01 00:03:00 2 min
a       down     03-01 00:03:00 03-01 00:05:00 2 min       -1 min Connection re…
a       healthy  03-01 00:05:00 03-01 00:10:00 5 min       -1 min
a: healthy 77.777 % (66.666 % to 88.888 %), seen 90 % of time"""
    )


def test_table_of_the_unseen() -> None:
    """A service that was never seen has no availability."""
    assert lines(ROWS._replace(spans={"health": []}))[-2:] == [
        "a       unseen   03-01 00:00:00 03-01 00:10:00 10 min",
        "a: nobody looked",
    ]


def test_table_across_a_hole() -> None:
    """The end of a state before unseen time is not certain."""
    runs = {"health": [RUN._replace(last_at=at(120)), Run(2, 60.0, "c", at(540), at(600), 2)]}
    rows = ROWS._replace(runs=runs, spans={"health": [span(1, "healthy", 60, None)]})
    assert [line[57:] for line in lines(rows)[3:]] == ["  +6 min", "", "  -7 min", ""]


def test_table_of_a_long_period() -> None:
    """Over more than a year, times have a year and no seconds."""
    rows = ROWS._replace(since=at(-400 * 86_400))
    assert "2025-01-25 00:00 2026-03-01 00:01" in lines(rows)[2]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("service", "start"),
    [
        ("a-service-with-a-long-name" * 3, "a-service-with-… "),
        ("監視サービス" * 9, "監視サービス監…  "),  # a character takes two columns
    ],
)
def test_table_fits(width: int, service: str, start: str) -> None:
    """No line is wider than the screen, whatever the names and reasons. A cut text has a mark."""
    spans = [
        span._replace(service=service, reason="拒否" * 150, state="down")
        for span in ROWS.spans["health"]
    ]
    text = lines(ROWS._replace(services=[service], spans={"health": spans}), width=width)
    columns = [
        sum(2 if unicodedata.east_asian_width(character) == "W" else 1 for character in line)
        for line in text
    ]
    assert max(columns) <= width
    assert all(line.startswith(start.rstrip()) for line in text[2:])
    assert text[3].startswith(start)
    assert text[3].endswith("…")
    assert columns[3] in {width - 1, width}


def test_csv() -> None:
    """Each span has a row with all fields, quoted as RFC 4180 says. No cell is a formula."""
    spans = [
        span(1, "healthy", 60, 120),
        span(2, "down", 180, 240, '=HYPERLINK("http://x", "y")'),
        span(3, "down", 300, 360, "@SUM(1)")._replace(reason_class="+x"),
        span(4, "down", 420, None, "-1, or\n2")._replace(reason_class="name"),
    ]
    (document,) = documents(ROWS._replace(spans={"health": spans}), "health")
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(CSV_HEAD)
    writer.writerows(csv_rows(document))
    text = file.getvalue()
    assert text.startswith(
        "service,pass,state,reason,reason_class,seen,from,to,from_earliest,to_latest,seconds\r\n"
        "a,health,unknown,,,false,2026-03-01T00:00:00+00:00,2026-03-01T00:01:00+00:00,"
        "2026-03-01T00:00:00+00:00,2026-03-01T00:01:00+00:00,60.0\r\n"
    )
    rows = [*csv.DictReader(io.StringIO(text, newline=""))]
    assert [row["reason"] for row in rows] == [
        "",
        "",
        '\'=HYPERLINK("http://x", "y")',
        "'@SUM(1)",
        "'-1, or\n2",
    ]
    assert [row["reason_class"] for row in rows] == ["", "", "refused", "'+x", "name"]
    assert sum(float(row["seconds"]) for row in rows) == 600


@pytest.mark.parametrize("moment", [FIRST, LAST])
def test_odd_times(moment: datetime) -> None:
    """A period that begins or ends with the calendar raises no error."""
    since, until = min(moment, at(0)), max(moment, at(0))
    (document,) = documents(ROWS._replace(since=since, until=until), "all")
    assert (document.spans[0].from_, document.spans[-1].to) == (since, until)
    assert lines(ROWS._replace(since=since, until=until))
