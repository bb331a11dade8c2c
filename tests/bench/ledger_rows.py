"""Write the ledger of a year by the rules of ``core.ledger``, with incidents and holes."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ops_worker.core.installations import DEFAULT
from ops_worker.core.ledger import Book, Run, Sight, Sighting, Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

DAYS = 365
HOLES = 500
"""The number of times without a pass."""
INCIDENTS = 10
"""The number of incidents of each service."""
HOLE_S = (200, 3600)
"""The shortest and the longest time without a pass, in seconds."""
INCIDENT_PASSES = 60
"""The most passes of an incident."""
CLASSES = {"down": "refused", "degraded": "http_503", "unknown": "timeout"}
"""The reason class of each unhealthy state."""
RUN_COLUMNS = (*Run._fields, "pass", "installation")
SPAN_COLUMNS = (*Span._fields, "pass")
NEXT_ID = "SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
"""Give the next rows higher numbers than the copied rows."""


def copy_year(
    connection: psycopg.Connection[Any], name: str, services: Sequence[str], period_s: float
) -> None:
    """Write the ledger of the year up to now, as the pass ``name`` would have written it."""
    chance = random.Random(f"{name} {len(services)}")
    runs = _runs(chance, period_s)
    with connection.cursor() as cursor:
        columns = ", ".join(RUN_COLUMNS)
        with cursor.copy(f"COPY ops_worker_run ({columns}) FROM STDIN".encode()) as copy:
            for run in runs:
                copy.write_row((*run, name, DEFAULT))
        columns = ", ".join(SPAN_COLUMNS)
        number = 0
        with cursor.copy(f"COPY ops_worker_span ({columns}) FROM STDIN".encode()) as copy:
            for service in services:
                for span in _spans(chance, runs, service, period_s):
                    number += 1
                    copy.write_row((*span._replace(id=number), name))
        for table in ("ops_worker_run", "ops_worker_span"):
            cursor.execute(NEXT_ID.format(table=table).encode())


def _runs(chance: random.Random, period_s: float) -> list[Run]:
    """Return the runs of a year. Each hole is longer than the patience."""
    now = datetime.now(UTC)
    begun = now - timedelta(days=DAYS)
    holes = sorted(chance.uniform(0, DAYS * 86_400) for _ in range(HOLES))
    runs: list[Run] = []
    first = begun
    for hole in [*holes, DAYS * 86_400.0]:
        passes = max(1, int((begun + timedelta(seconds=hole) - first).total_seconds() / period_s))
        last = first + timedelta(seconds=(passes - 1) * period_s)
        book = Book(runs[-1] if runs else None, list, now)
        book.enter(Sighting(begun=first, sights=(), period_s=period_s, config="bench"))
        (run,) = book.runs
        # The other passes are not entered: they would only change last_at and passes.
        runs.append(run._replace(id=len(runs) + 1, last_at=last, passes=passes))
        first = last + timedelta(seconds=period_s + chance.uniform(*HOLE_S))
    return runs


def _spans(
    chance: random.Random, runs: Sequence[Run], service: str, period_s: float
) -> Iterator[Span]:
    """Yield the spans of a service. Only the passes with a change are entered."""
    # The index of a run, the number of a pass in this run, and the state from this pass on.
    changes = [(0, 1, "healthy")]
    long_runs = [index for index, run in enumerate(runs) if run.passes > 2 * INCIDENT_PASSES]
    for index in sorted(chance.sample(long_runs, INCIDENTS)):
        begun = chance.randrange(2, runs[index].passes - INCIDENT_PASSES)
        ended = begun + chance.randrange(1, INCIDENT_PASSES)
        changes += [(index, begun, chance.choice([*CLASSES])), (index, ended, "healthy")]
    span: Span | None = None
    for index, number, state in changes:
        run = runs[index]
        time = run.first_at + timedelta(seconds=(number - 1) * period_s)
        before = run._replace(
            passes=number - 1, last_at=time - timedelta(seconds=period_s), digest=""
        )
        opened = [] if span is None else [span]
        book = Book(before if opened else None, opened.copy, time)
        sight = Sight(service, time, state, CLASSES.get(state, ""))
        book.enter(Sighting(time, (sight,), period_s, "bench"))
        yield from book.ended
        (begun_span,) = book.begun
        span = begun_span._replace(id=0, run=run.id)
    if span is not None:
        yield span
