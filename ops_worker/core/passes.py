"""The registry of passes. CONTRIBUTING.md describes how to add a pass.

The help, the loops, the sidecar, the locks, ``status``, ``explain``, the alert about a stopped pass
and the rules for manifests use the registry. They read ``PASSES`` when they run, not at import.
"""

from __future__ import annotations

from typing import NamedTuple

from ops_worker.core.samples import MAINTENANCE, PASS_SUCCESS, ROLLUP_BEHIND_S

MAINTENANCE_TABLE = "ops_worker_maintenance"
"""The table of the running maintenance of all services."""
MAINTENANCE_LOG = "ops_worker_maintenance_log"
"""The table of all maintenances of all services, also of earlier ones."""
WINDOW_TABLE = "ops_worker_maintenance_window"
"""The table of maintenance windows: of some services, planned, or repeated."""
MAINTENANCE_TABLES = (MAINTENANCE_TABLE, WINDOW_TABLE)
"""The tables with the services under maintenance. A pass also works without them."""


class TransactionSpec(NamedTuple):
    """The lock and the tables of a writing transaction.

    - ``lock``: the number of its lock, 1 to 255. Two transactions of the same shard with the same
      number never run at the same time.
    - ``required_tables``: the transaction fails if one of these tables is missing.
    - ``creates``: a table of the worker. If it is missing, the transaction creates it.
    - ``creates_if_permitted``: tables of the worker. If one is missing, the transaction creates it
      if the role may do so, and otherwise works without it.
    - ``per_installation``: whether each installation has its own lock.
    """

    lock: int
    required_tables: tuple[str, ...] = ()
    creates: str = ""
    creates_if_permitted: tuple[str, ...] = ()
    per_installation: bool = False


class PassSpec(NamedTuple):
    """Everything that other modules need to know about a pass.

    - ``name``: its name, which is also its command.
    - ``summary``: its description in the help.
    - ``run``: ``module:function``. The function takes a ``Context`` and returns an ``Outcome``. It
      is imported when it runs.
    - ``transaction``: the lock and the tables of its transaction.
    - ``marker``: the self-metric by which readers find the pass in ``system_metrics``.
    - ``interval_setting``: the setting with its interval in the sidecar, in seconds.
    - ``flush``: ``module:function``; empty if a loop keeps no samples while it cannot reach the
      database. The function takes a ``Context`` and the moment until which a transaction may begin
      (seconds, monotonic clock). It writes the samples in the backlog and returns their number.
    - ``sharded``: whether each shard runs the pass for its services.
    - ``optional``: whether an installation may work without the pass. Readers do not mention such a
      pass until it was recorded.
    - ``probes``: whether the pass connects to the services.
    - ``least_period_s``: the shortest period in seconds that a single pass records. The default of
      PASS_PERIOD is 60, which is wrong for a pass that runs once an hour.
    """

    name: str
    summary: str
    run: str
    transaction: TransactionSpec
    marker: str
    interval_setting: str
    flush: str = ""
    sharded: bool = True
    optional: bool = False
    probes: bool = True
    least_period_s: float = 1.0


ACTION_TABLE = "ops_worker_action"
"""The table of the actions of people."""
LEDGER_TABLES = ("ops_worker_run", "ops_worker_span", "ops_worker_config", ACTION_TABLE)
"""The tables of the ledger. Every pass that probes services creates missing ones."""
DOUBT_TABLE = "ops_worker_doubt"
"""The table with the number of consecutive blind passes."""

HEALTH = PassSpec(
    name="health",
    summary="probe the services once, record their state, open and close alerts",
    run="ops_worker.passes.health:run",
    transaction=TransactionSpec(
        lock=1,
        required_tables=("fleet_alert", "tenants"),
        creates="service_health",
        creates_if_permitted=(*LEDGER_TABLES, DOUBT_TABLE),
        per_installation=True,
    ),
    # Only the health pass writes this metric. So a search for it does not scan the many rows of the
    # metrics pass.
    marker=MAINTENANCE,
    interval_setting="health_check_interval",
)
"""The pass that records states and alerts."""

METRICS = PassSpec(
    name="metrics",
    summary="append one sample of the services' counters and the database's figures",
    run="ops_worker.passes.metrics:run",
    transaction=TransactionSpec(
        lock=2,
        required_tables=("system_metrics",),
        creates_if_permitted=(*LEDGER_TABLES, DOUBT_TABLE),
        per_installation=True,
    ),
    marker=PASS_SUCCESS,
    interval_setting="metrics_collection_interval",
    flush="ops_worker.passes.metrics:flush",
)
"""The pass that records samples."""

ROLLUP_TABLES = ("ops_worker_hour", "ops_worker_day")
"""The tables of the rollup pass."""

ROLLUP = PassSpec(
    name="rollup",
    summary="turn samples into one row per series and hour, and per day; remove what is too old",
    run="ops_worker.passes.rollup:run",
    transaction=TransactionSpec(
        lock=3,
        required_tables=("system_metrics",),
        creates_if_permitted=ROLLUP_TABLES,
    ),
    # Only the rollup pass writes this metric. So it is found fast, even if its row is old.
    marker=ROLLUP_BEHIND_S,
    interval_setting="rollup_interval",
    sharded=False,
    optional=True,
    probes=False,
    least_period_s=3600.0,
)
"""The pass that turns samples into one row per series and hour, and per day."""

PASSES = {spec.name: spec for spec in (HEALTH, METRICS, ROLLUP)}
"""The passes by their names, in the order of the help."""


def peers(name: str) -> tuple[str, ...]:
    """Return the names of the passes that the pass ``name`` watches: all other passes."""
    return tuple(other for other in PASSES if other != name)


def expected() -> set[str]:
    """Return the names of the passes that every installation runs."""
    return {name for name, spec in PASSES.items() if not spec.optional}


def commands() -> tuple[str, ...]:
    """Return the commands that run passes."""
    return (*PASSES, "sidecar")


def container_commands() -> tuple[str, ...]:
    """Return the commands that the containers of an installation run."""
    return (*commands(), "init-db")
