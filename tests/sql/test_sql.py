"""The SQL files: every name stands for exactly one statement."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ops_worker import sql
from ops_worker.core import staleness
from ops_worker.sql import migrations, queries

pytestmark = pytest.mark.unit

NAMES = [
    name
    for file in sql.STATEMENT_FILES
    for name in re.findall(r"^-- name: (.*)$", sql.script(file), re.MULTILINE)
]


def test_unique() -> None:
    """No name occurs twice, because the second statement would replace the first."""
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert set(sql.queries()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_one_statement(name: str) -> None:
    """A name stands for one statement, because the driver prepares one at a time."""
    statement = sql.queries()[name]
    code = re.sub(r"--.*", "", statement).strip()
    assert code
    assert ";" not in re.sub(r"'[^']*'", "", code).rstrip(";")


def test_names() -> None:
    """A name is a word that code can use as a key."""
    assert [name for name in NAMES if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


def test_rules_stand_once() -> None:
    """Statements get periods and staleness as parameters; only the view has them as constants."""
    pattern = staleness.PERIOD_PATTERN
    assert not any(pattern in statement or "1,6" in statement for statement in queries().values())
    view = [
        sections["service_health_current"]
        for _, _, sections in migrations()
        if "service_health_current" in sections
    ][-1]
    assert f"FROM '{pattern}'" in view
    stale = (
        f"greatest({staleness.STALE_PERIODS} * p.period, "
        f"interval '{staleness.MIN_STALE_S:g} seconds')"
    )
    assert stale in view
    assert f"coalesce(max(last.period_s), {staleness.DEFAULT_PERIOD_S:g})" in view
