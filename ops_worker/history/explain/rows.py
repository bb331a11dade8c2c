"""The rows that are read about a service: its state, ledger, samples, alerts, people's actions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.installations import DEFAULT
from ops_worker.core.samples import OPS_WORKER, POSTGRES
from ops_worker.core.slo import objective_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ops_worker.core.doubt import DoubtRow
    from ops_worker.core.installations import InstallationRecord
    from ops_worker.core.model import Target, Thresholds
    from ops_worker.core.staleness import PassRecord
    from ops_worker.history.ledger import LedgerRows
    from ops_worker.history.rows import (
        ActionRow,
        HealthRow,
        MaintenanceRow,
        ObservationRow,
        ServiceAlertRow,
    )

PERIOD = timedelta(days=30)
"""The period before the time in question in which outages are counted.

Most objectives have a window of this length.
"""


class ServiceLedger(NamedTuple):
    """The ledger's rows about a service, up to a time.

    ``is_complete`` is whether the rows go back to the first sight of the service. ``is_recorded``
    is whether the service was ever recorded, even if only after this time.
    """

    rows: LedgerRows
    is_complete: bool
    is_recorded: bool


class ServiceHistory(NamedTuple):
    """The rows about a service at the time ``at``. ``now`` is the time of the database's clock.

    ``ledger`` is None if it cannot be read. ``in_maintenance`` is whether the last health pass
    before ``at`` recorded a maintenance. ``maintenance_until`` is the end of the running
    maintenance if ``at`` is now. ``actions`` is None if they cannot be read. ``needed`` has the
    services that this service needs, and whether each was healthy, as far as a health pass knew.

    ``blind`` has the blind passes if ``at`` is now. ``passes`` and ``blind`` belong to
    ``installation``: the installation that keeps the row, or this one if there is no row.
    ``is_elsewhere`` is whether another installation keeps the row. ``other_installations`` were
    recorded in the same database lately.
    """

    service: str
    now: datetime
    at: datetime
    row: HealthRow | None
    ledger: ServiceLedger | None
    observations: Sequence[ObservationRow]
    alerts: Sequence[ServiceAlertRow]
    passes: Sequence[PassRecord]
    in_maintenance: bool
    maintenance_until: datetime | None
    maintenances: Sequence[MaintenanceRow] = ()
    actions: Sequence[ActionRow] | None = ()
    needed: Mapping[str, bool] = MappingProxyType({})
    blind: Sequence[DoubtRow] = ()
    installation: str = DEFAULT
    is_elsewhere: bool = False
    other_installations: Sequence[InstallationRecord] = ()

    @property
    def is_now(self) -> bool:
        """Whether the time in question is the present."""
        return self.at == self.now


class Rule(NamedTuple):
    """The rule by which a service is judged.

    ``target`` is None if the service is not monitored. ``alerts_enabled`` is SYSTEM_ALERT_ENABLED.
    ``self_metrics_enabled`` is RECORD_OWN_METRICS; without self-metrics, no pass can detect that
    another pass has stopped. ``needs`` has the services that each monitored service needs.
    ``doubt_passes`` is DOUBT_PASSES.
    """

    target: Target | None
    thresholds: Thresholds
    alerts_enabled: bool = True
    self_metrics_enabled: bool = True
    needs: Mapping[str, Sequence[str]] = MappingProxyType({})
    doubt_passes: int = 0


def look_back(target: Target | None) -> timedelta:
    """Return the length of the period before the time in question whose whole ledger is read."""
    objective = objective_of(target)
    if objective is None:
        return PERIOD
    return max(PERIOD, timedelta(days=objective.days))


def before(at: datetime, length: timedelta) -> datetime:
    """Return the time that is ``length`` before ``at``, or the first time that Python can store."""
    return at - min(length, at - datetime.min.replace(tzinfo=UTC))


def is_known(history: ServiceHistory) -> bool:
    """Return whether anything is known about the service: a row, a sample, an alert or a span.

    The worker and its database are always known. The worker of another installation is known if one
    of its passes was recorded or it has an alert.
    """
    if history.is_elsewhere and history.service == OPS_WORKER:
        return bool(history.passes or history.alerts)
    if history.service in {OPS_WORKER, POSTGRES}:
        return True
    if history.ledger is not None and history.ledger.is_recorded:
        return True
    return bool(history.row or history.observations or history.alerts)
