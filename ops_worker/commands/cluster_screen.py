"""The screen of ``ops-worker cluster``: tables that fit, then one whole line for each warning."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ops_worker.history.screen import (
    MIN_WIDTH,
    Column,
    ScreenTable,
    cut,
    fitted,
    flexible,
    table_lines,
)
from ops_worker.text import format_age, one_line

if TYPE_CHECKING:
    from ops_worker.commands.cluster import View
    from ops_worker.core.cronjobs import CronJobState
    from ops_worker.core.deployments import DeploymentState

WIDTH = 100
"""Width of the tables, in columns, if there is no terminal."""
CRONJOB_COLUMNS = (
    Column("CRONJOB", least=12),
    Column("SCHEDULE", drop=3),
    Column("SUSPENDED", drop=5),
    Column("LAST RUN", drop=4),
    Column("LAST SUCCESS", drop=6),
    Column("RUNNING", drop=1),
    Column("MISSED", drop=2),
    Column("EXIT"),
    Column("SUMMARY", is_note=True),
)
"""The columns of the CronJobs."""
DEPLOYMENT_COLUMNS = (
    Column("DEPLOYMENT", least=12),
    Column("PASSES", least=8, drop=1),
    Column("READY"),
    Column("RESTARTS", drop=2),
    Column("STATE"),
)
"""The columns of the Deployments."""


def screen_width() -> int:
    """Return the width of the terminal in columns, or COLUMNS; WIDTH in a pipe."""
    return max(MIN_WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)


def screen(view: View, width: int) -> str:
    """Return the tables of CronJobs and Deployments, the warnings, and what was not read."""
    cronjobs = flexible("", CRONJOB_COLUMNS, tuple(map(_cronjob_cells, view.cronjobs)))
    deployments = flexible("", DEPLOYMENT_COLUMNS, tuple(map(_deployment_cells, view.deployments)))
    parts = [_lines(table, width) for table in (cronjobs, deployments) if table.rows]
    # Warnings are not cut, because the end of a warning says what to do.
    parts.append([f"warning: {warning}" for warning in view.all_warnings])
    parts.append([f"not looked at: {reason}" for reason in view.not_looked_at])
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _lines(table: ScreenTable, width: int) -> list[str]:
    return [cut(line.text, width) for line in table_lines(fitted(table, width))]


def _cronjob_cells(cronjob: CronJobState) -> tuple[str, ...]:
    return (
        one_line(cronjob.name),
        one_line(cronjob.schedule),
        "yes" if cronjob.suspended else "no",
        _ago(cronjob.last_run_s),
        _ago(cronjob.last_success_s),
        str(cronjob.running),
        _or_dash(cronjob.missed),
        _or_dash(cronjob.exit_code),
        one_line(cronjob.summary) or "-",
    )


def _deployment_cells(deployment: DeploymentState) -> tuple[str, ...]:
    return (
        one_line(deployment.name),
        ", ".join(deployment.passes) or "-",
        f"{deployment.ready}/{deployment.replicas}",
        str(deployment.restarts),
        deployment.state,
    )


def _ago(age_s: float | None) -> str:
    return "-" if age_s is None else f"{format_age(max(0.0, age_s))} ago"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
