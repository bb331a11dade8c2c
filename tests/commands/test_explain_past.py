"""`ops-worker explain` and the ledger: every figure equals a query or a known number."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main
from ops_worker.history.screen import text_width
from tests.commands.test_history import ODD
from tests.looks import START_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.looks import Looks

pytestmark = pytest.mark.integration

Document = dict[str, Any]
LENGTH_S = 7200
"""The length of the history in seconds; its last pass is 20 s ago."""
CHANGES = {  # the state that the health pass sees from a second on; "": no pass runs
    "a": [
        (0, "healthy"),
        (1200, "down"),
        (1800, "degraded"),
        (2100, "healthy"),
        (3000, ""),
        (4200, "healthy"),
        (6000, "timeout"),
        (6600, "down"),
    ],
    "b": [(0, "healthy"), (1500, "down"), (3000, ""), (4200, "down"), (4800, "healthy")],
}
CONFIG_CHANGED_S = 2400
"""From this second on, a third service is monitored."""


def state_at(name: str, second: int) -> str:
    """Return the state that a pass sees at a second, or "" if no pass runs."""
    return [state for begun, state in CHANGES[name] if begun <= second][-1]


@pytest.fixture
def past(look: Looks) -> Looks:
    """Record two hours with outages, a hole and a change of the configuration."""
    look.now += -START_S - LENGTH_S - 20
    monitor(look, "a", "b")
    for second in range(0, LENGTH_S + 1, 60):
        if second == CONFIG_CHANGED_S:
            monitor(look, "a", "b", "c")
        states = {name: state_at(name, second) for name in CHANGES}
        if second >= CONFIG_CHANGED_S:
            states["c"] = "healthy"
        if states["a"]:
            look(second, states)
    return look


def monitor(look: Looks, *names: str) -> None:
    """Monitor these services from now on; `a` has an objective over one day."""
    look.services(*names)
    catalogue = look.folder / "catalogue.toml"
    text = catalogue.read_text()
    catalogue.write_text(text.replace("[services.a]\n", "[services.a]\nslo = 80\nslo_window = 1\n"))


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Callable[..., Document]:
    """Return a function that runs a command and returns its document."""

    def run(command: str, *arguments: str) -> Document:
        capsys.readouterr()
        assert main([command, "--output", "json", *arguments]) == 0
        document: Document = json.loads(capsys.readouterr().out)
        return document

    return run


def begun(look: Looks) -> datetime:
    """Return the time of the first pass."""
    first: datetime = look.database.value("SELECT min(first_at) FROM ops_worker_run")
    return first.astimezone(UTC)


def second_of(look: Looks, moment: str | None) -> int:
    """Return how many seconds a time is after the first pass."""
    assert moment is not None
    return round((datetime.fromisoformat(moment) - begun(look)).total_seconds())


def moment(look: Looks, second: float) -> list[str]:
    """Return the option for a time, given in seconds after the first pass."""
    return ["--at", (begun(look) + timedelta(seconds=second)).isoformat()]


def test_now_by_hand(past: Looks, read: Callable[..., Document]) -> None:
    """The answer has the last sight, the state, and when state and outage began, with bounds."""
    document = read("explain", "a")
    assert (document["state"], document["reason"]) == ("down", "Connection refused")
    assert second_of(past, document["state_since"]) == 6600
    assert second_of(past, document["state_since_earliest"]) == 6540
    assert second_of(past, document["since"]) == 6000
    assert second_of(past, document["since_earliest"]) == 5940
    assert (document["first_sight"], document["complete"], document["unseen_s"]) == (False, True, 0)
    assert (document["seen_by"], document["status_shows"]) == ("the health pass", "down")
    assert second_of(past, document["last_seen"]) == LENGTH_S
    assert 20 <= document["age_s"] < 80
    assert document["streak"] == 21
    other = read("explain", "c")
    assert (other["state"], other["first_sight"]) == ("healthy", True)
    assert second_of(past, other["since"]) == CONFIG_CHANGED_S
    assert other["unseen_s"] == pytest.approx(1200, abs=1), (
        "the last pass before the hole counts for one period"
    )


def test_turns_by_hand(past: Looks, read: Callable[..., Document]) -> None:
    """The last changes have no gap.

    A hole counts as a change. A change of the configuration does not.
    """
    document = read("explain", "a")
    turns = [
        (turn["state"], turn["seen"], second_of(past, turn["from"]), turn["reason_class"])
        for turn in document["turns"]
    ]
    assert turns == [
        ("healthy", True, 0, ""),
        ("down", True, 1200, "refused"),
        ("degraded", True, 1800, "http_503"),
        ("healthy", True, 2100, ""),
        ("unknown", False, 3000, ""),
        ("healthy", True, 4200, ""),
        ("unknown", True, 6000, "timeout"),
        ("down", True, 6600, "refused"),
    ]
    for before, after in pairwise(document["turns"]):
        assert before["to"] == after["from"]
    for turn in document["turns"]:
        length = datetime.fromisoformat(turn["to"]) - datetime.fromisoformat(turn["from"])
        assert turn["seconds"] == pytest.approx(length.total_seconds())
    hole = document["turns"][4]
    assert second_of(past, document["turns"][3]["to_latest"]) == second_of(past, hole["to"])


def test_past_by_hand(past: Looks, read: Callable[..., Document]) -> None:
    """The last 30 days: the number of outages, the longest one, the seconds of each state."""
    document = read("explain", "a")
    lasted_s = (datetime.fromisoformat(document["at"]) - begun(past)).total_seconds()
    summary = document["past"]
    assert summary["outages"] == 2
    assert summary["longest"]["seconds"] == pytest.approx(lasted_s - 6000, abs=1)
    assert second_of(past, summary["longest"]["from"]) == 6000
    assert {item["state"]: item["times"] for item in summary["states"]} == {
        "degraded": 1,
        "down": 2,
        "unknown": 1,
    }
    down = next(item for item in summary["states"] if item["state"] == "down")
    assert down["seconds"] == pytest.approx(600 + lasted_s - 6600, abs=1)
    expected = {
        "healthy": 1200 + 900 + 1800,
        "degraded": 300,
        "down": 600 + lasted_s - 6600,
        "unknown": 600,
        "unseen": 30 * 86_400 - lasted_s + 1200,
    }
    assert summary["seconds"] == pytest.approx(expected, abs=1)
    assert list(summary["seconds"]) == list(expected)
    value = summary["availability"]["value"]
    assert value == pytest.approx(3900 / (lasted_s - 1200), abs=1e-3)
    assert summary["availability"]["least"] < value < summary["availability"]["most"]
    length = datetime.fromisoformat(summary["to"]) - datetime.fromisoformat(summary["from"])
    assert length == timedelta(days=30)


def test_outage_around_a_hole(past: Looks, read: Callable[..., Document]) -> None:
    """An outage before and after a hole is one outage, and the hole does not count."""
    longest = read("explain", "b")["past"]["longest"]
    assert (second_of(past, longest["from"]), second_of(past, longest["to"])) == (1500, 4800)
    assert longest["seconds"] == pytest.approx(1500 + 600, abs=1)
    assert longest["unseen_s"] == pytest.approx(1200, abs=1)
    document = read("explain", "b", *moment(past, 4500))
    assert (document["state"], document["past"]["outages"]) == ("down", 1)
    assert second_of(past, document["since"]) == 1500
    assert document["unseen_s"] == pytest.approx(1200, abs=1)


LASTED = """
SELECT sum(date_part('epoch', least(ended, %s::timestamptz) - first_at)) AS seconds FROM (
    SELECT state, first_at, lead(first_at, 1, 'infinity') OVER (ORDER BY first_at) AS ended
    FROM ops_worker_span WHERE service = 'a' AND pass = 'health'
) AS span WHERE state <> 'healthy'
"""


def test_error_budget(past: Looks, read: Callable[..., Document]) -> None:
    """The budget equals that of `status`, and its remaining seconds equal a query."""
    document = read("explain", "a")
    left_s = 0.2 * 86_400 - past.database.value(LASTED, document["at"])
    assert document["budget"]["left_s"] == pytest.approx(left_s, abs=0.01)
    (service,) = [entry for entry in read("status")["services"] if entry["service"] == "a"]
    assert document["budget"] == pytest.approx(service["budget"], abs=0.01, rel=1e-3)
    assert document["rule"]["objective"] == "80 % healthy over 1 d"
    before = read("explain", "a", *moment(past, 1100))["budget"]
    assert before["left_s"] == pytest.approx(0.2 * 86_400)
    assert read("explain", "b")["budget"] is None


def test_equals_the_history(past: Looks, read: Callable[..., Document]) -> None:
    """At any time, `explain` and `history` agree on state, beginning and sums."""
    for second in (1, 59, 1199, 1201, 2000, 2399, 2401, 3050, 3070, 4100, 4230, 6200, 7190):
        for name in CHANGES:
            option = moment(past, second)
            document = read("explain", name, *option)
            at = datetime.fromisoformat(option[1])
            since = (at - timedelta(days=30)).isoformat()
            period = ["--from", since, "--to", option[1]]
            (entry,) = read("history", name, *period)["services"]
            last = entry["spans"][-1]
            assert document["state"] == (last["state"] if last["seen"] else "stale")
            assert document["past"]["seconds"] == pytest.approx(entry["seconds"], abs=1e-4)
            for key, share in entry["availability"].items():
                assert document["past"]["availability"][key] == pytest.approx(share, abs=1e-5)
            assert document["past"]["outages"] == outages(entry["spans"])
            if last["seen"]:
                begins = [span["from"] for span in entry["spans"] if span["seen"]]
                assert document["since"] in begins
                assert document["turns"][-1]["from"] == last["from"]
            else:
                assert document["last_state"] == entry["spans"][-2]["state"]
                assert document["stale"]


def outages(spans: list[Document]) -> int:
    """Count the changes to an unhealthy state; unseen time is no change."""
    states = [span["state"] == "healthy" for span in spans if span["seen"]]
    return sum(1 for before, after in pairwise([True, *states]) if before and not after)


def test_moment_of_a_change(past: Looks, read: Callable[..., Document]) -> None:
    """A new state counts from the time of its first sight, and the old state before it."""
    first: datetime = past.database.value(
        "SELECT first_at FROM ops_worker_span WHERE service = 'a' AND state = 'down' "
        "ORDER BY first_at"
    )
    after = read("explain", "a", "--at", first.isoformat())
    assert (after["state"], after["since"]) == ("down", first.astimezone(UTC).isoformat())
    before = read("explain", "a", "--at", (first - timedelta(microseconds=1)).isoformat())
    assert before["state"] == "healthy"
    assert before["age_s"] == pytest.approx(60, abs=1)
    # The run continues after this time. The ledger has no time of the last pass before it.
    between = read("explain", "a", *moment(past, 630))
    assert (between["state"], between["last_seen"]) == ("healthy", None)
    assert between["seen_by"] == "the health pass"


def test_years_ago(
    past: Looks, read: Callable[..., Document], capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger alone answers for any time, with or without samples of that time."""
    times = ("first_at", "last_at")
    for table in ("ops_worker_run", "ops_worker_span"):
        moved = ", ".join(f"{time} = {time} - interval '3 years'" for time in times)
        past.database.rows(f"UPDATE {table} SET {moved}")
    past.database.rows("DELETE FROM system_metrics; DELETE FROM service_health")
    for second, state in ((600, "healthy"), (1500, "down"), (2000, "degraded"), (6300, "unknown")):
        document = read("explain", "a", *moment(past, second))
        assert (document["state"], document["seen_by"]) == (state, "the health pass")
    document = read("explain", "a", *moment(past, 3600))
    assert (document["state"], document["reason"]) == (
        "stale",
        "no pass has looked since; it was healthy",
    )
    assert second_of(past, document["since"]) == 2940
    assert document["age_s"] == pytest.approx(660, abs=1)
    document = read("explain", "a", *moment(past, -3600))
    assert (document["state"], document["reason"]) == ("unknown", "no pass looked")
    assert document["past"]["seconds"]["unseen"] == 30 * 86_400
    today = read("explain", "a")
    assert (today["state"], today["last_state"]) == ("stale", "down")
    assert [turn["seen"] for turn in today["turns"]] == [
        True,
        True,
        True,
        False,
        True,
        True,
        True,
        False,
    ]
    assert main(["explain", "a", *moment(past, 3600)]) == 0
    assert " UTC: a is stale: no pass has looked since\n" in capsys.readouterr().out
    assert main(["explain", "a", "--at", "0001-01-02"]) == 0


def test_clock_set_back(look: Looks, read: Callable[..., Document]) -> None:
    """If a clock was set back, the state that was recorded later counts, as in `history`."""
    look.now += -START_S - 2000
    for second in range(0, 1801, 60):
        look(second, {"a": "healthy", "b": "healthy", "c": "healthy"})
    # The clock was a day ahead during these passes, and is right during the next ones.
    look.database.rows("UPDATE ops_worker_run SET last_at = last_at + interval '1 day'")
    for second in range(600, 1201, 60):
        look(second, {"a": "down", "b": "healthy", "c": "healthy"})
    for second in (590, 630, 1100, 1700):
        option = moment(look, second)
        document = read("explain", "a", *option)
        since = (datetime.fromisoformat(option[1]) - timedelta(days=1)).isoformat()
        (entry,) = read("history", "a", "--from", since, "--to", option[1])["services"]
        last = entry["spans"][-1]
        assert document["state"] == (last["state"] if last["seen"] else "stale")
    assert read("explain", "a", *moment(look, 1100))["state"] == "down"
    assert read("explain", "a", *moment(look, 590))["state"] == "healthy"


def test_many_changes(look: Looks, read: Callable[..., Document]) -> None:
    """If a service changes very often, its state may have begun before the rows that are read."""
    main(["init-db"])
    begin = "now() - interval '90 days'"
    look.database.rows(
        f"""
        INSERT INTO ops_worker_run (id, pass, period_s, first_at, last_at, passes)
        VALUES (1, 'health', 60, {begin}, now(), 129600);
        INSERT INTO ops_worker_span (pass, service, state, reason_class, first_at, first_no, run,
            last_at, last_no, last_run)
        SELECT 'health', 'a', 'down', CASE n % 2 WHEN 0 THEN 'refused' ELSE 'name' END,
            {begin} + make_interval(mins => n), n + 1, 1,
            CASE WHEN n < 99 THEN {begin} + make_interval(mins => n) END,
            CASE WHEN n < 99 THEN n + 1 END, CASE WHEN n < 99 THEN 1 END
        FROM generate_series(0, 99) AS n
        """
    )
    document = read("explain", "a")
    assert (document["state"], document["complete"], document["first_sight"]) == (
        "down",
        False,
        False,
    )
    begun_at = datetime.fromisoformat(document["since"])
    at = datetime.fromisoformat(document["at"])
    assert (at - begun_at).days == 89, "the last 40 spans are older than 30 days"
    assert len(document["turns"]) == 8
    assert document["past"]["outages"] == 1
    assert document["past"]["seconds"]["down"] == 30 * 86_400


def act(past: Looks) -> str:
    """Acknowledge and close the alert of `a`, start a maintenance; return the alert's ID."""
    alerts = {row["fingerprint"]: row["id"] for row in past.database.alerts()}
    number = str(alerts["system-health:a"])
    assert main(["alerts", "ack", number, "--by", "kim", "--reason", "switch <b>7</b>"]) == 0
    assert main(["maintenance", "start", "--for", "1h", "--by", "lee", "--reason", "racks"]) == 0
    assert main(["alerts", "close", number, "--by", "kim"]) == 0
    return number


def test_actions(past: Looks, read: Callable[..., Document]) -> None:
    """The answer has the actions that concern the service or all services."""
    act(past)
    rows = past.database.rows("SELECT * FROM ops_worker_action ORDER BY id")
    assert [row["action"] for row in rows] == ["acknowledged", "maintenance_started", "closed"]
    expected = [
        {
            "at": row["at"].astimezone(UTC).isoformat(),
            "action": row["action"],
            "by": row["by"],
            "reason": row["reason"],
            "services": row["services"],
            "until": row["until"] and row["until"].astimezone(UTC).isoformat(),
            "alert": row["alert"],
        }
        for row in rows
    ]
    document = read("explain", "a")
    assert document["actions"] == expected
    assert document["alert"].startswith("no alert is open: there is maintenance until ")
    assert read("explain", "b")["actions"] == expected[1:2]
    assert read("history")["actions"] == expected
    assert read("history", "b")["actions"] == expected[1:2]
    assert read("history", "--to", "1h")["actions"] == []
    assert read("explain", "a", *moment(past, 7000))["actions"] == []


def test_actions_on_the_screen(past: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """The screens of both commands have a table of the actions. The CSV has only spans."""
    number = act(past)
    past.env.setenv("COLUMNS", "140")
    for command in ("explain", "history"):
        capsys.readouterr()
        assert main([command, "a"]) == 0
        _, _, below = capsys.readouterr().out.partition("\nWhat people did\n")
        table = re.sub(r"[\d-]{10} [\d:]{8}", "TIME", below).splitlines()
        # Both commands print the tables at the width for a pipe.
        lines = [line for line in table[1:8] if line]
        assert re.match(rf"TIME +acknowledged +kim +a +alert {number}\b", lines[0])
        assert "switch <b>7</b>" in lines[0] + lines[1]
        assert any(
            re.match(r"TIME +maintenance started +lee +all +until TIME", line) for line in lines
        )
        assert any(re.match(rf"TIME +closed +kim +a +alert {number}\b", line) for line in lines)
    assert main(["history", "--output", "csv"]) == 0
    assert "maintenance" not in capsys.readouterr().out, "actions are no spans"


ODD_ACTIONS = """
INSERT INTO ops_worker_action (at, action, by, reason, services, until, alert) VALUES
(now() - interval '1 s', E'a\\x1b[31m', E'k\\nim', E'<script>\\r',
    '["a", 5, null, {"b": 1}]', 'infinity', -1),
(now() - interval '1 s', '', '', '', '{"a": 1}', '-infinity', NULL),
(now() - interval '1 s', 'x', '', '', '"a"', NULL, NULL),
(now() - interval '1 s', 'not about a', '', '', 'null', NULL, NULL),
('infinity', 'later', '', '', '[]', NULL, NULL),
('-infinity', 'before', '', '', '[]', NULL, NULL)
"""


def test_odd_actions(
    look: Looks, read: Callable[..., Document], capsys: pytest.CaptureFixture[str]
) -> None:
    """Any content of the table of actions is shown on one line, without control characters."""
    look.now += -START_S - 20
    look(0, {"a": "healthy"})
    look.database.rows(ODD_ACTIONS)
    first, *others = read("explain", "a")["actions"]
    assert (first["action"], first["by"], first["services"]) == ("a [31m", "k im", ["a"])
    end = datetime.fromisoformat(first["until"])
    assert end.year - datetime.fromisoformat(first["at"]).year == 10, "an infinite time is cut"
    assert [action["action"] for action in others] == ["", "x"]
    assert len(read("history")["actions"]) == 4
    for command in ("explain", "history"):
        assert main([command, "a"]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\r" not in out


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_widths(
    past: Looks, capsys: pytest.CaptureFixture[str], width: int, is_terminal: bool
) -> None:
    """With and without colours, each line fits on the screen, and none is wrapped."""
    past.env.setenv("COLUMNS", str(width))
    past.env.setenv("FORCE_COLOR", "1")
    reason = "word " * 50
    past.database.rows(
        "UPDATE service_health SET details = details || jsonb_build_object('error', %s::text)",
        reason,
    )
    past.database.rows("UPDATE ops_worker_span SET reason = %s WHERE state = 'down'", reason)
    for number in (row["id"] for row in past.database.alerts() if row["status"] == "OPEN"):
        assert main(["alerts", "ack", str(number), "--by", "kim", "--reason", reason]) == 0
    assert main(["maintenance", "start", "--by", "lee", "--reason", reason]) == 0
    capsys.readouterr()
    past.env.setattr("sys.stdout.isatty", lambda: is_terminal)
    assert main(["explain", "a"]) == 0
    out = capsys.readouterr().out
    assert ("\x1b[" in out) is is_terminal
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert max(map(text_width, lines)) <= width
    titles = ("Last changes", "Outages, last 30 d", "Service level objectives", "What people did")
    assert [line for line in lines if line in titles] == list(titles)
    (row,) = [line for line in lines if line.startswith("unhealthy ")]
    assert "…" not in row
    actions = lines[lines.index("What people did") + 1 :][:5]
    assert any("acknowledged" in line for line in actions)
    assert any("maintenance started" in line for line in actions)


def test_screen_shows_the_document(
    past: Looks, read: Callable[..., Document], capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentences and tables have the figures of the document."""
    past.env.setenv("COLUMNS", "250")
    document = read("explain", "a", *moment(past, 7000))
    assert main(["explain", "a", *moment(past, 7000)]) == 0
    out = capsys.readouterr().out
    first, alert, summary, *_ = out.splitlines()
    clock = "[\\d-]{10} [\\d:]{8}"
    assert re.fullmatch(
        rf"at {clock} UTC: a is down since {clock}, at most (60 s|1 min) earlier, "
        rf"unhealthy since {clock}, at most (60 s|1 min) earlier: Connection refused "
        r"\(seen by the health pass\)",
        first,
    )
    assert alert.startswith("no alert is open")
    value = document["past"]["availability"]["value"] * 100
    match = re.fullmatch(
        r"last 30 d: 2 outages, the longest of 16 min 40 s; healthy (\S+) % \(\S+ % to \S+ %\), "
        r"seen \S+ % of time",
        summary,
    )
    assert match
    assert float(match[1]) == pytest.approx(value, abs=0.001)
    assert re.search(rf"^down +2 +16 min 40 s +10 min +{clock}", out, re.MULTILINE)
    assert re.search(rf"^unknown +1 +10 min +10 min +{clock}", out, re.MULTILINE)
    assert re.search(rf"^unhealthy +2 +31 min 40 s +16 min 40 s +{clock}", out, re.MULTILINE)
    rows = re.findall(rf"^(\w+) +({clock}) +{clock} +\d+ (?:s|min)", out, re.MULTILINE)
    expected = [
        (
            turn["state"] if turn["seen"] else "unseen",
            turn["from"][:19].replace("T", " "),
        )
        for turn in document["turns"]
    ]
    assert rows == expected


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE ops_worker_run", "DROP TABLE ops_worker_span", "REVOKE"],
)
def test_without_a_ledger(
    past: Looks,
    read: Callable[..., Document],
    capsys: pytest.CaptureFixture[str],
    statement: str,
) -> None:
    """Without a ledger that can be read, the row of the service is shown, with a note."""
    with_ledger = read("explain", "a")
    if statement == "REVOKE":
        past.database.rows(
            "CREATE ROLE ops_half LOGIN PASSWORD 'x' BYPASSRLS;"
            "GRANT SELECT ON system_metrics, fleet_alert, service_health TO ops_half"
        )
        past.env.setenv("DATABASE_URL", past.database.as_user("ops_half"))
    else:
        past.database.rows(statement)
    try:
        document = read("explain", "a")
        earlier = read("explain", "a", "--at", "100m")
        assert main(["explain", "a"]) == 0
    finally:
        past.database.rows(
            "DROP OWNED BY ops_half; DROP ROLE ops_half" if statement == "REVOKE" else "SELECT"
        )
    out = capsys.readouterr().out
    assert "nothing is known about earlier states: no ledger to read (`ops-worker init-db`)" in out
    assert "Last changes" not in out
    assert "Outages" not in out
    assert (document["ledger"], document["past"], document["turns"]) == (False, None, [])
    assert (document["budget"], document["sights"]) == (None, [])
    for key in ("state", "reason", "streak", "alert", "rule", "alerts"):
        assert document[key] == with_ledger[key]
    assert (earlier["state"], earlier["seen_by"]) == ("unknown", "")
    is_revoked = statement == "REVOKE"
    assert (document["actions"] is None) is is_revoked
    assert ("no table ops_worker_action to read (`ops-worker init-db`)" in out) is is_revoked


@pytest.mark.parametrize("statement", ODD.values(), ids=ODD)
def test_odd_rows(look: Looks, read: Callable[..., Document], statement: str) -> None:
    """Odd rows in the ledger, from a person or a restored backup, do not prevent an answer."""
    look.now += -START_S - 320
    for second, state in ((0, "healthy"), (60, "down"), (120, "healthy"), (300, "down")):
        for name in ("health", "metrics"):
            look(second, {"a": state, "b": "healthy", "c": "healthy"}, name=name)
    look.database.rows(statement)
    document = read("explain", "a")
    assert document["state"] in {"down", "unknown", "healthy", "degraded"}
    if document["state"] != "down":
        assert document["status_shows"] == "down", (
            "the screen says that `status` shows another state"
        )
    for age in ("1 min", "3 min", "5 min", "3 years"):
        at = look.database.value(f"SELECT now() - interval '{age}'")
        assert read("explain", "b", "--at", at.isoformat())["service"] == "b"
    assert main(["explain", "a"]) == 0
