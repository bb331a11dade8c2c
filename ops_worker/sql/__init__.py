"""The SQL: named statements for passes, readers and people, and numbered schema migrations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

STATEMENT_FILES = ("transactions", "passes", "history", "operations", "rollup", "rollup_reads")
_HERE = Path(__file__).parent
MIGRATIONS = _HERE / "migrations"
"""The folder of the migrations, ``NNNN_name.sql``, numbered from 1 without a gap."""


class Migration(NamedTuple):
    """One migration. ``sections`` holds its statements by the object that they create or change."""

    version: int
    name: str
    sections: dict[str, str]


def queries() -> dict[str, str]:
    """Return the named statements, without the semicolon at the end.

    Each one follows a line ``-- name: NAME``.
    """
    statements: dict[str, str] = {}
    for file in STATEMENT_FILES:
        for name, statement in _blocks(script(file), "-- name: ").items():
            statements[name] = statement.removesuffix(";")
    return statements


def script(name: str) -> str:
    """Return the statements of a file."""
    return (_HERE / f"{name}.sql").read_text(encoding="utf-8")


def migrations() -> tuple[Migration, ...]:
    """Return all migrations in order. Each section follows a line ``-- object: NAME``."""
    return tuple(
        Migration(
            version=int(path.stem.partition("_")[0]),
            name=path.stem,
            sections=_blocks(path.read_text(encoding="utf-8"), "-- object: "),
        )
        for path in sorted(MIGRATIONS.glob("[0-9]*_*.sql"))
    )


def _blocks(text: str, marker: str) -> dict[str, str]:
    """Split a text at the lines that begin with the marker; return each block by its name."""
    blocks = {}
    for block in text.split(marker)[1:]:
        name, _, statements = block.partition("\n")
        blocks[name.strip()] = statements.strip()
    return blocks
