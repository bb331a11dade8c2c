"""Indexes that make a figure cost what it finds and not what exists: proposed, and made only when somebody says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.adapters.postgres.transaction import SQL, one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops_worker.adapters.postgres.transaction import Connection

SMALL = 10_000
"""Rows below which a table is read as fast as any index."""


class Candidate(NamedTuple):
    """A figure that counts a state which few rows are in, and the partial index that holds just those."""

    figure: str
    table: str
    state: str

    @property
    def name(self) -> str:
        """The index's name."""
        return f"ops_worker_{self.table}_{self.state.lower()}"

    @property
    def where(self) -> str:
        """Which rows it holds."""
        return f"status = '{self.state}'"


CANDIDATES = (
    Candidate("platform.devices_stale", "device_state", "STALE"),
    Candidate("platform.alerts_open", "fleet_alert", "OPEN"),
    Candidate("platform.deliveries_pending", "delivery_jobs", "PENDING"),
)
MOST = ("platform.devices_online", "device_state")
"""The figure that counts most of its table, which no index makes cheap."""


class Proposal(NamedTuple):
    """What is said of a figure, and the statement that makes its index where there is one to make."""

    said: str
    statement: str = ""


def propose(connection: Connection) -> Iterator[Proposal]:
    """Look at each figure's plan, without running it, and say what would make it cheap."""
    for candidate in CANDIDATES:
        found = one(
            connection.execute(
                SQL["table_and_index"], {"table": candidate.table, "index": candidate.name}
            )
        )
        rows = found["rows"] or 0
        size = (
            f"about {round(rows)} rows"
            if rows >= 0
            else "never analysed, so that nobody knows how many rows it has"
        )
        subject = f"{candidate.figure} ({candidate.table}, {size})"
        if found["rows"] is None:
            yield Proposal(f"{candidate.figure}: no table {candidate.table}")
        elif found["valid"] is False:
            yield Proposal(
                f"{subject}: {candidate.name} was not finished: DROP INDEX CONCURRENTLY {candidate.name}; and then once more"
            )
        elif found["rows"] < SMALL:
            yield Proposal(f"{subject}: nothing to do, the table is small")
        elif partial := _partial(connection, candidate):
            yield Proposal(f"{subject}: nothing to do, {partial} holds few rows but those")
        else:
            statement = f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {candidate.name} ON {candidate.table} (status) WHERE {candidate.where}"
            yield Proposal(
                f"{subject}: its count reads rows of every state; with this index only those that it counts",
                statement,
            )
    figure, table = MOST
    found = one(connection.execute(SQL["table_and_index"], {"table": table, "index": ""}))
    if (found["rows"] or 0) >= SMALL:
        yield Proposal(
            f"{figure} ({table}) counts most of the table, which no index makes cheap: give it `every` in the catalogue"
        )


def create(connection: Connection, statement: str) -> None:
    """Make an index without blocking anybody who writes; that takes as long as it takes."""
    session = one(connection.execute(SQL["index_session"]))
    changed = [name for name, value in session.items() if value is not None]
    try:
        connection.execute(statement.encode())
    finally:
        if not connection.closed:  # behind a pooler the session is somebody else's next
            for name in changed:
                connection.execute(f"RESET {name}".encode())


def _partial(connection: Connection, candidate: Candidate) -> str:
    """Name the partial index that the planner would count with, if it is one."""
    query = f"EXPLAIN (FORMAT JSON) SELECT count(*) FROM {candidate.table} WHERE {candidate.where}"  # noqa: S608 - names of this module
    plan = one(connection.execute(query.encode()))["QUERY PLAN"]
    names = list(_indexes(json.loads(plan) if isinstance(plan, str) else plan))
    partial = connection.execute(SQL["partial_indexes"], {"names": names}).fetchall()
    return ", ".join(row["name"] for row in partial)


def _indexes(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for one_of in node:
            yield from _indexes(one_of)
    elif isinstance(node, dict):
        if "Index Name" in node:
            yield node["Index Name"]
        for value in node.values():
            yield from _indexes(value)
