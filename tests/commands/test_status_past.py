"""`ops-worker status` and the ledger: every figure equals a query or a known number."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import settings
from ops_worker.cli import main
from ops_worker.commands import status
from ops_worker.history.screen import STATE_MARKS, text_width
from tests.commands.test_history import ODD
from tests.looks import START_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.looks import Looks

pytestmark = pytest.mark.integration

Document = dict[str, Any]
LENGTH_S = 7200
"""The length of the history in seconds; it ends with a pass 20 s ago."""
STATES = {  # a mark stands for five minutes; `c` is not probed at first
    "a": "HHDDHH......HHHHHHHHHHdd",
    "b": "HHHHHH......HHHuHHHHHHHH",
    "c": "...HHH......HHHHH....HHH",
}
WORDS = {"H": "healthy", "D": "degraded", "d": "down", "u": "timeout", ".": ""}
RECORDED = {"H": "healthy", "D": "degraded", "d": "down", "u": "unknown", ".": "unseen"}


@pytest.fixture
def past(look: Looks) -> Looks:
    """Record two hours with a health pass every 60 s.

    There is a hole of half an hour. `c` is not probed at first, and not for a while later.
    """
    look.now += -START_S - LENGTH_S - 20
    catalogue = look.folder / "catalogue.toml"
    text = catalogue.read_text()
    text = text.replace("[services.a]\n", "[services.a]\nslo = 99\nslo_window = 1\n")
    catalogue.write_text(text.replace("[services.b]\n", "[services.b]\nslo = 90\n"))
    for second in range(0, LENGTH_S + 1, 60):
        index = min(second // 300, 23)
        states = {name: WORDS[bar[index]] for name, bar in STATES.items() if bar[index] != "."}
        if states:
            look(second, states)
    return look


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Callable[..., Document]:
    """Return a function that runs a command and returns its document."""

    def run(command: str, *arguments: str) -> Document:
        capsys.readouterr()
        assert main([command, "--output", "json", *arguments]) == 0
        document: Document = json.loads(capsys.readouterr().out)
        return document

    return run


def by_name(document: Document) -> dict[str, Document]:
    """Return the services of a document by name."""
    return {item["service"]: item for item in document["services"]}


@pytest.mark.usefixtures("past")
def test_states_by_hand(read: Callable[..., Document]) -> None:
    """Each bucket has its state.

    There are outages, a hole, a service that was not probed, and one that was added later.
    """
    services = by_name(read("status", "--since", "2h"))
    for name, bar in STATES.items():
        states = services[name]["states"]
        # The period ends 20 s after the last pass: a bucket reaches 20 s into the next state.
        expected = [RECORDED[letter] for letter in bar]
        for index, (state, own) in enumerate(zip(states, expected, strict=True)):
            following = expected[min(index + 1, 23)]
            worse = following if following in {"degraded", "down", "unknown"} else own
            assert state in {own, worse}, (name, index, states)
        assert {*states} == {*expected}


@pytest.mark.usefixtures("past")
def test_equals_the_history(read: Callable[..., Document]) -> None:
    """States and availability equal those of `history` in the same period."""
    for since in ("2h", "50m", "7d", "1y", (datetime.now(UTC) - timedelta(hours=1)).isoformat()):
        document = read("status", "--since", since)
        now, since_s = datetime.fromisoformat(document["at"]), document["since_s"]
        begun = now - timedelta(seconds=since_s)
        period = ["--from", begun.isoformat(), "--to", now.isoformat()]
        history = by_name(read("history", *period))
        for name, item in by_name(document).items():
            for key, share in item["availability"].items():
                assert share == pytest.approx(history[name]["availability"][key], abs=1e-4), key
            for index, state in enumerate(item["states"]):
                first, last = (
                    begun + timedelta(seconds=since_s / 24 * edge) for edge in (index, index + 1)
                )
                seconds: dict[str, float] = {}
                for span in history[name]["spans"]:
                    span_from, span_to = (
                        datetime.fromisoformat(span[key]) for key in ("from", "to")
                    )
                    if span_from < last and span_to > first:
                        state_name = span["state"] if span["seen"] else "unseen"
                        length_s = (min(span_to, last) - max(span_from, first)).total_seconds()
                        seconds[state_name] = seconds.get(state_name, 0.0) + length_s
                worst = [
                    state_name
                    for state_name in ("down", "unknown", "degraded")
                    if seconds.get(state_name, 0) > 0.01
                ]
                half_seen = seconds.get("healthy", 0) >= seconds.get("unseen", 0)
                assert state == (worst or ["healthy" if half_seen else "unseen"])[0]


LASTED = """
SELECT sum(date_part('epoch', least(ended, %s::timestamptz) - first_at)) AS seconds FROM (
    SELECT state, first_at, lead(first_at, 1, 'infinity') OVER (ORDER BY first_at) AS ended
    FROM ops_worker_span WHERE service = %s AND pass = 'health'
) AS span WHERE state <> 'healthy'
"""


def test_error_budget(past: Looks, read: Callable[..., Document]) -> None:
    """The remaining budget is the budget minus the seconds of the unhealthy spans."""
    document = read("status")
    services = by_name(document)
    last = past.database.value("SELECT max(last_at) FROM ops_worker_run")
    since_last_s = (datetime.fromisoformat(document["at"]) - last).total_seconds()
    for name, budget_s, days in (("a", 864.0, 1), ("b", 259_200.0, 30)):
        lasted_s = past.database.value(LASTED, document["at"], name)
        budget = services[name]["budget"]
        assert budget["window_days"] == days
        assert budget["left_s"] == pytest.approx(budget_s - lasted_s, abs=0.01)
        assert budget["left"] == pytest.approx((budget_s - lasted_s) / budget_s)
        assert budget["least_s"] <= budget["left_s"] <= budget["most_s"]
        seen_s = services[name]["budget"]["coverage"] * days * 86_400
        # Two hours up to now, without the hole. Each pass reads both clocks, so its time varies.
        assert seen_s == pytest.approx(90 * 60 + since_last_s, abs=5)
    assert services["c"]["budget"] is None


def test_screen_shows_the_document(
    past: Looks, read: Callable[..., Document], capsys: pytest.CaptureFixture[str]
) -> None:
    """Bars and percentages of the screen equal those of the document."""
    past.env.setenv("COLUMNS", "88")  # a bar of 24 marks
    services = by_name(read("status", "--since", "2h"))
    assert main(["status", "--since", "2h"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 of 3 services is unhealthy; 1 alert is not acknowledged\ndatabase ")
    rows = re.findall(r"^([abc]) +(\w+) +\d+ \w+ +(\S{24}) +\(?(\S+) %\)? +\S+", out, re.MULTILINE)
    assert [name for name, *_ in rows] == ["a", "b", "c"]
    for name, state, bar, percent in rows:
        item = services[name]
        assert state == item["state"]
        assert bar == "".join(STATE_MARKS[mark_state] for mark_state in item["states"])
        value = item["availability"]["value"] * 100
        # A moment passed between the two commands.
        assert -0.02 < float(percent) - value < 0.01
    assert re.search(r"^a +99 % +14 min in 1 d +\d+ \w+ +none  ", out, re.MULTILINE)
    assert re.search(r"^b +90 % +3 d in 30 d +\d+ \w+ +9\d %", out, re.MULTILINE)


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_widths(
    past: Looks, capsys: pytest.CaptureFixture[str], width: int, is_terminal: bool
) -> None:
    """With and without colours, each line fits on the screen, and no row is wrapped."""
    past.env.setenv("COLUMNS", str(width))
    past.env.setenv("FORCE_COLOR", "1")
    past.env.setattr("sys.stdout.isatty", lambda: is_terminal)
    past.database.rows(
        "UPDATE service_health "
        "SET details = details || jsonb_build_object('error', repeat('word ', 50)) "
        "WHERE service = 'b'"
    )
    assert main(["status", "--since", "2h"]) == 0
    out = capsys.readouterr().out
    assert ("\x1b[" in out) is is_terminal
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert max(map(text_width, lines)) <= width
    (row,) = [line for line in lines if re.match(r"b +healthy ", line)]
    (note,) = [line for line in lines if "word" in line]
    assert note.endswith("…")
    assert note == row if width == 160 else note.startswith("  word word ")
    assert any(line.startswith("BAR: █ healthy") for line in lines)


def test_bar_without_samples(past: Looks, read: Callable[..., Document]) -> None:
    """States come from the ledger alone; they are the same without samples."""
    past.database.rows("DELETE FROM system_metrics")
    document = read("status", "--since", "1y")
    assert document["series"] == []
    assert (document["since_s"], document["samples_since_s"]) == (365 * 86_400, 31 * 86_400)
    services = by_name(document)
    assert services["a"]["states"] == ["unseen"] * 23 + ["down"]
    assert services["c"]["availability"]["value"] == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE ops_worker_run",
        "DROP TABLE ops_worker_span",
        (
            "ALTER TABLE ops_worker_span OWNER TO CURRENT_USER; "
            "REVOKE ALL ON ops_worker_span FROM PUBLIC"
        ),
    ],
)
def test_without_a_ledger(
    past: Looks,
    read: Callable[..., Document],
    capsys: pytest.CaptureFixture[str],
    statement: str,
) -> None:
    """Without a ledger that can be read, only bars, availability and budgets are missing."""
    with_ledger = read("status", "--since", "2h")
    past.database.rows(statement)
    if "REVOKE" in statement:
        past.database.rows(
            "CREATE ROLE ops_half LOGIN PASSWORD 'x' BYPASSRLS;"
            "GRANT SELECT ON system_metrics, fleet_alert, service_health TO ops_half"
        )
        past.env.setenv("DATABASE_URL", past.database.as_user("ops_half"))
    try:
        document = read("status", "--since", "2h")
        assert main(["status"]) == 0
    finally:
        past.database.rows(
            "DROP OWNED BY ops_half; DROP ROLE ops_half" if "REVOKE" in statement else "SELECT"
        )
    out = capsys.readouterr().out
    assert "BAR: " not in out
    assert "no BAR, no AVAIL: no ledger to read (`ops-worker init-db`)" in out
    assert document["since_s"] == with_ledger["since_s"] == 7200
    for service, before in zip(document["services"], with_ledger["services"], strict=True):
        assert (service["states"], service["availability"], service["budget"]) == ([], None, None)
        assert service["state"] == before["state"]


def test_stale(
    past: Looks, read: Callable[..., Document], capsys: pytest.CaptureFixture[str]
) -> None:
    """A service with an old last sight is not healthy in the verdict."""
    past.database.rows(
        "UPDATE service_health SET checked_at = now() - interval '5 min' WHERE service = 'b'"
    )
    assert read("status")["verdict"].startswith("1 of 3 services is unhealthy, 1 stale; ")
    assert main(["status"]) == 0
    assert re.search(r"^b +stale +- +[█▒x?·]{16} ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("statement", ODD.values(), ids=ODD)
def test_odd_rows(look: Looks, read: Callable[..., Document], statement: str) -> None:
    """Odd rows in the ledger, from a person or a backup, do not prevent an answer."""
    look.now += -START_S - 320
    for second, state in ((0, "healthy"), (60, "down"), (120, "healthy"), (300, "down")):
        for name in ("health", "metrics"):
            look(second, {"a": state, "b": "healthy", "c": "healthy"}, name=name)
    look.database.rows(statement)
    for since in ("1h", "10y"):
        document = read("status", "--since", since)
        assert [item["state"] for item in document["services"]] == ["down", "healthy", "healthy"]
        for item in document["services"]:
            assert len(item["states"]) == 24
            assert {*item["states"]} <= STATE_MARKS.keys()
    assert main(["status", "--since", "10y"]) == 0


class EndedError(Exception):
    """Ends an endless loop."""


def test_watch_marks_changes(past: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    """With --watch, the second screen has the time, and a star where a state changed."""
    screens: list[str] = []

    def sleep(_: float) -> None:
        screens.append(capsys.readouterr().out)
        if len(screens) == 3:
            raise EndedError
        if len(screens) == 1:
            past(LENGTH_S + 10, {"a": "down", "b": "down", "c": "healthy"})

    past.env.setattr(status, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
    options = argparse.Namespace(watch=1.0, output="text", since=3600.0)
    with pytest.raises(EndedError):
        status.run(options, settings.load())
    first, second, third = screens
    assert "*" not in first
    assert re.search(
        r"^database \S+, [\d-]+ [\d:]+ UTC; \* changed since [\d:]+$", second, re.MULTILINE
    )
    assert re.findall(r"^(\* |  )([abc]) +(\w+) ", second, re.MULTILINE) == [
        ("  ", "a", "down"),
        ("* ", "b", "down"),
        ("  ", "c", "healthy"),
    ]
    assert not re.search(r"^\* ", third, re.MULTILINE)
