"""The SQL: named statements for passes, readers and people; one file for each table."""

from __future__ import annotations

from pathlib import Path

STATEMENT_FILES = ("passes", "history", "operations")
_HERE = Path(__file__).parent


def queries() -> dict[str, str]:
    """Return the named statements. Each one follows a line ``-- name: NAME``."""
    found: dict[str, str] = {}
    for file in STATEMENT_FILES:
        for block in script(file).split("-- name: ")[1:]:
            name, _, statement = block.partition("\n")
            found[name.strip()] = statement.strip()
    return found


def script(name: str) -> str:
    """Return the statements of a file."""
    return (_HERE / f"{name}.sql").read_text(encoding="utf-8")
