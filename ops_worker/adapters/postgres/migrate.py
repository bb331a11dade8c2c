"""Create the objects of the schema, apply migrations, and repair objects without loss of data.

Each function works inside a transaction that ``Store`` begins and commits. The transaction holds
the lock of the schema. docs/decisions/0009-schema-versions.md explains the rules.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import errors as pg

from ops_worker.adapters.postgres.specs import STANDALONE_TABLES
from ops_worker.adapters.postgres.sqlstate import words
from ops_worker.adapters.postgres.transaction import SQL, column, one
from ops_worker.core import schema
from ops_worker.core.passes import (
    DOUBT_TABLE,
    LEDGER_TABLES,
    MAINTENANCE_LOG,
    MAINTENANCE_TABLE,
    ROLLUP_TABLES,
    WINDOW_TABLE,
)
from ops_worker.core.schema import OWN, SHAPES, VERSIONS, VIEW
from ops_worker.errors import SchemaError
from ops_worker.sql import migrations

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ops_worker.adapters.postgres.transaction import Connection, Transaction
    from ops_worker.core.schema import Column
    from ops_worker.sql import Migration

OBJECTS = (
    "tenants",
    "fleet_alert",
    "system_metrics",
    "service_health",
    VIEW,
    MAINTENANCE_TABLE,
    MAINTENANCE_LOG,
    WINDOW_TABLE,
    *LEDGER_TABLES,
    DOUBT_TABLE,
    *ROLLUP_TABLES,
    VERSIONS,
)
"""Every object of the migrations, in the order in which they are created."""
EXPECTED_VIEW = "ops_worker_expected_view"
"""The name of a temporary view that shows how this server prints the expected definition."""


class Change(NamedTuple):
    """A change to an object, or a migration. With a ``fault``, a person must make the change."""

    subject: str
    action: str
    fault: str = ""


class _Repair(NamedTuple):
    """A statement that repairs a table, and a description of the repair.

    ``hint`` is the remedy if rows of the table prevent the repair. ``alternative`` is another
    statement if the definition of the table prevents it. With ``changes_type``, the view is dropped
    before the repair and created again, because the type of a column cannot change under a view.
    """

    action: str
    statement: str
    hint: str = ""
    alternative: str = ""
    changes_type: bool = False


def objects(*, standalone: bool) -> tuple[str, ...]:
    """Return the objects that ``init-db`` creates and repairs."""
    return tuple(name for name in OBJECTS if standalone or name not in STANDALONE_TABLES)


def definition(name: str, until: int | None = None) -> str:
    """Return the statements that create an object: its sections in all migrations, in order.

    With ``until``, only the migrations up to this version count.
    """
    sections = [
        migration.sections[name]
        for migration in migrations()
        if name in migration.sections and (until is None or migration.version <= until)
    ]
    return "\n".join(sections)


def newest() -> int:
    """Return the version of the schema that this program knows."""
    return max(migration.version for migration in migrations())


def present(connection: Connection, names: Collection[str]) -> set[str]:
    """Return which of these objects exist and are visible to this role."""
    return set(one(connection.execute(SQL["survey"], {"tables": list(names)}))["present"])


def create(connection: Connection, names: Sequence[str], existing: Collection[str]) -> None:
    """Create the missing objects; ``existing`` has the objects that exist.

    The creation of the worker's first object also records the version of the schema. If objects
    exist without a recorded version, only ``init-db`` records it.
    """
    missing = [name for name in names if name not in existing]
    is_first = bool(missing) and not present(connection, (*OWN, VIEW))
    for name in missing:
        connection.execute(definition(name).encode())
    if is_first:
        connection.execute(definition(VERSIONS).encode())
        for migration in migrations():
            _record(connection, migration)


def versions(connection: Connection) -> list[int]:
    """Return the numbers of the applied migrations.

    Raises SchemaError if their table cannot be read.
    """
    if not present(connection, [VERSIONS]):
        return []
    try:
        with connection.transaction():  # a savepoint
            return list(column(connection.execute(SQL["versions"]), "version"))
    except (pg.UndefinedColumn, pg.DataError) as error:
        raise SchemaError(
            f"{VERSIONS} cannot be read: {words(error)}: run `DROP TABLE {VERSIONS}`, "
            "then `ops-worker init-db`; it records the versions again"
        ) from error


def report_newer(connection: Connection, names: Sequence[str]) -> Iterator[Change]:
    """Report a schema that is newer than this program. Such a schema must not be changed.

    Raises SchemaError if one of the objects is missing.
    """
    version = max(versions(connection), default=0)
    if version <= newest():
        return
    comparison = f"version {version} is newer than this program, which knows {newest()}"
    existing = present(connection, names)
    if missing := [name for name in names if name not in existing]:
        raise SchemaError(
            f"no table {', '.join(missing)}, and the schema's {comparison}: "
            "run init-db with the ops-worker that made this version"
        )
    yield Change("schema", f"{comparison}; nothing was changed")
    for name in names:
        yield Change(name, "already there")


def apply(connection: Connection, migration: Migration, names: Sequence[str]) -> list[Change]:
    """Apply one migration if it was not applied before.

    Create missing objects, and change the objects that the migration names.

    Raises SchemaError if another role owns an object that the migration changes.
    """
    if migration.version in versions(connection):
        return [Change(f"migration {migration.name}", "already applied")]
    changes: list[Change] = []
    rows = {row["name"]: row for row in inspect(connection, names)}
    for name in names:
        if not definition(name, migration.version):
            continue  # a later migration adds this object
        if not rows[name]["present"]:
            created = _create_object(connection, name, migration.version)
            # The repair at the end tries to create the view again, and reports a failure.
            changes += [] if created.fault else [created]
        elif name in migration.sections and migration.version > 1:
            # Migration 1 leaves existing tables unchanged, including the tables of the platform.
            if not rows[name]["owned"]:
                raise SchemaError(
                    f"migration {migration.name} changes {name}, which belongs to role "
                    f"{rows[name]['owner']}: run `ops-worker init-db` as that role"
                )
            connection.execute(migration.sections[name].encode())
    _record(connection, migration)
    return [*changes, Change(f"migration {migration.name}", "applied")]


def repair(
    connection: Connection, names: Sequence[str], created: Collection[str]
) -> Iterator[Change]:
    """Bring every object into the expected shape; yield the changes, and the changes that failed.

    ``created`` has the objects that this run has already created.
    """
    for row in inspect(connection, names):
        name = row["name"]
        if not row["present"]:
            yield _create_object(connection, name)
        elif name not in created:
            yield Change(name, "already there")
            repairs = _repair_view if name == VIEW else _repair_table
            yield from repairs(connection, row)


def inspect(connection: Connection, names: Collection[str]) -> list[dict[str, Any]]:
    """Read the shapes of these tables, in this order."""
    tables = [{"name": name, "privileges": [], "columns": []} for name in names]
    rows = connection.execute(SQL["inspect_tables"], {"tables": json.dumps(tables)}).fetchall()
    order = {name: number for number, name in enumerate(names)}
    return sorted(rows, key=lambda row: order[row["name"]])


def is_view_outdated(connection: Connection) -> bool | None:
    """Return whether the view differs from its expected definition, as this server prints both.

    Return None if this role may not create the temporary view for the comparison.
    """
    # PostgreSQL prints views in its own format, which changes between versions. So the server
    # prints both views, and no printed text is stored.
    statement = re.sub(
        rf"CREATE OR REPLACE VIEW {VIEW}\b",
        f"CREATE TEMPORARY VIEW {EXPECTED_VIEW}",
        _view_statement(),
    )
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
            return _printed(connection, VIEW) != _printed(connection, f"pg_temp.{EXPECTED_VIEW}")
    except psycopg.Error:
        if connection.closed:
            raise
        return None


def recorded_version(transaction: Transaction) -> tuple[int | None, str]:
    """Return the version of the schema, and why it cannot be read.

    The version is 0 if none is recorded, and None if it cannot be read. The reason is also empty if
    the table of the versions has another shape.
    """
    if VERSIONS not in transaction.present:
        return 0, ""
    try:
        with transaction.connection.transaction():  # a savepoint
            numbers = column(transaction.execute("versions"), "version")
    except (pg.UndefinedColumn, pg.DataError):
        return None, ""
    except psycopg.Error as error:
        if transaction.connection.closed:
            raise
        return None, words(error)
    return max(numbers, default=0), ""


def _create_object(connection: Connection, name: str, until: int | None = None) -> Change:
    """Create an object. The view can be created only if its tables have the expected shape."""
    statements = definition(name, until).encode()
    if name != VIEW:
        connection.execute(statements)
        return Change(name, "created")
    try:
        with connection.transaction():
            connection.execute(statements)
    except (pg.UndefinedColumn, pg.UndefinedFunction, pg.DatatypeMismatch) as error:
        fault = f"{VIEW} cannot be created: {words(error)}: repair the tables that it reads first"
        return Change(VIEW, "created", fault)
    return Change(VIEW, "created")


def _record(connection: Connection, migration: Migration) -> None:
    """Record that a migration was applied."""
    parameters = {"version": migration.version, "name": migration.name}
    connection.execute(SQL["record_version"], parameters)


def _repair_table(connection: Connection, row: dict[str, Any]) -> Iterator[Change]:
    """Add missing columns, convert types in the worker's own tables, add the unique key."""
    table = row["name"]
    difference = schema.compare(SHAPES[table], row["columns"], row["keys"])
    absent = set()
    for added in difference.missing:
        change = _attempt(connection, row, _addition(table, added))
        if change.fault:
            absent.add(added.name)
        yield change
    for changed, was in difference.types:
        if table not in OWN:
            # The table may be a large one of the platform, and passes may work with this type.
            problem = f"column {changed.name} is {was}, not {changed.type}; it was left as it is"
            yield Change(table, f"{problem} (`ops-worker check` names the statement)")
            continue
        hint = (
            f"the values of {changed.name} ({was}) do not convert to {changed.type}: run "
            f"`ALTER TABLE {table} DROP COLUMN {changed.name} CASCADE`, then `ops-worker init-db`"
        )
        conversion = _Repair(
            action=f"column {changed.name} converted",
            statement=schema.set_type(table, changed),
            hint=hint,
            changes_type=True,
        )
        yield _attempt(connection, row, conversion)
    # If a column could not be added, a key with this column would fail, too.
    if difference.key and absent.isdisjoint(difference.key):
        key = _Repair(
            action=f"unique key ({', '.join(difference.key)}) added",
            statement=schema.add_key(table, difference.key),
            hint=_hint_for_key(table, difference.key),
            # A table has at most one primary key, which may have other columns.
            alternative=schema.add_key(table, difference.key, kind="UNIQUE"),
        )
        yield _attempt(connection, row, key)


def _addition(table: str, added: Column) -> _Repair:
    """Return the repair that adds a column."""
    action = f"column {added.name} added"
    if added.fill:
        return _Repair(action, schema.add_filled_column(table, added))
    hint = (
        f"the rows of {table} have no {added.name}: if they may go, run "  # noqa: S608 - for people
        f"`DELETE FROM {table}`, then `ops-worker init-db`"
    )
    return _Repair(action, schema.add_column(table, added), hint)


def _hint_for_key(table: str, key: Sequence[str]) -> str:
    """Return the remedy that removes the rows that prevent a key."""
    same = " AND ".join(f"a.{name} = b.{name}" for name in key)
    empty = " OR ".join(f"{name} IS NULL" for name in key)
    return (
        f"rows of {table} have the same {', '.join(key)} or none: run "  # noqa: S608 - for people
        f"`DELETE FROM {table} AS a USING {table} AS b WHERE {same} AND a.ctid < b.ctid` and "
        f"`DELETE FROM {table} WHERE {empty}`, then `ops-worker init-db`"
    )


def _attempt(connection: Connection, row: dict[str, Any], repair: _Repair) -> Change:
    """Repair a table in a savepoint. On failure, return a change whose fault has the remedy."""
    table, action, statement = row["name"], repair.action, repair.statement
    if not row["owned"]:
        fault = f"{table} belongs to role {row['owner']}: as that role run `{statement}`"
        return Change(table, action, fault)
    try:
        with connection.transaction():
            grants = _without_view(connection, table) if repair.changes_type else None
            try:
                with connection.transaction():
                    connection.execute(statement.encode())
            except pg.InvalidTableDefinition:
                statement = repair.alternative or statement
                connection.execute(statement.encode())
            if grants is not None:
                _create_view(connection, grants)
    except psycopg.Error as error:
        if connection.closed:
            raise
        is_about_rows = isinstance(error, (pg.DataError, pg.IntegrityError))
        hint = repair.hint
        if not (is_about_rows and hint):
            hint = f"run `{statement}`, then `ops-worker init-db`"
        return Change(table, action, f"{words(error)}: {hint}")
    return Change(table, action)


def _repair_view(connection: Connection, row: dict[str, Any]) -> Iterator[Change]:
    """Replace the view if its definition differs from the expected one."""
    outdated = is_view_outdated(connection)
    if outdated is False or (outdated is None and not row["owned"]):
        return
    action = "definition replaced"
    if not row["owned"]:
        fault = f"{VIEW} is outdated and belongs to role {row['owner']}"
        yield Change(VIEW, action, f"{fault}: run `ops-worker init-db` as that role")
        return
    before = _printed(connection, VIEW)
    try:
        with connection.transaction():
            _replace_view(connection)
    except psycopg.Error as error:
        if connection.closed:
            raise
        remedy = f"`DROP VIEW {VIEW} CASCADE`"
        if isinstance(error, pg.WrongObjectType):
            remedy = f"`ALTER TABLE {VIEW} RENAME TO {VIEW}_old`"
        fault = f"{VIEW} cannot be replaced: {words(error)}"
        yield Change(VIEW, action, f"{fault}: run {remedy}, then `ops-worker init-db`")
        return
    if before != _printed(connection, VIEW):
        yield Change(VIEW, action)


def _replace_view(connection: Connection) -> None:
    """Replace the view. Drop a view with other columns, and create it with the same grants."""
    try:
        with connection.transaction():
            connection.execute(_view_statement().encode())
    except (pg.InvalidTableDefinition, pg.FeatureNotSupported):
        # CREATE OR REPLACE VIEW can only append columns. DROP removes the grants.
        grants = column(connection.execute(SQL["view_grants"]), "statement")
        connection.execute(f"DROP VIEW {VIEW}".encode())
        _create_view(connection, grants)


def _without_view(connection: Connection, table: str) -> Sequence[str] | None:
    """Drop the view if it reads the table, because the type of a column cannot change under a view.

    Return the statements that grant the view's privileges again; None if no view was dropped.
    """
    if table != "service_health" or not present(connection, [VIEW]):
        return None
    grants: Sequence[str] = column(connection.execute(SQL["view_grants"]), "statement")
    connection.execute(f"DROP VIEW {VIEW}".encode())
    return grants


def _create_view(connection: Connection, grants: Sequence[str]) -> None:
    """Create the view and grant its privileges again."""
    connection.execute(_view_statement().encode())
    for grant in grants:
        connection.execute(grant.encode())


def _view_statement() -> str:
    """Return the newest definition of the view."""
    return [m.sections[VIEW] for m in migrations() if VIEW in m.sections][-1]


def _printed(connection: Connection, view: str) -> str | None:
    """Return the definition of a view as the server prints it; None if there is no such view."""
    row = one(connection.execute(SQL["view_definition"], {"view": view}))
    text: str | None = row["definition"]
    return text
