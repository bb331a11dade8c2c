"""A ledger in memory for tests. The rules of the core write it, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ops_worker.core.ledger import Book, Run, Sight, Sighting, Span
from ops_worker.core.timeline import Coverage, Piece

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a time after the beginning."""
    return BEGUN + timedelta(seconds=seconds)


class Recorder:
    """A ledger in memory, with the rows that the database would have."""

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
        """Record a pass as the adapter does."""
        self.record_all([Sighting(at(0), tuple(sights), period_s, config)], now)

    def record_all(self, sightings: list[Sighting], now: datetime | None = None) -> None:
        """Record passes in one transaction."""
        newest = self.runs[-1] if self.runs else None
        latest = max((sight.at for seen in sightings for sight in seen.sights), default=at(0))
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
        self.read += 1
        return [span for span in self.spans if span.last_at is None]

    def _numbered(self, span: Span, numbers: dict[int, int]) -> Span:
        last = span.last_run
        return span._replace(
            run=numbers.get(span.run, span.run),
            last_run=None if last is None else numbers.get(last, last),
        )

    def pieces(self, service: str, since: float, until: float, now: float) -> list[Piece]:
        """Return a service's timeline."""
        spans = [span for span in self.spans if span.service == service]
        return Coverage(self.runs, at(now)).timeline(spans, at(since), at(until))

    def timeline(
        self, service: str, since: float, until: float, now: float
    ) -> list[tuple[str, float, float]]:
        """Return a service's timeline: state, begin and end of each piece, in seconds."""
        return [
            (
                piece.state,
                (piece.begun - BEGUN).total_seconds(),
                (piece.ended - BEGUN).total_seconds(),
            )
            for piece in self.pieces(service, since, until, now)
        ]


def sight(service: str, seconds: float, state: str) -> Sight:
    """Return a sight. If its state is not healthy, the reason class is the name of the state."""
    return Sight(service, at(seconds), state, "" if state == "healthy" else state)


def recorded(*states: tuple[float, str]) -> Recorder:
    """Return the ledger of a service with these states at these seconds. The period is 60 s."""
    ledger = Recorder()
    for second, state in states:
        ledger.record([sight("a", second, state)], 60)
    return ledger
