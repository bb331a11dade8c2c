"""The report in a real browser: no requests, accessible, and its numbers follow from the rows."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.conftest import Database

SCREENSHOTS = Path(__file__).parent.parent.parent / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine, headless."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(
    browser: Browser, path: Path, scheme: Any = "light", messages: list[str] | None = None
) -> Page:
    """Open a page; its console messages and requests are appended to ``messages``."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    if messages is not None:
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.on("request", lambda request: messages.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.mark.acceptance
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(
    looked: Database, browser: Browser, tmp_path: Path, scheme: str
) -> None:
    """It loads without a console message or a request, is accessible, and can be printed."""
    from axe_playwright_python.sync_playwright import Axe

    assert looked and main(["report", "-o", str(tmp_path / "r.html"), "--since", "2h"]) == 0
    messages: list[str] = []
    page = opened(browser, tmp_path / "r.html", scheme, messages)
    assert messages == [(tmp_path / "r.html").as_uri()]
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 28)"}[scheme]
    )
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{scheme}.png")
    page.screenshot(path=SCREENSHOTS / f"report-{scheme}-whole.png", full_page=True)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert [
        (violation["id"], violation["nodes"][0]["html"])
        for violation in Axe().run(page).response["violations"]
    ] == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids)), "an ID is used twice"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Availability"
    page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(path=SCREENSHOTS / f"report-{scheme}.pdf").startswith(b"%PDF")
    narrow = browser.new_page(viewport={"width": 390, "height": 800})
    narrow.goto((tmp_path / "r.html").as_uri())
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390


def reported(browser: Browser, path: Path) -> tuple[Page, datetime, datetime]:
    """Write and open a report of two hours; return the page with its begin and end."""
    assert main(["report", "-o", str(path), "--since", "2h"]) == 0
    page = opened(browser, path)
    begun, now = (
        datetime.fromisoformat(text)
        for text in page.evaluate(
            "[...document.querySelectorAll('header time')].map(one => one.dateTime)"
        )
    )
    return page, begun, now


def data(page: Page, selector: str) -> list[list[str]]:
    """Return the cells of a table: the value, the time or the text of each."""
    rows: list[list[str]] = page.evaluate(
        """selector => [...document.querySelectorAll(`${selector} tbody tr`)].map(row => [...row.cells].map(cell =>
           cell.querySelector('data')?.value ?? cell.querySelector('time')?.dateTime ?? cell.textContent))""",
        selector,
    )
    return rows


def availability(rows: list[dict[str, Any]], begun: datetime, now: datetime) -> list[Any]:
    """Return the seconds up and down, and the outages, from the samples of a service one by one."""
    seconds, outages, before = {True: 0.0, False: 0.0}, 0, None
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        period = timedelta(seconds=row["period_s"])
        until = (
            following["time"]
            if following
            and following["time"] - row["time"] <= max(3 * period, timedelta(seconds=90))
            else min(row["time"] + period, now)
        )
        if until <= begun:
            continue
        up = row["value"] == 1
        outages += not up and before != (False, row["time"])
        seconds[up] += (until - max(begun, row["time"])).total_seconds()
        before = (up, until)
    return [seconds[True], seconds[False], outages]


@pytest.mark.acceptance
def test_its_numbers_are_the_database_s(looked: Database, browser: Browser, tmp_path: Path) -> None:
    """Availabilities, incidents and passes follow from the rows, whatever went wrong in the history."""
    page, begun, now = reported(browser, tmp_path / "r.html")
    minute = timedelta(minutes=1)
    shown = {row[0]: row[1:] for row in data(page, "#availability-table")}
    assert list(shown)[:3] == ["dispatcher", "delivery_worker", "evaluator"], (
        "the longest outage comes first"
    )
    for service, series in [(name, name.removesuffix("_worker")) for name in shown]:
        rows = looked.rows(
            """SELECT m.time, m.value, coalesce((SELECT (p.tags ->> 'period_s')::float8 FROM system_metrics AS p
                      WHERE p.metric_name = 'pass_success' AND p.tags ->> 'pass' = 'metrics' AND p.time = m.time), 60) AS period_s
               FROM system_metrics AS m WHERE m.metric_name = 'healthy' AND m.service = %s AND m.time <= %s AND m.time > %s ORDER BY m.time""",
            series, now, begun - 3 * minute,
        )  # fmt: skip
        up, down, outages = availability(rows, begun, now)
        available, coverage, *seconds, count = map(float, shown[service])
        planned = 120 if service == "delivery_worker" else 0
        assert seconds == pytest.approx([up, down, planned, 7200 - up - down], abs=0.01)
        assert [available, coverage, count] == pytest.approx(
            [up / (up + down), (up + down) / 7200, outages]
        )
    assert (
        410 < float(shown["dispatcher"][3]) < 430 and 110 < float(shown["delivery_worker"][3]) < 130
    )
    assert all(float(row[5]) > 14.9 * 60 for row in shown.values()), "the gap is unknown, not up"
    maintained = page.evaluate(
        "[...document.querySelectorAll('#maintenance time')].map(one => one.dateTime)"
    )
    rows = looked.rows(
        "SELECT min(time) AS first, max(time) AS last FROM system_metrics WHERE metric_name = 'maintenance' AND value = 1 AND time > %s",
        begun,
    )
    assert [datetime.fromisoformat(item) for item in maintained] == [
        rows[0]["first"],
        rows[0]["last"] + minute,
    ]

    alerts = looked.rows(
        "SELECT * FROM fleet_alert WHERE tenant_id = '__system__' ORDER BY created_at, id"
    )
    assert [row[:4] for row in data(page, "#incidents-table")] == [
        [
            str(item["id"]),
            item["fingerprint"].partition(":")[2],
            *(
                time.astimezone(UTC).isoformat() if time else "still open"
                for time in (item["created_at"], item["closed_at"])
            ),
        ]
        for item in alerts
    ]
    lasts = [float(row[4]) for row in data(page, "#incidents-table")]
    assert lasts == pytest.approx(
        [((item["closed_at"] or now) - item["created_at"]).total_seconds() for item in alerts]
    )

    passes = looked.rows(
        """SELECT tags ->> 'pass' AS pass, time, (tags ->> 'period_s')::float8 AS period_s FROM system_metrics
           WHERE metric_name = 'pass_success' AND time > %s AND time <= %s ORDER BY 1, time""",
        begun, now,
    )  # fmt: skip
    shown_passes = {row[0]: (int(row[4]), int(row[5])) for row in data(page, "#passes-table")}
    for name in ("health", "metrics"):
        own = [item for item in passes if item["pass"] == name]
        gaps = [
            round((b["time"] - a["time"]).total_seconds() / max(a["period_s"], b["period_s"])) - 1
            for a, b in pairwise(own)
        ]
        assert shown_passes[name] == (len(own), sum(max(0, gap) for gap in gaps))
    assert 175 < shown_passes["metrics"][1] < 195, (
        "the quarter of an hour without a pass is counted"
    )


@pytest.mark.acceptance
def test_its_charts_have_their_points(looked: Database, browser: Browser, tmp_path: Path) -> None:
    """Each chart has a point for each bucket with rows, at the right height, and no line over a gap."""
    page, begun, now = reported(browser, tmp_path / "r.html")
    charts = page.evaluate(
        """[...document.querySelectorAll('#charts figure')].map((one, place) => ({
            service: one.dataset.service, metric: one.dataset.metric, latest: one.querySelector('figcaption data').value,
            path: document.querySelector(`#chart${place}-mean path`).getAttribute('d'),
            rows: [...one.querySelectorAll('tbody tr')].map(row => [row.querySelector('time').dateTime,
                   ...[...row.querySelectorAll('data')].map(cell => parseFloat(cell.value))])}))"""
    )
    assert len(charts) >= 14
    for chart in charts:
        metric, _, tags = chart["metric"].partition("{")
        rows = looked.rows(
            "SELECT time, value FROM system_metrics WHERE service = %s AND metric_name = %s AND time > %s AND time <= %s "
            "AND (%s = '' OR (tags ->> 'pass') || (tags ->> 'period_s') = %s) ORDER BY time",
            chart["service"].removesuffix("_worker") if chart["service"] != "ops_worker" else "ops_worker",
            metric, begun, now, tags, "".join(re.findall(r"=(\w+)", tags)),
        )  # fmt: skip
        assert float(chart["latest"]) == rows[-1]["value"]
        if metric in {"messages_received", "messages_written", "rules_evaluated"}:
            around = zip([None, *rows], rows, [*rows[1:], None], strict=False)
            placed = [
                b
                for a, b, c in around
                if not (
                    a
                    and c
                    and a["value"] <= c["value"]
                    and not a["value"] <= b["value"] <= c["value"]
                )
            ]
            steps = [
                (
                    b["time"],
                    b["value"] - a["value"] if b["value"] >= a["value"] else b["value"],
                    (b["time"] - a["time"]).total_seconds(),
                )
                for a, b in pairwise(placed)
            ]
        else:
            steps = [(row["time"], row["value"], 1.0) for row in rows]
        expected = []
        for bucket in range(60):
            low, high = (begun + timedelta(minutes=2 * number) for number in (bucket, bucket + 1))
            if inside := [(value, seconds) for time, value, seconds in steps if low <= time < high]:
                middle, total = (
                    (low + timedelta(minutes=1)).isoformat(),
                    sum(value for value, _ in inside),
                )
                mean = total / sum(seconds for _, seconds in inside)
                peak = [] if steps[0][2] != 1.0 else [max(value for value, _ in inside)]
                expected.append([middle, pytest.approx(mean), *peak])
        assert chart["rows"] == expected, chart["metric"]
        points = re.findall(r"([ML]) ([\d.]+) ([\d.]+)", chart["path"])
        assert len(points) == len(expected)
        parts = 1 + sum(
            datetime.fromisoformat(b[0]) - datetime.fromisoformat(a[0]) > timedelta(minutes=2)
            for a, b in pairwise(expected)
        )
        assert sum(kind == "M" for kind, *_ in points) == parts
        order = [
            (a[1] > b[1], float(p[2]) < float(q[2]))
            for (a, p), (b, q) in pairwise(zip(chart["rows"], points, strict=True))
            if abs(a[1] - b[1]) > abs(a[1]) / 100
        ]
        assert all(higher == above for higher, above in order), "a higher value is higher up"
    drawn = page.evaluate("document.querySelectorAll('#timelines-down-0 path').length")
    assert drawn >= 1


@pytest.mark.acceptance
def test_hostile_names(told: Database, browser: Browser, tmp_path: Path) -> None:
    """Names of services and people are shown as they are, and are not markup."""
    assert main(["init-db"]) == 0
    name = "</svg><script>document.title='x'</script>$\\frac{1$ {{ 7 * 7 }}"
    told.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value, tags) SELECT now() - make_interval(secs => n), m, %s, n, %s "
        "FROM generate_series(1, 600, 5) AS n, unnest(ARRAY['healthy', %s]) AS m",
        name, '{"\\"><img src=x onerror=alert(1)>": "]]>"}', name,
    )  # fmt: skip
    told.rows(
        "INSERT INTO tenants (tenant_id, name, status) VALUES ('__system__', 'System Alerts', 'ACTIVE') ON CONFLICT DO NOTHING"
    )
    told.rows(
        "INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, severity, confidence, summary, details, acknowledged_by, acknowledged_at) "
        "VALUES ('__system__', '-', '-', 'SYSTEM_HEALTH', 'system-health:' || %s, 'ACKNOWLEDGED', 5, 1, %s, '{}', %s, now())",
        name, name, name,
    )  # fmt: skip
    assert main(["report", "-o", str(tmp_path / "r.html"), "--since", "10m"]) == 0
    messages: list[str] = []
    page = opened(browser, tmp_path / "r.html", messages=messages)
    assert len(messages) == 1 and page.title().startswith("Report, ")
    assert page.evaluate("document.querySelectorAll('script, img, link, iframe').length") == 0
    assert data(page, "#incidents-table")[0][1] == name and any(
        row[0].startswith(name) for row in data(page, "#availability-table")
    )
