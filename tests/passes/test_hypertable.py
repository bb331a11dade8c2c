"""Samples in a hypertable of TimescaleDB whose older chunks are compressed.

Most tests also run on one with OPS_TEST_TIMESCALE (docs/development.md). Those here need one.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main
from ops_worker.core.rollup import HOUR
from tests.passes.test_rollup import Rollup, assert_exact, history, last_hour, prepared

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

pytestmark = pytest.mark.integration

CHUNKS = """
SELECT count(*)
FROM timescaledb_information.chunks
WHERE hypertable_name = 'system_metrics' AND is_compressed
"""


@pytest.fixture
def rollup(hypertable: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rollup:
    """Return a rollup on a hypertable without samples, and two services."""
    return prepared(hypertable, monkeypatch, tmp_path)


def test_compressed(rollup: Rollup) -> None:
    """Hours and days of compressed samples are exact. No sample is removed."""
    rows = history(1)
    rollup.insert(rows)
    assert rollup.database.value(CHUNKS) > 40
    before = rollup.database.value("SELECT count(*) FROM system_metrics")
    outcome = rollup(SAMPLES_DAYS="1", RECORD_OWN_METRICS="false")
    assert outcome.rolled is not None
    assert "system_metrics" not in outcome.rolled.removed
    assert rollup.database.value("SELECT count(*) FROM system_metrics") == before
    assert_exact(rollup, rows)


def test_late_samples(rollup: Rollup) -> None:
    """Samples for a compressed chunk are in the next run, compressed or not."""
    rows = history(2, hours=30)
    late = [row for row in rows if last_hour() - timedelta(hours=3) <= row.time < last_hour()]
    rollup.insert([row for row in rows if row not in late])
    rollup()
    rollup.insert(late[::2])
    rollup()
    rollup.insert(late[1::2], compress=False)
    rollup()
    hours = rollup.rows(HOUR)
    assert_exact(rollup, rows, levels=[HOUR])
    assert rollup().rolled is not None
    assert rollup.rows(HOUR) == hours


def test_dropped_chunks(rollup: Rollup) -> None:
    """Rolled up rows stay when the policy of the hypertable drops their samples."""
    rows = history(3, hours=40)
    rollup.insert(rows)
    rollup()
    rollup.database.rows("SELECT drop_chunks('system_metrics', older_than => interval '12 hours')")
    assert rollup().result.value == "recorded"
    assert_exact(rollup, rows)


def test_size(rollup: Rollup, capsys: pytest.CaptureFixture[str]) -> None:
    """The checklist estimates the number and the bytes of compressed samples."""
    rollup.insert(history(4))
    rollup.database.rows("ANALYZE system_metrics")
    capsys.readouterr()
    main(["check", "--output", "json"])
    findings = {
        item["subject"]: item["found"] for item in json.loads(capsys.readouterr().out)["findings"]
    }
    line = findings["growth of system_metrics"]
    match = re.match(r"(\d+) rows, ([\d.]+) MiB; a hypertable", line)
    assert match, line
    count = rollup.database.value("SELECT count(*) FROM system_metrics")
    # TimescaleDB estimates the rows of a compressed chunk from the number of its batches.
    assert int(match[1]) == pytest.approx(count, rel=0.2)
    size = rollup.database.value("SELECT hypertable_size('system_metrics')")
    assert float(match[2]) == pytest.approx(size / 2**20, rel=0.01)


def test_standalone(empty: Database, hypertable: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """``init-db --standalone`` creates a hypertable with both policies. Passes write to it."""
    assert hypertable.is_hypertable, "the server has TimescaleDB"
    empty.rows("CREATE EXTENSION timescaledb")
    monkeypatch.setenv("DATABASE_URL", empty.url)
    assert main(["init-db", "--standalone"]) == main(["metrics"]) == main(["rollup"]) == 0
    jobs = """
        SELECT proc_name
        FROM timescaledb_information.jobs
        WHERE hypertable_name = 'system_metrics'
        ORDER BY proc_name
    """
    names = [row["proc_name"] for row in empty.rows(jobs)]
    assert names == ["policy_compression", "policy_retention"]
    assert empty.value("SELECT count(*) > 0 FROM show_chunks('system_metrics')")
    assert main(["init-db", "--standalone"]) == main(["check"]) == 0
