"""The rows that readers get from the database: one type for each statement, one field per column.

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
    """The last state of a service: ``services_now``. The fields from ``details`` may be missing.

    ``certificate_days_left`` is as it stands there: any program may have written it.
    ``installation`` is the one that keeps the row.
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
        """The installation that keeps the row. The default one is not named in it."""
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

    ``checked_at`` is None if it has no row, ``alert`` is None if it has no open alert. ``kept_by``
    is another installation that watches it, so that it stays; empty if none does. ``installation``
    is the one that keeps the row; empty without a row.
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
    """How many passes of one kind, or of one shard, were recorded, and how many missed: ``ran``.

    ``missed_is_least`` is whether more of them may have been missed.
    """

    name: str
    shard: str | None
    first: datetime
    last: datetime
    recorded: int
    missed: int
    missed_is_least: bool = False


class BucketRow(NamedTuple):
    """The rows of one series in one bucket, and the first and last time of them: ``history``.

    Of rows of the rollup (``rolled``) these are the begins of hours or days. Only those have the
    increase of a counter, and the seconds that it took.
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
    """The newest value of a series, which is named by its place in the list: ``ends``."""

    place: int
    latest: float


class RolledEndRow(NamedTuple):
    """The times of the first and last sample of a series, and its newest value: ``rolled_ends``.

    A time is None where it is known already. It is not exact if that sample was removed: then it is
    the begin of its hour.
    """

    place: int
    first: datetime | None
    first_exact: bool
    last: datetime | None
    last_exact: bool
    latest: float | None


class GrowthRow(NamedTuple):
    """The growth of a counter in one bucket, and over how many seconds: ``growth``."""

    place: int
    bucket: int
    increase: float
    seconds: float


class FlagRow(NamedTuple):
    """The newest value of the metric ``maintenance``: ``maintained``."""

    value: float


class ActionRow(NamedTuple):
    """What a person did: ``actions``.

    ``services`` has names; an empty array is all services. ``until`` is the end of a maintenance,
    ``alert`` the number of an alert.
    """

    at: datetime
    action: str
    by: str
    reason: str
    services: JsonValue
    until: datetime | None
    alert: int | None


class RecentSpansRow(NamedTuple):
    """The number of the last spans of a service by a pass, and the beginning of the first of them.

    ``ledger_recent``.
    """

    name: str
    spans: int
    first_at: datetime


class MaintenanceRow(NamedTuple):
    """A maintenance of the past or present: ``maintenances_logged`` and ``maintenances_kept``.

    An occurrence of a window is one, too. ``services`` has names; empty is all services.
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
        """Return an occurrence of a window. Who ended the window ended only its last one."""
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
    """The maintenance of all services that is running: ``maintenance``.

    ``left_s`` is the time until its end, in seconds.
    """

    until: datetime
    started_by: str
    reason: str
    left_s: float
