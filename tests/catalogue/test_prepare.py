"""`catalogue check --prepare`: the database parses the statements of a catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


@pytest.mark.integration
def test_prepare(
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --prepare, the database parses every statement and runs none.

    A missing table of a figure is a note, not a fault.
    """
    monkeypatch.setenv("DATABASE_URL", database.url)
    file = tmp_path / "c.toml"
    sqls = {
        "fine": "SELECT service, 1.5 AS value FROM system_metrics",
        "endless": "SELECT 1 AS value FROM pg_sleep(3600)",
        "nothing": "SELECT 1 AS value FROM nowhere",
        "columns": "SELECT 1 AS number",
        "syntax": "SELECT 1 AS value FROM (",
        "writes": "WITH x AS (DELETE FROM tenants RETURNING 1) SELECT count(*) AS value FROM x",
    }
    file.write_text(
        "".join(f'[figures.x.{name}]\nsql = "{sql}"\n' for name, sql in sqls.items())
        + '[figures.x.gone]\nsql = "SELECT 1"\ntables = ["gone"]\n'
    )
    assert main(["catalogue", "check", str(file), "--prepare"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "note: figures.x.gone is absent: no table gone",
        f'{file}: figures.x.nothing.sql: relation "nowhere" does not exist',
    ]
    assert lines[2].startswith(
        f"{file}: figures.x.columns.sql: returns number; it must return `value`"
    )
    assert lines[3].startswith(f"{file}: figures.x.syntax.sql: syntax error at")
    assert lines[4].startswith(f"{file}: figures.x.writes.sql: ")
    assert lines[5:] == ["catalogue: 4 services monitored, 13 figures, 4 faults"]
    assert main(["catalogue", "check", "--prepare"]) == 0
