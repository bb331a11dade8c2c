"""The health pass: probe every service, record its state, open and close its alert."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.adapters.postgres import pass_writes
from ops_worker.core import health, installations, needs
from ops_worker.core.model import Outcome, Result
from ops_worker.core.passes import DOUBT_TABLE, HEALTH, MAINTENANCE_TABLES
from ops_worker.core.samples import OPS_WORKER
from ops_worker.errors import StillRecordingError
from ops_worker.passes.ledger import PassLedger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.core.maintenance import UnderMaintenance
    from ops_worker.core.model import KnownState, Recorded, Verdict
    from ops_worker.passes.context import Context, Observed

OPTIONAL_TABLES = ("system_metrics", *MAINTENANCE_TABLES, DOUBT_TABLE)
"""Tables for self-metrics, maintenances and doubt. States are recorded even if they are missing."""


class Written(NamedTuple):
    """What the transaction recorded, what it read before, and why some alerts did not open.

    ``blind_because`` says why the pass is blind. A blind pass has no ``verdicts``. ``because_of``
    names the causes of services that are unhealthy because of others. ``decided_by`` names the
    installations that keep the rows of services.
    """

    blind_because: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    recorded: Recorded
    before: Mapping[str, KnownState]
    because_of: Mapping[str, tuple[str, ...]]
    decided_by: Mapping[str, str]
    maintenance: UnderMaintenance
    warnings: tuple[str, ...]


def run(context: Context) -> Outcome:
    """Run the health pass: observe, judge, write, report.

    All probes end before the transaction begins. Raises DatabaseError or SchemaError if the states
    could not be recorded, and DatabaseError if the process that holds the lock seems to hang.
    """
    if not context.settings.system_alert_enabled:
        return Outcome(HEALTH.name, Result.OFF)
    begun = context.clock()
    observed = context.observed(HEALTH)
    outcome = observed.outcome
    ledger = PassLedger(
        context, HEALTH, observed.verdicts, begun, may_be_blind=observed.may_be_blind
    )
    write = partial(_write, context, observed, begun, ledger)
    try:
        with context.recording():
            written = context.transact(HEALTH, write, OPTIONAL_TABLES)
    except StillRecordingError:
        # An earlier pass is still being recorded. These states are dropped: later ones count.
        return outcome._replace(result=Result.WAITING)
    if written is None:  # another process holds the lock, and the outcome stays "skipped"
        context.require_live_holder(HEALTH.name)
        ledger.withdraw()
        return outcome
    ledger.confirm()
    return _reported(outcome, written, Result.DRY_RUN if context.dry_run else Result.RECORDED)


def _write(
    context: Context,
    observed: Observed,
    begun: float,
    ledger: PassLedger,
    transaction: Transaction,
) -> Written:
    """Read the known states, decide the changes, write them. A dry run does not write."""
    maintenance = pass_writes.maintenance_of(transaction, context.settings.maintenance_until)
    doubt = context.settle_doubt(transaction, HEALTH, observed.assessment)
    is_blind = doubt is not None and doubt.is_blind
    # A blind pass has no verdicts: no state, alert or history of a service changes.
    verdicts = () if is_blind else observed.verdicts
    # The worker is in the list because its own alert also counts as an open alert.
    worker = installations.own_service(context.settings.installation)
    names = [*(target.name for target in context.settings.targets), worker]
    direct = needs.needs_of(context.settings.catalogue.targets)
    unprobed = needs.unprobed_needs(direct, verdicts)
    known = pass_writes.known_states(transaction, [*names, *unprobed])
    decided_by = _decided_by_others(context, transaction, verdicts, known)
    verdicts = tuple(verdict for verdict in verdicts if verdict.target.name not in decided_by)
    because_of = needs.causes_in_pass(direct, verdicts, known, transaction.now, context.period_s)
    thresholds = context.settings.thresholds
    changes = health.plan(verdicts, known, thresholds, transaction.time_of, transaction.now)
    # Suppression only keeps alerts from opening: states are recorded, and alerts close.
    changes = health.suppress_alerts(changes, maintenance)
    changes = health.suppress_alerts(changes, because_of)
    if context.dry_run:
        recorded = health.preview(changes)
    else:
        recorded = pass_writes.record_health(transaction, changes, context.origin)
        _write_history(
            context,
            transaction,
            verdicts,
            ledger,
            begun=begun,
            is_blind=is_blind,
            maintenance=maintenance,
        )
    # A stopped pass cannot report itself. So every pass checks whether another pass has stopped.
    may_open = OPS_WORKER not in maintenance
    peer = context.watch_peers(transaction, HEALTH, begun, may_open=may_open, doubt=doubt)
    recorded = recorded._replace(
        opened=recorded.opened + peer.opened,
        closed=recorded.closed + peer.closed,
        own_reason=peer.own_reason,
    )
    return Written(
        blind_because=observed.assessment.suspects if is_blind else (),
        verdicts=verdicts,
        recorded=recorded,
        before={name: known[name] for name in names},
        because_of=because_of,
        decided_by=decided_by,
        maintenance=maintenance,
        warnings=tuple(transaction.warnings),
    )


def _write_history(  # noqa: PLR0913 - what a pass knows when it has decided
    context: Context,
    transaction: Transaction,
    verdicts: tuple[Verdict, ...],
    ledger: PassLedger,
    *,
    begun: float,
    is_blind: bool,
    maintenance: UnderMaintenance,
) -> None:
    """Write the self-metrics and the ledger of a pass, after the states.

    A failure loses only the self-metrics or the ledger, not the states.
    """
    samples = [*context.latencies(verdicts), *context.certificates(verdicts)]
    is_of_all = maintenance.all_until is not None
    samples += context.self_metrics(HEALTH, verdicts, begun, maintenance=is_of_all, blind=is_blind)
    pass_writes.record_self_metrics(transaction, begun, samples)
    if not is_blind:
        ledger.enqueue()
    ledger.enter(transaction, is_blind=is_blind)


def _decided_by_others(
    context: Context,
    transaction: Transaction,
    verdicts: tuple[Verdict, ...],
    known: Mapping[str, KnownState],
) -> dict[str, str]:
    """Return the services whose rows other installations keep, each with that installation.

    Add a warning for each such installation. The verdicts of these services do not count: two
    installations that see a service differently would open and close its alert in turn.
    """
    named = {verdict.target.name: known[verdict.target.name] for verdict in verdicts}
    keepers = installations.other_keepers(
        named, transaction.installation, transaction.now, context.period_s
    )
    transaction.warnings.extend(installations.keeper_warnings(keepers))
    return keepers


def _reported(outcome: Outcome, written: Written, result: Result) -> Outcome:
    """Return the outcome with what the transaction recorded.

    A service is superseded if the database already had a newer observation. Then its state was not
    written.
    """
    recorded = written.recorded
    current = {change.verdict.target.name for change in recorded.updates}
    names = [verdict.target.name for verdict in written.verdicts]
    return outcome._replace(
        result=result,
        verdicts=written.verdicts,
        blind_because=written.blind_because,
        updates=recorded.updates,
        superseded=tuple(name for name in names if name not in current),
        own_reason=recorded.own_reason,
        opened=recorded.opened,
        closed=recorded.closed,
        alerted=health.alerted(written.before, recorded),
        because_of=written.because_of,
        decided_by=written.decided_by,
        warnings=written.warnings,
        maintenance_until=written.maintenance.all_until,
        under_maintenance=written.maintenance.ends_of(names),
    )
