"""A ledger in memory for tests. The rules of ``core.ledger`` write it, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ops_worker.core.ledger import Book, Run, Sight, Sighting, Span
from ops_worker.core.timeline import Coverage, Piece

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return the time that is so many seconds after BEGUN."""
    return BEGUN + timedelta(seconds=seconds)


class Recorder:
    """A ledger in memory, with the rows that the database would have.

    ``written`` is the number of spans that were written, and ``read`` how often spans were read.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.spans: list[Span] = []
        self.written = 0
        self.read = 0

    def record(
        self,
        sights: list[Sight],
        period_s: float = 60,
        config: str = "c",
        now: datetime | None = None,
    ) -> None:
        """Record a pass as ``adapters.postgres.ledger_writes`` does."""
        self.record_all([Sighting(at(0), tuple(sights), period_s, config)], now)

    def record_all(self, sightings: list[Sighting], now: datetime | None = None) -> None:
        """Record passes in one transaction."""
        newest = self.runs[-1] if self.runs else None
        times = (sight.at for sighting in sightings for sight in sighting.sights)
        latest = max(times, default=at(0))
        book = Book(newest, self._open_spans, now or latest)
        for sighting in sightings:
            book.enter(sighting)
        numbers = {}
        for run in book.runs:
            if run.id > 0:
                self.runs[run.id - 1] = run
            else:
                self.runs.append(run._replace(id=len(self.runs) + 1))
                numbers[run.id] = len(self.runs)
        for span in book.ended:
            self.spans[span.id] = self._numbered(span, numbers)
        for span in book.begun:
            self.spans.append(self._numbered(span, numbers)._replace(id=len(self.spans)))
        self.written += len(book.ended) + len(book.begun)

    def end_run(self) -> None:
        """Record that a pass was blind."""
        book = Book(self.runs[-1] if self.runs else None, self._open_spans, at(0))
        book.end_run()
        for run in book.runs:
            self.runs[run.id - 1] = run

    def _open_spans(self) -> list[Span]:
        """Return the spans that have not ended, and count the call."""
        self.read += 1
        return [span for span in self.spans if span.last_at is None]

    def _numbered(self, span: Span, numbers: dict[int, int]) -> Span:
        """Return a span with the numbers that the new runs have in the ledger."""
        last_run = span.last_run
        if last_run is not None:
            last_run = numbers.get(last_run, last_run)
        return span._replace(run=numbers.get(span.run, span.run), last_run=last_run)

    def pieces(self, service: str, since: float, until: float, now: float) -> list[Piece]:
        """Return the timeline of a service. Times are seconds after BEGUN."""
        spans = [span for span in self.spans if span.service == service]
        return Coverage(self.runs, at(now)).timeline(spans, at(since), at(until))

    def timeline(
        self, service: str, since: float, until: float, now: float
    ) -> list[tuple[str, float, float]]:
        """Return the state, begin and end of each piece of the timeline of a service.

        Times are seconds after BEGUN.
        """
        return [
            (
                piece.state,
                (piece.begun - BEGUN).total_seconds(),
                (piece.ended - BEGUN).total_seconds(),
            )
            for piece in self.pieces(service, since, until, now)
        ]


def sight(service: str, seconds: float, state: str) -> Sight:
    """Return a sight, ``seconds`` after BEGUN. The reason class is the state, unless healthy."""
    return Sight(service, at(seconds), state, "" if state == "healthy" else state)


def recorded(*states: tuple[float, str]) -> Recorder:
    """Return a ledger of the service "a" with these states at these seconds after BEGUN.

    The period is 60 s.
    """
    ledger = Recorder()
    for second, state in states:
        ledger.record([sight("a", second, state)], 60)
    return ledger
