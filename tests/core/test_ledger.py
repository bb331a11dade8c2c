"""The rows of the ledger that passes write."""

from __future__ import annotations

import json

import pytest

from ops_worker.core.ledger import (
    Book,
    Run,
    Sight,
    Sighting,
    Span,
    config_hash,
    config_of,
    digest_of,
)
from ops_worker.core.model import Condition, Counter, Target, Thresholds, Tls
from tests.recorder import Recorder, at, recorded, sight

pytestmark = pytest.mark.unit


def test_a_pass_without_change_writes_no_span() -> None:
    """Spans are written only if a state or reason class changes, not for every pass."""
    ledger = recorded(*((second, "healthy") for second in range(0, 6000, 60)))
    assert (len(ledger.runs), len(ledger.spans), ledger.written) == (1, 1, 1)
    assert ledger.runs[0].passes == 100


def test_a_hole_ends_a_run_and_no_span() -> None:
    """After unseen time, one row is written for all services."""
    ledger = Recorder()
    for second in (0, 60, 5000):
        ledger.record([sight(name, second, "healthy") for name in ("a", "b", "c")], 60)
    assert [run.passes for run in ledger.runs] == [2, 1]
    assert ledger.written == 3


@pytest.mark.parametrize(
    ("period_s", "config", "second", "extends"),
    [
        (60, "c", 180, True),  # three periods
        (60, "c", 181, False),
        (20, "c", 60, False),  # another period
        (60, "d", 60, False),  # another configuration
    ],
)
def test_run(period_s: float, config: str, second: int, extends: bool) -> None:
    """A pass extends the newest run, or begins one with the number 1."""
    ledger = recorded((-60, "down"), (0, "down"))
    ledger.record([sight("a", second, "down")], period_s, config)
    run = ledger.runs[-1]
    assert (run.id, run.passes) == ((1, 3) if extends else (2, 1))
    assert run.last_at == at(second)
    assert run.first_at == (at(-60) if extends else at(second))
    assert len(ledger.spans) == 1


def test_a_blind_pass_ends_a_run_and_no_span() -> None:
    """The time between two runs of the same kind is unseen, however short it is."""
    ledger = Recorder()
    ledger.end_run()
    for second in (0, 60, 120):
        ledger.record([sight("a", second, "healthy")])
    ledger.end_run()
    ledger.end_run()
    assert [run.passes for run in ledger.runs] == [3]
    for second in (240, 300):
        ledger.record([sight("a", second, "healthy")])
    assert [run.passes for run in ledger.runs] == [3, 2]
    assert len(ledger.spans) == 1
    assert ledger.timeline("a", 0, 300, 300) == [
        ("healthy", 0, 180),
        ("unseen", 180, 240),
        ("healthy", 240, 300),
    ]


def test_run_without_services() -> None:
    """A pass without services counts with the time at which it began."""
    ledger = Recorder()
    ledger.record_all([Sighting(at(5), (), 60, "c"), Sighting(at(65), (), 60, "c")], at(70))
    (run,) = ledger.runs
    assert (run.first_at, run.last_at, run.passes) == (at(5), at(65), 2)


def test_spans_end_with_the_last_sight() -> None:
    """A span ends with the previous pass if the state changes or the service is left out."""
    ledger = Recorder()
    ledger.record([sight("early", second, "down") for second in (0,)])
    before = {"same": "down", "other": "down", "class": "down", "gone": "healthy"}
    for second in (60, 120):
        ledger.record([sight(name, second, state) for name, state in before.items()])
    ledger.record(
        [
            Sight("same", at(180), "down", "down", "another text"),
            Sight("other", at(180), "healthy"),
            Sight("class", at(180), "down", "name"),
            Sight("new", at(180), "healthy"),
        ]
    )
    ended = [span for span in ledger.spans if span.last_at == at(120)]
    assert [(span.service, span.last_no, span.last_run) for span in ended] == [
        ("other", 3, 1),
        ("class", 3, 1),
        ("gone", 3, 1),
    ]
    begun = [span.service for span in ledger.spans if span.first_no == 4]
    assert begun == ["other", "class", "new"]


def test_reason() -> None:
    """A span keeps the reason of its first sight."""
    ledger = Recorder()
    for second in (0, 60):
        ledger.record([Sight("a", at(second), "down", "refused", f"refused at {second}")])
    (span,) = ledger.spans
    assert (span.reason_class, span.reason) == ("refused", "refused at 0")


@pytest.mark.parametrize("has_run", [False, True])
def test_a_span_without_a_later_run(has_run: bool) -> None:
    """If no run is as new as a span, the span ends with its first sight."""
    span = Span(7, "a", "down", "", "", at(0), first_no=3, run=2)
    newest = Run(1, 60, "c", at(-120), at(-60), passes=2) if has_run else None
    book = Book(newest, lambda: [span], at(0))
    book.enter(Sighting(at(0), (sight("a", 0, "healthy"),), 60, "c"))
    assert book.ended == [span._replace(last_at=at(0), last_no=3, last_run=2)]


def test_new_runs_have_negative_numbers() -> None:
    """Each of several new runs has a number of its own that no run of the database has."""
    book = Book(None, list, at(240))
    for second, config in ((0, "a"), (60, "b"), (120, "c")):
        book.enter(Sighting(at(second), (sight("a", second, "healthy"),), 60, config))
    numbers = [run.id for run in book.runs]
    assert len({*numbers}) == 3
    assert max(numbers) < 0


def test_a_pass_that_ends_now_is_not_from_the_future() -> None:
    """A pass whose last sight is as new as the database's clock is repeated without effect."""
    sighting = Sighting(at(60), (sight("a", 60, "healthy"),), 60, "c")
    book = Book(Run(1, 60, "c", at(0), at(60), passes=2), list, at(60))
    book.enter(sighting)
    assert book.runs == []


def test_an_older_pass_changes_nothing() -> None:
    """Sights that are not newer than the newest run are ignored. Their spans go on."""
    ledger = Recorder()
    ledger.record([sight("a", 60, "healthy"), sight("b", 60, "healthy")])
    ledger.record([sight("a", 59, "down"), sight("b", 60, "down")], now=at(70))
    assert (ledger.written, ledger.runs[0].passes) == (2, 1)
    ledger.record([sight("a", 59, "down"), sight("b", 61, "down")], now=at(70))
    open_spans = {span.service: span.state for span in ledger.spans if span.last_at is None}
    assert open_spans == {"a": "healthy", "b": "down"}
    assert ledger.runs[0].digest == "", "the next pass reads the spans"


def test_a_clock_that_was_set_back() -> None:
    """If the newest run is from the future, nothing is older than it: all begins again."""
    ledger = Recorder()
    ledger.record([sight("a", 600, "healthy"), sight("b", 600, "down")])
    ledger.record([sight("a", 60, "healthy"), sight("b", 60, "down")], now=at(60))
    assert [(run.first_at, run.passes) for run in ledger.runs] == [(at(600), 1), (at(60), 1)]
    assert [(span.service, span.first_at, span.last_at) for span in ledger.spans] == [
        ("a", at(600), at(600)),
        ("b", at(600), at(600)),
        ("a", at(60), None),
        ("b", at(60), None),
    ]


def test_passes_of_one_transaction() -> None:
    """Passes that waited write the same rows together as one by one."""
    states = ["healthy", "down", "down", "healthy", "healthy"]
    passes = [[sight("a", 60 * n, state)] for n, state in enumerate(states)]
    passes.insert(3, [sight("a", 125, "down"), sight("b", 126, "down")])
    passes.append([sight("a", 5000, "down")])
    one_by_one, at_once = Recorder(), Recorder()
    for sights in passes:
        one_by_one.record(sights)
    at_once.record_all([Sighting(at(0), tuple(sights), 60, "c") for sights in passes])
    assert one_by_one.runs == at_once.runs

    def rows(ledger: Recorder) -> list[Span]:
        return sorted(span._replace(id=0) for span in ledger.spans)

    assert rows(one_by_one) == rows(at_once)


def test_nothing_is_read_when_nothing_changed() -> None:
    """A pass with the states of the pass before reads no spans, also after a hole."""
    ledger = recorded((0, "healthy"), (60, "healthy"), (6000, "healthy"))
    assert (ledger.read, len(ledger.runs)) == (1, 2)


def test_digest() -> None:
    """The same states have the same digest in any order. Another state or class changes it."""
    first, second = sight("a", 0, "healthy"), sight("b", 5, "down")
    same = digest_of([second._replace(at=at(9), reason="x"), first])
    assert digest_of([first, second]) == same
    assert digest_of([first, second._replace(reason_class="refused")]) != same
    assert digest_of([first]) != digest_of([])


def test_configuration() -> None:
    """The hash contains everything that decides verdicts and alerts.

    It does not contain the value of a header or a password.
    """
    target = Target(
        name="a",
        url="http://user:hush@a/health",
        series="a",
        counters=(Counter("x"),),
        headers=(("Authorization", "hush"),),
        conditions=(Condition("/db", "equals", "ok"),),
    )
    document = config_of([target], Thresholds(2, 3))
    assert "hush" not in json.dumps(document)
    assert document["services"]["a"]["headers"] == ["Authorization"]
    others = [
        config_of([target._replace(**change)], Thresholds(2, 3))
        for change in (
            {"url": "http://user:hush@b/health"},
            {"counters": None},
            {"expect": (200, 204)},
            {"deadline_s": 1.0},
            {"json": False},
            {"conditions": ()},
            {"conditions": (Condition(None, "equals", "ok", "etag"),)},
            {"conditions": (Condition(None, "equals", "ok", "date"),)},
            {"certificate_days": 7},
            {"certificate_days": 14},
            {"max_latency_ms": 10},
            {"alert_after": 2},
            {"method": "POST"},
            {"body": b"hush"},
            {"redirects": 1},
            {"redirect_hosts": ("b",)},
            {"tls": Tls(skip_verify=True)},
            {"needs": ("b",)},
        )
    ]
    others += [config_of([target], Thresholds(1, 3)), config_of([target], Thresholds(2, 1))]
    hashes = {config_hash(config) for config in (document, *others)}
    assert len(hashes) == 1 + len(others)
    assert "hush" not in json.dumps(others)
    certificate = config_of([target._replace(certificate_days=14)], Thresholds(2, 3))
    assert certificate["services"]["a"]["certificate_days"] == 14
    secret = target._replace(url="http://user:other@a/health", headers=(("Authorization", "y"),))
    assert config_of([secret], Thresholds(2, 3)) == document


def test_document() -> None:
    """The document of a configuration has these keys. Readers of the table rely on them."""
    target = Target(
        name="a",
        url="https://user:hush@a/health?x=1",
        series="s",
        counters=(Counter("x", ("y", "z")), Counter("g", gauge=True)),
        counters_at="/at",
        expect=(200, 204),
        deadline_s=2.5,
        json=False,
        headers=(("Authorization", "hush"), ("Accept", "text/plain")),
        tls=Tls("ca.pem", "client.pem", "key.pem"),
        conditions=(Condition("/db", "equals", "ok"),),
        max_latency_ms=10,
        tags={"site": "b"},
        alert_after=4,
        resolve_after=5,
    )
    every = Target("b", "http://b/health", "b", None)
    document = config_of([target, every], Thresholds(2, 3))
    assert list(document["services"]) == ["a", "b"]
    assert (document["alert_after"], document["resolve_after"]) == (2, 3)
    assert document["services"]["a"] == {
        "url": "https://***@a/health?x=1",
        "series": "s",
        "counters": [["x", ("y", "z"), False], ["g", (), True]],
        "counters_at": "/at",
        "expect": [200, 204],
        "deadline_s": 2.5,
        "json": False,
        "headers": ["Authorization", "Accept"],
        "tls": ["ca.pem", "client.pem", "key.pem"],
        "conditions": [["/db", "equals", "ok"]],
        "max_latency_ms": 10,
        "tags": {"site": "b"},
        "alert_after": 4,
        "resolve_after": 5,
    }
    assert document["services"]["b"]["counters"] is None
    later = target._replace(
        method="POST",
        body=b"hush",
        body_secrets=("hush",),
        redirects=2,
        redirect_hosts=("h",),
        tls=Tls(skip_verify=True),
        needs=("b", "c"),
    )
    described = config_of([later], Thresholds())["services"]["a"]
    assert {key: described[key] for key in described.keys() - document["services"]["a"].keys()} == {
        "method": "POST",
        "body": True,
        "redirects": 2,
        "redirect_hosts": ["h"],
        "skip_verify": True,
        "needs": ["b", "c"],
    }


def test_hashes() -> None:
    """A hash has 32 hexadecimal digits. The order of the services does not change it."""
    first, second = Target("a", "", "a", ()), Target("b", "", "b", ())
    ordered, reordered = (
        config_of(targets, Thresholds()) for targets in ([first, second], [second, first])
    )
    assert config_hash(ordered) == config_hash(reordered)
    assert len(config_hash(ordered)) == len(digest_of([])) == 32
