"""Outages in a timeline: their number and lengths equal a count second by second."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

import pytest

from ops_worker.core.ledger import STATES, UNSEEN
from ops_worker.core.timeline import Piece
from ops_worker.history.outages import of_same_health, of_state, outages, stretches, sum_up
from tests.recorder import BEGUN as RECORDED
from tests.recorder import Recorder, recorded

pytestmark = pytest.mark.unit

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)
LETTERS = {"H": "healthy", "D": "degraded", "d": "down", "u": "unknown", ".": UNSEEN}


def at(second: float) -> datetime:
    """Return a time after the beginning."""
    return BEGUN + timedelta(seconds=second)


def timeline(text: str) -> list[Piece]:
    """Return a timeline. Each letter is a second. Each state was seen a second before."""
    pieces = []
    second = 0
    for letter, group in groupby(text):
        length = len(list(group))
        pieces.append(piece(LETTERS[letter], second, second + length))
        second += length
    return [before._replace(next_state=after.state) for before, after in pairwise(pieces)] + pieces[
        -1:
    ]


def piece(state: str, begun: int, ended: int) -> Piece:
    """Return a piece of a timeline."""
    return Piece(
        state=state,
        reason_class="",
        reason="",
        begun=at(begun),
        ended=at(ended),
        from_earliest=at(max(0, begun - 1)),
        first_seen=at(begun),
        last_seen=at(ended - 1),
        to_latest=at(ended + 2),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HHHH", []),
        ("....", []),
        ("HddH", [(1, 3, 2, 0)]),
        ("dd", [(0, 2, 2, 0)]),
        ("HdDuH", [(1, 4, 3, 0)]),
        ("dHd", [(0, 1, 1, 0), (2, 3, 1, 0)]),
        ("Hd..dH", [(1, 5, 2, 2)]),
        ("Hd..HdH", [(1, 2, 1, 0), (5, 6, 1, 0)]),
        ("..d..", [(2, 3, 1, 0)]),
        ("d.d.d", [(0, 5, 3, 2)]),
        ("d.H.d", [(0, 1, 1, 0), (4, 5, 1, 0)]),
    ],
)
def test_outages(text: str, expected: list[tuple[int, int, float, float]]) -> None:
    """An outage ends when the service is seen healthy. Unseen time within it does not count."""
    outage_stretches = stretches(timeline(text), of_same_health("down"))
    values = [(item.from_, item.to, item.seconds, item.unseen_s) for item in outage_stretches]
    assert values == [
        (at(begun), at(ended), seconds, unseen) for begun, ended, seconds, unseen in expected
    ]


def test_bounds() -> None:
    """The bounds of a stretch are those of its first and its last piece."""
    (outage,) = stretches(timeline("HHdd.DDH"), of_same_health("down"))
    assert (outage.from_earliest, outage.to_latest) == (at(1), at(9))
    cut = [item._replace(from_earliest=at(3), to_latest=at(1)) for item in timeline("HHddH")]
    (outage,) = stretches(cut, of_state("down"))
    assert (outage.from_earliest, outage.to_latest) == (at(2), at(4)), "never within the outage"


def test_state_and_health() -> None:
    """A change from one unhealthy state to another ends the state, but not the outage."""
    pieces = timeline("HdDdH")
    assert [item.from_ for item in stretches(pieces, of_state("down"))] == [at(1), at(3)]
    assert [item.from_ for item in stretches(pieces, of_same_health("unknown"))] == [at(1)]
    assert [item.to for item in stretches(pieces, of_same_health("healthy"))] == [at(1), at(5)]


@pytest.mark.parametrize("seed", range(300))
def test_against_seconds(seed: int) -> None:
    """All sums and counts equal those of a walk from second to second."""
    chance = random.Random(seed)
    letters = "".join(
        letter * chance.randint(1, 9)
        for letter in chance.choices("HHDdu..", k=chance.randint(1, 30))
    )
    total = sum_up(timeline(letters), at(0), at(len(letters)))
    seconds = {state: float(letters.count(letter)) for letter, state in LETTERS.items()}
    assert total.seconds == seconds
    assert list(total.seconds) == [*STATES, UNSEEN]
    seen_letters = letters.replace(".", "")
    assert total.outages == len([1 for word in seen_letters.split("H") if word])
    assert (total.longest.seconds if total.longest else 0) == max(map(len, seen_letters.split("H")))
    for item in total.states:
        letter = next(key for key, state in LETTERS.items() if state == item.state)
        times = [len(list(group)) for key, group in groupby(seen_letters) if key == letter]
        assert (item.times, item.seconds) == (len(times), sum(times))
        assert (item.longest.seconds if item.longest else 0) == max(times, default=0)
    if seen_letters:
        assert total.availability.value == pytest.approx(
            seen_letters.count("H") / len(seen_letters)
        )
    else:
        assert total.availability.value is None
    assert total.availability.coverage == pytest.approx(len(seen_letters) / len(letters))


def test_longest_of_equal_ones() -> None:
    """Of two outages of the same length, the newer one is shown."""
    total = sum_up(timeline("HddHddH"), at(0), at(7))
    assert total.longest
    assert total.longest.from_ == at(4)


def outage_values(ledger: Recorder, until: float) -> list[tuple[str, float, float, float, float]]:
    """Return the outages of a service: worst state, begin, end, least and most length."""
    return [
        (
            outage.state,
            (outage.begun - RECORDED).total_seconds(),
            (outage.ended - RECORDED).total_seconds(),
            outage.least_s,
            outage.most_s,
        )
        for outage in outages(ledger.pieces("a", 0, until, until))
    ]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([(0, "healthy"), (60, "healthy")], []),
        (
            [(0, "healthy"), (60, "down"), (120, "healthy"), (180, "down"), (240, "healthy")],
            [("down", 60, 120, 0, 120), ("down", 180, 240, 0, 120)],
        ),
        (  # unhealthy states in a row are one outage, with the worst state
            [(0, "healthy"), (60, "degraded"), (120, "down"), (180, "unknown"), (240, "healthy")],
            [("down", 60, 240, 120, 240)],
        ),
        (  # unseen time does not end an outage, and does not count
            [(0, "down"), (60, "down"), (600, "down"), (660, "healthy")],
            [("down", 0, 660, 120, 180)],
        ),
        ([(0, "unknown")], [("unknown", 0, 70, 0, 70)]),
    ],
)
def test_worst_state(
    states: list[tuple[float, str]], expected: list[tuple[str, float, float, float, float]]
) -> None:
    """An outage lasts until the service is seen healthy. Its length has bounds."""
    last = states[-1][0]
    assert outage_values(recorded(*states), last + 70) == expected


def test_reason() -> None:
    """The reason is that of the longest part in the worst state."""

    def part(state: str, reason: str, first: float, last: float) -> Piece:
        begun, ended = at(first), at(last)
        return Piece(state, reason, reason, begun, ended, begun, begun, ended, ended)

    pieces = [
        part("down", "short", 0, 60),
        part("degraded", "no", 60, 600),
        part("down", "long", 600, 720),
    ]
    assert [outage.reason for outage in outages(pieces)] == ["long"]
