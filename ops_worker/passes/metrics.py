"""The metrics pass: the services' counters and the database's figures, appended as one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.core.catalogue import FIGURES
from ops_worker.core.health import judge
from ops_worker.core.model import Outcome, Result
from ops_worker.core.series import figure_samples, service_samples
from ops_worker.edges.store import METRICS

if TYPE_CHECKING:
    from ops_worker.core.model import Sample
    from ops_worker.edges.store import Transaction
    from ops_worker.passes.context import Context


def run(context: Context) -> Outcome:
    """Run one pass. Every row carries the time at which the pass began, by the database's clock.

    Raises DatabaseError or SchemaError when what was seen could not be recorded.
    """
    begun = context.clock()
    verdicts = tuple(judge(seen) for seen in context.observe(context.settings.targets))
    taken = [service_samples(verdict) for verdict in verdicts]

    def keep(transaction: Transaction) -> tuple[list[Sample], list[str]]:
        parts = [*taken, figure_samples(transaction.figures(FIGURES))]
        samples = [sample for found, _ in parts for sample in found]
        if not context.dry_run:
            transaction.record_samples(samples, transaction.time_of(begun))
        return samples, [warning for _, warned in parts for warning in warned]

    tables = [table for figure in FIGURES for table in figure.tables]
    kept = context.store.transact(METRICS, keep, reads=tables, dry_run=context.dry_run)
    if kept is None:
        return Outcome("metrics", Result.SKIPPED, verdicts)
    result = Result.DRY_RUN if context.dry_run else Result.RECORDED
    return Outcome("metrics", result, verdicts, samples=tuple(kept[0]), warnings=tuple(kept[1]))
