"""Count consecutive blind passes: read the count, judge the pass, write the count."""

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
    """Return the rows of all installations, passes and shards; none if the table is missing."""
    if DOUBT_TABLE not in transaction.present:
        return []
    return transaction.query(DoubtRow, "doubt_rows").fetchall()


def readable_rows(transaction: Transaction) -> list[DoubtRow]:
    """Return the rows of all installations; none if this role may not read them."""
    return read_rows(transaction) if transaction.may_read([DOUBT_TABLE]) else []


def blind_passes(transaction: Transaction, installation: str = "") -> list[DoubtRow]:
    """Return the passes that are blind now, for readers; none if this role may not read the rows.

    With ``installation``, return only the passes of this installation.
    """
    rows = readable_rows(transaction)
    if installation:
        rows = [row for row in rows if row.installation == installation]
    return doubt.blind_rows(rows, transaction.now)


def settle(
    transaction: Transaction,
    assessment: Assessment,
    before: DoubtRow,
    doubt_passes: int,
    *,
    dry_run: bool,
) -> DoubtRow | None:
    """Judge whether a pass is blind, and count it; return its new row.

    ``before`` is the row to use if the pass has no row yet. It has the name, shard, period and
    installation of the pass. Return None if blind passes cannot be counted: without a count, a pass
    would doubt for ever, so it believes what it saw. No count is needed if the pass has no doubt,
    or if it probed nothing and so has nothing to believe.
    """
    uncounted = None
    if not (assessment.suspects and assessment.is_probed):
        uncounted = doubt.settle(assessment, before, doubt_passes, transaction.now, before.period_s)
    # A dry run creates no table, but shows a pass that would create it.
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
    recorded = next((row for row in read_rows(transaction) if _key(row) == _key(before)), None)
    last = recorded or before
    row = doubt.settle(assessment, last, doubt_passes, transaction.now, before.period_s)
    # A pass without doubt writes only if an earlier pass was blind.
    if not dry_run and (assessment.suspects or _was_blind(recorded)):
        transaction.execute("record_doubt", row._asdict())
    return row


def _key(row: DoubtRow) -> tuple[str, str, str]:
    return row.installation, row.name, row.shard


def _was_blind(row: DoubtRow | None) -> bool:
    return row is not None and (row.blind_passes > 0 or row.since is not None)
