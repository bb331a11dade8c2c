"""Write a pass to the ledger, inside its transaction."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from ops_worker.adapters.postgres.specs import RUN_TABLE, SPAN_TABLE
from ops_worker.adapters.postgres.transaction import one
from ops_worker.core.ledger import Book, Run, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.sightings import PendingSighting

SIGHTS = 100_000
"""Maximum number of sights that one transaction enters: they take about 1 s.

A transaction always enters at least one pass, even if it has more sights.
"""
SPANS = 20_000
"""Maximum number of spans that one statement writes."""


def enter(  # noqa: PLR0913 - what a pass has for the ledger
    transaction: Transaction,
    name: str,
    shard: str,
    waiting: Iterable[tuple[int, PendingSighting]],
    config: tuple[str, Mapping[str, Any]],
    *,
    is_blind: bool = False,
) -> int | None:
    """Enter waiting passes into the ledger of the pass ``name``.

    ``waiting`` has the number and the sighting of each pass, oldest first. ``config`` has the hash
    and the document of the configuration. With ``is_blind``, this pass then ends the run.

    Return the number of the last pass that was entered; None if there was none, or after a failure.
    A failure is a warning: the passes wait for the next transaction.
    """
    if not {RUN_TABLE, SPAN_TABLE} <= transaction.present:
        return None
    work = partial(
        _enter, transaction, {"pass": name, "shard": shard}, waiting, config, is_blind=is_blind
    )
    return transaction.attempt("the history of the services is not recorded", work, None)


def _enter(
    transaction: Transaction,
    pass_and_shard: Mapping[str, str],
    waiting: Iterable[tuple[int, PendingSighting]],
    config: tuple[str, Mapping[str, Any]],
    *,
    is_blind: bool,
) -> int | None:
    """Enter as many passes as one transaction may enter; return the number of the last one."""
    key = {**pass_and_shard, "installation": transaction.installation}
    book = read_book(transaction, key)
    sights = 0
    last = None
    for number, pending in waiting:
        sights += len(pending.services)
        if last is not None and sights > SIGHTS:
            break
        book.enter(pending.sighting(transaction.time_of))
        last = number
    else:
        if is_blind:
            book.end_run()
    write_book(transaction, book, key, config)
    return last


def read_book(transaction: Transaction, key: Mapping[str, str]) -> Book:
    """Open the book of a pass and shard of an installation."""
    newest = transaction.query(Run, "newest_run", key).fetchone()

    def read_open_spans() -> Sequence[Span]:
        """Read the spans that have not ended."""
        return transaction.query(Span, "open_spans", key).fetchall()

    return Book(newest, read_open_spans, transaction.now)


def write_book(
    transaction: Transaction,
    book: Book,
    key: Mapping[str, str],
    config: tuple[str, Mapping[str, Any]],
) -> None:
    """Write the runs and spans of the book. Write new runs first: spans refer to their numbers."""
    numbers: dict[int | None, int] = {}
    for run in book.runs:
        if run.id > 0:
            transaction.execute("extend_run", run._asdict())
        else:
            # The book does not know the shard of a new run.
            begun = transaction.execute("begin_run", {**run._asdict(), **key})
            numbers[run.id] = one(begun)["id"]
    if numbers:
        digest, document = config
        parameters = {"config": digest, "document": json.dumps(document)}
        transaction.execute("record_config", parameters)
    for rows in _documents(book.ended, numbers):
        transaction.execute("end_spans", {"spans": rows})
    for rows in _documents(book.begun, numbers):
        transaction.execute("begin_spans", {**key, "spans": rows})


def _documents(spans: Sequence[Span], numbers: Mapping[int | None, int]) -> Iterator[str]:
    """Yield the rows of the spans as JSON arrays, one array for each statement."""
    for start in range(0, len(spans), SPANS):
        yield json.dumps([_row(span, numbers) for span in spans[start : start + SPANS]])


def _row(span: Span, numbers: Mapping[int | None, int]) -> dict[str, Any]:
    row = span._asdict()
    row["first_at"] = span.first_at.isoformat()
    row["last_at"] = None if span.last_at is None else span.last_at.isoformat()
    row["run"] = numbers.get(span.run, span.run)
    row["last_run"] = numbers.get(span.last_run, span.last_run)
    return row
