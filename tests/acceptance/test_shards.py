"""Shards: each pass covers its own share of the services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Database, Worker

pytestmark = pytest.mark.acceptance


def test_each_has_its_share(worker: Worker, database: Database) -> None:
    """Two shards cover all services, set by the option or by the variables of an Indexed Job."""
    assert worker("health", "--shard", "0/2").returncode == 0
    assert set(database.health()) == {"ingest", "dispatcher"}
    assert worker("health", SHARD_COUNT="2", JOB_COMPLETION_INDEX="1").returncode == 0
    assert set(database.health()) == {"ingest", "dispatcher", "evaluator", "delivery_worker"}


def test_figures_belong_to_the_first(worker: Worker, database: Database) -> None:
    """Only the first shard records the database's figures."""
    assert worker("metrics", "--shard", "1/2").returncode == 0
    assert {service for service, _ in database.samples()} <= {"evaluator", "delivery"}
    assert worker("metrics", "--shard", "0/2").returncode == 0
    assert ("postgres", "connections") in database.samples()


def test_at_once(worker: Worker, database: Database) -> None:
    """Shards that run at the same time do not skip each other."""
    running = [worker.start("health", "--shard", f"{index}/3") for index in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert not any("skipped" in line for line in outputs)
    assert len(database.health()) == 4


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "a/b", "0/0", "0/1001"])
def test_no_such_shard(worker: Worker, shard: str) -> None:
    """A value that is not a shard ends with exit code 2, and the message explains the format."""
    done = worker("health", f"--shard={shard}")
    assert done.returncode == 2
    assert f"{shard} is not a shard I/N: 0/4 is the first of four; N is at most 1000" in done.stderr


def test_no_such_index(worker: Worker) -> None:
    """An index that is not below SHARD_COUNT ends with exit code 2."""
    done = worker("health", SHARD_COUNT="2", JOB_COMPLETION_INDEX="2")
    assert done.returncode == 2
    assert (
        "JOB_COMPLETION_INDEX is '2'; expected the number of a shard, from 0 to SHARD_COUNT - 1"
        in done.stderr
    )
