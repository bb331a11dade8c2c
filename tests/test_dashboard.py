"""Tests of the Grafana dashboard: the SQL of each panel runs on the real schema.

The values are compared with those of the commands. No Grafana runs here: `expanded` replaces
variables and macros as the documentation of Grafana's PostgreSQL data source describes it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import kubernetes_validate
import psycopg
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from ops_worker.cli import main
from ops_worker.core.installations import DEFAULT
from ops_worker.core.ledger import UNSEEN, Run, Span
from ops_worker.core.staleness import stale_after_s
from ops_worker.core.timeline import availability
from ops_worker.history.ledger import LedgerRows, timelines
from ops_worker.text import percent_rounded_down
from tests import dashboard
from tests.commands.test_history import ODD
from tests.core.test_totals import Block, blocks, moved, rows
from tests.looks import START_S
from tests.passes.test_installations import Installation
from tests.recorder import BEGUN, Recorder, at, sight
from tests.render import SCHEMAS
from tests.seed_history import seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.conftest import Database
    from tests.looks import Looks

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
DOCUMENT = dashboard.dashboard()
PANELS: dict[str, dict[str, Any]] = {
    panel["title"]: panel for panel in DOCUMENT["panels"] if panel["type"] != "row"
}
MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^\)]*)\)")
"""Matches a macro and its arguments, as Grafana does."""
MAX_APPLIED_BYTES = 262_144
"""The most bytes in all annotations of an object. `kubectl apply` stores the object in one."""
Row = dict[str, Any]


class Choice(NamedTuple):
    """The choices at the top of the dashboard, and the width of a bucket of its charts."""

    since: datetime
    until: datetime
    services: Sequence[str] = ()
    slo: str = "99.9"
    figures: Sequence[str] = ()
    interval_s: float = 60.0


def expanded(sql: str, choice: Choice) -> str:
    """Return a statement as Grafana sends it: with its variables and macros replaced.

    Variables are replaced first. Values of a multi-value variable are quoted and separated by
    commas. Then the macros of the PostgreSQL data source are replaced; an unknown one is an error.
    """
    variables = {
        "service": ",".join(map(_quoted, choice.services)),
        "figure": ",".join(map(_quoted, choice.figures)),
        "slo": choice.slo,
        "__interval_ms": str(round(choice.interval_s * 1000)),
    }
    sql = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), sql)
    since, until = (
        f"'{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z'" for time in (choice.since, choice.until)
    )

    def macro(match: re.Match[str]) -> str:
        """Return the text that replaces a macro."""
        expansions = {
            "__timeFrom": since,
            "__timeTo": until,
            "__timeFilter": f"{match[2]} BETWEEN {since} AND {until}",
        }
        return expansions[match[1]]

    return MACRO.sub(macro, sql)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def query_panel(connection: psycopg.Connection[Row], title: str, choice: Choice) -> list[Row]:
    """Return the rows of a panel; assert that all placeholders in its statement are replaced."""
    sql = expanded(PANELS[title]["targets"][0]["rawSql"], choice)
    assert "$__" not in sql and "@" not in sql
    return connection.execute(sql.encode()).fetchall()


@contextlib.contextmanager
def reading(url: str) -> Iterator[psycopg.Connection[Row]]:
    """Connect as Grafana does, without a transaction."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def panel_rows(url: str, title: str, choice: Choice) -> list[Row]:
    """Return the rows of a panel on a connection of its own."""
    with reading(url) as connection:
        return query_panel(connection, title, choice)


# The file.


@pytest.mark.unit
def test_file_is_current() -> None:
    """The file is the output of the builder."""
    assert dashboard.is_current(), "run `make render`"
    assert json.loads(dashboard.FILE.read_text(encoding="utf-8")) == DOCUMENT


@pytest.mark.unit
def test_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A changed or missing file is out of date."""
    monkeypatch.setattr(dashboard, "FILE", tmp_path / "dashboard.json")
    assert not dashboard.is_current()
    dashboard.FILE.write_text(dashboard.text().replace("States", "Conditions"), encoding="utf-8")
    assert not dashboard.is_current()
    dashboard.FILE.write_text(dashboard.text(), encoding="utf-8")
    assert dashboard.is_current()


@pytest.mark.unit
def test_nothing_unknown_is_green() -> None:
    """Only a mapping makes a value green. Every threshold is grey."""
    green = {"healthy", "met", "on time"}
    for title, panel in PANELS.items():
        defaults = panel["fieldConfig"]["defaults"]
        steps = [step["color"] for step in defaults["thresholds"]["steps"]]
        assert steps == [dashboard.GREY], title
        mappings = list(defaults.get("mappings", []))
        for override in panel["fieldConfig"]["overrides"]:
            for item in override["properties"]:
                assert item["id"] != "thresholds"
                mappings += item["value"] if item["id"] == "mappings" else []
        for mapping in mappings:
            for word, option in mapping["options"].items():
                assert (option["color"] == "green") == (word in green), (title, word)


@pytest.mark.unit
def test_lines_cross_no_gap() -> None:
    """No line crosses a gap: the SQL marks gaps, or the panel draws no lines."""
    for title, panel in PANELS.items():
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        assert custom.get("spanNulls") in {None, dashboard.JOIN_MS}, title
        if custom.get("drawStyle") == "line":
            assert "NULL AS value" in panel["targets"][0]["rawSql"], title


@pytest.mark.unit
def test_import() -> None:
    """Every query reads the chosen data source. Every panel has its own id and place."""
    sources = [panel["datasource"] for panel in PANELS.values()]
    sources += [target["datasource"] for panel in PANELS.values() for target in panel["targets"]]
    variables = DOCUMENT["templating"]["list"]
    sources += [variable["datasource"] for variable in variables if variable["type"] == "query"]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    assert "datasource" in {variable["name"] for variable in variables}
    ids = [panel["id"] for panel in DOCUMENT["panels"]]
    assert sorted(set(ids)) == ids
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in DOCUMENT["panels"])
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


@pytest.mark.unit
def test_models_of_grafana() -> None:
    """The models of Grafana's SDK know every key of the dashboard, and keep its value."""
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    model = Dashboard.from_json(json.loads(json.dumps(DOCUMENT)))
    known = json.loads(json.dumps(model, cls=JSONEncoder))
    assert _differences(DOCUMENT, known) == []


def _differences(expected: Any, actual: Any, path: str = "") -> list[str]:
    """Return the places of values that differ from the other document."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [
            difference
            for key, value in expected.items()
            for difference in _differences(value, actual.get(key), f"{path}.{key}")
        ]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [
            difference
            for number, pair in enumerate(zip(expected, actual, strict=True))
            for difference in _differences(*pair, f"{path}[{number}]")
        ]
    return [] if expected == actual else [f"{path}: {expected!r} is {actual!r}"]


@pytest.mark.unit
def test_panels_are_documented() -> None:
    """The page has exactly one row for each panel."""
    section = GUIDE.partition("## Panels")[2].partition("\n## ")[0]
    titles = re.findall(r"^\| ([^|]+?) \|", section, flags=re.MULTILINE)
    names = [title if title != "$figure" else "Figures" for title in PANELS]
    assert titles == ["panel", *names]


@pytest.mark.unit
def test_configmap() -> None:
    """The component is a ConfigMap with the label of Grafana's sidecar, small enough to apply."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl on this machine")
    result = subprocess.run(
        ["kubectl", "kustomize", str(dashboard.FOLDER)], capture_output=True, text=True, check=True
    )
    configmap = yaml.safe_load(result.stdout)
    assert (configmap["kind"], configmap["metadata"]["name"]) == (
        "ConfigMap",
        "ops-worker-dashboard",
    )
    assert configmap["metadata"]["namespace"] == "ops-worker"
    for version in SCHEMAS:
        kubernetes_validate.validate(configmap, version, strict=True)
    assert configmap["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert [json.loads(text) for text in configmap["data"].values()] == [DOCUMENT]
    assert len(json.dumps(configmap)) < MAX_APPLIED_BYTES


@pytest.mark.unit
def test_expanded() -> None:
    """Macros and variables are replaced as Grafana's documentation describes it."""
    since = datetime(2026, 3, 1, 12, tzinfo=UTC)
    choice = Choice(since, since + timedelta(hours=1), ["a", "it's"], "99", ["x"], 2.5)
    text = "$__timeFilter(t.time) $__timeFrom() $__timeTo() $service $slo $figure $__interval_ms"
    begin, end = "'2026-03-01T12:00:00.000000Z'", "'2026-03-01T13:00:00.000000Z'"
    filtered = f"t.time BETWEEN {begin} AND {end}"
    assert expanded(text, choice) == f"{filtered} {begin} {end} 'a','it''s' 99 'x' 2500"
    with pytest.raises(KeyError):
        expanded("$__timeGroup(time, '5m')", choice)


# The ledger.

INSERT_RUN = """
INSERT INTO ops_worker_run
    (id, pass, installation, shard, period_s, config, first_at, last_at, passes)
OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
INSERT_SPAN = """
INSERT INTO ops_worker_span
    (pass, service, state, reason_class, first_at, first_no, run, last_at, last_no, last_run)
VALUES (%s, 'a', %s, %s, %s, %s, %s, %s, %s, %s)
"""
HEALTH_RUNS = 100_000
"""Added to the ids of the health pass's runs. The ids of the metrics pass are smaller."""
Stream = tuple[list[Run], list[Span]]


def insert(connection: psycopg.Connection[Row], name: str, stream: Stream) -> None:
    """Write the runs and spans of a pass.

    A run of another installation has its name before the shard.
    """
    more = HEALTH_RUNS if name == "health" else 0
    for run in stream[0]:
        installation, _, shard = run.shard.rpartition(" ")
        connection.execute(
            INSERT_RUN,
            (
                run.id + more,
                name,
                installation or DEFAULT,
                shard,
                run.period_s,
                run.config,
                run.first_at,
                run.last_at,
                run.passes,
            ),
        )
    for span in stream[1]:
        last_run = None if span.last_run is None else span.last_run + more
        connection.execute(
            INSERT_SPAN,
            (
                name,
                span.state,
                span.reason_class,
                span.first_at,
                span.first_no,
                span.run + more,
                span.last_at,
                span.last_no,
                last_run,
            ),
        )


def shifted(stream: Stream, delta: timedelta) -> Stream:
    """Return the rows with all times moved."""
    runs = [
        run._replace(first_at=run.first_at + delta, last_at=run.last_at + delta)
        for run in stream[0]
    ]
    spans = [
        span._replace(
            first_at=span.first_at + delta,
            last_at=None if span.last_at is None else span.last_at + delta,
        )
        for span in stream[1]
    ]
    return runs, spans


def close(stream: Stream, since: datetime, until: datetime) -> Stream:
    """Return the runs, and the spans of a period and its margin, as the commands read them."""
    runs, spans = stream
    longest_s = max((run.period_s for run in runs), default=0.0)
    margin = timedelta(seconds=stale_after_s(longest_s))
    return runs, [
        span
        for span in spans
        if span.first_at <= until + margin
        and (span.last_at is None or span.last_at >= since - margin)
    ]


def compare(
    connection: psycopg.Connection[Row],
    streams: dict[str, Stream],
    period: tuple[float, float, float],
) -> None:
    """Assert that the panels of the ledger equal the timeline of the core.

    ``period`` has since, until and now, in seconds.
    """
    with connection.transaction(force_rollback=True):
        (row,) = connection.execute("SELECT now() AS now").fetchall()
        now: datetime = row["now"]
        since_s, until_s, now_s = period
        delta = now - at(now_s)
        real = {name: shifted(stream, delta) for name, stream in streams.items()}
        for name, stream in real.items():
            insert(connection, name, stream)
        since, until = at(since_s) + delta, at(until_s) + delta
        real = {name: close(stream, since, until) for name, stream in real.items()}
        ledger = LedgerRows(
            now=now,
            since=since,
            until=until,
            services=["a"],
            runs={name: stream[0] for name, stream in real.items()},
            spans={name: stream[1] for name, stream in real.items()},
        )
        ((_, pieces),) = timelines(ledger)
        nonempty = [piece for piece in pieces if piece.begun < piece.ended]
        expected = [
            (next(group).begun, state)
            for state, group in groupby(nonempty, key=lambda piece: piece.state)
        ]
        choice = Choice(since, until, ["a"], slo="99")
        states = query_panel(connection, "States", choice)
        assert [(item["time"], item["state"]) for item in states] == expected
        (table_row,) = query_panel(connection, "Availability and error budget", choice)
        check_availability(table_row, pieces)


def check_availability(row: Row, pieces: Sequence[Any]) -> None:
    """Assert that a row of the table equals the sums of a timeline."""
    total = availability(pieces)
    words = {"Degraded": "degraded", "Down": "down", "Unknown": "unknown", "Unseen": UNSEEN}
    for column, state in words.items():
        assert row[column] == pytest.approx(total.seconds[state], abs=1e-5)
    assert row["Seen"] == pytest.approx(percent_rounded_down(total.coverage, 3) / 100)
    if total.value is None:
        assert row["Availability"] is row["Budget left"] is None
        assert row["Objective"] == "unknown"
    else:
        assert row["Availability"] == pytest.approx(percent_rounded_down(total.value, 3) / 100)


def stream_of(drawn: Sequence[Block], period_s: int) -> tuple[Stream, float]:
    """Return the rows that passes record, and the second after the last pass."""
    runs, spans, second = rows(drawn, period_s)
    return (runs, spans), second


@pytest.fixture
def ledger(database: Database) -> Iterator[psycopg.Connection[Row]]:
    """Yield a connection to a database with an empty ledger."""
    database.create_ledger()
    with reading(database.url) as connection:
        yield connection


EVERY_EXAMPLE = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
periods = st.tuples(st.integers(0, 6000), st.integers(1, 6000))


@pytest.mark.integration
@EVERY_EXAMPLE
@given(drawn=blocks(60), period=periods, later=st.integers(0, 300))
def test_one_pass(
    ledger: psycopg.Connection[Row],
    drawn: list[Block],
    period: tuple[int, int],
    later: int,
) -> None:
    """For any records of the health pass, the panels equal the core."""
    stream, second = stream_of(drawn, 60)
    now = max(1, second - 60 + later)
    since = min(period[0], now - 1)
    streams = {"health": stream, "metrics": ([], [])}
    compare(ledger, streams, (since, min(since + period[1], now), now))
    compare(ledger, streams, (-100, now, now))


NEXT_SIGHT_HIDDEN = [
    Block(passes=20, state="healthy", gap_s=0, back_s=1000),
    Block(passes=1, state="healthy", gap_s=0, back_s=0),
    Block(passes=1, state="degraded", gap_s=0, back_s=0),
    Block(passes=43, state="healthy", gap_s=0, back_s=0),
]
"""A second shard sees another state at the time of the next pass of the first shard."""


@pytest.mark.integration
@EVERY_EXAMPLE
@given(finer=blocks(20), coarser=blocks(60), period=periods, begun=st.integers(0, 600))
@example(
    finer=NEXT_SIGHT_HIDDEN,
    coarser=[Block(passes=1, state="healthy", gap_s=0, back_s=0)],
    period=(0, 1),
    begun=0,
)
def test_both_passes(
    ledger: psycopg.Connection[Row],
    finer: list[Block],
    coarser: list[Block],
    period: tuple[int, int],
    begun: int,
) -> None:
    """The panels equal the core for records of both passes, also after a service moved."""
    metrics_runs, metrics_spans, metrics_end = rows(finer, 20, begun)
    health, health_end = stream_of(coarser, 60)
    now = max(metrics_end, health_end, 1)
    since = min(period[0], now - 1)
    streams = {"health": health, "metrics": (metrics_runs, metrics_spans)}
    compare(ledger, streams, (since, min(since + period[1], now), now))
    # Without the half second, two shards could begin at the same time, in an undefined order.
    later_runs, later_spans, end = rows(finer[:3], 20, metrics_end + 0.5)
    resharded = moved((metrics_runs, metrics_spans), (later_runs, later_spans))
    now = max(end, health_end, 1)
    compare(ledger, {"health": health, "metrics": resharded}, (0, now, now))
    elsewhere = [run._replace(shard="b 0/1") if run.shard == "0/2" else run for run in resharded[0]]
    streams = {"health": health, "metrics": (elsewhere, resharded[1])}
    compare(ledger, streams, (0, now, now))


@pytest.mark.integration
def test_blind_pass_after_a_hole(ledger: psycopg.Connection[Row]) -> None:
    """The panels equal the core where a service was left out before a blind pass."""
    recorder = Recorder()
    for second, period_s, services in ((60, 20, "ab"), (155, 20, "b"), (175, 60, "b")):
        recorder.record([sight(name, second, "healthy") for name in services], period_s)
    recorder.end_run()
    recorder.record([sight(name, 235, "healthy") for name in "ab"], 60)
    spans = [span for span in recorder.spans if span.service == "a"]
    compare(ledger, {"health": (recorder.runs, spans), "metrics": ([], [])}, (0, 250, 250))


@pytest.mark.integration
@pytest.mark.parametrize("statement", ODD.values(), ids=ODD)
def test_odd_rows(look: Looks, statement: str) -> None:
    """With odd rows in the ledger, no panel fails, and the sums of states are possible."""
    well = dict.fromkeys("abc", "healthy")
    for second, state in ((0, "healthy"), (60, "down"), (120, "healthy"), (1000, "healthy")):
        for name in ("health", "metrics"):
            look(second, well | {"a": state}, name=name)
    assert main(["init-db"]) == 0
    look.database.rows(statement)
    now = datetime.now(UTC)
    for days in (6, 3650):
        choice = Choice(now - timedelta(days=days), now, ["a", "b"])
        for title in PANELS:
            panel_rows(look.database.url, title, choice)
        for row in panel_rows(look.database.url, "Availability and error budget", choice):
            states = [row[name] or 0.0 for name in ("Degraded", "Down", "Unknown", "Unseen")]
            assert min(states) >= 0.0
            assert sum(states) <= days * 86_400 + 1e-3


# The commands.

LENGTH_S = 3600
"""The length of the history in seconds. Its last pass was 20 s ago."""
OUTAGE = range(600, 1201)
HOLE = range(1800, 2701)
"""OUTAGE has the seconds in which b was down, HOLE those in which no pass ran."""


@pytest.fixture
def past(look: Looks) -> Looks:
    """Record one hour: a health pass every minute, an outage of b, and a hole.

    c has been degraded for the last 10 minutes.
    """
    look.env.setenv("RECORD_OWN_METRICS", "true")
    look.now += -START_S - LENGTH_S - 20
    catalogue = look.folder / "catalogue.toml"
    text = catalogue.read_text()
    for service, slo in (("a", 99), ("b", 90), ("c", 99)):
        section = f"[services.{service}]\n"
        text = text.replace(section, f"{section}slo = {slo}\nslo_window = 1\n")
    catalogue.write_text(text)
    assert main(["init-db"]) == 0
    for second in range(0, LENGTH_S + 1, 60):
        states = dict.fromkeys("abc", "healthy")
        if second in OUTAGE:
            states["b"] = "down"
        if second > LENGTH_S - 600:
            states["c"] = "degraded"
        if second not in HOLE:
            look(second, states)
    return look


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Callable[..., Row]:
    """Return a function that runs a command and returns its JSON document."""

    def run(command: str, *arguments: str) -> Row:
        capsys.readouterr()
        assert main([command, "--output", "json", *arguments]) == 0
        document: Row = json.loads(capsys.readouterr().out)
        return document

    return run


def choice_of(document: Row, **more: Any) -> Choice:
    """Return the choice with the period of a document of `status`."""
    until = datetime.fromisoformat(document["at"])
    return Choice(until - timedelta(seconds=document["since_s"]), until, ["a", "b", "c"], **more)


@pytest.mark.integration
@pytest.mark.parametrize("slo", ["99", "90"])
def test_status(past: Looks, read: Callable[..., Row], slo: str) -> None:
    """Availability, coverage and error budget equal those of `status`."""
    document = read("status", "--since", "24h")
    choice = choice_of(document, slo=slo)
    by_service = {
        row["Service"]: row
        for row in panel_rows(past.database.url, "Availability and error budget", choice)
    }
    assert set(by_service) == set("abc")
    for item in document["services"]:
        row, expected = by_service[item["service"]], item["availability"]
        assert row["Availability"] == pytest.approx(
            percent_rounded_down(expected["value"], 3) / 100
        )
        assert row["Seen"] == pytest.approx(percent_rounded_down(expected["coverage"], 3) / 100)
        if item["budget"]["slo"] == float(slo):
            assert row["Budget left"] == pytest.approx(item["budget"]["left_s"], abs=1e-3)
            assert row["Budget left, share"] == pytest.approx(item["budget"]["left"], abs=1e-6)
    # b was down in eleven passes, until the next one: 660 s of a budget of 864 s or 8640 s.
    assert by_service["b"]["Down"] == pytest.approx(660, abs=2)
    assert by_service["b"]["Budget left"] == pytest.approx((100 - float(slo)) * 864 - 660, abs=2)


@pytest.mark.integration
def test_objective(past: Looks) -> None:
    """The objective is met only if it is also met with all unseen time counted as down."""
    now = datetime.now(UTC)
    begun = now - timedelta(seconds=LENGTH_S + 20)

    def objective(since: datetime, slo: str) -> dict[str, str]:
        """Return the word for the objective, by service."""
        choice = Choice(since, now, ["a", "b", "no'body"], slo)
        table = panel_rows(past.database.url, "Availability and error budget", choice)
        return {row["Service"]: row["Objective"] for row in table}

    after_hole = begun + timedelta(seconds=HOLE.stop + 120)
    assert objective(after_hole, "99") == {"a": "met", "b": "met", "no'body": "unknown"}
    # The unseen time of 960 s is more than the budget of 36 s.
    assert objective(begun, "99") == {"a": "unknown", "b": "missed", "no'body": "unknown"}


@pytest.mark.integration
def test_report(past: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds in each state equal those of the report for the same time."""
    from ops_worker.adapters import html

    reports: list[Any] = []

    def render(report: Any) -> str:
        """Record the report instead of drawing it."""
        reports.append(report)
        return ""

    monkeypatch.setattr(html, "render", render)
    assert main(["report", "--since", "50m", "-o", str(past.folder / "page.html")]) == 0
    (report,) = reports
    choice = Choice(report.begun, report.ended, ["a", "b", "c"])
    table = panel_rows(past.database.url, "Availability and error budget", choice)
    by_service = {row["Service"]: row for row in table}
    assert set(by_service) == {item.service for item in report.services} == set("abc")
    for item in report.services:
        row, seconds = by_service[item.service], item.total.seconds
        assert row["Availability"] == pytest.approx(percent_rounded_down(item.total.value, 3) / 100)
        for column, state in (("Down", "down"), ("Degraded", "degraded"), ("Unseen", UNSEEN)):
            assert row[column] == pytest.approx(seconds[state], abs=1e-5)
    assert by_service["b"]["Unseen"] > 900


@pytest.mark.integration
def test_history(past: Looks, read: Callable[..., Row]) -> None:
    """The states equal those of `history`. The hole is shown as unseen."""
    document = read("history", "--since", "2h")
    since, until = (datetime.fromisoformat(document[key]) for key in ("from", "to"))
    choice = Choice(since, until, ["a", "b", "c"])
    by_service: dict[str, list[tuple[datetime, str]]] = {}
    for row in panel_rows(past.database.url, "States", choice):
        by_service.setdefault(row["service"], []).append((row["time"], row["state"]))
    for entry in document["services"]:
        expected = [
            (datetime.fromisoformat(span["from"]), span["state"] if span["seen"] else UNSEEN)
            for span in entry["spans"]
        ]
        assert by_service[entry["service"]] == expected
    words = [state for _, state in by_service["b"]]
    assert words[-5:] == ["healthy", "down", "healthy", UNSEEN, "healthy"]


@pytest.mark.integration
def test_future(past: Looks) -> None:
    """The states after now are unseen. The table does not count the time after now."""
    now = datetime.now(UTC)
    later = Choice(now - timedelta(minutes=10), now + timedelta(hours=1), ["a"])
    *_, last = panel_rows(past.database.url, "States", later)
    assert last["state"] == UNSEEN
    assert last["time"] >= now
    (row,) = panel_rows(past.database.url, "Availability and error budget", later)
    assert (row["Unseen"], row["Seen"]) == (0.0, 1.0)


@pytest.mark.integration
def test_services(past: Looks, read: Callable[..., Row]) -> None:
    """The services equal those of `status`, also if they are stale."""

    def compare_services() -> set[str]:
        """Compare the services, and return their states."""
        document = read("status")
        by_service = {
            row["Service"]: row
            for row in panel_rows(past.database.url, "Services now", choice_of(document))
        }
        for item in document["services"]:
            row = by_service.pop(item["service"])
            assert row["State"] == item["state"]
            assert row["Latency"] == item["latency_ms"]
            assert row["Checked"] == datetime.fromisoformat(item["checked_at"])
            if not item["stale"]:
                assert (row["Reason"] or "") == item["reason"]
        assert by_service == {}
        return {item["state"] for item in document["services"]}

    assert compare_services() == {"healthy", "degraded"}
    past.database.rows("UPDATE service_health SET checked_at = checked_at - interval '1 hour'")
    assert compare_services() == {"stale"}


@pytest.mark.integration
def test_blind(past: Looks, read: Callable[..., Row]) -> None:
    """While the health pass is blind, its state is blind, and every service is stale."""
    past.env.setenv("DOUBT_PASSES", "2")
    catalogue = past.folder / "catalogue.toml"
    text = catalogue.read_text()
    catalogue.write_text(text.replace("127.0.0.1", "one.test", 1))
    past(LENGTH_S + 15, dict.fromkeys("abc", "timeout"))
    document = read("status")
    assert {item["state"] for item in document["services"]} == {"stale"}
    choice = choice_of(document)
    services = panel_rows(past.database.url, "Services now", choice)
    assert [row["State"] for row in services] == ["stale"] * 3
    passes = panel_rows(past.database.url, "Passes", choice)
    (health,) = [row for row in passes if row["Pass"] == "health"]
    assert (health["State"], health["Blind"]) == ("blind", 1)
    assert health["Suspects"] == document["passes"][0]["blind_because"]


@pytest.mark.integration
def test_passes(past: Looks, read: Callable[..., Row]) -> None:
    """The passes equal those of `status`. A pass without a record is shown, too."""
    past(LENGTH_S + 15, dict.fromkeys("abc", "healthy"), name="metrics", period_s=5.0)
    past.database.move_samples("time - interval '1 day'", "tags ->> 'pass' = 'metrics'")
    document = read("status", "--since", "2h")
    choice = choice_of(document)
    by_pass = {row["Pass"]: row for row in panel_rows(past.database.url, "Passes", choice)}
    assert set(by_pass) == {"health", "metrics", "rollup"}
    for item in document["passes"]:
        row = by_pass[item["pass"]]
        assert row["Last recorded"] == datetime.fromisoformat(item["last_success"])
        assert row["Period"] == item["period_s"]
        assert row["State"] == ("overdue" if item["stale"] else "on time")
        assert row["Age"] == pytest.approx(item["age_s"], abs=1e-3)
    assert [by_pass[name]["State"] for name in sorted(by_pass)] == [
        "on time",
        "overdue",
        "never recorded",
    ]
    totals = past.database.rows(
        "SELECT count(*) AS number, max(value) AS longest FROM system_metrics"
        " WHERE metric_name = 'pass_duration_ms' AND time >= %s AND tags ->> 'pass' = 'health'",
        choice.since,
    )[0]
    assert by_pass["health"]["Recorded"] == totals["number"] > 40
    assert by_pass["health"]["Longest"] == totals["longest"]
    assert (by_pass["metrics"]["Recorded"], by_pass["metrics"]["Longest"]) == (0, None)


@pytest.mark.integration
def test_shards(look: Looks, read: Callable[..., Row]) -> None:
    """Each shard has a row, also a shard that stopped or never ran."""
    look.env.setenv("RECORD_OWN_METRICS", "true")
    look.now += -START_S - 20
    assert main(["init-db"]) == 0
    look(0, dict.fromkeys("abc", "healthy"))
    look.database.rows(
        """UPDATE system_metrics SET tags = tags || '{"shard": "0/3"}'
        WHERE service = 'ops_worker'"""
    )
    look.database.rows(
        """INSERT INTO system_metrics (time, metric_name, service, value, tags)
        SELECT time - interval '1 hour', metric_name, service, value, tags || '{"shard": "1/3"}'
        FROM system_metrics WHERE service = 'ops_worker'"""
    )
    document = read("status", "--since", "2h")
    passes = panel_rows(look.database.url, "Passes", choice_of(document))
    states = {row["Shard"]: row["State"] for row in passes if row["Pass"] == "health"}
    assert states == {"0/3": "on time", "1/3": "overdue", "2/3": "never recorded"}


# Two installations in one database.

SILENCE_MIN = 20
"""The minutes for which an installation stops: more than three periods."""
TIMES = {
    "ops_worker_run": ("first_at", "last_at"),
    "ops_worker_span": ("first_at", "last_at"),
    "ops_worker_doubt": ("since", "last_at"),
    "service_health": ("checked_at",),
}


def move_back(database: Database, minutes: float = 1) -> None:
    """Move all records this number of minutes into the past."""
    age = f"interval '{60 * minutes} s'"
    for table, columns in TIMES.items():
        changes = ", ".join(f"{column} = {column} - {age}" for column in columns)
        database.rows(f"UPDATE {table} SET {changes}")
    database.move_samples(f"time - {age}", "true")


def last_hour(*services: str) -> Choice:
    """Return a choice with the last hour."""
    now = datetime.now(UTC)
    return Choice(now - timedelta(hours=1), now, services)


@pytest.fixture
def pair(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database
) -> tuple[Installation, Installation]:
    """Return the default installation with services a and b, and installation b with x and y."""
    database.create_ledger()
    default, other = (
        Installation(monkeypatch, tmp_path, database, name, services, DOUBT_PASSES="2")
        for name, services in ((DEFAULT, "ab"), ("b", "xy"))
    )
    assert main(["init-db"]) == 0
    return default, other


def pass_states(database: Database) -> dict[tuple[str, str], str]:
    """Return the states of the health and metrics passes, by installation and pass."""
    return {
        (row["Installation"], row["Pass"]): row["State"]
        for row in panel_rows(database.url, "Passes", last_hour())
        if row["Pass"] != "rollup"
    }


def states_of_both(state: str, named_state: str) -> dict[tuple[str, str], str]:
    """Return the expected states of the passes of both installations."""
    return {
        (installation, name): word
        for installation, word in ((DEFAULT, state), ("b", named_state))
        for name in ("health", "metrics")
    }


def check_passes(database: Database, installation: Installation, document: Row) -> None:
    """Assert that the passes of an installation equal those of its `status`."""
    rows = {
        row["Pass"]: row
        for row in panel_rows(database.url, "Passes", last_hour())
        if row["Installation"] == installation.name
    }
    assert {item["pass"] for item in document["passes"]} == {"health", "metrics"}
    for item in document["passes"]:
        row = rows[item["pass"]]
        assert row["Last recorded"] == datetime.fromisoformat(item["last_success"])
        assert (row["State"] == "overdue") == item["stale"]


@pytest.mark.integration
def test_installation_alone(
    pair: tuple[Installation, Installation], database: Database, read: Callable[..., Row]
) -> None:
    """The panels show a named installation, also if the default one never ran."""
    _, named = pair
    for _ in range(6):
        move_back(database)
        named.both()
    named.select()
    document = read("status", "--since", "1h")
    choice = choice_of(document)._replace(services=["x", "y"])
    table = panel_rows(database.url, "Availability and error budget", choice)
    rows = {row["Service"]: row for row in table}
    assert set(rows) == {item["service"] for item in document["services"]} == set("xy")
    for item in document["services"]:
        row, expected = rows[item["service"]], item["availability"]
        assert row["Availability"] == expected["value"] == 1.0
        assert row["Seen"] == pytest.approx(percent_rounded_down(expected["coverage"], 3) / 100)
    states = panel_rows(database.url, "States", choice)
    assert [row["state"] for row in states if row["service"] == "x"] == [UNSEEN, "healthy"]
    passes = panel_rows(database.url, "Passes", choice)
    assert {(row["Installation"], row["Pass"], row["State"]) for row in passes} == {
        ("b", "health", "on time"),
        ("b", "metrics", "on time"),
        ("b", "rollup", "never recorded"),
    }
    check_passes(database, named, document)


@pytest.mark.integration
@pytest.mark.parametrize("stopped", [DEFAULT, "b"])
def test_installation_stopped(
    pair: tuple[Installation, Installation],
    database: Database,
    read: Callable[..., Row],
    stopped: str,
) -> None:
    """A stopped installation is overdue, and the other one is on time."""
    running, silent = pair if stopped == "b" else reversed(pair)
    for _ in range(2):
        move_back(database)
        running.both()
        silent.both()
    assert set(pass_states(database).values()) == {"on time"}
    for _ in range(SILENCE_MIN):
        move_back(database)
        running.both()
    words = ("on time", "overdue") if stopped == "b" else ("overdue", "on time")
    expected = states_of_both(*words)
    assert pass_states(database) == expected
    for installation in pair:
        installation.select()
        check_passes(database, installation, read("status"))
    counts = {
        row["Installation"]: row["Recorded"]
        for row in panel_rows(database.url, "Passes", last_hour())
        if row["Pass"] == "health"
    }
    assert counts == {running.name: SILENCE_MIN + 2, silent.name: 2}

    # The ledger still has the installation when its samples are not among the newest ones.
    tag = "coalesce(tags ->> 'installation', 'ops-worker')"
    database.rows(f"DELETE FROM system_metrics WHERE {tag} = '{stopped}'")
    assert pass_states(database) == expected
    # A week after its last pass, the installation is not shown any more.
    age = "interval '7 days'"
    update = f"first_at = first_at - {age}, last_at = last_at - {age}"
    database.rows(f"UPDATE ops_worker_run SET {update} WHERE installation = '{stopped}'")
    assert {installation for installation, _ in pass_states(database)} == {running.name}


@pytest.mark.integration
def test_all_installations_stopped(
    pair: tuple[Installation, Installation], database: Database
) -> None:
    """If all installations stop, all are overdue, even after 30 days."""
    for installation in pair:
        installation.both()
    move_back(database, 60 * 24 * 30)
    assert pass_states(database) == states_of_both("overdue", "overdue")


@pytest.mark.integration
def test_charts_of_installations(
    pair: tuple[Installation, Installation], database: Database
) -> None:
    """Each installation has its own lines. A silence of one is not shown for the other one."""
    default, named = pair
    for installation in pair:
        installation.both()
    for _ in range(SILENCE_MIN):
        move_back(database)
        default.both()
    named.both()
    names = {"health", "metrics", "b health", "b metrics"}
    durations = panel_rows(database.url, "Duration of passes, longest", last_hour())
    assert {row["metric"] for row in durations} == names
    longest = dict.fromkeys(names, 0.0)
    for row in panel_rows(database.url, "Time between passes, longest", last_hour()):
        longest[row["metric"]] = max(longest[row["metric"]], row["value"])
    silence_s = 60 * SILENCE_MIN
    assert min(longest["b health"], longest["b metrics"]) >= silence_s
    assert 0 < max(longest["health"], longest["metrics"]) < silence_s


@pytest.mark.integration
@pytest.mark.parametrize("blind", [DEFAULT, "b"])
def test_blind_installation(
    pair: tuple[Installation, Installation],
    database: Database,
    read: Callable[..., Row],
    blind: str,
) -> None:
    """Only the services of the blind installation are stale, and only its pass is blind."""
    for installation in pair:
        installation.both()
    move_back(database, 0.5)
    for installation in pair:
        if installation.name == blind:
            installation("timeout")
        else:
            installation.both()
    table = panel_rows(database.url, "Services now", last_hour(*"abxy"))
    states = {row["Service"]: row["State"] for row in table}
    stale, healthy = ("ab", "xy") if blind == DEFAULT else ("xy", "ab")
    assert states == dict.fromkeys(stale, "stale") | dict.fromkeys(healthy, "healthy")
    words = pass_states(database)
    other = "b" if blind == DEFAULT else DEFAULT
    assert (words[blind, "health"], words[other, "health"]) == ("blind", "on time")
    for installation in pair:
        installation.select()
        document = read("status")
        assert {item["service"]: item["state"] for item in document["services"]} == states
        check_passes(database, installation, document)


# Alerts, and who may read them.


@pytest.mark.integration
def test_alerts(past: Looks, read: Callable[..., Row]) -> None:
    """The alerts equal those of `status`, without alerts of tenants."""
    number = past.database.alerts()[-1]["id"]
    assert main(["alerts", "ack", str(number), "--by", "kim"]) == 0
    past.database.rows(
        "INSERT INTO tenants (tenant_id, name) VALUES ('shop', 'Shop') ON CONFLICT DO NOTHING"
    )
    past.database.rows(
        "INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, summary)"
        " VALUES ('shop', 's', 'd', 'X', 'system-health:fake', 'of a tenant')"
    )
    document = read("status")
    alert_rows = panel_rows(past.database.url, "Open alerts", choice_of(document))
    expected = [
        (item["id"], item["service"], item["status"], item["summary"], item["acknowledged_by"])
        for item in document["alerts"]
    ]
    keys = ("Number", "Service", "Status", "Summary", "Acknowledged by")
    assert [tuple(row[key] for key in keys) for row in alert_rows] == expected
    assert [row["Opened"] for row in alert_rows] == [
        datetime.fromisoformat(item["created_at"]) for item in document["alerts"]
    ]
    assert ("c", "ACKNOWLEDGED", "kim") in {(item[1], item[2], item[4]) for item in expected}


def grants() -> list[str]:
    """Return the statements of the page that create the read-only role, with the test's role."""
    block = GUIDE.partition("```sql\n")[2].partition("```")[0]
    statements = [statement.strip() for statement in block.split(";\n") if statement.strip()]
    return [re.sub(r"\bgrafana\b", "ops_grafana", statement) for statement in statements]


@pytest.fixture
def reader(past: Looks) -> Iterator[str]:
    """Yield the URL of the read-only role of the page, without its policy."""
    database = past.database
    database.rows("DROP ROLE IF EXISTS ops_grafana")
    *before, policy = grants()
    assert policy.startswith("CREATE POLICY")
    for statement in before:
        database.rows(statement)
    database.rows("ALTER ROLE ops_grafana PASSWORD 'x'")
    yield database.as_user("ops_grafana")
    database.rows("DROP OWNED BY ops_grafana")
    database.rows("DROP ROLE ops_grafana")


@pytest.mark.integration
def test_row_level_security(past: Looks, reader: str) -> None:
    """If row level security hides the alerts, the panel has a row for it. The policy shows them."""
    choice = Choice(datetime.now(UTC) - timedelta(hours=2), datetime.now(UTC), ["a", "b", "c"])
    (hidden,) = panel_rows(reader, "Open alerts", choice)
    assert hidden["Status"] == "unknown"
    assert "row level security" in hidden["Summary"]
    past.database.rows(grants()[-1])
    assert [row["Service"] for row in panel_rows(reader, "Open alerts", choice)] == ["c"]
    past.database.rows("DELETE FROM fleet_alert")
    assert panel_rows(reader, "Open alerts", choice) == []


@pytest.mark.integration
def test_grants(past: Looks, reader: str) -> None:
    """The role reads every panel and variable, as an administrator does. It cannot write."""
    past.database.rows(grants()[-1])
    now = datetime.now(UTC)
    choice = Choice(now - timedelta(hours=2), now, ["a", "b", "c"], figures=["healthy"])
    for title in PANELS:
        assert [set(row) for row in panel_rows(reader, title, choice)] == [
            set(row) for row in panel_rows(past.database.url, title, choice)
        ]
    with reading(reader) as connection:
        for variable in DOCUMENT["templating"]["list"]:
            if variable["type"] == "query":
                connection.execute(variable["query"].encode())
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM service_health")
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM service_health")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT details FROM fleet_alert")


# Charts.


def buckets(
    samples: Sequence[Row], interval_s: float, value: Callable[[list[float]], float]
) -> dict[tuple[datetime, str], float]:
    """Return the value of each bucket and series, computed from the samples."""
    values: dict[tuple[datetime, str], list[float]] = {}
    for sample in samples:
        second = sample["time"].timestamp() // interval_s * interval_s
        key = (datetime.fromtimestamp(second, UTC), sample["name"])
        values.setdefault(key, []).append(sample["value"])
    return {key: value(numbers) for key, numbers in values.items()}


def mean(values: list[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


CHARTS = [
    ("Latency of services, highest", "metric_name = 'probe_latency_ms'", "service", max),
    ("Duration of passes, longest", "metric_name = 'pass_duration_ms'", "tags ->> 'pass'", max),
    ("$figure", "metric_name = ANY('{queue_depth,devices_online}')", "service", mean),
]


@pytest.mark.integration
@pytest.mark.parametrize(("title", "where", "name", "value"), CHARTS, ids=[c[0] for c in CHARTS])
@pytest.mark.parametrize("interval_s", [60.0, 300.0])
def test_charts(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    title: str,
    where: str,
    name: str,
    value: Callable[[list[float]], float],
    interval_s: float,
) -> None:
    """Every point equals the value of its samples. Before a gap there is a row without a value."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    assert main(["init-db"]) == 0
    seed(database.url)
    now = datetime.now(UTC)
    choice = Choice(
        now - timedelta(minutes=110),
        now,
        figures=["queue_depth", "devices_online"],
        interval_s=interval_s,
    )
    samples = database.rows(
        f"SELECT time, {name} AS name, value FROM system_metrics WHERE {where}"
        " AND time BETWEEN %s AND %s",
        choice.since,
        choice.until,
    )
    chart = panel_rows(database.url, title, choice)
    assert [row["time"] for row in chart] == sorted(row["time"] for row in chart)
    points = {
        (row["time"], row["metric"]): row["value"] for row in chart if row["value"] is not None
    }
    assert points == pytest.approx(buckets(samples, interval_s, value))
    width = timedelta(seconds=interval_s)
    ends = set()
    for metric in {metric for _, metric in points}:
        times = sorted(time for time, of in points if of == metric)
        steps = [(before, after - before) for before, after in pairwise(times)]
        ends |= {
            (before + width, metric)
            for before, step in steps
            if step.total_seconds() > max(90, interval_s)
        }
        # No pass ran from 77 to 62 minutes ago.
        assert max(step for _, step in steps) >= timedelta(minutes=14)
    assert {(row["time"], row["metric"]) for row in chart if row["value"] is None} == ends


@pytest.mark.integration
def test_long_charts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chart of more than two days reads hours, with the same points as the samples."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    assert main(["init-db"]) == 0
    database.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value) SELECT at,"
        " 'probe_latency_ms', 'a', 10 + extract(epoch FROM at)::bigint / 60 % 97"
        " FROM generate_series(date_trunc('hour', now()) - interval '72 hours', now(), '1 minute')"
        " AS at"
    )
    now = datetime.now(UTC)
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=70)
    choice = Choice(since, now, interval_s=3600.0)
    title = "Latency of services, highest"
    from_samples = panel_rows(database.url, title, choice)
    assert len(from_samples) == 71
    assert main(["rollup"]) == 0
    assert panel_rows(database.url, title, choice) == from_samples
    # The points are the same after the samples are deleted: they come from the hours.
    database.rows("DELETE FROM system_metrics WHERE time < now() - interval '3 hours'")
    assert panel_rows(database.url, title, choice) == from_samples


@pytest.mark.integration
def test_intervals(database: Database) -> None:
    """The time between passes is the period, or the length of a gap after it."""
    database.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value, tags)"
        " SELECT at, 'pass_success', 'ops_worker', 1, '{\"pass\": \"health\"}'"
        " FROM generate_series(timestamptz '2026-03-01 00:00:30Z', '2026-03-01 00:30:30Z',"
        " '1 minute') AS at WHERE at NOT BETWEEN '2026-03-01 00:10Z' AND '2026-03-01 00:14Z'"
    )
    choice = Choice(BEGUN, BEGUN + timedelta(minutes=30))
    chart = panel_rows(database.url, "Time between passes, longest", choice)
    values = {(row["time"] - BEGUN).total_seconds() / 60: row["value"] for row in chart}
    assert values.pop(14.0) == 300.0
    assert set(values.values()) == {60.0}
    assert sorted(values) == [*range(1, 10), *range(15, 30)]


@pytest.mark.integration
def test_variables(past: Looks, read: Callable[..., Row]) -> None:
    """The variables list the services of `status`, and the recorded gauges and figures."""
    variables = {item["name"]: item for item in DOCUMENT["templating"]["list"]}
    seed(past.database.url)
    past.database.rows(
        "INSERT INTO ops_worker_hour (service, metric_name, begun, samples, mean, least, most,"
        " latest, increase) VALUES ('ingest', 'messages_received', now() - interval '2 hours', 1,"
        " 1, 1, 1, 1, 1)"
    )
    with reading(past.database.url) as connection:
        services = connection.execute(variables["service"]["query"].encode()).fetchall()
        figures = connection.execute(variables["figure"]["query"].encode()).fetchall()
    assert [row["service"] for row in services] == [
        item["service"] for item in read("status")["services"]
    ]
    names = {row["metric_name"] for row in figures}
    assert {"queue_depth", "jobs_pending", "devices_online"} <= names
    assert not names & {"healthy", "probe_latency_ms", "pass_success", "messages_received"}


# A large history.

LARGE = """
INSERT INTO system_metrics (time, metric_name, service, value, tags)
SELECT at, x.metric, x.service, 1, x.tags::jsonb
FROM generate_series(now() - interval '30 days', now(), '3 minutes') AS at,
    (VALUES ('pass_success', 'ops_worker', '{"pass": "health"}'),
        ('pass_duration_ms', 'ops_worker', '{"pass": "health"}'),
        ('maintenance', 'ops_worker', '{"pass": "health"}'),
        ('probe_latency_ms', 'ingest', '{}'), ('probe_latency_ms', 'evaluator', '{}'),
        ('queue_depth', 'ingest', '{}'), ('devices_online', 'platform', '{}'),
        ('messages_received', 'ingest', '{}'), ('messages_written', 'ingest', '{}'),
        ('healthy', 'ingest', '{}')) AS x (metric, service, tags)
"""


def scanned(plan: Row) -> Iterator[str]:
    """Yield the tables that a plan reads completely."""
    if plan["Node Type"] in {"Seq Scan", "Parallel Seq Scan"}:
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from scanned(part)


@pytest.mark.integration
@pytest.mark.plain_table
def test_plans(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No panel with a period of one day reads all samples of 30 days: each uses an index."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    assert main(["init-db"]) == 0
    database.rows(LARGE)
    database.rows("ANALYZE system_metrics")
    now = datetime.now(UTC)
    choice = Choice(now - timedelta(days=1), now, ["a"], figures=["queue_depth"])
    statements = {title: panel["targets"][0]["rawSql"] for title, panel in PANELS.items()}
    for variable in DOCUMENT["templating"]["list"]:
        statements[variable["name"]] = variable["query"]
    with reading(database.url) as connection:
        for title, sql in statements.items():
            if "SELECT" not in sql:
                continue
            text = f"EXPLAIN (FORMAT JSON) {expanded(sql, choice)}"
            (row,) = connection.execute(text.encode()).fetchall()
            assert "system_metrics" not in set(scanned(row["QUERY PLAN"][0]["Plan"])), title
        text = "EXPLAIN (FORMAT JSON) SELECT avg(value) FROM system_metrics"
        (row,) = connection.execute(text.encode()).fetchall()
        assert set(scanned(row["QUERY PLAN"][0]["Plan"])) == {"system_metrics"}
