"""`ops-worker explain`: the reason for a state, now and earlier, comes from rows."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import __version__
from ops_worker.cli import main
from ops_worker.core.decoding import parse_time

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command and returns its document."""

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        assert main(["explain", "--output", "json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_now(seeded: Database, explain: Any) -> None:
    """The answer has the state with its reason and beginning, the passes and the rule."""
    answer = explain("evaluator")
    row = seeded.health()["evaluator"]
    assert (answer["state"], answer["reason"], answer["streak"]) == (
        "down",
        "Connection refused",
        1,
    )
    # Ledger and row have times of the same pass, each rounded to a microsecond.
    since, row_since = map(datetime.fromisoformat, (answer["since"], row["details"]["since"]))
    assert abs(since - row_since) < timedelta(milliseconds=1)
    assert (answer["status_shows"], answer["stale"], answer["ledger"]) == ("down", False, True)
    assert answer["rule"]["an alert opens after"] == "1 unhealthy pass"
    assert [item["pass"] for item in answer["passes"]] == ["health", "metrics"]


def test_alert_now(seeded: Database, explain: Any) -> None:
    """The answer has the open alert, its evidence, and the person who acknowledged it."""
    answer = explain("evaluator")
    _, alert = seeded.alerts()
    assert answer["alert"] == (
        f"alert {alert['id']} is open "
        f"since {alert['created_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}, not acknowledged"
    )
    (answered_alert,) = answer["alerts"]
    evidence = answered_alert["evidence"]
    assert evidence == alert["details"]["evidence"] and evidence["version"] == __version__
    assert main(["alerts", "ack", str(alert["id"]), "--by", "kim"]) == 0
    assert re.search(r", acknowledged by kim at [\d: -]+$", explain("evaluator")["alert"])


def test_screen_now(seeded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The screen has a sentence about the state, a sentence about the alert, and the evidence."""
    _, alert = seeded.alerts()
    first, second, plain = sentences(capsys, "evaluator")
    assert re.fullmatch(
        r"evaluator is down, unhealthy since [\d: -]+, when it was first seen: Connection refused "
        r"\(seen by the (health|metrics) pass \d+ s ago\)",
        first,
    )
    assert re.match(r"alert \d+ is open since ", second)
    assert f"Evidence of alert {alert['id']}\nNAME" in plain
    assert re.search(rf"^version +{__version__}$", plain, re.MULTILINE)


def test_closed_by_a_person(seeded: Database, explain: Any) -> None:
    """The answer names the person who closed the alert, if the table of actions exists."""
    _, alert = seeded.alerts()
    assert main(["alerts", "close", str(alert["id"]), "--by", "kim"]) == 0
    closed = rf"; kim closed alert {alert['id']} at [\d: -]{{19}}"
    assert re.search(rf"finds it so{closed}$", explain("evaluator")["alert"])
    seeded.rows("DROP TABLE ops_worker_action")
    assert explain("evaluator")["alert"].endswith(", or a person has closed it since")


def test_no_alert_yet(seeded: Database, explain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says how many unhealthy passes are missing until an alert opens."""
    _, alert = seeded.alerts()
    assert main(["alerts", "close", str(alert["id"]), "--by", "kim"]) == 0
    monkeypatch.setenv("ALERT_AFTER_FAILURES", "3")
    assert main(["health"]) == 0
    answer = explain("evaluator")
    assert (answer["alert"], answer["streak"]) == (
        "no alert is open yet: 2 of 3 passes in a row found it so",
        2,
    )
    assert answer["rule"]["an alert opens after"] == "3 unhealthy passes in a row"
    monkeypatch.setenv("SYSTEM_ALERT_ENABLED", "off")
    assert (
        explain("evaluator")["alert"]
        == "no alert is open: SYSTEM_ALERT_ENABLED is off, and so is the health pass"
    )


def test_maintenance(seeded: Database, explain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A maintenance, now or at the last health pass, is the reason why no alert is open."""
    seeded.rows(
        "UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() "
        "WHERE status = 'OPEN' AND tenant_id = '__system__'"
    )
    assert main(["maintenance", "start"]) == 0
    until = seeded.value("SELECT until FROM ops_worker_maintenance")
    assert (
        explain("evaluator")["alert"]
        == f"no alert is open: there is maintenance until {until:%Y-%m-%d %H:%M:%S}"
    )
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2999-01-01T00:00:00Z")
    assert (
        explain("evaluator")["alert"]
        == "no alert is open: there is maintenance until 2999-01-01 00:00:00"
    )
    assert main(["maintenance", "end"]) == main(["health"]) == 0
    assert (
        seeded.value(
            "SELECT count(*) FROM system_metrics "
            "WHERE metric_name = 'maintenance' AND value = 1 AND time > now() - interval '1 minute'"
        )
        == 1
    )
    monkeypatch.delenv("MAINTENANCE_UNTIL")
    assert main(["health"]) == 0
    seeded.rows(
        "UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() "
        "WHERE status = 'OPEN' AND tenant_id = '__system__'"
    )
    assert explain("evaluator")["alert"].startswith(
        "no alert is open: it opens with the next health pass"
    ), "the maintenance is over"


@pytest.mark.usefixtures("seeded")
def test_unknown_is_a_result(
    stubs: Stubs, explain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service with an unusable answer was probed.

    Its state `unknown` is a result of the health pass.
    """
    stubs["ingest"].mode = "bad-json"
    assert main(["health"]) == 0
    answer = explain("ingest")
    assert (answer["state"], answer["seen_by"]) == ("unknown", "the health pass")
    assert answer["alert"].startswith("alert ")
    assert re.fullmatch(
        r"ingest is unknown, unhealthy since [\d: -]+(, at most \d+ s earlier)?: bad JSON: .* "
        r"\(seen by the health pass \d+ s ago\)",
        sentences(capsys, "ingest")[0],
    ), "the metrics pass saw it healthy just before, but the newer health pass counts"
    states = {sight["pass"]: sight["state"] for sight in answer["sights"]}
    assert states == {"metrics": "healthy", "health": "unknown"}
    assert main(["explain", "ingest"]) == 0
    assert re.search(
        r"^What each pass saw\nPASS.*\nmetrics +healthy .*\nhealth +unknown ",
        capsys.readouterr().out,
        re.MULTILINE,
    )


@pytest.mark.usefixtures("seeded")
def test_secret_in_a_url(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A variable in a URL is shown by its name, never by its value."""
    (tmp_path / "own.toml").write_text(
        '[services.gate]\nurl = "http://u:${P}@localhost/${TOKEN}"\n', encoding="utf-8"
    )
    for name, value in (
        ("OPS_WORKER_CATALOGUE", str(tmp_path / "own.toml")),
        ("TOKEN", "s3cret"),
        ("P", "hush"),
    ):
        monkeypatch.setenv(name, value)
    assert (
        main(["explain", "gate"])
        == main(["catalogue", "show"])
        == main(["catalogue", "show", "--output", "json"])
        == 0
    )
    out = capsys.readouterr().out
    assert "s3cret" not in out
    assert "hush" not in out
    assert out.count("http://***@localhost/${TOKEN}/health") == 3


STOPPED = (
    "UPDATE service_health SET checked_at = now() - interval '10 minutes', "
    "details = details || jsonb_build_object('since', now() - interval '20 minutes')"
)
"""Makes all rows as old as if the health pass had stopped ten minutes ago."""


def test_stale(seeded: Database, explain: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """If the health pass has stopped, the answer says that `status` shows the service as stale."""
    seeded.rows(STOPPED)
    answer = explain("ingest")
    assert (answer["state"], answer["seen_by"]) == ("healthy", "the metrics pass")
    assert answer["status_shows"] == "stale"
    assert (
        "`ops-worker status` shows stale: the health pass has not looked lately\n"
        in (sentences(capsys, "ingest")[2])
    )


def test_stale_without_a_ledger(
    seeded: Database, explain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a ledger, an old row is stale, as in `status`."""
    seeded.rows(STOPPED)
    seeded.rows("DROP TABLE ops_worker_run")
    answer = explain("ingest")
    assert (answer["state"], answer["reason"], answer["alert"]) == (
        "stale",
        "no pass has looked since; it was healthy",
        "no alert is open",
    )
    assert (answer["stale"], answer["last_state"], answer["ledger"]) == (True, "healthy", False)
    assert (answer["turns"], answer["past"], answer["sights"]) == ([], None, [])
    assert re.fullmatch(
        r"ingest is stale: no pass has looked since [\d: -]+ \(10 min ago\); it was healthy",
        sentences(capsys, "ingest")[0],
    )


def test_odd_details(seeded: Database, explain: Any) -> None:
    """Without a ledger, a row with invalid details is still explained."""
    seeded.rows("DROP TABLE ops_worker_run")
    seeded.rows(
        "UPDATE service_health SET checked_at = now(), details = '[]' WHERE service = 'ingest'"
    )
    assert explain("ingest")["state"] == "healthy"
    seeded.rows(
        "UPDATE service_health SET status = 'unhealthy', "
        """details = '{"http_status": 503, "since": "9"}' """
        "WHERE service = 'ingest'"
    )
    answer = explain("ingest")
    assert (answer["state"], answer["reason"], answer["streak"]) == ("unhealthy", "http 503", None)
    assert parse_time("0001-01-01T00:00:00+23:00") is None and parse_time(None) is None


def test_others(seeded: Database, explain: Any) -> None:
    """The database, the worker and a service that is no longer monitored can be explained."""
    answer = explain("postgres")
    assert (answer["state"], answer["rule"]["an alert opens"]) == ("healthy", "never")
    seeded.move_samples(
        "time - interval '1 hour'", "service = 'postgres' AND time > now() - interval '55 min'"
    )
    answer = explain("postgres")
    assert (answer["state"], answer["last_state"]) == ("stale", "healthy")
    seeded.rows("DELETE FROM system_metrics WHERE service = 'postgres'")
    assert explain("postgres")["state"] == "unknown"
    answer = explain("ops_worker")
    assert (answer["state"], answer["seen_by"]) == ("healthy", "its passes")
    seeded.move_samples("time - interval '181 seconds'", "tags ->> 'pass' = 'metrics'")
    answer = explain("ops_worker")
    assert (answer["state"], answer["reason"]) == ("stale", "not recorded for 3 periods: metrics")
    seeded.rows("DELETE FROM system_metrics WHERE service = 'ops_worker'")
    assert explain("ops_worker")["state"] == "unknown"
    seeded.rows("UPDATE service_health SET service = 'gone' WHERE service = 'ingest'")
    answer = explain("gone")
    assert (answer["state"], answer["rule"]) == (
        "healthy",
        {
            "watched": (
                "no; its row and its alert, where there are any, go with `ops-worker alerts prune`"
            )
        },
    )


def test_row_in_the_past(seeded: Database, explain: Any) -> None:
    """Without a ledger, a row counts from the beginning of its streak, if a pass ran then."""
    begun = "details = details || jsonb_build_object('since', now() - interval '3 hours')"
    seeded.rows(f"UPDATE service_health SET {begun} WHERE service IN ('ingest', 'evaluator')")
    seeded.rows("DROP TABLE ops_worker_span")
    answer = explain("evaluator", "--at", "50m")
    assert (answer["state"], answer["reason"], answer["streak"], answer["seen_by"]) == (
        "unhealthy",
        "",
        None,
        "the health pass",
    )
    answer = explain("ingest", "--at", "70m")
    assert (answer["state"], answer["reason"]) == (
        "stale",
        "no pass has looked since; it was healthy",
    )
    seeded.rows(
        "DELETE FROM system_metrics "
        "WHERE service = 'ops_worker' AND tags ->> 'pass' = 'health' "
        "AND time < now() - interval '1 minute'"
    )
    assert explain("ingest", "--at", "50m")["state"] == "stale"


def test_status_of_an_alert(seeded: Database, explain: Any) -> None:
    """Whether an alert is open depends on its status alone. Times are UTC in any database."""
    seeded.rows(
        f"ALTER DATABASE {seeded.value('SELECT current_database()')} SET timezone = 'Asia/Tokyo'"
    )
    alert = seeded.alerts()[0]
    answer = explain("dispatcher", "--at", (alert["created_at"] + timedelta(minutes=1)).isoformat())
    assert answer["alert"] == (
        f"alert {alert['id']} is open "
        f"since {alert['created_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}, "
        "not acknowledged"
    ), "alex acknowledged it later"
    later = explain("dispatcher", "--at", (alert["created_at"] + timedelta(minutes=4)).isoformat())
    assert later["alert"].split("by ")[1].startswith("alex at ")
    assert explain("dispatcher", "--at", "50m")["alerts"] == []
    seeded.rows("UPDATE fleet_alert SET closed_at = NULL WHERE id = %s", alert["id"])
    assert explain("dispatcher")["alert"] == "no alert is open"
    seeded.rows(
        "UPDATE fleet_alert SET status = 'OPEN', closed_at = now() - interval '1 hour' "
        "WHERE id = %s",
        alert["id"],
    )
    assert explain("dispatcher")["alert"].startswith(f"alert {alert['id']} is open")
    assert explain("delivery")["service"] == "delivery_worker", (
        "a service is found by the name of its series"
    )


@pytest.mark.usefixtures("configured")
def test_rule(stubs: Stubs, explain: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rule comes from the catalogue, whose thresholds override the settings."""
    (tmp_path / "catalogue.toml").write_text(
        f"""[services.odd]
url = "{stubs["ingest"].url.replace("//", "//user:secret@")}"
path = "/health"
expect = ["2xx", 304]
method = "POST"
body = "hush"
redirects = 2
skip_verify = true
max_latency_ms = 700
alert_after = 4
resolve_after = 2
conditions = [{{ pointer = "/counters/queue_depth", at_most = 100 }}]
"""
    )
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "catalogue.toml"))
    assert main(["init-db"]) == 0
    answer = explain("odd")
    assert (answer["state"], answer["alert"], answer["turns"], answer["observations"]) == (
        "unknown",
        "no alert is open",
        [],
        [],
    )
    assert answer["rule"] == {
        "asked": "POST "
        + stubs["ingest"].url.replace("//", "//***@")
        + "/health, up to 2 redirects; its certificate is not verified",
        "answers within": "5 s",
        "healthy when": (
            "http 2xx, 304; a JSON object; /counters/queue_depth is at most 100; "
            "latency at most 700 ms"
        ),
        "an alert opens after": "4 unhealthy passes in a row",
        "it closes after": "2 healthy passes in a row",
    }


def test_bad(
    seeded: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown service, a bad time or a missing privilege prints one line.

    The exit code is 2 for wrong arguments, and 3 for a missing privilege.
    """
    assert main(["explain", "nobody"]) == 2
    assert capsys.readouterr().err == (
        "ops-worker explain: service nobody is not monitored, and nothing is recorded about it; "
        "monitored services: ingest, evaluator, dispatcher, delivery_worker\n"
    )
    for name, suggestion in (
        ("ingset", "ingest"),
        ("delivery-worker", "delivery_worker"),
        ("postgresql", "postgres"),
        ("opsworker", "ops_worker"),
    ):
        assert main(["explain", name]) == 2
        assert capsys.readouterr().err.endswith(
            f"service {name} is not monitored, and nothing is recorded about it; "
            f"did you mean {suggestion}?\n"
        )
    assert main(["explain", "ingest", "--at", "2999-01-01"]) == 2
    assert re.fullmatch(
        r"ops-worker explain: --at 2999-01-01T00:00:00\+00:00: this time is in the future; "
        r"the database's clock says \S+Z\n",
        capsys.readouterr().err,
    )
    for text in ("tomorrow", "99y", "1.1.1s", "2026-13-01"):
        assert main(["explain", "ingest", "--at", text]) == 2
        assert "--at" in capsys.readouterr().err
    assert main(["explain"]) == 2
    seeded.rows("CREATE ROLE ops_blind LOGIN PASSWORD 'x' BYPASSRLS")
    monkeypatch.setenv("DATABASE_URL", seeded.as_user("ops_blind"))
    assert main(["explain", "ingest"]) == 3
    assert "permission denied" in capsys.readouterr().err
    seeded.rows("DROP ROLE ops_blind")


def sentences(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str, str]:
    """Return the sentence of the state, the sentence of the alert and all other lines.

    The time of the state is left out. The screen is so wide that no line is wrapped.
    """
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "500")
        assert main(["explain", *arguments]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert re.match(r"at [\d: -]{19} UTC: ", first)
    (alert,) = [line for line in others if re.match(r"(no )?alert [\w ]*is open", line)]
    return first[28:], alert, "\n".join(line for line in others if line != alert)


@pytest.fixture
def with_shop(seeded: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Database:
    """Return a database whose passes ran before a service was added to the catalogue.

    The port of the service is closed.
    """
    (tmp_path / "own.toml").write_text(
        '[services.shop]\nurl = "http://127.0.0.1:9"\n', encoding="utf-8"
    )
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "own.toml"))
    return seeded


UNSEEN = (
    "nothing is known about shop: the last health and metrics passes did not probe it: "
    "it was not in the catalogue then, or they had no time left for it"
)


def test_new_service(
    with_shop: Database,
    capsys: pytest.CaptureFixture[str],
    explain: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service that no pass has probed is unknown, and the reason names the passes that ran."""
    first, second, other_lines = sentences(capsys, "shop")
    assert (first, second) == (UNSEEN, "no alert is open")
    assert "no pass looked" not in other_lines
    assert "\nno pass has recorded its state\n" in other_lines
    assert "\nno pass has recorded anything about it\n" in other_lines
    assert re.search(r"^health +[\d: -]+ +\d+ s$", other_lines, re.MULTILINE)
    answer = explain("shop")
    assert (answer["state"], answer["reason"]) == ("unknown", UNSEEN.partition(": ")[2])
    monkeypatch.setenv("SYSTEM_ALERT_ENABLED", "off")
    assert sentences(capsys, "shop")[:2] == (UNSEEN, "no alert is open")
    assert explain("shop")["rule"]["an alert opens after"] == "never: SYSTEM_ALERT_ENABLED is off"
    monkeypatch.delenv("SYSTEM_ALERT_ENABLED")
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2999-01-01T00:00:00Z")
    assert sentences(capsys, "shop")[:2] == (UNSEEN, "no alert is open")
    with_shop.rows(
        "DELETE FROM system_metrics WHERE service = 'ops_worker' AND tags ->> 'pass' = 'health'"
    )
    assert sentences(capsys, "shop")[0] == UNSEEN, "the ledger knows that it ran"
    with_shop.rows("DELETE FROM ops_worker_run WHERE pass = 'health'")
    reason = (
        "the last metrics pass did not probe it: it was not in the catalogue then, "
        "or it had no time left for it"
    )
    assert sentences(capsys, "shop")[0] == f"nothing is known about shop: {reason}"
    with_shop.rows("DELETE FROM system_metrics WHERE service = 'ops_worker'")
    with_shop.rows("DELETE FROM ops_worker_run")
    assert sentences(capsys, "shop")[0] == "nothing is known about shop: no pass has looked"


def test_first_pass_of_a_new_service(
    with_shop: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first pass of either kind, its result is shown.

    The answer does not mention a closed alert.
    """
    assert main(["metrics"]) == 0
    first, second, _ = sentences(capsys, "shop")
    assert re.fullmatch(
        r"shop is down, unhealthy since [\d: -]+, when it was first seen: Connection refused "
        r"\(seen by the metrics pass \d+ s ago\)",
        first,
    )
    assert second == "no alert is open: it opens with the next health pass that finds it so"
    monkeypatch.setenv("ALERT_AFTER_FAILURES", "3")
    assert (
        sentences(capsys, "shop")[1]
        == "no alert is open: it opens once 3 health passes in a row find it so"
    )
    assert main(["health"]) == 0
    with_shop.rows("DELETE FROM system_metrics WHERE service = 'shop'")
    first, second, other_lines = sentences(capsys, "shop")
    assert re.fullmatch(
        r"shop is down, unhealthy since [\d: -]+, when it was first seen: Connection refused "
        r"\(seen by the health pass \d+ s ago\)",
        first,
    )
    assert second == "no alert is open yet: 1 of 3 passes in a row found it so"
    assert "\nno sample is recorded\n" in other_lines
    assert "no pass" not in other_lines


def test_service_that_is_gone(
    with_shop: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason why no alert is open can be that no pass monitors the service any more."""
    assert main(["maintenance", "start"]) == main(["health"]) == main(["maintenance", "end"]) == 0
    monkeypatch.delenv("OPS_WORKER_CATALOGUE")
    assert sentences(capsys, "shop")[1] == "no alert is open: no pass watches it any more"
    with_shop.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value) "
        "VALUES (now() - interval '2 hours', 'healthy', 'odd', 1)"
    )
    assert sentences(capsys, "odd")[0] == (
        "nothing is known about odd: the last health and metrics passes did not probe it"
    )


@pytest.mark.usefixtures("with_shop")
def test_maintenance_that_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    """A maintenance that ended since the last health pass is not shown as running."""
    assert main(["maintenance", "start"]) == main(["health"]) == main(["maintenance", "end"]) == 0
    assert sentences(capsys, "shop")[1] == (
        "no alert is open: at the last health pass there was maintenance; "
        "if that is over, the next one that finds it so opens an alert"
    )


@pytest.mark.usefixtures("configured")
def test_database_and_worker(capsys: pytest.CaptureFixture[str]) -> None:
    """The database and the worker can be explained before the first pass."""
    assert main(["init-db"]) == 0
    assert sentences(capsys, "postgres")[:2] == (
        "nothing is known about postgres: no pass has looked",
        "no alert is open",
    )
    assert sentences(capsys, "ops_worker")[:2] == (
        "nothing is known about ops_worker: no pass was recorded, or RECORD_OWN_METRICS is off",
        "no alert is open",
    )


def test_no_alert_for_the_database(
    configured: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """No alert ever opens for the database."""
    assert main(["metrics"]) == main(["health"]) == 0
    configured.rows(
        "UPDATE system_metrics SET value = 0 WHERE service = 'postgres' AND metric_name = 'healthy'"
    )
    assert sentences(capsys, "postgres")[1] == "no alert is open: none ever opens for postgres"


def test_no_alert_for_the_worker(
    configured: Database,
    capsys: pytest.CaptureFixture[str],
    explain: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a pass is stale and no alert is open, the answer has the reason."""
    assert main(["init-db"]) == main(["metrics"]) == main(["health"]) == 0
    assert sentences(capsys, "ops_worker")[:2] == (
        "ops_worker is healthy (seen by its passes)",
        "no alert is open",
    )
    configured.move_samples("time - interval '1 hour'", "tags ->> 'pass' = 'metrics'")
    stale = "ops_worker is stale: not recorded for 3 periods: metrics (seen by its passes)"
    assert sentences(capsys, "ops_worker")[:2] == (
        stale,
        "no alert is open: the health pass opens one with its next turn",
    )
    monkeypatch.setenv("RECORD_OWN_METRICS", "off")
    assert sentences(capsys, "ops_worker")[1].startswith(
        "no alert is open: RECORD_OWN_METRICS is off, so that no pass can tell that the other"
    )
    assert explain("ops_worker")["rule"] == {"an alert opens": "never: RECORD_OWN_METRICS is off"}
    monkeypatch.setenv("SYSTEM_ALERT_ENABLED", "off")
    assert (
        sentences(capsys, "ops_worker")[1]
        == "no alert is open: SYSTEM_ALERT_ENABLED is off, and so is the health pass"
    )
    assert explain("ops_worker")["rule"] == {"an alert opens": "never: SYSTEM_ALERT_ENABLED is off"}
    for name in ("RECORD_OWN_METRICS", "SYSTEM_ALERT_ENABLED"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("MAINTENANCE_UNTIL", "2999-01-01T00:00:00Z")
    assert (
        sentences(capsys, "ops_worker")[1]
        == "no alert is open: there is maintenance until 2999-01-01 00:00:00"
    )
    monkeypatch.delenv("MAINTENANCE_UNTIL")
    configured.move_samples("time - interval '1 hour'", "tags ->> 'pass' = 'health'")
    assert (
        sentences(capsys, "ops_worker")[1] == "no alert is open: no pass runs that could open one"
    )
