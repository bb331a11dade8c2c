"""The history of services from the ledger, as documents, as text for people, and as CSV."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core import timeline
from ops_worker.core.ledger import STATES, UNKNOWN, UNSEEN
from ops_worker.core.passes import HEALTH, METRICS
from ops_worker.core.timeline import Coverage
from ops_worker.core.totals import Totals
from ops_worker.history.screen import cut, pad, text_width
from ops_worker.text import format_age, format_duration, one_line, percent_rounded_down

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.ledger import Run, Span
    from ops_worker.core.timeline import Availability, Piece
    from ops_worker.core.totals import Summary

ALL = "all"
"""The name of the stream that merges the streams of several passes."""
MERGED = (METRICS.name, HEALTH.name)
"""The passes whose streams are merged. Where the first pass looked, its stream counts."""
WIDTH = 80
"""Width of a table in columns, unless the terminal is wider."""
MAX_SERVICE = 16
"""Width of the name of a service in a table, in columns."""
MAX_WITHOUT_YEAR = timedelta(days=330)
"""The longest period whose table shows times without the year."""
HEAD = ("SERVICE", "STATE", "FROM", "TO", "LASTED", "BOUNDS/REASON")
LASTED_WIDTH = 11
"""Width of the longest usual duration, in columns: ``23 h 59 min``."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Characters that make a spreadsheet evaluate a text as a formula if the text begins with them."""
DECIMALS = 3
"""Number of decimals in a percentage."""


class LedgerPeriod(NamedTuple):
    """The requested period and services. ``now`` is the time of the database's clock."""

    now: datetime
    since: datetime
    until: datetime
    services: Sequence[str]


class LedgerRows(NamedTuple):
    """The rows of the database: the runs of each pass, and its spans in order of service.

    ``services`` are the requested services. ``now`` is the time of the database's clock.
    """

    now: datetime
    since: datetime
    until: datetime
    services: Sequence[str]
    runs: Mapping[str, Sequence[Run]]
    spans: Mapping[str, Sequence[Span]]


class SpanDocument(NamedTuple):
    """A time in which a service was in one state.

    ``seen`` is False where no pass looked; the state is then ``unknown``. The state really began
    between ``from_earliest`` and ``from_``, and really ended between ``to`` and ``to_latest``.
    """

    state: str
    reason: str
    reason_class: str
    seen: bool
    from_: datetime
    to: datetime
    from_earliest: datetime
    to_latest: datetime


class AvailabilityDocument(NamedTuple):
    """The healthy share of the seen time, its bounds, and the share of time that was seen."""

    value: float | None
    least: float | None
    most: float | None
    coverage: float


class ServiceDocument(NamedTuple):
    """The states of one service in a period, as one pass or all passes together saw it."""

    service: str
    pass_: str
    spans: tuple[SpanDocument, ...]
    seconds: Mapping[str, float]
    availability: AvailabilityDocument


def documents(rows: LedgerRows, name: str) -> Iterator[ServiceDocument]:
    """Yield the document of each service, as the pass ``name`` saw it.

    With ``ALL`` as name, the streams of all passes are merged.
    """
    for service, pieces in timelines(rows, name):
        yield _document(service, name, pieces)


def timelines(rows: LedgerRows, name: str = ALL) -> Iterator[tuple[str, list[Piece]]]:
    """Yield each service and its timeline, as the pass ``name`` (or ``ALL``) saw it."""
    streams = [_Stream(rows, pass_name) for pass_name in _names(name)]
    for service in rows.services:
        finest, *coarser = [stream.timeline(service) for stream in streams]
        for other in coarser:
            finest = timeline.merged(finest, other)
        yield service, finest


def summaries(
    rows: LedgerRows, name: str = ALL, *, buckets: int = 0
) -> Iterator[tuple[str, Summary]]:
    """Yield each service and its sums, as the pass ``name`` (or ``ALL``) saw it.

    The sums equal the sums over ``timelines``, but need much less work. ``buckets`` is the number
    of states to return for each service.
    """
    streams = [_Stream(rows, pass_name) for pass_name in _names(name)]
    coverages = [stream.coverage for stream in streams]
    totals = Totals(coverages, rows.since, rows.until, buckets=buckets)
    for service in rows.services:
        yield service, totals.summary([stream.spans(service) for stream in streams])


def availability_document(total: Availability) -> AvailabilityDocument:
    """Return an availability without its seconds."""
    return AvailabilityDocument(
        value=total.value,
        least=total.least,
        most=total.most,
        coverage=total.coverage,
    )


def _names(name: str) -> Sequence[str]:
    """Return the passes whose streams are needed, the pass with the shortest period first."""
    return MERGED if name == ALL else (name,)


class _Stream:
    """What one pass recorded about all services."""

    def __init__(self, rows: LedgerRows, name: str) -> None:
        self.coverage = Coverage(rows.runs[name], rows.now)
        self._since, self._until = rows.since, rows.until
        self._spans: dict[str, list[Span]] = {}
        for span in rows.spans[name]:
            self._spans.setdefault(span.service, []).append(span)

    def spans(self, service: str) -> list[Span]:
        """Return the spans of a service, the oldest first."""
        return self._spans.get(service, [])

    def timeline(self, service: str) -> list[Piece]:
        """Return the timeline of a service in the period."""
        return self.coverage.timeline(self.spans(service), self._since, self._until)


def _document(service: str, name: str, pieces: Sequence[Piece]) -> ServiceDocument:
    total = timeline.availability(pieces)
    return ServiceDocument(
        service=service,
        pass_=name,
        spans=tuple(_span(piece) for piece in pieces),
        seconds={state: round(total.seconds[state], 6) for state in (*STATES, UNSEEN)},
        availability=availability_document(total),
    )


def _span(piece: Piece) -> SpanDocument:
    is_seen = piece.state != UNSEEN
    return SpanDocument(
        state=piece.state if is_seen else UNKNOWN,
        reason=piece.reason,
        reason_class=piece.reason_class,
        seen=is_seen,
        from_=piece.begun,
        to=piece.ended,
        from_earliest=piece.from_earliest,
        to_latest=piece.to_latest,
    )


CSV_HEAD = (
    "service",
    "pass",
    *(name.rstrip("_") for name in SpanDocument._fields),
    "seconds",
)
"""The heading of a CSV file, which has a row for each span."""


def csv_rows(document: ServiceDocument) -> Iterator[tuple[object, ...]]:
    """Yield a row for each span.

    An apostrophe is put before a text that a spreadsheet would evaluate as a formula.
    """
    for span in document.spans:
        yield (
            _harmless(document.service),
            document.pass_,
            span.state,
            _harmless(span.reason),
            _harmless(span.reason_class),
            "true" if span.seen else "false",
            span.from_.isoformat(),
            span.to.isoformat(),
            span.from_earliest.isoformat(),
            span.to_latest.isoformat(),
            (span.to - span.from_).total_seconds(),
        )


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


class Table:
    """Lines for people: one line for each span, and one with the availability of each service.

    No line has more than ``width`` columns. A longer line is cut and ends with an ellipsis.
    """

    def __init__(self, period: LedgerPeriod, name: str, *, width: int) -> None:
        """Set the widths of the columns; ``name`` is the pass, or ``ALL``."""
        seen_by = "all passes" if name == ALL else f"the {name} pass"
        self._title = f"{period.since:%F %T} to {period.until:%F %T} UTC, as {seen_by} saw it"
        self._width = width
        self._format = "%m-%d %H:%M:%S"
        if period.until - period.since > MAX_WITHOUT_YEAR:
            self._format = "%Y-%m-%d %H:%M"
        lengths = [text_width(one_line(service)) for service in period.services]
        service_width = min(MAX_SERVICE, max([len(HEAD[0]), *lengths]))
        time_width = len(f"{period.since:{self._format}}")
        self._widths = (service_width, 8, time_width, time_width, LASTED_WIDTH)

    def heading(self) -> Iterator[str]:
        """Yield the lines above the first service."""
        yield cut(self._title, self._width)
        yield self._line(HEAD)

    def lines(self, document: ServiceDocument) -> Iterator[str]:
        """Yield the lines of a service."""
        service = one_line(document.service)
        for span in document.spans:
            cells = (
                service,
                span.state if span.seen else UNSEEN,
                f"{span.from_:{self._format}}",
                f"{span.to:{self._format}}",
                format_duration((span.to - span.from_).total_seconds()),
                _note(span),
            )
            yield self._line(cells)
        name = cut(service, MAX_SERVICE)
        yield cut(f"{name}: {availability_sentence(document.availability)}", self._width)

    def _line(self, cells: Sequence[str]) -> str:
        *columns, note = cells
        padded = [
            pad(cut(cell, width), width) for cell, width in zip(columns, self._widths, strict=True)
        ]
        return cut(" ".join([*padded, note]).rstrip(), self._width)


def _note(span: SpanDocument) -> str:
    """Return how much earlier the state may have begun, how much later it may have ended, and why.

    The last part is the reason of the state.
    """
    parts = []
    if span.seen:
        earlier_s = (span.from_ - span.from_earliest).total_seconds()
        later_s = (span.to_latest - span.to).total_seconds()
        parts += [f"-{format_age(earlier_s)}"] if round(earlier_s) > 0 else []
        parts += [f"+{format_age(later_s)}"] if round(later_s) > 0 else []
    return " ".join([*parts, one_line(span.reason)]).strip()


def availability_sentence(availability: AvailabilityDocument) -> str:
    """Return the healthy share with its bounds, and how much of the time was seen."""
    value, least, most = availability.value, availability.least, availability.most
    if value is None or least is None or most is None:
        return "nobody looked"
    bounds = "" if least == most else f" ({_percent(least)} to {_percent(most)})"
    return f"healthy {_percent(value)}{bounds}, seen {_percent(availability.coverage)} of time"


def _percent(share: float) -> str:
    """Return a share as a percentage, rounded down: only a share of exactly 1 is 100 %."""
    return f"{percent_rounded_down(share, DECIMALS):g} %"
