"""The services on the page of `ops-worker report`: each figure follows from spans."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ops_worker.cli import main
from ops_worker.text import format_duration, percent_rounded_down
from tests.browser import data, opened
from tests.commands.test_history import ODD
from tests.looks import START_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.looks import Looks

pytestmark = pytest.mark.acceptance

Document = dict[str, Any]
STEP_S = 7200
LAST_S = -START_S - 20
"""The second of the last pass: 20 s ago."""
UNHEALTHY = ("down", "unknown", "degraded")
CATALOGUE = """
builtin = false
[services.a]
url = "http://127.0.0.1:1"
slo = 60
slo_window = 3
[services.b]
url = "http://127.0.0.1:1"
slo = 99.9
[services.c]
url = "http://127.0.0.1:1"
[services.d]
url = "http://127.0.0.1:1"
"""
FAST_CLOCK = """
INSERT INTO ops_worker_run (pass, period_s, config, first_at, last_at)
SELECT 'health', 7200, 'c', now() + interval '3 hours', now() + interval '3 hours'
"""
SERVICES = """
() => Object.fromEntries([...document.querySelectorAll('li.service')].map(item => {
    const values = name => [...item.querySelectorAll(name + ' data')].map(node => node.value);
    return [item.dataset.service, {
        now: item.querySelector('h3 .state')?.textContent,
        share: values('.share strong'), bounds: values('.bounds'), coverage: values('.coverage'),
        outages: values('.outages'), longest: values('.longest'), unhealthy: values('.unhealthy'),
        planned: values('.planned'), unseen: values('.unseen'), budget: values('.budget'),
        bar: [...item.querySelectorAll('.bar .mark')].flatMap(
            node => Array(Number(node.style.flexGrow)).fill(node.classList[1])),
        days: [...item.querySelectorAll('.days label')].map(node => [
            node.querySelector('input').classList[1], node.textContent.trim()]),
        listed: [...item.querySelectorAll('details tbody tr')].map(row => [
            ...[...row.querySelectorAll('time')].map(node => node.dateTime),
            row.querySelector('.state').textContent]),
    }];
}))
"""


def states_at(second: int) -> dict[str, str]:
    """Return the states that a pass sees at this second of the history."""
    states = {"a": "healthy", "b": "healthy"}
    if 100_800 <= second < 136_800:
        states["a"] = "down" if second < 115_200 else "timeout"
    if second == 180_000:
        states["b"] = "timeout"
    if second >= 57_600 and second != 86_400:
        states["c"] = "http 503" if second < 72_000 else "healthy"
    minute = (LAST_S - second) // 60
    if minute < 60:
        if 20 <= minute < 30:
            states["a"] = "http 503"
        if minute < 6:
            states["a"] = "down"
    return states


@pytest.fixture
def past(look: Looks) -> Looks:
    """Record five days and an hour: outages, holes, a fast clock, another configuration, people.

    There is a pass every two hours, and in the last hour every minute.
    """
    early = [*range(0, 200_000, STEP_S), *range(266_400, 480_000, STEP_S)]
    for second in early:
        if second == 302_400:
            look.database.rows(FAST_CLOCK)
        if second == 403_200:
            (look.folder / "catalogue.toml").write_text(CATALOGUE)
        look(second, states_at(second), period_s=STEP_S)
    for second in range(int(LAST_S) - 3600, int(LAST_S) + 1, 60):
        look(second, states_at(second))
    assert main(["init-db"]) == 0
    look.database.rows(
        "INSERT INTO ops_worker_maintenance_log "
        "(started_at, until, ended_at, started_by, ended_by, reason) "
        "SELECT at - interval '20 min', at, at - interval '10 min', 'kim', 'lee', '<b>racks</b>' "
        "FROM (SELECT max(first_at) + interval '5 min' AS at "
        "FROM ops_worker_span WHERE service = 'a' AND state = 'down') AS s"
    )
    number = look.database.value("SELECT max(id) FROM fleet_alert WHERE status = 'OPEN'")
    assert main(["alerts", "ack", str(number), "--by", "kim"]) == 0
    assert main(["maintenance", "start", "--for", "2h", "--by", "lee", "--reason", "a & b"]) == 0
    return look


@pytest.fixture
def short(look: Looks) -> Looks:
    """Record five days in a few passes, with outages in each state."""
    for day, state in enumerate(("healthy", "timeout", "healthy", "http 503", "healthy")):
        look(day * 86_400, {"a": state, "b": "healthy", "c": "healthy"}, period_s=86_400)
    for second, state in ((300, "healthy"), (240, "http 503"), (180, "timeout"), (60, "down")):
        look(LAST_S - second, {"a": state, "b": "healthy", "c": "healthy"})
    assert main(["maintenance", "start", "--for", "2h", "--by", "lee", "--reason", "a & b"]) == 0
    return look


class Reader(NamedTuple):
    """Reads reports of a history, and the spans of the same period."""

    browser: Browser
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def page(self, *arguments: str, width: int = 1280) -> Page:
        """Write and open a report."""
        assert main(["report", "-o", str(self.folder / "r.html"), *arguments]) == 0
        return opened(self.browser, self.folder / "r.html", width=width)

    def document(self, *command: str) -> Document:
        """Return the document of a command."""
        self.capsys.readouterr()
        assert main([*command, "--output", "json"]) == 0
        document: Document = json.loads(self.capsys.readouterr().out)
        return document

    def spans(self, begun: datetime, ended: datetime) -> dict[str, Document]:
        """Return the history of each service in a period."""
        document = self.document("history", "--from", begun.isoformat(), "--to", ended.isoformat())
        return {item["service"]: item for item in document["services"]}


@pytest.fixture
def reader(browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reader:
    """Return a reader that writes to the test's folder."""
    return Reader(browser, tmp_path, capsys)


class Part(NamedTuple):
    """A span of the document of `history`."""

    state: str
    begun: datetime
    ended: datetime


def parts_of(item: Document) -> list[Part]:
    """Return the spans of a service; in a time without a pass, the state is `unseen`."""
    return [
        Part(
            span["state"] if span["seen"] else "unseen",
            datetime.fromisoformat(span["from"]),
            datetime.fromisoformat(span["to"]),
        )
        for span in item["spans"]
    ]


def seconds_between(parts: Sequence[Part], begun: datetime, ended: datetime) -> dict[str, float]:
    """Return the seconds of each state between two times."""
    seconds: dict[str, float] = {}
    for part in parts:
        length = (min(part.ended, ended) - max(part.begun, begun)).total_seconds()
        if length > 0:
            seconds[part.state] = seconds.get(part.state, 0.0) + length
    return seconds


def worst(seconds: dict[str, float]) -> str:
    """Return the worst state that was seen; `unseen` if less than half was seen and healthy."""
    for state in UNHEALTHY:
        if state in seconds:
            return state
    half_seen = seconds.get("healthy", 0) >= seconds.get("unseen", 0) and "healthy" in seconds
    return "healthy" if half_seen else "unseen"


def outages_of(parts: Sequence[Part]) -> list[list[Part]]:
    """Return the unhealthy spans of each outage; unseen time does not end an outage."""
    outages: list[list[Part]] = []
    before = "healthy"
    for part in parts:
        if part.state in UNHEALTHY:
            if before == "healthy":
                outages.append([])
            outages[-1].append(part)
        if part.state != "unseen":
            before = part.state
    return outages


def times(page: Page, selector: str) -> list[datetime]:
    """Return the times in an element."""
    texts = page.evaluate(
        "selector => [...document.querySelectorAll(selector + ' time')].map(node => node.dateTime)",
        selector,
    )
    return [datetime.fromisoformat(text) for text in texts]


def check_sums(figures: Document, item: Document, parts: list[Part], maintained: Part) -> None:
    """Compare the figures of a service with its spans."""
    seconds = seconds_between(parts, parts[0].begun, parts[-1].ended)
    unhealthy = {state: seconds[state] for state in UNHEALTHY if state in seconds}
    seen_s = sum(unhealthy.values()) + seconds.get("healthy", 0.0)
    outages = outages_of(parts)
    lengths = [sum((p.ended - p.begun).total_seconds() for p in outage) for outage in outages]
    assert figures["outages"] == [str(len(outages))]
    assert list(map(float, figures["unseen"])) == pytest.approx(
        [seconds["unseen"]] if "unseen" in seconds else []
    )
    if not seen_s:
        assert (figures["share"], figures["coverage"], figures["longest"]) == ([], [], [])
        return
    (share,), (coverage,) = figures["share"], figures["coverage"]
    assert float(share) == pytest.approx(seconds.get("healthy", 0.0) / seen_s)
    assert float(coverage) == pytest.approx(seen_s / (seen_s + seconds.get("unseen", 0.0)))
    bounds = [item["availability"][key] for key in ("least", "most")]
    assert list(map(float, figures["bounds"])) == pytest.approx(
        bounds if bounds[0] != bounds[1] else []
    )
    if not outages:
        assert (figures["longest"], figures["listed"]) == ([], [])
        return
    assert float(figures["longest"][0]) == pytest.approx(max(lengths))
    own = [] if len(unhealthy) == 1 else [*unhealthy.values()]
    assert list(map(float, figures["unhealthy"])) == pytest.approx([sum(lengths), *own])
    planned = [seconds_between(outage, maintained.begun, maintained.ended) for outage in outages]
    planned_s = sum(sum(outage.values()) for outage in planned)
    assert list(map(float, figures["planned"])) == pytest.approx([planned_s] if planned_s else [])
    assert figures["listed"] == [
        [
            outage[0].begun.isoformat(),
            outage[-1].ended.isoformat(),
            worst({p.state: 1.0 for p in outage}),
        ]
        for outage in reversed(outages)
    ]


def check_days(days: Sequence[Sequence[str]], parts: list[Part]) -> None:
    """Compare the days of a calendar with the spans of the service."""
    begun, ended = parts[0].begun, parts[-1].ended
    expected = []
    while begun < ended:
        midnight = datetime.combine(begun.date() + timedelta(days=1), time(), tzinfo=UTC)
        seconds = seconds_between(parts, begun, min(midnight, ended))
        seen_s = sum(seconds.values()) - seconds.get("unseen", 0.0)
        text = f"{begun:%Y-%m-%d}: nobody looked"
        if seen_s:
            healthy_s = seconds.get("healthy", 0.0)
            text = f"{begun:%Y-%m-%d}: {percent_rounded_down(healthy_s / seen_s, 3):g} % healthy"
            if seen_s - healthy_s > 1e-6:
                length = format_duration(seen_s - healthy_s)
                text += f", {length} unhealthy (worst: {worst(seconds)})"
            coverage = seen_s / sum(seconds.values())
            text += f", seen {percent_rounded_down(coverage, 1):g} %"
        expected.append([worst(seconds), text])
        begun = midnight
    assert [[state, text.replace("\u00a0", " ")] for state, text in days] == expected


def test_every_figure_follows_from_the_spans(past: Looks, reader: Reader) -> None:
    """Sums, outages, bounds, bars, calendars and budgets equal those of the spans.

    The history has every kind of failure.
    """
    (log,) = past.database.rows(
        "SELECT started_at, ended_at FROM ops_worker_maintenance_log WHERE started_by = 'kim'"
    )
    maintained = Part("", log["started_at"], log["ended_at"])
    to = past.database.value("SELECT now() - interval '1 second'").astimezone(UTC)
    for since in (timedelta(hours=1, minutes=30), timedelta(days=3), timedelta(days=5, hours=19)):
        begun = to - since
        page = reader.page("--from", begun.isoformat(), "--to", to.isoformat())
        assert times(page, "header") == [begun, to]
        figures = page.evaluate(SERVICES)
        history = reader.spans(begun, to)
        assert {*figures} == {*history} | {"d"}, "d is monitored, and was never probed"
        for name, service in figures.items():
            item = history.get(name, {"spans": [], "availability": {}})
            parts = parts_of(item) or [Part("unseen", begun, to)]
            check_sums(service, item, parts, maintained)
            if since > timedelta(days=4):
                check_days(service["days"], parts)
                assert service["bar"] == []
            else:
                width = since / 180
                edges = [(begun + width * n, begun + width * (n + 1)) for n in range(180)]
                bar = [worst(seconds_between(parts, *edge)) for edge in edges]
                assert (service["bar"], service["days"]) == (bar, [])
        order = [
            sum(
                sum((p.ended - p.begun).total_seconds() for p in outage)
                for outage in outages_of(parts_of(history[name]))
            )
            for name in figures
            if name in history
        ]
        assert order == sorted(order, reverse=True), "the unhealthiest comes first"
        for name, percent, days in (("a", 60, 3), ("b", 99.9, 30)):
            window = reader.spans(to - timedelta(days=days), to)[name]
            lost_s = sum(window["seconds"][state] for state in UNHEALTHY)
            budget_s = (100 - percent) / 100 * days * 86_400
            assert float(figures[name]["budget"][0]) == pytest.approx(budget_s - lost_s, abs=1e-3)
        assert figures["c"]["budget"] == figures["d"]["budget"] == []
        page.close()
    assert float(figures["a"]["longest"][0]) == pytest.approx(5 * STEP_S, abs=2), (
        "a service that is down and then without an answer has one outage"
    )


def test_now(past: Looks, reader: Reader) -> None:
    """The page begins with the verdict of `status`, the unhealthy services and the alerts."""
    past.database.rows(
        "UPDATE service_health SET checked_at = now() - interval '1 h' WHERE service = 'c'"
    )
    page = reader.page("--since", "24h")
    status = reader.document("status")
    verdict = page.inner_text("#now .verdict")
    assert verdict == f"{status['verdict']}."
    assert verdict.endswith("; 1 monitored service was never recorded.")
    assert verdict.startswith("1 of 3 services is unhealthy, 1 stale; 1 alert is open and ack")
    (row,) = [item for item in status["services"] if item["service"] == "a"]
    assert data(page, "#wrong")[0] == ["a", "down", row["since"], row["checked_at"], row["reason"]]
    assert [row[:2] for row in data(page, "#wrong")[1:]] == [["c", "stale"], ["d", "unseen"]]
    ((service, number, state, opened_at, person, _),) = data(page, "#open")
    (alert,) = status["alerts"]
    assert [service, int(number), state, person] == ["a", alert["id"], "acknowledged", "kim"]
    assert opened_at == alert["created_at"]
    figures = page.evaluate(SERVICES)
    assert {name: item["now"] for name, item in figures.items()} == {
        "a": "down",
        "b": "healthy",
        "c": "stale",
        "d": None,
    }


def test_people(past: Looks, reader: Reader) -> None:
    """The page shows the maintenances and the actions of people, with their reasons."""
    page = reader.page("--since", "24h")
    assert "started by lee: a & b" in page.inner_text("#now-maintenance")
    maintenances = data(page, "#announced")
    assert [row[3:] for row in maintenances] == [
        ["all", "lee", "a & b", "-"],
        ["all", "kim", "<b>racks</b>", "lee"],
    ]
    actions = past.database.rows("SELECT * FROM ops_worker_action ORDER BY at DESC, id DESC")
    assert len(actions) == 2
    (alert,) = reader.document("status")["alerts"]
    assert times(page, "#actions") == [actions[0]["at"], actions[0]["until"], actions[1]["at"]]
    lines = [line.replace("\u00a0", " ") for line in page.inner_text("#actions").splitlines()]
    assert re.fullmatch(r"\S+ \S+: lee started a maintenance until \S+ \S+: a & b", lines[0])
    assert re.fullmatch(rf"\S+ \S+: kim acknowledged alert {alert['id']} of a", lines[1])


def test_the_past_is_not_now(past: Looks, reader: Reader) -> None:
    """A report of a past period has a note, and shows no current states."""
    page = reader.page("--since", "5d", "--to", "1d")
    assert "It does not say what is wrong now" in page.inner_text("#now")
    assert page.query_selector(".verdict, #wrong, #open, h3 .state") is None
    assert data(page, "#incidents-table") == [], "no alert of today was open then"
    past.database.rows("UPDATE fleet_alert SET created_at = created_at - interval '1 min'")
    page = reader.page("--since", "5d", "--to", "1s")
    assert [row[3] for row in data(page, "#incidents-table")][:1] == ["still acknowledged"]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE ops_worker_span",
        (
            "ALTER TABLE ops_worker_run OWNER TO CURRENT_USER; "
            "REVOKE ALL ON ops_worker_run FROM PUBLIC"
        ),
    ],
)
def test_without_a_ledger(look: Looks, reader: Reader, statement: str) -> None:
    """Without a ledger that can be read, no state of the period is shown as healthy."""
    look.now += -START_S - 20
    look(0, {"a": "healthy", "b": "healthy", "c": "down"})
    assert main(["init-db"]) == 0
    look.database.rows(statement)
    look.database.rows(
        "CREATE ROLE ops_half LOGIN PASSWORD 'x' BYPASSRLS;"
        "GRANT SELECT ON system_metrics, fleet_alert, service_health TO ops_half"
    )
    look.env.setenv("DATABASE_URL", look.database.as_user("ops_half"))
    try:
        page = reader.page("--since", "2h")
    finally:
        look.database.rows("DROP OWNED BY ops_half; DROP ROLE ops_half")
    assert "nobody knows what the services were in this period" in page.inner_text("#services")
    assert page.query_selector("#services .healthy, .service") is None
    assert page.inner_text(".verdict").startswith("1 of 3 services is unhealthy")
    assert data(page, "#wrong")[0][:2] == ["c", "down"]


@pytest.mark.parametrize("statement", ODD.values(), ids=ODD)
def test_odd_rows(look: Looks, capsys: pytest.CaptureFixture[str], statement: str) -> None:
    """With odd rows, from a person or a backup, the page still shows the unhealthy service."""
    look.now += -START_S - 320
    for second, state in ((0, "healthy"), (60, "down"), (300, "down")):
        look(second, {"a": state, "b": "healthy", "c": "healthy"})
    look.database.rows(statement)
    look.database.rows(
        'UPDATE service_health SET details = details || \'{"status": "sleepy healthy"}\' '
        "WHERE service = 'a'"
    )
    look.database.rows(
        "INSERT INTO ops_worker_action (action, by, reason, services, until, alert) VALUES "
        "('slept', E'\\x1b', '', '{\"a\": 1}', 'infinity', -1), "
        "('pruned', '', '', '[1, null, \"x\"]', '-infinity', NULL)"
    )
    capsys.readouterr()
    for since in ("1h", "10y"):
        assert main(["report", "-o", "-", "--since", since]) == 0
        page = capsys.readouterr().out
        assert "1 of 3 services is unhealthy" in page
        assert 'class="state">sleepy healthy<' in page, "an unknown state has no colour"
        assert len(re.findall('<li class="service"', page)) == 3
        assert "\x1b" not in page


def test_hostile_names(look: Looks, reader: Reader) -> None:
    """Names and texts of services and people are shown literally, not as markup."""
    name = "</style><script>document.title='x'</script>{{ 7 * 7 }}" + "x" * 200
    look.now += -START_S - 20
    look(-60, {"a": "down", "b": "healthy", "c": "healthy"})
    look(0, {"a": "down", "b": "healthy", "c": "healthy"})
    look.database.rows(
        "UPDATE ops_worker_span SET service = %s, reason = %s WHERE service = 'a'", name, name
    )
    look.database.rows(
        "UPDATE service_health SET service = %s, "
        "details = details || jsonb_build_object('error', %s::text) "
        "WHERE service = 'a'",
        name,
        name,
    )
    look.database.rows(
        "INSERT INTO ops_worker_action (action, by, reason, services) "
        "VALUES (%s, %s, %s, jsonb_build_array(%s::text))",
        *[name] * 4,
    )
    for since in ("10m", "30d"):
        messages: list[str] = []
        assert main(["report", "-o", str(reader.folder / "r.html"), "--since", since]) == 0
        page = opened(reader.browser, reader.folder / "r.html", messages=messages, width=390)
        assert len(messages) == 1 and page.title().startswith("Report, ")
        assert page.evaluate("document.querySelectorAll('script, img, link, iframe').length") == 0
        assert name in page.evaluate(SERVICES)
        assert data(page, "#wrong")[0][0] == name
        assert page.inner_text("#actions").count(name) == 4
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_viewport_size({"width": 1280, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.usefixtures("short")
def test_on_a_phone(reader: Reader) -> None:
    """Names stand above their bars, and rows are cards with the names of their columns.

    Nothing is cut off.
    """
    for since in ("2h", "7d"):
        page = reader.page("--since", since, width=390)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        boxes = page.evaluate(
            """[...document.querySelectorAll('li.service')].map(item => [
                item.querySelector('h3'), item.querySelector('.bar, .days')].map(node => {
                    const box = node.getBoundingClientRect();
                    return [box.left, box.right, box.top, box.bottom];
                }))"""
        )
        assert len(boxes) == 3
        for (left, right, _, bottom), (bar_left, bar_right, top, _) in boxes:
            assert 0 <= left < right <= 390 and 0 <= bar_left < bar_right <= 390
            assert bottom <= top
        scrolled = page.evaluate(
            "[...document.querySelectorAll('.cards')]"
            ".filter(node => node.scrollWidth > node.parentElement.clientWidth).length"
        )
        assert scrolled == 0, "no table is wider than the screen"
        label = page.evaluate(
            "getComputedStyle(document.querySelector('#wrong td'), '::before').content"
        )
        assert label.replace('"', "").startswith("State")
        wide = page.evaluate(
            "[...document.querySelectorAll('th[scope=row], h3, .figures, .share')]"
            ".filter(node => node.scrollWidth > node.clientWidth + 1).length"
        )
        assert wide == 0, "no word is wider than its place"


@pytest.mark.usefixtures("short")
def test_days_by_keyboard_and_ear(reader: Reader) -> None:
    """The days of a service are one tab stop.

    Arrow keys move between the days and read them out.
    """
    page = reader.page("--since", "7d")
    group = page.get_by_role("radiogroup", name="Days of a, in UTC")
    days = group.get_by_role("radio")
    names = [text.replace("\u00a0", " ") for text in group.locator("label").all_inner_texts()]
    assert all(re.match(r"\d{4}-\d\d-\d\d: ", name) for name in names) and len(names) >= 6
    readout = "document.querySelector('.days input:checked + span').getBoundingClientRect().width"
    assert page.evaluate(readout) > 200, "the numbers of a day are shown from the beginning"
    days.first.focus()
    page.keyboard.press("ArrowRight")
    assert days.nth(1).is_checked()
    assert days.nth(1).evaluate("node => node === document.activeElement")
    box = group.locator("span").nth(1).bounding_box()
    assert box is not None and box["width"] > 200
    days.nth(3).click()
    assert days.nth(3).is_checked()
    assert group.get_by_role("radio", name=names[3]).count() == 1


@pytest.mark.usefixtures("short")
def test_states_differ_without_colour(reader: Reader) -> None:
    """Each state has its own height in bars, calendars and the key, also on paper."""
    page = reader.page("--since", "2h")
    heights = page.evaluate(
        "[...document.querySelectorAll('.key .mark')]"
        ".map(node => node.getBoundingClientRect().height)"
    )
    assert len(heights) == 5
    gaps = sorted(heights)
    assert all(after - before >= 2 for before, after in pairwise(gaps))
    page.emulate_media(media="print")
    details = page.evaluate(
        "[...document.querySelectorAll('.service details')]"
        ".map(node => [node.open, node.querySelector('table').checkVisibility()])"
    )
    assert details and {visible for _, visible in details} == {True}
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.bar .mark')).printColorAdjust")
        == "exact"
    )


@pytest.mark.usefixtures("short")
def test_accessible(reader: Reader) -> None:
    """Bars and calendars are accessible, on a phone and on a desktop."""
    from axe_playwright_python.sync_playwright import Axe

    for since, scheme, width in (
        ("2h", "light", 390),
        ("2h", "dark", 1280),
        ("7d", "light", 1280),
        ("7d", "dark", 390),
    ):
        assert main(["report", "-o", str(reader.folder / "r.html"), "--since", since]) == 0
        page = opened(reader.browser, reader.folder / "r.html", scheme, width=width)
        page.evaluate("document.querySelectorAll('details').forEach(node => node.open = true)")
        assert [
            (violation["id"], violation["nodes"][0]["html"])
            for violation in Axe().run(page).response["violations"]
        ] == [], (since, scheme, width)
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
        assert len(ids) == len(set(ids)), "an ID is used twice"
