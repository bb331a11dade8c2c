"""The SQL: named statements in ``queries.sql``, and one file for each table that the worker may create."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def queries() -> dict[str, str]:
    """Load the named statements: each begins after a line ``-- name: NAME``; a sentence of comment says what it is for."""
    blocks = script("queries").split("-- name: ")[1:]
    return {
        name.strip(): statement.strip()
        for name, _, statement in (block.partition("\n") for block in blocks)
    }


def script(name: str) -> str:
    """Load a file of statements."""
    return (_HERE / f"{name}.sql").read_text(encoding="utf-8")
