"""What happened to a service in a period: outages, how long each state lasted, the longest time."""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import timeline
from ops_worker.core.ledger import HEALTHY, STATES, UNSEEN
from ops_worker.history.ledger import AvailabilityDocument, availability_document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.timeline import Piece


class Stretch(NamedTuple):
    """A time in which a service was never seen otherwise, for example an outage.

    It really began between ``from_earliest`` and ``from_``, and was over at ``to_latest`` at the
    latest. ``seconds`` are those in which it was seen so, ``unseen_s`` those between ``from_`` and
    ``to`` in which nobody looked.
    """

    from_: datetime
    to: datetime
    from_earliest: datetime
    to_latest: datetime
    seconds: float
    unseen_s: float


class StateTotal(NamedTuple):
    """How often a service was in a state, how long in total, and the longest time of it."""

    state: str
    times: int
    seconds: float
    longest: Stretch | None


class Past(NamedTuple):
    """What a service was in a period. An outage is a time in which it was unhealthy in any way.

    ``seconds`` has an entry for each state and for the time in which nobody looked. ``states`` has
    the unhealthy states.
    """

    from_: datetime
    to: datetime
    availability: AvailabilityDocument
    seconds: Mapping[str, float]
    outages: int
    longest: Stretch | None
    states: Sequence[StateTotal]


def stretches(pieces: Sequence[Piece], belongs: Callable[[Piece], bool]) -> list[Stretch]:
    """Return the times whose pieces ``belongs`` accepts, the oldest first.

    A time in which nobody looked does not end a stretch, because nobody saw anything else. It is
    part of one only if the service was seen so before and after it.
    """
    joined: list[Stretch] = []
    is_open = False
    unseen_s = 0.0
    for piece in pieces:
        if piece.state == UNSEEN:
            unseen_s += piece.seconds
            continue
        if not belongs(piece):
            is_open = False
        elif is_open:
            joined[-1] = _extended(joined[-1], piece, unseen_s)
        else:
            joined.append(_begun(piece))
            is_open = True
        unseen_s = 0.0
    return joined


def _begun(piece: Piece) -> Stretch:
    return Stretch(
        from_=piece.begun,
        to=piece.ended,
        from_earliest=min(piece.from_earliest, piece.begun),
        to_latest=max(piece.to_latest, piece.ended),
        seconds=piece.seconds,
        unseen_s=0.0,
    )


def _extended(stretch: Stretch, piece: Piece, unseen_s: float) -> Stretch:
    return stretch._replace(
        to=piece.ended,
        to_latest=max(piece.to_latest, piece.ended),
        seconds=stretch.seconds + piece.seconds,
        unseen_s=stretch.unseen_s + unseen_s,
    )


def of_same_health(state: str) -> Callable[[Piece], bool]:
    """Return the rule for pieces that are healthy, or unhealthy in any way, like this state."""
    is_healthy = state == HEALTHY
    return lambda piece: (piece.state == HEALTHY) == is_healthy


def of_state(state: str) -> Callable[[Piece], bool]:
    """Return the rule for pieces of this state."""
    return lambda piece: piece.state == state


def sum_up(pieces: Sequence[Piece], since: datetime, until: datetime) -> Past:
    """Sum up a timeline from ``since`` to ``until``."""
    total = timeline.availability(pieces)
    outages = stretches(pieces, lambda piece: piece.state != HEALTHY)
    return Past(
        from_=since,
        to=until,
        availability=availability_document(total),
        seconds={state: round(total.seconds[state], 6) for state in (*STATES, UNSEEN)},
        outages=len(outages),
        longest=longest(outages),
        states=[_state_total(pieces, state) for state in STATES if state != HEALTHY],
    )


def _state_total(pieces: Sequence[Piece], state: str) -> StateTotal:
    times = stretches(pieces, of_state(state))
    return StateTotal(
        state=state,
        times=len(times),
        seconds=round(fsum(stretch.seconds for stretch in times), 6),
        longest=longest(times),
    )


def longest(times: Sequence[Stretch]) -> Stretch | None:
    """Return the stretch that was seen for longest, the newest of equal ones; None of none."""
    return max(times, key=lambda stretch: (stretch.seconds, stretch.to), default=None)
