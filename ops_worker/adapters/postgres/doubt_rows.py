"""The count of blind passes in a row: read, judge, write."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ops_worker.core import doubt
from ops_worker.core.doubt import DoubtRow
from ops_worker.core.passes import DOUBT_TABLE

if TYPE_CHECKING:
    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.doubt import Assessment

NO_TABLE = f"DOUBT_PASSES has no effect: no table {DOUBT_TABLE}; run `ops-worker init-db`"
NO_COUNT = "DOUBT_PASSES has no effect, because blind passes cannot be counted"


def read_rows(transaction: Transaction) -> list[DoubtRow]:
    """Return the rows of all installations, passes and shards; none without the table."""
    if DOUBT_TABLE not in transaction.present:
        return []
    return transaction.query(DoubtRow, "doubt_rows").fetchall()


def readable_rows(transaction: Transaction) -> list[DoubtRow]:
    """Return the rows of all installations; none if this role may not read them."""
    return read_rows(transaction) if transaction.may_read([DOUBT_TABLE]) else []


def blind_passes(transaction: Transaction, installation: str = "") -> list[DoubtRow]:
    """Return the passes that are blind now, for readers; none if this role may not read them.

    They are those of all installations, or of one.
    """
    rows = readable_rows(transaction)
    if installation:
        rows = [row for row in rows if row.installation == installation]
    return doubt.blind(rows, transaction.now)


def settle(
    transaction: Transaction,
    assessment: Assessment,
    before: DoubtRow,
    doubt_passes: int,
    *,
    dry_run: bool,
) -> DoubtRow | None:
    """Judge whether a pass is blind, and count it; return its new row.

    ``before`` is the row of a pass that has none yet; it has its name, shard, period and
    installation. Return
    None if blind passes cannot be counted: such a pass would doubt for ever, so it believes. A
    pass that sees, or that probed nothing and so has nothing to believe, needs no count.
    """
    uncounted = None
    if not (assessment.suspects and assessment.is_probed):
        uncounted = doubt.settle(assessment, before, doubt_passes, transaction.now, before.period_s)
    # A dry run creates no table. The pass that it shows would.
    if DOUBT_TABLE not in transaction.present and not dry_run:
        if assessment.suspects:
            transaction.warnings.append(NO_TABLE)
        return uncounted
    work = partial(_count, transaction, assessment, before, doubt_passes, dry_run=dry_run)
    return transaction.attempt(NO_COUNT, work, uncounted)


def _count(
    transaction: Transaction,
    assessment: Assessment,
    before: DoubtRow,
    doubt_passes: int,
    *,
    dry_run: bool,
) -> DoubtRow | None:
    known = next((row for row in read_rows(transaction) if _key(row) == _key(before)), None)
    row = doubt.settle(assessment, known or before, doubt_passes, transaction.now, before.period_s)
    # A pass that sees, and has seen before, writes nothing.
    if not dry_run and (assessment.suspects or _was_blind(known)):
        transaction.execute("record_doubt", row._asdict())
    return row


def _key(row: DoubtRow) -> tuple[str, str, str]:
    return row.installation, row.name, row.shard


def _was_blind(row: DoubtRow | None) -> bool:
    return row is not None and (row.blind_passes > 0 or row.since is not None)
