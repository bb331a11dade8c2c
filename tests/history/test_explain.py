"""The document and the screen of `explain`, from rows in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops_worker.core.doubt import DoubtRow
from ops_worker.core.ledger import Run, Span
from ops_worker.core.model import Condition, Target, Thresholds
from ops_worker.core.staleness import PassRecord
from ops_worker.history import explain
from ops_worker.history.explain import Explanation, Rule, ServiceHistory, ServiceLedger, look_back
from ops_worker.history.explain.rows import PERIOD, before
from ops_worker.history.ledger import LedgerRows
from ops_worker.history.rows import ActionRow, HealthRow, ServiceAlertRow
from ops_worker.history.screen import fitted, plain, text_width

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    """Return a time before now."""
    return NOW - timedelta(seconds=seconds)


def span(state: str, first: float, last: float | None, run: int = 1, reason: str = "") -> Span:
    """Return a span of service `a`. Its first and last sight are in seconds before now."""
    return Span(
        id=int(first),
        service="a",
        state=state,
        reason_class=reason[:7],
        reason=reason,
        first_at=ago(first),
        first_no=1,
        run=run,
        last_at=None if last is None else ago(last),
        last_no=None if last is None else 1,
        last_run=None if last is None else run,
    )


HEALTH = (Run(1, 60.0, "c", ago(3600), ago(20), 60),)
SPANS = (
    span("healthy", 3600, 1860),
    span("degraded", 1800, 1260, reason="http 503"),
    span("down", 1200, None, reason="Connection refused"),
)


def ledger(
    *,
    health: tuple[Span, ...] = SPANS,
    metrics: tuple[Span, ...] = (),
    at: datetime = NOW,
    runs: tuple[Run, ...] = HEALTH,
    is_complete: bool = True,
) -> ServiceLedger:
    """Return a ledger: the health pass ran every 60 s, and the metrics pass every 5 s."""
    rows = LedgerRows(
        now=NOW,
        since=at - PERIOD,
        until=at,
        services=["a"],
        runs={"health": runs, "metrics": (Run(2, 5.0, "c", ago(600), ago(5), 120),)},
        spans={"health": health, "metrics": metrics},
    )
    return ServiceLedger(rows, is_complete, is_recorded=True)


def history(**changes: Any) -> ServiceHistory:
    """Return the history of service `a`. Both passes have seen it lately."""
    recent = ServiceHistory(
        service="a",
        now=NOW,
        at=NOW,
        row=HealthRow("unhealthy", {"status": "down", "error": "refused again"}, ago(20)),
        ledger=ledger(),
        observations=(),
        alerts=(),
        passes=[PassRecord("health", None, ago(20), 60.0), PassRecord("metrics", None, ago(5), 5)],
        in_maintenance=False,
        maintenance_until=None,
    )
    return recent._replace(**changes)


def target(**changes: Any) -> Target:
    """Return the service as the catalogue has it."""
    return Target("a", "a", "http://127.0.0.1", counters=None)._replace(**changes)


def built(**changes: Any) -> Explanation:
    """Return the document."""
    return explain.build(history(**changes), Rule(None, Thresholds()))


def lines(document: Explanation, width: int = 200) -> list[str]:
    """Return the lines of the screen."""
    visible = [table for table in explain.tables(document, width) if table.rows or table.none]
    screen = [explain.heading(document, width), *(fitted(table, width) for table in visible)]
    return "\n\n".join(plain(table, width) for table in screen).splitlines()


def test_sentence_of_the_state() -> None:
    """The document has the state and its begin with bounds, and the begin of the outage.

    It also has the newest reason and the last sight.
    """
    assert lines(built())[0] == (
        "at 2026-03-01 12:00:00 UTC: a is down since 2026-03-01 11:40:00, at most 1 min earlier, "
        "unhealthy since 2026-03-01 11:30:00, at most 1 min earlier: refused again "
        "(seen by the health pass 20 s ago)"
    )


@pytest.mark.parametrize(
    ("spans", "sentence"),
    [
        (
            (span("healthy", 3600, None),),
            "healthy since 2026-03-01 11:00:00, when it was first seen",
        ),
        (
            (span("down", 3600, 3600), span("healthy", 3540, None)),
            "healthy since 2026-03-01 11:01:00, at most 1 min earlier",
        ),
        (
            (span("down", 3600, 1800, reason="Connection refused"), span("down", 1740, None)),
            "down, unhealthy since 2026-03-01 11:00:00, when it was first seen",
        ),
        (
            (span("healthy", 3600, 3000), span("healthy", 1200, None)),
            "healthy since 2026-03-01 11:00:00, when it was first seen; "
            "nobody looked for 29 min of that time",
        ),
        (
            (span("down", 3600, 3000), span("healthy", 1200, None)),
            "healthy since 2026-03-01 11:40:00, at most 30 min earlier",
        ),
    ],
)
def test_beginnings(spans: tuple[Span, ...], sentence: str) -> None:
    """A state began at the first sight of all, at a change with bounds, or after unseen time."""
    first = lines(built(ledger=ledger(health=spans), row=None))[0]
    assert f"UTC: a is {sentence} (seen by the health pass 20 s ago)" in first


def test_beginning_that_was_not_read() -> None:
    """If the rows do not go back to the beginning, the screen says so."""
    begun = span("healthy", PERIOD.total_seconds() + 100, None)
    runs = (Run(1, 60.0, "c", begun.first_at, ago(20), 60),)
    document = built(ledger=ledger(health=(begun,), runs=runs, is_complete=False), row=None)
    assert (document.complete, document.first_sight) == (False, False)
    assert "a is healthy since 2026-01-30 12:00:00 or earlier (seen by" in lines(document)[0]


@pytest.mark.parametrize(
    ("health_age", "state", "seen_by"),
    [(20.0, "healthy", "the metrics pass"), (2.0, "down", "the health pass")],
)
def test_the_last_sight_counts(health_age: float, state: str, seen_by: str) -> None:
    """The pass that looked last decides the state now. An older healthy sight does not count."""
    runs = (Run(1, 60.0, "c", ago(3600), ago(health_age), 60),)
    entries = ledger(metrics=(span("healthy", 600, None, run=2),), runs=runs)
    document = built(ledger=entries)
    assert (document.state, document.seen_by) == (state, seen_by)
    assert {sight.pass_: (sight.state, sight.age_s) for sight in document.sights} == {
        "metrics": ("healthy", 5.0),
        "health": ("down", health_age),
    }
    sentence = "`ops-worker status` shows down: that is what the health pass saw last"
    assert (sentence in lines(document)) is (state != "down")
    assert "What each pass saw" in lines(document)


@pytest.mark.parametrize("age", [200.0, 3000.0])
def test_stale(age: float) -> None:
    """If no pass has looked lately, the state is stale, and the last sight is named."""
    runs = (Run(1, 60.0, "c", ago(3600), ago(age), 60),)
    entries = ledger(health=(span("healthy", 3600, None),), runs=runs)
    row = HealthRow("healthy", {"status": "healthy"}, ago(age))
    document = built(ledger=entries, row=row)
    assert (document.state, document.stale, document.last_state) == ("stale", True, "healthy")
    assert (document.status_shows, document.last_seen) == ("stale", ago(age))
    assert document.reason == "no pass has looked since; it was healthy"
    assert "UTC: a is stale: no pass has looked since 2026-03-01 11:" in lines(document)[0]
    assert lines(document)[0].endswith("; it was healthy")
    assert document.alert == "no alert is open"


def test_blind() -> None:
    """While the health pass is blind, the state is stale as on the screen of ``status``."""
    row = DoubtRow("health", "0/1", 1, ago(30), ago(30), 60.0, "no packet came back from 2 hosts")
    document = built(blind=[row])
    assert (document.state, document.status_shows) == ("stale", "stale")
    assert lines(document)[0] == (
        "at 2026-03-01 12:00:00 UTC: a is stale: blind since 2026-03-01 11:59:30, "
        "no packet came back from 2 hosts; it was down"
    )


def test_row_that_is_newer_than_the_ledger() -> None:
    """A row that the health pass has just written counts, if the ledger lacks that pass."""
    entries = ledger(health=(span("healthy", 3600, 3000),))
    document = built(ledger=entries)
    assert (document.state, document.seen_by) == ("down", "the health pass")
    earlier = built(ledger=ledger(health=(span("healthy", 3600, 3000),), at=ago(60)), at=ago(60))
    assert (earlier.state, earlier.last_state) == ("stale", "healthy")


def test_nothing_known() -> None:
    """Before the first sight, the state is unknown. The reason says which passes ran."""
    early = ago(3700)
    document = built(ledger=ledger(at=early), at=early, passes=[], row=None)
    assert (document.state, document.reason, document.seen_by) == ("unknown", "no pass looked", "")
    assert lines(document)[0].endswith("nothing is known about a: no pass has looked")
    entries = ledger(health=(), at=ago(60))
    document = built(ledger=entries, at=ago(60), passes=[], row=None)
    assert document.reason == "the last health and metrics passes did not probe it"
    assert [turn.state for turn in document.turns] == []
    assert "last 30 d: nobody looked" in lines(document)


def test_service_of_which_the_ledger_has_nothing() -> None:
    """The database, the worker, and a service before its first pass have no past."""
    entries = ledger(health=())._replace(is_recorded=False)
    document = built(ledger=entries, row=None, passes=[])
    assert (document.past, document.turns, document.ledger) == (None, [], True)
    assert "Last changes" in lines(document)
    document = built(service="postgres", ledger=None, row=None)
    assert not any("ledger" in line for line in lines(document))


def test_who_closed_the_alert() -> None:
    """A person who closed the alert of this outage is named.

    A person who closed the alert of an earlier outage is not.
    """
    alert = ServiceAlertRow(7, "CLOSED", "s", ago(1700), ago(900), None, None, None)
    closed = ActionRow(ago(900), "closed", "kim\n", "", ["a"], None, 7)
    sentence = "no alert is open: it opens with the next health pass that finds it so"
    for actions, ending in (
        ((closed,), "; kim closed alert 7 at 2026-03-01 11:45:00"),
        ((closed._replace(by=""),), "; somebody closed alert 7 at 2026-03-01 11:45:00"),
        ((closed._replace(at=ago(3000)),), ", or a person has closed it since"),
        ((closed._replace(action="acknowledged"),), ", or a person has closed it since"),
        (None, ", or a person has closed it since"),
    ):
        rule = Rule(target(), Thresholds())
        document = explain.build(history(alerts=(alert,), actions=actions), rule)
        assert document.alert == sentence + ending
    document = explain.build(history(), rule)
    assert document.alert == sentence


def test_causes() -> None:
    """The sentence of the state names the causes. They explain why no alert is open."""
    needs = {"a": ("b",), "b": ("c",), "c": ()}
    rule = Rule(target(needs=("b",)), Thresholds(), needs=needs)
    document = explain.build(history(needed={"b": False, "c": False}), rule)
    assert document.because_of == ("c",)
    assert ": because of c: refused again (seen by" in lines(document)[0]
    sentence = "no alert is open: none opens while services that it needs are unhealthy: c"
    assert document.alert == sentence
    assert document.rule["needs"] == "b; no alert opens while one of them is unhealthy"
    for needed in ({}, {"b": True, "c": True}):
        document = explain.build(history(needed=needed), rule)
        assert document.because_of == ()
        assert document.alert.startswith("no alert is open: it opens with the next health pass")
    well = HealthRow("healthy", {"status": "healthy"}, ago(20))
    spans = (span("healthy", 3600, None),)
    document = explain.build(
        history(row=well, ledger=ledger(health=spans), needed={"b": False, "c": False}), rule
    )
    assert document.because_of == ()
    running = history(needed={"c": False}, maintenance_until=NOW + timedelta(hours=1))
    assert "there is maintenance until" in explain.build(running, rule).alert


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_lost(width: int) -> None:
    """No line is too wide. A long rule and a long reason are wrapped, not cut."""
    reason = "queue depth is much larger than what the catalogue allows " * 5
    watched = target(expect=(200, 201, 202, 203, 204, 205, 206), max_latency_ms=7)
    row = HealthRow("unhealthy", {"status": "down", "error": reason}, ago(20))
    action = ActionRow(ago(900), "maintenance_started", "kim", reason, [], NOW, None)
    document = explain.build(history(row=row, actions=(action,) * 9), Rule(watched, Thresholds()))
    screen = lines(document, width)
    assert max(map(text_width, screen)) <= width
    assert " ".join(" ".join(screen[:20]).split()).count(document.reason[:200]) == 1
    assert " ".join(screen).count("206") == 1
    assert len([line for line in screen if "maintenance start" in line]) == 8


def test_look_back() -> None:
    """The look back is as long as the objective needs, and at least 30 days.

    It never begins before the calendar.
    """
    watched = target(slo=99.0, slo_window_days=90)
    assert look_back(None) == look_back(watched._replace(slo=None)) == timedelta(days=30)
    assert look_back(watched) == timedelta(days=90)
    assert look_back(watched._replace(slo_window_days=7)) == timedelta(days=30)
    first = datetime.min.replace(tzinfo=UTC)
    assert before(first + timedelta(days=1), timedelta(days=30)) == first
    assert before(NOW, timedelta(days=1)) == NOW - timedelta(days=1)


@pytest.mark.parametrize(
    ("details", "checked", "sentence"),
    [
        ({"certificate_days_left": 13}, 20, "its certificate expires in 13 days"),
        ({"certificate_days_left": -5}, 20, "its certificate expired 4 days ago"),
        ({"certificate_days_left": "13"}, 20, ""),
        ({"certificate_days_left": 13}, -20, ""),
        ([], 20, ""),
    ],
)
def test_certificate(details: Any, checked: float, sentence: str) -> None:
    """The end of the certificate is a sentence, if the health pass had recorded it by then."""
    sentences = explain.sentences(built(row=HealthRow("healthy", details, ago(checked))))
    assert [line for line in sentences if "certificate" in line] == [sentence] * bool(sentence)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "tcp://a:1"}, "a connection"),
        ({"url": "tls://a:1", "certificate_days": 14},
         "a connection and its TLS handshake; certificate valid for at least 14 days"),
        ({"url": "https://a", "json": False, "conditions": (Condition(None, "contains", "OK"),),
          "certificate_days": 1},
         'http 200; body is a text that contains "OK"; certificate valid for at least 1 day'),
    ],
)  # fmt: skip
def test_rule_of_a_probe(changes: dict[str, Any], words: str) -> None:
    """The rule says what makes a service healthy: an answer, or only a connection."""
    document = explain.build(history(), Rule(target(**changes), Thresholds()))
    assert document.rule["healthy when"] == words
