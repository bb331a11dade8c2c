"""`make render`: build the Grafana dashboard from its panels here and the SQL of its folder.

    python -m tests.dashboard            writes k8s/components/dashboard/dashboard.json
    python -m tests.dashboard --check    exits with 4 if this file is out of date

The dashboard is plain JSON, so its builder is plain Python. tests/test_dashboard.py checks the
result with the models of Grafana's foundation SDK.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "k8s" / "components" / "dashboard"
FILE = FOLDER / "dashboard.json"
UID = "ops-worker"
"""The id of the dashboard. An import with the same id replaces the older version."""
SCHEMA_VERSION = 41
"""The version of the format of Grafana 11.6 and 12. A newer Grafana converts it."""
PLUGIN = "grafana-postgresql-datasource"
"""The type of the data source: PostgreSQL."""
DATASOURCE = {"type": PLUGIN, "uid": "${datasource}"}
"""The data source of the panels. A person chooses it at the top of the dashboard."""
GREY = "#8e8e8e"
"""The colour of all unknown states."""
COLOURS = {
    "healthy": "green",
    "degraded": "orange",
    "down": "red",
    "unknown": "purple",
    "unseen": GREY,
    "stale": GREY,
}
"""The colour of each state. A word that is not listed is grey, too."""
JOIN_MS = 180_000
"""The longest gap that the line of a chart crosses, in milliseconds: three periods of a minute."""
MIN_INTERVAL = "1m"
"""The shortest bucket of a chart: the period of the CronJobs."""
SECONDS, SHARE = {"unit": "s"}, {"unit": "percentunit"}
OWN = "'healthy', 'probe_latency_ms', 'certificate_days_left'"
"""Metrics that the worker records of services, and that are not figures, as SQL.

The self-metrics are not here: their service is ops_worker.
"""

Json = dict[str, Any]


def statement(name: str) -> str:
    """Return the SQL of a file in the folder of the dashboard."""
    return (FOLDER / "sql" / f"{name}.sql").read_text(encoding="utf-8").strip()


def series(where: str, name: str, value: str) -> str:
    """Return the SQL of a chart.

    ``where`` selects the rows, ``name`` is the name of a line, and ``value`` its value of a bucket.
    All are SQL expressions.
    """
    sql = statement("series")
    for placeholder, expression in (("@where", where), ("@name", name), ("@value", value)):
        sql = sql.replace(placeholder, expression)
    return sql


MEAN = "sum(total) / sum(samples)"
HIGHEST = "max(most)"
OF_PASS = "concat_ws(' ', s.tags ->> 'installation', s.tags ->> 'pass', s.tags ->> 'shard')"
OF_SERVICE = "concat_ws(' ', s.service, CASE WHEN s.tags <> '{}'::jsonb THEN s.tags::text END)"


def _panel(
    kind: str, title: str, question: str, position: tuple[int, int, int, int], sql: str
) -> Json:
    """Return a panel of a type. ``question`` is its description.

    ``position`` is x, y, width and height, in cells of Grafana's grid of 24 columns.
    """
    x, y, width, height = position
    is_chart = kind == "timeseries"
    return {
        "type": kind,
        "title": title,
        "description": question,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": "A",
                "datasource": DATASOURCE,
                "editorMode": "code",
                "format": "time_series" if is_chart else "table",
                "rawQuery": True,
                "rawSql": sql,
            }
        ],
        "transformations": [],
    }


def _grey_base() -> Json:
    """Return thresholds by which a value without a mapping is grey, and not green."""
    return {"mode": "absolute", "steps": [{"color": GREY, "value": None}]}


def _mappings(colours: dict[str, str]) -> list[Json]:
    """Return the mappings of words to colours."""
    options = {
        word: {"color": colour, "index": index}
        for index, (word, colour) in enumerate(colours.items())
    }
    return [{"type": "value", "options": options}]


def _override(column: str, **properties: Any) -> Json:
    """Return the properties of a column of a table.

    In the name of a property, two underscores stand for a dot.
    """
    return {
        "matcher": {"id": "byName", "options": column},
        "properties": [
            {"id": name.replace("__", "."), "value": value} for name, value in properties.items()
        ],
    }


def _coloured(column: str, colours: dict[str, str]) -> Json:
    """Return the override of a column whose cells have the colour of their word."""
    return _override(
        column,
        mappings=_mappings(colours),
        custom__cellOptions={"type": "color-background", "mode": "basic"},
    )


def _table(panel: Json, *overrides: Json) -> Json:
    """Return a panel as a table. A cell without a value has a dash, and no cell has a colour.

    ``overrides`` change this for a column.
    """
    return panel | {
        "fieldConfig": {
            "defaults": {
                "color": {"mode": "thresholds"},
                "thresholds": _grey_base(),
                "noValue": "-",
                "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False},
            },
            "overrides": list(overrides),
        },
        "options": {"cellHeight": "sm", "showHeader": True},
    }


def _chart(panel: Json, unit: str, style: str = "line") -> Json:
    """Return a panel as a chart with a line, or points, for each series.

    A line crosses gaps up to JOIN_MS.
    """
    return panel | {
        "interval": MIN_INTERVAL,
        "fieldConfig": {
            "defaults": {
                "color": {"mode": "palette-classic"},
                "thresholds": _grey_base(),
                "unit": unit,
                "custom": {
                    "drawStyle": style,
                    "lineInterpolation": "linear",
                    "lineWidth": 1,
                    "fillOpacity": 0,
                    "showPoints": "auto",
                    "spanNulls": JOIN_MS,
                },
            },
            "overrides": [],
        },
        "options": {
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _services() -> Json:
    panel = _panel(
        "table",
        "Services now",
        "Which services are unhealthy now, and why? A row that is too old is stale.",
        (0, 0, 14, 8),
        statement("services"),
    )
    return _table(
        panel,
        _coloured("State", COLOURS),
        _override("Latency", unit="ms"),
        _override("Certificate", unit="d"),
    )


def _alerts() -> Json:
    panel = _panel(
        "table",
        "Open alerts",
        "Which system alerts are open, and who works on them?",
        (14, 0, 10, 8),
        statement("alerts"),
    )
    colours = {"OPEN": "red", "ACKNOWLEDGED": "orange", "unknown": GREY}
    return _table(panel, _coloured("Status", colours))


def _states() -> Json:
    panel = _panel(
        "state-timeline",
        "States",
        "When was each service in which state, and when did nobody look (unseen)?",
        (0, 8, 24, 10),
        "\n".join((statement("timeline"), statement("states"))),
    )
    split = {"fields": ["service"], "keepFields": False, "naming": {"asLabels": True}}
    return panel | {
        "transformations": [{"id": "partitionByValues", "options": split}],
        "fieldConfig": {
            "defaults": {
                "color": {"mode": "thresholds"},
                "thresholds": _grey_base(),
                "mappings": _mappings(COLOURS),
                "displayName": "${__field.labels.service}",
                "custom": {"fillOpacity": 80, "lineWidth": 0},
            },
            "overrides": [],
        },
        "options": {
            "mergeValues": True,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.8,
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "single", "sort": "none"},
        },
    }


def _availability() -> Json:
    panel = _panel(
        "table",
        "Availability and error budget",
        "For what share of the seen time was each service healthy, and what is left of the error "
        "budget of this period? The objective is met only if it is met whatever happened unseen.",
        (0, 18, 24, 8),
        "\n".join((statement("timeline"), statement("availability"))),
    )
    seconds = ("Budget", "Budget left", "Degraded", "Down", "Unknown", "Unseen")
    return _table(
        panel,
        _coloured("Objective", {"met": "green", "missed": "red", "unknown": GREY}),
        _override("Availability", **SHARE, decimals=3),
        _override("Seen", **SHARE, decimals=3),
        _override("Budget left, share", **SHARE, decimals=0),
        *(_override(column, **SECONDS) for column in seconds),
    )


def _passes() -> Json:
    panel = _panel(
        "table",
        "Passes",
        "Do the passes run? When was each one last recorded, how long did the longest one take, "
        "and how many were blind?",
        (0, 26, 24, 6),
        statement("passes"),
    )
    colours = {
        "on time": "green",
        "overdue": "red",
        "blind": "purple",
        "never recorded": GREY,
    }
    return _table(
        panel,
        _coloured("State", colours),
        _override("Age", **SECONDS),
        _override("Period", **SECONDS),
        _override("Longest", unit="ms"),
    )


def _charts() -> list[Json]:
    durations = series(
        "s.metric_name = 'pass_duration_ms' AND s.service = 'ops_worker'", OF_PASS, HIGHEST
    )
    latencies = series("s.metric_name = 'probe_latency_ms'", OF_SERVICE, HIGHEST)
    return [
        _chart(
            _panel(
                "timeseries",
                "Latency of services, highest",
                "How slowly did each service answer? A probe without an answer has no latency.",
                (0, 32, 8, 9),
                latencies,
            ),
            "ms",
        ),
        _chart(
            _panel(
                "timeseries",
                "Duration of passes, longest",
                "How long did the passes take?",
                (8, 32, 8, 9),
                durations,
            ),
            "ms",
        ),
        _chart(
            _panel(
                "timeseries",
                "Time between passes, longest",
                "Are passes late, skipped or missed? Two periods are one pass that is not there.",
                (16, 32, 8, 9),
                statement("intervals"),
            ),
            "s",
            style="points",  # a gap is a high point, not a row without a value
        ),
    ]


def _figures() -> Json:
    panel = _panel(
        "timeseries",
        "$figure",
        "What was the mean of this figure: queue depth, devices, jobs and others?",
        (0, 42, 8, 8),
        series("s.metric_name = ANY(ARRAY[$figure]::text[])", OF_SERVICE, MEAN),
    )
    return _chart(panel, "short") | {
        "repeat": "figure",
        "repeatDirection": "h",
        "maxPerRow": 3,
    }


def _variable(name: str, label: str, sql: str) -> Json:
    """Return a variable whose values a statement returns. By default, all are chosen."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": sql,
        "refresh": 2,  # read the values again when the period changes
        "multi": True,
        "includeAll": True,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "sort": 0,
        "skipUrlSync": False,
    }


def _variables() -> list[Json]:
    objectives = ("99", "99.5", "99.9", "99.95", "99.99")
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": PLUGIN,
            "refresh": 1,
            "multi": False,
            "includeAll": False,
            "hide": 0,
            "skipUrlSync": False,
        },
        _variable("service", "Service", statement("variable_service")),
        {
            "type": "custom",
            "name": "slo",
            "label": "Objective in %",
            "query": ",".join(objectives),
            "options": [
                {"text": percent, "value": percent, "selected": percent == "99.9"}
                for percent in objectives
            ],
            "current": {"selected": True, "text": "99.9", "value": "99.9"},
            "multi": False,
            "includeAll": False,
            "hide": 0,
            "skipUrlSync": False,
        },
        _variable("figure", "Figure", statement("variable_figure").replace("@own", OWN)),
    ]


def dashboard() -> Json:
    """Return the dashboard."""
    heading = {
        "type": "row",
        "title": "Figures",
        "collapsed": False,
        "panels": [],
        "gridPos": {"x": 0, "y": 41, "w": 24, "h": 1},
    }
    panels = [_services(), _alerts(), _states(), _availability(), _passes()]
    panels += [*_charts(), heading, _figures()]
    return {
        "uid": UID,
        "title": "ops-worker",
        "description": "Services, alerts and passes, from the database of ops-worker",
        "tags": ["ops-worker"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, start=1)],
    }


def text() -> str:
    """Return the text of the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def is_current() -> bool:
    """Return whether the file is up to date."""
    return FILE.is_file() and FILE.read_text(encoding="utf-8") == text()


def run() -> int:
    """Write the file, or compare it with --check; return the exit code."""
    parser = argparse.ArgumentParser(prog="dashboard")
    parser.add_argument("--check", action="store_true")
    name = FILE.relative_to(FOLDER.parent.parent.parent)
    if not parser.parse_args().check:
        FILE.write_text(text(), encoding="utf-8")
        print(name)
        return 0
    if is_current():
        return 0
    print(f"{name}: out of date; run `make render`", file=sys.stderr)
    return 4


if __name__ == "__main__":
    sys.exit(run())
