"""The timeline of a service that several shards saw, after the number of shards changed."""

from __future__ import annotations

import pytest

from ops_worker.core.ledger import Run, Span
from ops_worker.core.timeline import Coverage
from tests.recorder import BEGUN, at

pytestmark = pytest.mark.unit

PERIOD_S = 60.0


class Shards:
    """A ledger of one service. Each call adds a run with one span of a shard."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.spans: list[Span] = []

    def __call__(
        self, shard: str, first: float, last: float, state: str, *, is_open: bool = True
    ) -> None:
        """Record that a shard saw the service in a state from one second to another."""
        number = len(self.runs) + 1
        passes = int((last - first) / PERIOD_S) + 1
        self.runs.append(
            Run(
                id=number,
                period_s=PERIOD_S,
                config="c",
                first_at=at(first),
                last_at=at(last),
                passes=passes,
                shard=shard,
            )
        )
        self.spans.append(
            Span(
                id=number,
                service="a",
                state=state,
                reason_class="",
                reason="",
                first_at=at(first),
                first_no=1,
                run=number,
                last_at=None if is_open else at(last),
                last_no=None if is_open else passes,
                last_run=None if is_open else number,
            )
        )

    def timeline(self, now: float) -> list[tuple[str, float, float]]:
        """Return the states up to now, with their seconds."""
        pieces = Coverage(self.runs, at(now)).timeline(self.spans, BEGUN, at(now))
        return [
            (
                piece.state,
                (piece.begun - BEGUN).total_seconds(),
                (piece.ended - BEGUN).total_seconds(),
            )
            for piece in pieces
        ]


def test_another_shard() -> None:
    """A state lasts until the new shard sees another one. The span of the old shard stays open."""
    shards = Shards()
    shards("0/1", 0, 600, "healthy")
    shards("1/3", 660, 1200, "down")
    assert shards.timeline(1260) == [("healthy", 0, 660), ("down", 660, 1260)]


def test_a_pause_between() -> None:
    """If unseen time follows, the old state lasts for one period."""
    shards = Shards()
    shards("0/1", 0, 600, "healthy")
    shards("1/3", 6000, 6600, "healthy")
    assert shards.timeline(6600) == [
        ("healthy", 0, 660),
        ("unseen", 660, 6000),
        ("healthy", 6000, 6600),
    ]


def test_and_back_at_once() -> None:
    """A shard whose run has no hole goes on after the others."""
    shards = Shards()
    shards("0/1", 0, 6000, "healthy")
    shards("1/3", 660, 660, "down")
    assert shards.timeline(6060) == [
        ("healthy", 0, 660),
        ("down", 660, 720),
        ("healthy", 720, 6060),
    ]


def test_in_turns() -> None:
    """Two numbers of shards at the same time lose nothing: the newest sight counts."""
    shards = Shards()
    shards("0/1", 0, 6000, "healthy")
    shards("1/3", 660, 1200, "down", is_open=False)
    shards("1/2", 780, 900, "degraded")
    shards("1/3", 1260, 1260, "healthy", is_open=False)
    shards("1/3", 5910, 5970, "down", is_open=False)
    assert shards.timeline(6060) == [
        ("healthy", 0, 660),
        ("down", 660, 780),
        ("degraded", 780, 960),
        ("down", 960, 1260),
        ("healthy", 1260, 5910),
        ("down", 5910, 6000),
        ("healthy", 6000, 6060),
    ]


def test_the_next_sight_is_not_hidden() -> None:
    """A sight of another shard counts for one period, or until that shard's next sight."""
    shards = Shards()
    shards("0/1", 0, 6000, "healthy")
    shards("1/3", 660, 660, "down", is_open=False)
    shards("1/3", 720, 720, "degraded")
    assert shards.timeline(6060) == [
        ("healthy", 0, 660),
        ("down", 660, 720),
        ("degraded", 720, 780),
        ("healthy", 780, 6060),
    ]


def test_the_same_time() -> None:
    """If two spans end at the same time, the span that began later counts."""
    shards = Shards()
    shards("0/1", 0, 1200, "healthy", is_open=False)
    shards("1/2", 600, 1200, "down")
    assert shards.timeline(1230) == [("healthy", 0, 600), ("down", 600, 1230)]
