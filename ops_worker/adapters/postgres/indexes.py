"""Partial indexes that make figures cheap. They are proposed, and created only on request.

With its index, a figure reads only the rows that it counts. Without the index, it reads rows of
every state.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.adapters.postgres.transaction import SQL, one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops_worker.adapters.postgres.transaction import Connection

SMALL = 10_000
"""A table with fewer rows than this needs no index."""


class Candidate(NamedTuple):
    """A figure that counts a rare state, and the partial index that has only rows of this state."""

    figure: str
    table: str
    state: str

    @property
    def name(self) -> str:
        """The name of the index."""
        return f"ops_worker_{self.table}_{self.state.lower()}"

    @property
    def where(self) -> str:
        """The condition of the rows in the index."""
        return f"status = '{self.state}'"


CANDIDATES = (
    Candidate("platform.devices_stale", "device_state", "STALE"),
    Candidate("platform.alerts_open", "fleet_alert", "OPEN"),
    Candidate("platform.deliveries_pending", "delivery_jobs", "PENDING"),
)
MOST = ("platform.devices_online", "device_state")
"""A figure that counts most rows of its table, and the table. No index makes this figure cheap."""


class Proposal(NamedTuple):
    """A note on a figure, and the statement that creates its index; empty if none is needed."""

    note: str
    statement: str = ""


def propose(connection: Connection) -> Iterator[Proposal]:
    """Read the plan of each figure without executing it; propose indexes that make it cheap."""
    for candidate in CANDIDATES:
        yield _propose(connection, candidate)
    figure, table = MOST
    facts = one(connection.execute(SQL["table_and_index"], {"table": table, "index": ""}))
    if (facts["rows"] or 0) >= SMALL:
        yield Proposal(
            f"{figure} ({table}) counts most of the table, and no index makes that cheap: "
            "give it `every` in the catalogue"
        )


def _propose(connection: Connection, candidate: Candidate) -> Proposal:
    names = {"table": candidate.table, "index": candidate.name}
    facts = one(connection.execute(SQL["table_and_index"], names))
    rows = facts["rows"]
    if rows is None:
        return Proposal(f"{candidate.figure}: no table {candidate.table}")
    size = f"about {round(rows)} rows"
    if rows < 0:
        size = "never analysed, so the number of rows is unknown"
    subject = f"{candidate.figure} ({candidate.table}, {size})"
    # If CREATE INDEX CONCURRENTLY fails, it leaves an invalid index.
    if facts["valid"] is False:
        return Proposal(
            f"{subject}: the index {candidate.name} was not finished: run "
            f"DROP INDEX CONCURRENTLY {candidate.name}; then run this command again"
        )
    if rows < SMALL:
        return Proposal(f"{subject}: nothing to do, the table is small")
    if partial := _partial(connection, candidate):
        return Proposal(f"{subject}: nothing to do, {partial} holds few other rows")
    return Proposal(
        f"{subject}: the count reads rows of every state; with this index only the counted ones",
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {candidate.name} "
        f"ON {candidate.table} (status) WHERE {candidate.where}",
    )


def create(connection: Connection, statement: str) -> None:
    """Create an index without blocking writers; this may take long."""
    session = one(connection.execute(SQL["index_session"]))
    changed = [name for name, value in session.items() if value is not None]
    try:
        connection.execute(statement.encode())
    finally:
        if not connection.closed:  # a pooler gives the session to another client next
            for name in changed:
                connection.execute(f"RESET {name}".encode())


def _partial(connection: Connection, candidate: Candidate) -> str:
    """Return the name of the partial index that the planner would use for the count, if any."""
    # All names come from this module.
    count = f"SELECT count(*) FROM {candidate.table} WHERE {candidate.where}"  # noqa: S608
    query = f"EXPLAIN (FORMAT JSON) {count}"
    plan = one(connection.execute(query.encode()))["QUERY PLAN"]
    names = list(_index_names(json.loads(plan) if isinstance(plan, str) else plan))
    partial = connection.execute(SQL["partial_indexes"], {"names": names}).fetchall()
    return ", ".join(row["name"] for row in partial)


def _index_names(node: Any) -> Iterator[str]:
    """Yield the names of all indexes in a plan."""
    if isinstance(node, list):
        for child in node:
            yield from _index_names(child)
    elif isinstance(node, dict):
        if "Index Name" in node:
            yield node["Index Name"]
        for value in node.values():
            yield from _index_names(value)
