"""`ops-worker status`: every number comes from rows, and old rows are stale."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ops_worker import settings
from ops_worker.adapters import terminal
from ops_worker.cli import main
from ops_worker.commands import status
from ops_worker.history.screen import ScreenTable, fit, sparkline
from ops_worker.text import format_age

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.stubs import Stubs


@pytest.mark.unit
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.6, "60 s"),
        (60, "1 min"),
        (119, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
        (-5, "-5 s"),
    ],
)
def test_format_age(seconds: float, text: str) -> None:
    """An age has the largest unit of which there are at least two."""
    assert format_age(seconds) == text


@pytest.mark.unit
def test_sparkline() -> None:
    """The minimum is the lowest bar and the maximum the highest; None is a gap."""
    assert sparkline([0, None, 3.5, 7]) == "▁·▅█"
    assert sparkline([5, None, -5]) == "█·▁"
    assert (
        sparkline([5, 5]),
        sparkline([-5]),
        sparkline([0, 0]),
        sparkline([1, 1, 0.5], (0, 1)),
    ) == ("▅▅", "▅", "▁▁", "██▅")
    assert sparkline([None, None]) == sparkline(()) == ""


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Return the document of `status`."""
    assert main(["status", "--output", "json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.integration
def test_services(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Each service has its state, latency and last check.

    A row older than three periods is stale, also in the view.
    """
    services = {item["service"]: item for item in document(capsys)["services"]}
    rows = seeded.health()
    assert {
        name: (item["state"], item["latency_ms"], item["checked_at"])
        for name, item in services.items()
    } == {
        name: (
            row["details"]["status"],
            row["latency_ms"],
            row["checked_at"].astimezone(UTC).isoformat(),
        )
        for name, row in rows.items()
    }
    assert services["evaluator"]["reason"] == "Connection refused"
    assert services["evaluator"]["state"] == "down"
    seeded.rows(
        "UPDATE service_health SET checked_at = now() - interval '120 seconds' "
        "WHERE service = 'evaluator'"
    )
    seeded.rows(
        "UPDATE service_health SET checked_at = now() - interval '181 seconds' "
        "WHERE service = 'ingest'"
    )
    services = {item["service"]: item for item in document(capsys)["services"]}
    assert (services["ingest"]["state"], services["ingest"]["reason"]) == (
        "stale",
        "no pass has looked since; it was healthy",
    )
    assert services["evaluator"]["state"] == "down"
    current = {
        row["service"]: row["status"] for row in seeded.rows("SELECT * FROM service_health_current")
    }
    assert current == {
        "ingest": "stale",
        "evaluator": "unhealthy",
        "dispatcher": "healthy",
        "delivery_worker": "healthy",
    }


@pytest.mark.integration
@pytest.mark.parametrize(("argument", "seconds"), [("30m", 1800), ("2h", 7200)])
def test_series(
    seeded: Database, capsys: pytest.CaptureFixture[str], argument: str, seconds: int
) -> None:
    """The newest value, the rate and the history of each series come from its rows.

    A fall of a counter is a reset.
    """
    answer = document(capsys, "--since", argument)
    now = datetime.fromisoformat(answer["at"])
    begun = now - timedelta(seconds=seconds)
    series = {(item["service"], item["metric"]): item for item in answer["series"]}
    for service, metric in (
        ("ingest", "messages_received"),
        ("evaluator", "rules_evaluated"),
        ("ingest", "queue_depth"),
        ("platform", "devices_online"),
    ):
        rows = seeded.rows(
            f"SELECT time, value FROM system_metrics "
            f"WHERE service = '{service}' AND metric_name = '{metric}' "
            f"AND time > '{begun}' AND time <= '{now}' "
            f"ORDER BY time"
        )
        item = series[service, metric]
        assert (item["value"], item["time"]) == (
            rows[-1]["value"],
            rows[-1]["time"].astimezone(UTC).isoformat(),
        )
        triples = zip([None, *rows], rows, [*rows[1:], None], strict=False)
        plausible = [
            b["value"]
            for a, b, c in triples
            if not (
                a and c and a["value"] <= c["value"] and not a["value"] <= b["value"] <= c["value"]
            )
        ]
        steps = [b - a if b >= a else b for a, b in pairwise(plausible)]
        elapsed = (rows[-1]["time"] - rows[0]["time"]).total_seconds()
        expected = (
            None
            if metric in {"queue_depth", "devices_online"}
            else pytest.approx(sum(steps) / elapsed)
        )
        assert item["rate_per_s"] == expected
        for bucket, mean in enumerate(item["history"]):
            low, high = (begun + timedelta(seconds=seconds / 24 * n) for n in (bucket, bucket + 1))
            inside = [row["value"] for row in rows if low <= row["time"] < high]
            assert mean == (pytest.approx(sum(inside) / len(inside)) if inside else None)
    latencies = next(item for item in answer["services"] if item["service"] == "delivery_worker")[
        "latency_history"
    ]
    assert len(latencies) == 24 and any(latencies)


@pytest.mark.integration
def test_gap(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A bucket in which no pass ran has no value."""
    item = next(
        item
        for item in document(capsys, "--since", "2h")["series"]
        if item["metric"] == "devices_online"
    )
    assert None in item["history"][8:13] and item["history"][-1] is not None
    seeded.rows("DELETE FROM system_metrics WHERE service <> 'ops_worker'")
    assert document(capsys)["series"] == []


@pytest.mark.integration
def test_alerts_and_passes(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Open and acknowledged alerts are shown.

    A pass that was not recorded for three periods is stale.
    """
    seeded.rows(
        "UPDATE fleet_alert SET status = 'ACKNOWLEDGED', acknowledged_by = 'kim', "
        "acknowledged_at = now() "
        "WHERE status = 'OPEN' AND tenant_id = '__system__'"
    )
    answer = document(capsys)
    (alert,) = answer["alerts"]
    assert (alert["service"], alert["status"], alert["acknowledged_by"]) == (
        "evaluator",
        "ACKNOWLEDGED",
        "kim",
    )
    assert alert["summary"] == "Service unhealthy: evaluator (Connection refused)"
    created = seeded.value("SELECT created_at FROM fleet_alert WHERE id = %s", alert["id"])
    assert alert["age_s"] == (datetime.fromisoformat(answer["at"]) - created).total_seconds()
    assert [(item["pass"], item["period_s"], item["stale"]) for item in answer["passes"]] == [
        ("health", 60, False),
        ("metrics", 60, False),
    ]
    seeded.move_samples("time - interval '181 seconds'", "tags ->> 'pass' = 'health'")
    assert [item["stale"] for item in document(capsys)["passes"]] == [True, False]


@pytest.mark.integration
def test_missed(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Passes that were due between two others, but have no row, are counted as missed."""
    answer = document(capsys, "--since", "2h")
    rows = seeded.rows(
        """SELECT tags ->> 'pass' AS pass, time, (tags ->> 'period_s')::float8 AS period_s
           FROM system_metrics
           WHERE metric_name = 'pass_success'
             AND time > %s::timestamptz - interval '2 hours' AND time <= %s
           ORDER BY 1, time""",
        answer["at"],
        answer["at"],
    )
    for item in answer["passes"]:
        own = [row for row in rows if row["pass"] == item["pass"]]
        gaps = [
            round((b["time"] - a["time"]).total_seconds() / max(a["period_s"], b["period_s"])) - 1
            for a, b in pairwise(own)
        ]
        assert item["missed"] == sum(max(0, gap) for gap in gaps) > 10, (
            "no pass ran for a quarter of an hour"
        )


@pytest.mark.integration
@pytest.mark.parametrize("period", ["abc", "0", "-5", "1e300", "9999999999999", ""])
def test_odd_rows(seeded: Database, capsys: pytest.CaptureFixture[str], period: str) -> None:
    """NaN, infinities, very large values and invalid periods do not affect other rows."""
    seeded.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value, tags) "
        "SELECT now() - make_interval(secs => n), 'queue_depth', 'ingest', v, '{}' "
        "FROM generate_series(1, 3) AS n, "
        "unnest(ARRAY['NaN', 'Infinity', '-Infinity', '1.7e308', '-1.7e308']::float8[]) AS v"
    )
    seeded.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value) "
        "VALUES (now(), 'healthy', NULL, 'NaN'), "
        "(now(), 'messages_received', 'ingest', 1.7e308)"
    )
    seeded.rows(
        "UPDATE system_metrics SET tags = tags || jsonb_build_object('period_s', %s::text) "
        "WHERE service = 'ops_worker' AND time > now() - interval '1 minute'",
        period,
    )
    answer = document(capsys, "--since", "2h")
    assert {item["period_s"] for item in answer["passes"]} == {60}
    assert {item["stale"] for item in answer["passes"]} == {False}
    item = next(
        item
        for item in answer["series"]
        if (item["service"], item["metric"]) == ("ingest", "queue_depth")
    )
    assert 0 <= item["value"] <= 100
    assert all(0 <= mean <= 100 for mean in item["history"] if mean is not None)
    assert (
        main(["status"])
        == main(["report", "-o", "-", "--since", "2h"])
        == main(["explain", "ingest"])
        == main(["health"])
        == main(["metrics"])
        == 0
    )
    assert {row["status"] for row in seeded.rows("SELECT status FROM service_health_current")} == {
        "healthy",
        "unhealthy",
    }


@pytest.mark.integration
def test_odd_details(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid content in a row affects only that row."""
    seeded.rows(
        'UPDATE service_health SET details = details || \'{"since": "2026-13-45T00:00:00"}\' '
        "WHERE service = 'ingest'"
    )
    seeded.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value, tags) "
        "VALUES (now(), 'odd', 'a', 7, '[1]'), (now(), 'odd', 'b', 7, '\"x\"'), "
        "(now(), 'odd', 'c', 7, 'null'), "
        "(now(), 'odd', 'd', 7, '{\"n\": 1.00000000000000000000001}'), "
        "(now(), 'healthy', 'dispatcher', 2, '{}'), "
        "(%s, 'pass_success', 'ops_worker', 1, '{\"pass\": \"metrics\"}'), "
        "(%s, 'maintenance', 'ops_worker', 1, '{\"pass\": \"health\"}')",
        seeded.earliest,
        seeded.earliest,
    )
    seeded.rows(
        "UPDATE fleet_alert SET status = 'ACKNOWLEDGED', acknowledged_by = E'k\\x1b[31m\\nim' "
        "WHERE status = 'OPEN' AND tenant_id = '__system__'"
    )
    answer = document(capsys)
    services = {item["service"]: (item["state"], item["since"]) for item in answer["services"]}
    assert services["ingest"] == ("healthy", None)
    assert [item["acknowledged_by"] for item in answer["alerts"]] == ["k [31m im"]
    assert {
        item["service"]: item["value"] for item in answer["series"] if item["metric"] == "odd"
    } == {
        "a": 7,
        "b": 7,
        "c": None,
        "d": None,
    }
    assert main(["status"]) == main(["report", "-o", "-"]) == main(["explain", "ingest"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^a +odd\{\[1\]\} +7 ", out, re.MULTILINE)
    assert re.search(r"^c +odd +- ", out, re.MULTILINE)


@pytest.mark.integration
def test_future_and_past(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A row from the future is stale, because a clock was set back.

    An old value shows its age.
    """
    seeded.rows(
        "UPDATE service_health SET checked_at = now() + interval '2 hours' WHERE service = 'ingest'"
    )
    assert (
        next(item["state"] for item in document(capsys)["services"] if item["service"] == "ingest")
        == "stale"
    )
    assert (
        seeded.value("SELECT status FROM service_health_current WHERE service = 'ingest'")
        == "stale"
    )
    seeded.rows(
        "DELETE FROM system_metrics WHERE service = 'ingest' AND metric_name = 'healthy' "
        "AND time > now() - interval '50 minutes'"
    )
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ingest +healthy +1 \(5[01] min ago\) ", out, re.MULTILINE)
    assert re.search(r"^dispatcher +healthy +1 +[▁▂▃▄▅▆▇█·]{24}$", out, re.MULTILINE)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("values", "grown"),
    [
        ([6000, 600, 6600], 600 + 6000),  # two resets, a minute apart
        ([100, 6000, 600], 5900 + 600),
        ([6000, 4000, 2000, 8000, 6000], 4000 + 2000 + 6000 + 6000),
    ],
)
def test_resets(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    values: list[int],
    grown: int,
) -> None:
    """Every fall of a counter is a reset, as on the dashboard."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    database.rows(  # now() is the same in one statement: the rows are exactly a minute apart
        "INSERT INTO system_metrics (time, metric_name, service, value) "
        "SELECT now() - make_interval(mins => %s - n::integer), 'messages_received', 'ingest', v"
        " FROM unnest(%s::float8[]) WITH ORDINALITY AS given (v, n)",
        len(values),
        values,
    )
    (item,) = document(capsys)["series"]
    assert item["rate_per_s"] == pytest.approx(grown / (60 * (len(values) - 1)), rel=1e-3)


@pytest.mark.unit
def test_fit() -> None:
    """On a screen that is refreshed, the last table is shortened, and its title counts the rows."""
    rows = tuple(("a",) for _ in range(40))
    first = ScreenTable("Services", ("S",), rows[:4])
    last = ScreenTable("Last 1 h", ("S",), rows)
    tables = fit([first, last], 24)
    assert tables[0] == first
    assert tables[1].title == "Last 1 h, 12 of 40 rows: enlarge the terminal to see all"
    assert sum(len(item.rows) + 3 for item in tables) < 24
    assert fit([first, last], 99) == [first, last] and fit([], 24) == []


@pytest.mark.integration
def test_maintenance(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A running maintenance is the first table on the screen."""
    assert document(capsys)["maintenance"] is None
    assert main(["status"]) == 0
    assert "Maintenance" not in capsys.readouterr().out
    assert (
        main(["maintenance", "start", "--for", "90m", "--reason", "new racks", "--by", "kim"]) == 0
    )
    ((until,),) = [
        tuple(row.values()) for row in seeded.rows("SELECT until FROM ops_worker_maintenance")
    ]
    capsys.readouterr()
    answer = document(capsys)
    maintenance = answer["maintenance"]
    assert (maintenance["until"], maintenance["started_by"], maintenance["reason"]) == (
        until.isoformat(),
        "kim",
        "new racks",
    )
    assert (
        (until - datetime.fromisoformat(answer["at"])).total_seconds()
        <= maintenance["left_s"]
        <= 5400
    )
    assert main(["status"]) == 0
    verdict, _, tables = capsys.readouterr().out.partition("\n\n")
    assert verdict.startswith(
        "1 of 4 services is unhealthy; 1 alert is not acknowledged\ndatabase "
    )
    assert re.match(
        r"Maintenance: no alert opens for these services\nENDS IN +SERVICES +STARTED BY +REASON\n"
        r"(8\d|90) min +all +kim +new racks\n",
        tables,
    )


@pytest.mark.integration
def test_screen(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets plain text."""
    assert seeded.alerts()
    seeded.rows("UPDATE fleet_alert SET status = 'CLOSED' WHERE tenant_id = '__system__'")
    assert main(["status"]) == 0
    assert "Open alerts\nnone\n" in capsys.readouterr().out
    assert main(["status"]) == 0
    plain = capsys.readouterr().out
    assert "\x1b" not in plain
    assert re.search(
        r"^evaluator +down +\d+ s +·{15,}x +\(0.00 %\) +- +\d+ (s|min) ago\n  Connection refused$",
        plain,
        re.MULTILINE,
    )
    assert re.search(
        r"^ingest +messages_received +\S+( \w)?/s +[▁▂▃▄▅▆▇█·]{24}$", plain, re.MULTILINE
    )
    assert re.search(r"^ingest +queue_depth +\d+ +[▁▂▃▄▅▆▇█·]{24}$", plain, re.MULTILINE)
    assert re.search(r"^delivery +probe_latency_ms +\d+ ms +[▁▂▃▄▅▆▇█·]{24}$", plain, re.MULTILINE)


@pytest.mark.integration
def test_screen_of_a_terminal(
    seeded: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets colours and its own width, or plain text if the extra is missing."""
    assert seeded.alerts()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["status"]) == 0
    screen = capsys.readouterr().out
    assert "\x1b[1;31mdown" in screen and "\x1b[32mhealthy" in screen
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in screen.splitlines()) <= 100
    monkeypatch.setitem(__import__("sys").modules, "ops_worker.adapters.terminal", None)
    monkeypatch.delattr("ops_worker.adapters.terminal")
    assert main(["status"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert terminal.STYLES


@pytest.mark.integration
def test_beginning(
    database: Database,
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the first pass there is one line.

    Before the first health pass, only the records of the metrics pass are shown.
    """
    for name, value in ({"DATABASE_URL": database.url} | stubs.env).items():
        monkeypatch.setenv(name, value)
    for is_terminal in (False, True):
        monkeypatch.setattr("sys.stdout.isatty", lambda is_terminal=is_terminal: is_terminal)
        assert main(["status"]) == 0
        assert capsys.readouterr().out == "no pass has recorded anything yet\n"
    assert main(["metrics"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert main(["status"]) == 0
    parts = capsys.readouterr().out.split("\n\n")
    assert parts[0].startswith("No service was recorded\ndatabase ")
    assert parts[1:3] == ["Services\nnone was recorded", "Open alerts\nnone"]
    assert re.search(r"^metrics +on time ", parts[3], re.MULTILINE)
    assert re.search(r"^health +never +- +- +-$", parts[3], re.MULTILINE)
    assert re.search(r"^ingest +healthy +1 ", parts[4], re.MULTILINE)
    assert main(["explain", "ingest"]) == main(["report", "-o", "-"]) == 0
    assert "UTC: ingest is healthy since" in capsys.readouterr().out


@pytest.mark.integration
def test_bad(
    database: Database,
    empty: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Missing tables, a missing privilege or a bad time print one line and set the exit code."""
    monkeypatch.setenv("DATABASE_URL", empty.url)
    assert main(["status"]) == 3
    assert "no table system_metrics, fleet_alert in database" in capsys.readouterr().err
    monkeypatch.setenv("DATABASE_URL", database.url)
    assert (
        main(["status", "--since", "0s"])
        == main(["status", "--since", "tomorrow"])
        == main(["status", "--since", "99y"])
        == main(["status", "--since", "2999-01-01"])
        == 2
    )
    assert re.search(
        r"is shorter than 1 s, or not in the past; the database's clock says \d",
        capsys.readouterr().err,
    )
    database.rows("CREATE ROLE ops_nobody LOGIN PASSWORD 'x' BYPASSRLS")
    monkeypatch.setenv("DATABASE_URL", database.as_user("ops_nobody"))
    assert main(["status"]) == 3
    assert "permission denied" in capsys.readouterr().err
    database.rows("DROP ROLE ops_nobody")


class EndedError(Exception):
    """Ends an endless loop."""


@pytest.mark.integration
@pytest.mark.parametrize("terminal", [True, False])
def test_watch_that_hangs(
    seeded: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    """If the database stops answering, the screen shows the error above the last state.

    The command tries again.
    """
    pauses: list[float] = []
    screens: list[str] = []
    with psycopg.connect(seeded.url) as other:

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            screens.append(capsys.readouterr().out)
            if len(pauses) == 1:
                other.execute("LOCK TABLE system_metrics")
            if len(pauses) == 2:
                other.rollback()
            if len(pauses) == 3:
                raise EndedError

        clock = iter([100.0, 142.0, 200.0])
        monkeypatch.setattr(
            status, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: next(clock))
        )
        monkeypatch.setattr(status, "READ_DEADLINE_S", 3.0)
        monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
        monkeypatch.setenv("LINES", "99")
        with pytest.raises(EndedError):
            status.run(argparse.Namespace(watch=1.0, output="text", since=3600.0), settings.load())
    assert pauses == [1.0, status.RETRY_PAUSE_S, 1.0]
    first, failed, recovered = (
        " ".join(re.sub(r"\x1b\[[\d;]*\w", "", item).split()) for item in screens
    )
    assert re.match(r"No new data for 42 s:? database .*; trying again", failed)
    assert str(seeded.url) not in failed
    assert "No new data" not in first
    assert "No new data" not in recovered
    assert "evaluator" in first
    assert "evaluator" in recovered
    assert ("evaluator" in failed) is terminal
