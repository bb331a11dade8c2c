"""The report in a browser: no requests, accessible, and with the numbers of the database.

``test_report_services.py`` compares the states of services.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main
from tests.browser import data, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.conftest import Database

SCREENSHOTS = Path(__file__).parent.parent.parent / "screenshots"


@pytest.mark.usefixtures("seeded")
@pytest.mark.acceptance
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(browser: Browser, tmp_path: Path, scheme: str) -> None:
    """The page has no console message and no request, is accessible, and can be printed."""
    from axe_playwright_python.sync_playwright import Axe

    assert main(["report", "-o", str(tmp_path / "r.html"), "--since", "2h"]) == 0
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
    page.evaluate("document.querySelectorAll('details').forEach(node => node.open = true)")
    assert [
        (violation["id"], violation["nodes"][0]["html"])
        for violation in Axe().run(page).response["violations"]
    ] == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids)), "an ID is used twice"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Now"
    page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(path=SCREENSHOTS / f"report-{scheme}.pdf").startswith(b"%PDF")


def reported(browser: Browser, path: Path) -> tuple[Page, datetime, datetime]:
    """Write and open a report of two hours; return the page with its begin and end."""
    assert main(["report", "-o", str(path), "--since", "2h"]) == 0
    page = opened(browser, path)
    begun, now = (
        datetime.fromisoformat(text)
        for text in page.evaluate(
            "[...document.querySelectorAll('header time')].map(node => node.dateTime)"
        )
    )
    return page, begun, now


@pytest.mark.acceptance
def test_its_numbers_are_the_database_s(seeded: Database, browser: Browser, tmp_path: Path) -> None:
    """Incidents and passes equal the rows of a history with failures."""
    page, begun, now = reported(browser, tmp_path / "r.html")
    alerts = seeded.rows(
        "SELECT * FROM fleet_alert WHERE tenant_id = '__system__' ORDER BY created_at DESC, id DESC"
    )
    assert [row[:4] for row in data(page, "#incidents-table")] == [
        [
            item["fingerprint"].partition(":")[2],
            str(item["id"]),
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

    passes = seeded.rows(
        """SELECT tags ->> 'pass' AS pass, time, (tags ->> 'period_s')::float8 AS period_s
           FROM system_metrics
           WHERE metric_name = 'pass_success' AND time > %s AND time <= %s ORDER BY 1, time""",
        begun,
        now,
    )
    pass_counts = {row[0]: (int(row[4]), int(row[5])) for row in data(page, "#passes-table")}
    for name in ("health", "metrics"):
        own = [item for item in passes if item["pass"] == name]
        gaps = [
            round((b["time"] - a["time"]).total_seconds() / max(a["period_s"], b["period_s"])) - 1
            for a, b in pairwise(own)
        ]
        assert pass_counts[name] == (len(own), sum(max(0, gap) for gap in gaps))
    assert 175 < pass_counts["metrics"][1] < 195, "the quarter of an hour without a pass is counted"


@pytest.mark.acceptance
def test_its_charts_have_their_points(seeded: Database, browser: Browser, tmp_path: Path) -> None:
    """Each chart has a point for each bucket with rows, at the right height.

    No line crosses a gap.
    """
    page, begun, now = reported(browser, tmp_path / "r.html")
    charts = page.evaluate(
        """[...document.querySelectorAll('#charts figure')].map((node, place) => ({
            service: node.dataset.service, metric: node.dataset.metric,
            latest: node.querySelector('figcaption data').value,
            path: document.querySelector(`#chart${place}-mean path`).getAttribute('d'),
            rows: [...node.querySelectorAll('tbody tr')].map(row => [
                   row.querySelector('time').dateTime,
                   ...[...row.querySelectorAll('data')].map(cell => parseFloat(cell.value))])}))"""
    )
    assert len(charts) >= 14
    for chart in charts:
        metric, _, tags = chart["metric"].partition("{")
        rows = seeded.rows(
            "SELECT time, value FROM system_metrics "
            "WHERE service = %s AND metric_name = %s AND time > %s AND time <= %s "
            "AND (%s = '' OR (tags ->> 'pass') || (tags ->> 'period_s') = %s) ORDER BY time",
            chart["service"].removesuffix("_worker")
            if chart["service"] != "ops_worker"
            else "ops_worker",
            metric,
            begun,
            now,
            tags,
            "".join(re.findall(r"=(\w+)", tags)),
        )
        assert float(chart["latest"]) == rows[-1]["value"]
        if metric in {"messages_received", "messages_written", "rules_evaluated"}:
            triples = zip([None, *rows], rows, [*rows[1:], None], strict=False)
            plausible = [
                b
                for a, b, c in triples
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
                for a, b in pairwise(plausible)
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
    texts = page.evaluate(
        "[...document.querySelectorAll('#charts figure > svg')]"
        ".map(node => node.textContent.split(/\\s+/))"
    )
    for chart, words in zip(charts, texts, strict=True):
        assert {"0", "0.0"} & {*words}, f"the axis of {chart['metric']} has its zero"
        both = len(chart["rows"][0]) == 3
        assert {"mean", "maximum"} <= {*words} if both else "second" in words
