"""Sum up a service in a period: its outages, how long each state lasted, and the longest time."""

from __future__ import annotations

from datetime import timedelta
from math import fsum
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import timeline
from ops_worker.core.ledger import HEALTHY, STATES, UNSEEN
from ops_worker.core.timeline import WORST_FIRST
from ops_worker.history.ledger import AvailabilityDocument, availability_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.timeline import Piece


class Stretch(NamedTuple):
    """A time in which a service was always seen in the same state or health, such as an outage.

    It really began between ``from_earliest`` and ``from_``, and really ended between ``to`` and
    ``to_latest``. ``seconds`` is the part of it in which the service was seen. ``unseen_s`` is the
    time in seconds between ``from_`` and ``to`` in which no pass looked.
    """

    from_: datetime
    to: datetime
    from_earliest: datetime
    to_latest: datetime
    seconds: float
    unseen_s: float


class Outage(NamedTuple):
    """A stretch in which a service was unhealthy in any way.

    ``state`` is the worst state in it, and ``reason`` the reason of its longest part in this state.
    ``seconds`` is the time in which the service was seen unhealthy. The true length is between
    ``least_s`` and ``most_s`` seconds. None of the three counts time in which no pass looked.
    """

    state: str
    reason: str
    begun: datetime
    ended: datetime
    seconds: float
    least_s: float
    most_s: float


class StateTotal(NamedTuple):
    """How often a service was in a state, for how long in total, and the longest such time."""

    state: str
    times: int
    seconds: float
    longest: Stretch | None


class Past(NamedTuple):
    """The summary of a service in a period.

    ``seconds`` has an entry for each state, and one for the time in which no pass looked.
    ``outages`` is the number of outages, and ``longest`` the longest outage. ``states`` has the
    unhealthy states.
    """

    from_: datetime
    to: datetime
    availability: AvailabilityDocument
    seconds: Mapping[str, float]
    outages: int
    longest: Stretch | None
    states: Sequence[StateTotal]


def groups(pieces: Iterable[Piece], belongs: Callable[[Piece], bool]) -> list[list[Piece]]:
    """Return the pieces that ``belongs`` accepts, grouped by stretch, the oldest first.

    Unseen time does not end a stretch, because no pass saw another state. It is part of a stretch
    only if ``belongs`` accepts the pieces before and after it.
    """
    result: list[list[Piece]] = []
    is_open = False
    for piece in pieces:
        # Where a clock was set back, a piece may have no length.
        if piece.state == UNSEEN or piece.begun == piece.ended:
            continue
        if not belongs(piece):
            is_open = False
        elif is_open:
            result[-1].append(piece)
        else:
            result.append([piece])
            is_open = True
    return result


def stretches(pieces: Iterable[Piece], belongs: Callable[[Piece], bool]) -> list[Stretch]:
    """Return the stretches of the pieces that ``belongs`` accepts, the oldest first.

    ``groups`` describes how unseen time counts.
    """
    return [_stretch(parts) for parts in groups(pieces, belongs)]


def _stretch(parts: Sequence[Piece]) -> Stretch:
    first, last = parts[0], parts[-1]
    return Stretch(
        from_=first.begun,
        to=last.ended,
        from_earliest=min(first.from_earliest, first.begun),
        to_latest=max(last.to_latest, last.ended),
        seconds=sum(piece.seconds for piece in parts),
        unseen_s=_unseen_s(parts),
    )


def _unseen_s(parts: Sequence[Piece]) -> float:
    """Return how many seconds between the first and the last part no pass looked."""
    seen_time = sum((piece.ended - piece.begun for piece in parts), timedelta())
    return (parts[-1].ended - parts[0].begun - seen_time).total_seconds()


def outages(pieces: Iterable[Piece]) -> list[Outage]:
    """Return the outages of a timeline, the oldest first."""
    return [_outage(parts) for parts in groups(pieces, is_unhealthy)]


def _outage(parts: Sequence[Piece]) -> Outage:
    first, last = parts[0], parts[-1]
    worst = min(parts, key=lambda piece: (WORST_FIRST.index(piece.state), -piece.seconds))
    seconds = sum(piece.seconds for piece in parts)
    unseen_s = _unseen_s(parts)
    least_s = (last.last_seen - first.first_seen).total_seconds() - unseen_s
    most_s = (last.to_latest - first.from_earliest).total_seconds() - unseen_s
    return Outage(
        state=worst.state,
        reason=worst.reason,
        begun=first.begun,
        ended=last.ended,
        seconds=seconds,
        # If a piece was cut out of a longer one, its first and last sight may be outside of it.
        least_s=min(max(0.0, least_s), seconds),
        most_s=max(most_s, seconds),
    )


def is_unhealthy(piece: Piece) -> bool:
    """Return whether the service was seen in this piece and was unhealthy."""
    return piece.state in WORST_FIRST


def of_same_health(state: str) -> Callable[[Piece], bool]:
    """Return the rule for pieces of the same health as a state: healthy, or unhealthy in any way.

    The rule must not be applied to unseen pieces: they would count as unhealthy.
    """
    is_healthy = state == HEALTHY
    return lambda piece: (piece.state == HEALTHY) == is_healthy


def of_state(state: str) -> Callable[[Piece], bool]:
    """Return the rule for pieces of this state."""
    return lambda piece: piece.state == state


def sum_up(pieces: Sequence[Piece], since: datetime, until: datetime) -> Past:
    """Sum up a timeline from ``since`` to ``until``."""
    total = timeline.availability(pieces)
    times = stretches(pieces, is_unhealthy)
    return Past(
        from_=since,
        to=until,
        availability=availability_document(total),
        seconds={state: round(total.seconds[state], 6) for state in (*STATES, UNSEEN)},
        outages=len(times),
        longest=longest(times),
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
    """Return the stretch that was seen for the longest time; None if there is no stretch.

    Of equally long stretches, return the newest one.
    """
    return max(times, key=lambda stretch: (stretch.seconds, stretch.to), default=None)
