"""Whether another pass has stopped: every case of the rule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.core.peer import (
    UNNAMED,
    LastRecord,
    PeerState,
    causes,
    causes_of,
    had_turn,
    judge_peers,
    last_turn_start,
    records,
    stale_peers,
)
from ops_worker.core.staleness import PassRecord

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEVER = None


def last_seen(
    name: str, age_s: float | None, period_s: float | None = 60, shard: str | None = None
) -> LastRecord:
    """Return the row of a pass whose last record has this age, or that has no record."""
    time = None if age_s is None else NOW - timedelta(seconds=age_s)
    return LastRecord(name=name, shard=shard, time=time, period_s=period_s)


def record(
    name: str, age_s: float, period_s: float | None = 60, shard: str | None = None
) -> PassRecord:
    """Return the record of a pass of this age."""
    return PassRecord(name, shard, NOW - timedelta(seconds=age_s), period_s)


FRESH = last_seen("metrics", 5)
CASES: list[tuple[str, list[LastRecord], PeerState]] = [
    ("nothing was ever recorded", [], PeerState()),
    ("only this pass ran", [FRESH], PeerState()),
    ("the peer never ran", [FRESH, last_seen("health", NEVER)], PeerState()),
    ("both run", [FRESH, last_seen("health", 60)], PeerState(recovered=True)),
    (
        "three periods are not too long",
        [FRESH, last_seen("health", 180)],
        PeerState(recovered=True),
    ),
    (
        "longer than three periods",
        [FRESH, last_seen("health", 180.5)],
        PeerState(stopped=record("health", 180.5), names=("health",)),
    ),
    (
        "a short period: nothing under 90 s",
        [FRESH, last_seen("health", 90, 5)],
        PeerState(recovered=True),
    ),
    (
        "a short period: more than 90 s",
        [FRESH, last_seen("health", 91, 5)],
        PeerState(stopped=record("health", 91, 5), names=("health",)),
    ),
    (
        "a pass that recorded no period counts as one of 60 s",
        [FRESH, last_seen("health", 181, None)],
        PeerState(stopped=record("health", 181, None), names=("health",)),
    ),
    (
        "one shard stopped",
        [FRESH, last_seen("health", 10, shard="0/2"), last_seen("health", 500, shard="1/2")],
        PeerState(stopped=record("health", 500, shard="1/2"), names=("health",)),
    ),
    (
        "two shards stopped: the older one is reported",
        [FRESH, last_seen("health", 500, shard="0/2"), last_seen("health", 600, shard="1/2")],
        PeerState(stopped=record("health", 600, shard="1/2"), names=("health",)),
    ),
    (
        "one shard never ran: it neither stopped nor recovered",
        [FRESH, last_seen("health", 10, shard="0/2"), last_seen("health", NEVER, shard="1/2")],
        PeerState(),
    ),
    (
        "two peers: one stopped",
        [FRESH, last_seen("health", 10), last_seen("ledger", 700)],
        PeerState(stopped=record("ledger", 700), names=("ledger",)),
    ),
    (
        "two peers stopped: the alert is about the older one, and names both",
        [FRESH, last_seen("health", 600), last_seen("ledger", 700)],
        PeerState(stopped=record("ledger", 700), names=("health", "ledger")),
    ),
    (
        "this pass was silent as well: it cannot judge, and nothing recovered",
        [last_seen("metrics", 500), last_seen("health", 400)],
        PeerState(),
    ),
    (
        "this pass was never recorded: it cannot judge",
        [last_seen("metrics", NEVER), last_seen("health", 400)],
        PeerState(),
    ),
    (
        "one shard of this pass is enough to judge",
        [
            last_seen("metrics", 400, shard="0/2"),
            last_seen("metrics", 5, shard="1/2"),
            last_seen("health", 400),
        ],
        PeerState(stopped=record("health", 400), names=("health",)),
    ),
    (
        "this pass was silent, the peer runs",
        [last_seen("metrics", 500), last_seen("health", 10)],
        PeerState(recovered=True),
    ),
    (
        "a shard of this pass that stopped is no peer",
        [FRESH, last_seen("metrics", 900, shard="1/2"), last_seen("health", 10)],
        PeerState(recovered=True),
    ),
    (
        "a pass that is not among the peers is not judged",
        [FRESH, last_seen("health", 10), last_seen("other", 900)],
        PeerState(recovered=True),
    ),
    (
        "a record from the future is fresh",
        [FRESH, last_seen("health", -600)],
        PeerState(recovered=True),
    ),
]


@pytest.mark.parametrize(
    ("rows", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_judge_peers(rows: list[LastRecord], expected: PeerState) -> None:
    """The metrics pass judges its peers by their last records. All of them had a turn."""
    peers = ("health", "ledger")
    stopped = stale_peers("metrics", peers, rows, NOW)
    assert judge_peers(peers, rows, NOW, stopped) == expected


def test_no_peers() -> None:
    """A pass without peers opens and closes nothing."""
    rows = [FRESH, last_seen("health", 900)]
    assert stale_peers("metrics", (), rows, NOW) == []
    assert judge_peers((), rows, NOW, []) == PeerState()


@pytest.mark.parametrize(
    ("peer_period_s", "own_ages_s", "own_period_s", "resumed_s", "expected"),
    [
        # With a period of 60 s, the last turn began 150 s ago; with 5 s, 95 s ago.
        (60, [150], 5, None, True),
        (60, [240], 5, None, True),
        (60, [240.5], 5, None, False),
        (60, [150 + 180], 60, None, True),
        (60, [150 + 180.5], 60, None, False),
        (5, [95 + 90], 5, None, True),
        (5, [95 + 90.5], 5, None, False),
        # With a period of an hour, the last turn began an hour and 90 s ago.
        (3600, [3690 + 90], 5, None, True),
        (3600, [3690 + 91], 5, None, False),
        # A peer without a recorded period counts with 60 s.
        (None, [240], 5, None, True),
        (None, [240.5], 5, None, False),
        # At that time this pass did not run yet, so its records have no hole.
        (60, [], 5, None, True),
        (60, [None, None], 5, None, True),
        # One shard of this pass is enough.
        (60, [9000, 151], 5, None, True),
        (60, [9000, None], 5, None, False),
        # A loop writes the samples of an outage afterwards, and knows when the outage ended.
        (60, [151], 5, 150, True),
        (60, [151], 5, 149.9, False),
        (60, [], 5, 10, False),
        (3600, [3691], 5, 3690, True),
        (3600, [3691], 5, 3600, False),
        (60, [400], 5, 300, False),
    ],
)
def test_had_turn(
    peer_period_s: float | None,
    own_ages_s: list[float | None],
    own_period_s: float,
    resumed_s: float | None,
    expected: bool,
) -> None:
    """A peer is reported only if it had a turn while this pass was recorded without a hole."""
    peer = record("health", 20_000, peer_period_s)
    rows = [
        last_seen("metrics", age_s, own_period_s, f"{number}/{len(own_ages_s)}")
        for number, age_s in enumerate(own_ages_s)
    ]
    # The peer itself and other passes say nothing about this one.
    rows += [last_seen("health", 20_000), last_seen("rollup", 151, 3600)]
    resumed_at = None if resumed_s is None else NOW - timedelta(seconds=resumed_s)
    assert had_turn("metrics", peer, rows, NOW, resumed_at) is expected


@pytest.mark.parametrize(("period_s", "age_s"), [(5, 95), (60, 150), (3600, 3690), (None, 150)])
def test_last_turn(period_s: float | None, age_s: float) -> None:
    """The last turn began one period and 90 s ago: a row may take 90 s until it is visible."""
    assert last_turn_start(record("health", 500, period_s), NOW) == NOW - timedelta(seconds=age_s)


def test_waiting_for_a_turn_is_no_recovery() -> None:
    """A stale peer without a turn does not open the alert, and does not close it."""
    rows = [FRESH, last_seen("health", 900), last_seen("ledger", 10)]
    assert judge_peers(("health", "ledger"), rows, NOW, []) == PeerState()


def test_records() -> None:
    """A shard without a record is left out. The other shards keep all fields."""
    rows = [last_seen("health", 7, 30, "1/2"), last_seen("health", NEVER, shard="0/2")]
    assert records(rows) == [record("health", 7, 30, "1/2")]


STOPPED = PeerState(stopped=record("health", 600), names=("health", "ledger"))
RECOVERED = PeerState(recovered=True)
STOPPED_CAUSES = ("health pass stopped", "ledger pass stopped")


@pytest.mark.parametrize(
    ("before", "state", "is_blind", "expected"),
    [
        (None, PeerState(), False, ()),
        (None, PeerState(), True, ("blind",)),
        (None, STOPPED, False, STOPPED_CAUSES),
        (None, STOPPED, True, (*STOPPED_CAUSES, "blind")),
        (("blind",), PeerState(), True, ("blind",)),
        (("blind",), PeerState(), False, ()),
        # No other pass judges the peers, so their cause stays.
        (("metrics pass stopped", "blind"), PeerState(), False, ("metrics pass stopped",)),
        (("metrics pass stopped",), PeerState(), True, ("metrics pass stopped", "blind")),
        ((UNNAMED,), PeerState(), False, (UNNAMED,)),
        ((UNNAMED,), RECOVERED, False, ()),
        (("metrics pass stopped", "blind"), RECOVERED, True, ("blind",)),
        (("metrics pass stopped",), STOPPED, False, STOPPED_CAUSES),
    ],
)
def test_causes(
    before: tuple[str, ...] | None, state: PeerState, is_blind: bool, expected: tuple[str, ...]
) -> None:
    """The alert stands for the passes that stopped, and for passes that are blind."""
    assert causes(before, state, is_blind=is_blind) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["blind"], ("blind",)),
        (["metrics pass stopped", "blind"], ("metrics pass stopped", "blind")),
        (None, (UNNAMED,)),
        ([], (UNNAMED,)),
        ("blind", (UNNAMED,)),
        (["blind", 1], (UNNAMED,)),
        ({"blind": 1}, (UNNAMED,)),
    ],
)
def test_causes_of(value: object, expected: tuple[str, ...]) -> None:
    """An alert of an older release names no cause, and a person may have written anything."""
    assert causes_of(value) == expected
