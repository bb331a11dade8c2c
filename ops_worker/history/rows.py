"""The rows that readers get from the database: one type per statement, one field per column.

The statements are in ``sql/history.sql``, ``sql/operations.sql`` and ``sql/passes.sql``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ops_worker.core.installations import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ops_worker.core.maintenance import Occurrence

JsonValue: TypeAlias = Any
"""A ``jsonb`` value. The database does not guarantee its shape: any program may have written it."""


class ServiceRow(NamedTuple):
    """The last state of a service: ``services_now``. Fields from ``details`` may be missing.

    ``certificate_days_left`` is an unchecked value from ``details``: any program may have written
    it. ``installation`` keeps the row.
    """

    service: str
    status: str
    latency_ms: int | None
    state: str | None
    since: str | None
    checked_at: datetime
    reason: str | None
    certificate_days_left: JsonValue = None
    installation: str = DEFAULT


class HealthRow(NamedTuple):
    """The row of one service in ``service_health``, with its details: ``service_row``."""

    status: str
    details: JsonValue
    checked_at: datetime

    @property
    def installation(self) -> str:
        """The installation that keeps the row. A row that names none belongs to the default one."""
        name = self.details.get("installation") if isinstance(self.details, dict) else None
        return DEFAULT if name is None else str(name)


class OpenAlertRow(NamedTuple):
    """A system alert that is open or acknowledged: ``alerts_now``."""

    id: int
    service: str
    status: str
    summary: str
    created_at: datetime
    acknowledged_by: str | None
    acknowledged_at: datetime | None


class AlertRow(NamedTuple):
    """A system alert of any status: ``incidents`` and ``list_alerts``.

    Its fields are also the JSON document of ``alerts list``.
    """

    id: int
    service: str
    status: str
    summary: str
    created_at: datetime
    closed_at: datetime | None
    acknowledged_by: str | None
    acknowledged_at: datetime | None


class ServiceAlertRow(NamedTuple):
    """A system alert of one service, with the evidence: ``alerts_of``."""

    id: int
    status: str
    summary: str
    created_at: datetime
    closed_at: datetime | None
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    evidence: JsonValue


class ChangedAlertRow(NamedTuple):
    """An alert that a person has just changed: ``acknowledge_alert`` and ``close_alert``."""

    id: int
    service: str


class UnmonitoredRow(NamedTuple):
    """A service that is no longer monitored: ``unwatched``.

    ``checked_at`` is None if the service has no row, ``alert`` is None if it has no open alert.
    ``kept_by`` is another installation that monitors the service, so that its row must stay; empty
    if there is none. ``installation`` keeps the row; it is empty without a row.
    """

    service: str
    checked_at: datetime | None
    alert: int | None
    kept_by: str = ""
    installation: str = ""


class ObservationRow(NamedTuple):
    """A sample of a service: its health or its latency in ms. ``observations``."""

    time: datetime
    metric: str
    value: float


class PassCountRow(NamedTuple):
    """How many passes of one name, or of one shard, were recorded and missed: ``ran``.

    With ``missed_is_least``, more passes than ``missed`` may have been missed.
    """

    name: str
    shard: str | None
    first: datetime
    last: datetime
    recorded: int
    missed: int
    missed_is_least: bool = False


class BucketRow(NamedTuple):
    """The rows of one series in one bucket, with their first and last time: ``history``.

    For rows of the rollup (``rolled``), the two times are the begins of hours or days. Only rows of
    the rollup have the ``increase`` of a counter, and the ``seconds`` in which it increased.
    """

    service: str | None
    metric: str
    tags: JsonValue
    bucket: int
    samples: int
    mean: float
    peak: float
    first: datetime
    last: datetime
    increase: float | None = None
    seconds: float | None = None


class LatestRow(NamedTuple):
    """The newest value of a series: ``ends``. ``place`` is its place in the list of the query."""

    place: int
    latest: float


class RolledEndRow(NamedTuple):
    """The times of the first and last sample of a series, and its newest value: ``rolled_ends``.

    A time is None if it is already known. If the sample itself was removed, the time is not exact:
    it is the begin of the sample's hour. ``place`` is the series' place in the query's list.
    """

    place: int
    first: datetime | None
    first_exact: bool
    last: datetime | None
    last_exact: bool
    latest: float | None


class GrowthRow(NamedTuple):
    """The growth of a counter in one bucket, and the seconds in which it grew: ``growth``.

    ``place`` is the series' place in the query's list.
    """

    place: int
    bucket: int
    increase: float
    seconds: float


class FlagRow(NamedTuple):
    """The newest value of the metric ``maintenance``: ``maintained``."""

    value: float


class ActionRow(NamedTuple):
    """What a person did: ``actions``.

    ``services`` has names; an empty array means all services. ``until`` is the end of a
    maintenance, ``alert`` the number of an alert.
    """

    at: datetime
    action: str
    by: str
    reason: str
    services: JsonValue
    until: datetime | None
    alert: int | None


class RecentSpansRow(NamedTuple):
    """The number of a service's last spans by one pass, and when the first one began.

    The statement is ``ledger_recent``.
    """

    name: str
    spans: int
    first_at: datetime


class MaintenanceRow(NamedTuple):
    """A maintenance of the past or present: ``maintenances_logged`` and ``maintenances_kept``.

    An occurrence of a window is also a maintenance. ``services`` has names; empty means all.
    """

    begun: datetime
    ended: datetime
    started_by: str
    ended_by: str | None
    reason: str
    services: Sequence[str] = ()

    def covers(self, service: str) -> bool:
        """Return whether a service was under this maintenance."""
        return not self.services or service in self.services

    @classmethod
    def of(cls, occurrence: Occurrence) -> MaintenanceRow:
        """Return the row of an occurrence of a window.

        The person who ended the window ended only its last occurrence.
        """
        window = occurrence.window
        was_ended = occurrence.ended == window.ended_at
        return cls(
            begun=occurrence.begun,
            ended=occurrence.ended,
            started_by=window.started_by,
            ended_by=window.ended_by if was_ended else None,
            reason=window.reason,
            services=window.services,
        )


class RunningMaintenance(NamedTuple):
    """The running maintenance of all services: ``maintenance``.

    ``left_s`` is the time until its end, in seconds.
    """

    until: datetime
    started_by: str
    reason: str
    left_s: float
