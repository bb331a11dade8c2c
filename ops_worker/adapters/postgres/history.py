"""Read the history for people's commands: series, runs, alerts, observations."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any

from ops_worker.adapters.postgres import ledger_reads
from ops_worker.adapters.postgres.action_reads import read_actions
from ops_worker.adapters.postgres.doubt_rows import blind_passes
from ops_worker.adapters.postgres.maintenance_reads import (
    maintenances,
    running_maintenance,
    running_windows,
    services_under_maintenance,
)
from ops_worker.adapters.postgres.pass_writes import known_states, last_seen_parameters
from ops_worker.adapters.postgres.rollup_reads import (
    STEP_BACK_S,
    TICK,
    cover,
    rolled_ends,
)
from ops_worker.core.installations import (
    InstallationRecord,
    installation_of,
    own_service,
    recent_installations,
)
from ops_worker.core.ledger import UNSEEN
from ops_worker.core.needs import current_health
from ops_worker.core.passes import HEALTH, METRICS
from ops_worker.core.peer import LastRecord, records
from ops_worker.core.rollup import HOUR, LEVELS
from ops_worker.core.samples import HEALTHY, OPS_WORKER, PASS_SUCCESS
from ops_worker.core.staleness import PARAMETERS, period_of, stale_after_s
from ops_worker.errors import SettingsError
from ops_worker.history.explain import ServiceHistory, before, look_back
from ops_worker.history.ledger import MERGED, timelines
from ops_worker.history.pass_counts import pass_counts
from ops_worker.history.rows import (
    AlertRow,
    BucketRow,
    FlagRow,
    GrowthRow,
    HealthRow,
    LatestRow,
    ObservationRow,
    OpenAlertRow,
    PassCountRow,
    RolledEndRow,
    ServiceAlertRow,
    ServiceRow,
)
from ops_worker.history.series import Growth, Key, add_growth, group_series
from ops_worker.history.status import StatusRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from psycopg import Cursor

    from ops_worker.adapters.postgres.rollup_reads import Coverage
    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.model import Target
    from ops_worker.core.staleness import PassRecord
    from ops_worker.history.series import Series

HOUR_S = LEVELS[HOUR].total_seconds()
COMMAND_ROWS = 1_000_000
"""How many rows a person's command reads to find a pass: two months of a pass every 5 s."""


def status_rows(
    transaction: Transaction,
    since_s: float,
    buckets: int,
    is_counter: Callable[[str, str], bool],
) -> StatusRows:
    """Read the rows of a status: the current state, and the series of the last ``since_s`` seconds.

    Each series is divided into ``buckets`` (``history.buckets``). ``is_counter`` decides by service
    and metric whether the growth of a series is read. If there is no rollup of a very long period,
    the result covers a shorter period.
    """
    now = transaction.now
    services = None
    with transaction.connection.pipeline():
        transaction.execute("look_back")
        if "service_health" in transaction.present:
            services = transaction.query(ServiceRow, "services_now")
        alerts = transaction.query(OpenAlertRow, "alerts_now")
    records = pass_records(transaction)
    service_rows = services.fetchall() if services else []
    metrics_s = period_of(records, METRICS.name)
    coverage = cover(transaction, since_s, buckets)
    series = read_series(transaction, coverage, is_counter, metrics_s)
    return StatusRows(
        now=now,
        since_s=coverage.grid.seconds,
        services=service_rows,
        alerts=alerts.fetchall(),
        passes=records,
        others=_passes_of_others(transaction, service_rows),
        other_installations=other_installations(transaction, service_rows),
        installation=transaction.installation,
        counts=_pass_counts(transaction, coverage, series),
        series=series,
        maintenance=running_maintenance(transaction),
        windows=running_windows(transaction),
        blind=blind_passes(transaction),
        database=transaction.connection.info.dbname,
    )


def _passes_of_others(
    transaction: Transaction, services: Sequence[ServiceRow]
) -> dict[str, list[PassRecord]]:
    """Read the passes of the other installations that keep rows of services.

    The periods of these passes decide whether the rows are stale.
    """
    names = {row.installation for row in services} - {transaction.installation}
    return {name: pass_records(transaction, installation=name) for name in sorted(names)}


def other_installations(
    transaction: Transaction, services: Sequence[ServiceRow] = ()
) -> list[InstallationRecord]:
    """Return the other installations that were recorded lately, in ``services`` or the ledger."""
    rows = [InstallationRecord(row.installation, row.checked_at) for row in services]
    if ledger_reads.is_readable(transaction):
        rows += transaction.query(InstallationRecord, "installations").fetchall()
    return recent_installations(rows, transaction.installation, transaction.now)


def _pass_counts(
    transaction: Transaction, coverage: Coverage, series: Sequence[Series]
) -> list[PassCountRow]:
    """Return how often each pass was recorded and missed, from samples or from the rollup."""
    if not coverage.is_rolled:
        parameters = PARAMETERS | {
            "now": transaction.now,
            "since_s": coverage.grid.seconds,
            "installation": transaction.installation,
        }
        return transaction.query(PassCountRow, "ran", parameters).fetchall()
    runs = ledger_reads.pass_runs(transaction, MERGED)
    return pass_counts(series, runs, transaction.installation)


def pass_records(
    transaction: Transaction, at: datetime | None = None, installation: str = ""
) -> list[PassRecord]:
    """Read the last record of each pass, or of each of its shards, now or at a time.

    Without ``installation``, read the records of this installation. If this installation has ever
    run a rollup pass, the rollup passes of all installations count.
    """
    name = installation or transaction.installation
    parameters = last_seen_parameters(at or transaction.now, COMMAND_ROWS, name)
    return records(transaction.query(LastRecord, "passes_now", parameters).fetchall())


def read_series(
    transaction: Transaction,
    coverage: Coverage,
    is_counter: Callable[[str, str], bool],
    period_s: float,
) -> list[Series]:
    """Read every series over a period, and the growth of counters.

    ``period_s`` is the time from one sample to the next, in seconds.
    """
    parameters = _sample_parameters(coverage)
    samples = [part for part in coverage.parts if part.level is None]
    read = []
    with transaction.connection.pipeline():
        for part in coverage.parts:
            bounds = parameters | part._asdict()
            if part.level is None:
                read.append(transaction.query(BucketRow, "history", bounds))
            else:
                read.append(transaction.query(BucketRow, "rolled", bounds))
    series = group_series(chain.from_iterable(read), is_counter)
    # Only counters grow, so do not read the rows of gauges again.
    counters = [_named(place, item.key) for place, item in enumerate(series) if item.counts]
    parameters |= {"series": json.dumps(counters), "period_s": period_s}
    with transaction.connection.pipeline():
        grown = [
            transaction.query(GrowthRow, "growth", parameters | part._asdict()) for part in samples
        ]
        latest = _query_latest(transaction, coverage, series)
        ends = _query_rolled_ends(transaction, coverage, series)
    growth = [dict(item.growth) for item in series]
    for row in chain.from_iterable(grown):
        add_growth(growth[row.place], row.bucket, Growth(row.increase, row.seconds))
    result = [item._replace(growth=growth[place]) for place, item in enumerate(series)]
    for newest in latest:
        result[newest.place] = result[newest.place]._replace(latest=newest.latest)
    for end in ends:
        result[end.place] = _with_ends(result[end.place], end)
    return result


def _sample_parameters(coverage: Coverage) -> dict[str, Any]:
    """Return the parameters with which samples are read.

    If other parts come from the rollup, samples are counted as the rollup pass counts them.
    """
    is_rolled = coverage.is_rolled
    return {
        "begins": list(coverage.grid.begins),
        "end": coverage.grid.until + TICK,
        "no_service": "" if is_rolled else None,
        "no_tags": "{}" if is_rolled else None,
        "look_back_s": STEP_BACK_S if is_rolled else 0.0,
    }


def _query_latest(
    transaction: Transaction, coverage: Coverage, series: Sequence[Series]
) -> Cursor[LatestRow]:
    """Query the newest value of each series whose last row is a sample."""
    named = [
        _named(place, item.key) | {"last": item.last.isoformat()}
        for place, item in enumerate(series)
        if coverage.level_at(item.last) is None
    ]
    parameters = _sample_parameters(coverage) | {"series": json.dumps(named)}
    return transaction.query(LatestRow, "ends", parameters)


def _query_rolled_ends(
    transaction: Transaction, coverage: Coverage, series: Sequence[Series]
) -> Iterable[RolledEndRow]:
    """Query the first and last sample of each series whose end is in a rolled-up hour or day.

    Include series of pass records also if their begin is in such an hour or day.
    """
    chosen = [
        (place, item)
        for place, item in enumerate(series)
        if coverage.level_at(item.last)
        or (item.metric == PASS_SUCCESS and coverage.level_at(item.first))
    ]
    return rolled_ends(transaction, coverage, chosen) if chosen else ()


def _with_ends(series: Series, end: RolledEndRow) -> Series:
    """Return a series with the times of its samples instead of hours, where they are known."""
    return series._replace(
        first=end.first or series.first,
        last=end.last or series.last,
        latest=series.latest if end.latest is None else end.latest,
        first_s=0.0 if end.first_exact else HOUR_S,
        last_s=0.0 if end.last_exact else HOUR_S,
    )


def incidents(transaction: Transaction, since_s: float) -> list[AlertRow]:
    """Read the system alerts that were open in the last ``since_s`` seconds, the oldest first."""
    parameters = {"now": transaction.now, "since_s": since_s}
    return transaction.query(AlertRow, "incidents", parameters).fetchall()


def _check_past(at: datetime, now: datetime) -> None:
    """Raise SettingsError if a time is in the future by the database's clock."""
    if at > now:
        clock = f"the database's clock says {now:%Y-%m-%dT%H:%M:%S}Z"
        raise SettingsError([f"--at {at.isoformat()}: this time is in the future; {clock}"])


def service_history(
    transaction: Transaction,
    service: str,
    target: Target | None,
    at: datetime | None,
    needed: Sequence[str] = (),
) -> ServiceHistory:
    """Read what is known about a service at a time, or now.

    ``target`` is None if the service is not monitored. ``needed`` has the services that it needs,
    directly and through others. The service ``ops_worker#NAME`` is the worker of the installation
    NAME. Raises SettingsError if the time is in the future by the database's clock.
    """
    now = transaction.now
    at = at or now
    _check_past(at, now)
    owner = installation_of(service)
    if owner:
        service = OPS_WORKER
    row = None
    if "service_health" in transaction.present:
        name = {"service": service}
        row = transaction.query(HealthRow, "service_row", name).fetchone()
    # Only passes of the installation that keeps the row decide whether the state is stale.
    keeper = row.installation if row else owner or transaction.installation
    passes = pass_records(transaction, at, keeper)
    alerts_of = own_service(keeper) if service == OPS_WORKER else service
    parameters = {
        "service": service,
        "series": target.series if target else service,
        "at": at,
        "now": at == now,
        "patience_s": stale_after_s(period_of(passes, HEALTH.name)),
        "installation": keeper,
    }
    with transaction.connection.pipeline():
        observations = transaction.query(ObservationRow, "observations", parameters)
        named = parameters | {"service": alerts_of}
        alerts = transaction.query(ServiceAlertRow, "alerts_of", named)
        flags = transaction.query(FlagRow, "maintained", parameters)
    flag = flags.fetchone()
    length = look_back(target)
    return ServiceHistory(
        service=service,
        now=now,
        at=at,
        row=row,
        installation=keeper,
        is_elsewhere=keeper != transaction.installation,
        other_installations=other_installations(transaction),
        ledger=ledger_reads.service_ledger(transaction, service, at, length),
        observations=observations.fetchall(),
        alerts=alerts.fetchall(),
        passes=passes,
        in_maintenance=flag is not None and flag.value == 1,
        maintenance_until=_maintenance_until(transaction, service) if at == now else None,
        maintenances=[row for row in maintenances(transaction, at, at) if row.covers(service)],
        actions=read_actions(transaction, before(at, length), at, sorted({service, alerts_of})),
        needed=_health_at(transaction, needed, at, passes) if needed else {},
        blind=blind_passes(transaction, keeper) if at == now else (),
    )


def _health_at(
    transaction: Transaction,
    services: Sequence[str],
    at: datetime,
    passes: Sequence[PassRecord],
) -> dict[str, bool]:
    """Return whether each of these services was healthy at a time, as far as a health pass knew.

    If the time is now, the rows of the services decide. For an earlier time, only the ledger knows.
    """
    if at == transaction.now:
        states_now = known_states(transaction, services)
        return current_health((), states_now, at, period_of(passes, HEALTH.name))
    if not ledger_reads.is_readable(transaction):
        return {}
    rows = ledger_reads.ledger_rows(
        transaction, services, [HEALTH.name], at - ledger_reads.MOMENT, at + ledger_reads.MOMENT
    )
    states = {name: pieces[-1].state for name, pieces in timelines(rows, HEALTH.name)}
    return {name: state == HEALTHY for name, state in states.items() if state != UNSEEN}


def _maintenance_until(transaction: Transaction, service: str) -> datetime | None:
    """Return when the running maintenance of a service ends; None if none is running."""
    of_all = running_maintenance(transaction)
    all_until = of_all.until if of_all else None
    return services_under_maintenance(transaction, all_until).until(service)


def _named(place: int, key: Key) -> dict[str, object]:
    """Return a series in the form of the statements' parameters, with its place in the list."""
    return {"place": place, **key._asdict()}
