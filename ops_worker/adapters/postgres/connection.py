"""The connection to the database. Only this module begins, commits and retries transactions."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from ops_worker.adapters.postgres.specs import (
    LOCK_SPACE,
    SCHEMA_LOCK,
    STANDALONE_TABLES,
    RetryPolicy,
    limits,
    lock_space,
)
from ops_worker.adapters.postgres.sqlstate import (
    RECONNECT_PAUSE_S,
    connection_message,
    connection_remedy,
    refused_parameters,
    translated,
    worth_a_retry,
)
from ops_worker.adapters.postgres.transaction import SQL, Connection, Transaction, one
from ops_worker.adapters.postgres.types import register
from ops_worker.core.installations import DEFAULT
from ops_worker.core.model import LockHolder
from ops_worker.core.passes import LEDGER_TABLES, TransactionSpec
from ops_worker.errors import (
    ROW_SECURITY_REMEDY,
    CommitUnknownError,
    DatabaseError,
    NotWritableError,
    OpsWorkerError,
    SchemaError,
    SettingsError,
)
from ops_worker.sql import migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ops_worker.adapters.postgres.indexes import Proposal
    from ops_worker.adapters.postgres.migrate import Change

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
"""Longest wait for one connection, in seconds, unless DATABASE_URL sets it."""
SETTLE_S = 5.0
"""For how many seconds the result of a COMMIT is asked for if its answer was lost."""


class _LockHeldError(Exception):
    """Another process holds the lock of this transaction."""


class Store:
    """The connection to the database. It begins, commits and retries transactions."""

    def __init__(  # noqa: PLR0913 - connection, identity and retry policy
        self,
        connection: Mapping[str, str | int],
        *,
        role: str = "",
        application: str = "ops-worker",
        loop_deadline_s: float = 0.0,
        connect_retries: RetryPolicy | None = None,
        shard: int = 0,
        changing: Callable[[], Mapping[str, str | int]] | None = None,
        installation: str = DEFAULT,
    ) -> None:
        """Store the parameters of libpq, or a URI as ``conninfo``. Make no connection yet.

        ``changing`` is called for each new connection and returns the current parameters. None
        means that the parameters never change.

        In a loop, ``loop_deadline_s`` is the longest duration of a transaction in seconds. Then the
        connection is cut. A failed connection is repeated after a pause that grows from 0.5 to
        15 s. A single pass needs neither, because its own deadline ends it. ``connect_retries``
        defines how often a single pass repeats a failed connection, because the network of a new
        pod may not be ready. Each ``shard`` of each ``installation`` has its own lock.

        Raises SettingsError for a URI that libpq cannot parse, without libpq's message, which may
        contain the password.
        """
        self._application = application
        self._changing = changing
        # Only a URI in a file can change.
        is_file = changing is not None and "conninfo" in connection
        self._variable = "DATABASE_URL_FILE" if is_file else "DATABASE_URL"
        self._set_parameters(connection)
        self._role = role
        self._connection: Connection | None = None
        self._deadline_s = loop_deadline_s
        self._connect_retries = connect_retries or RetryPolicy()
        self._shard = shard
        self._installation = installation
        self._retries = True
        self._failures = 0
        self._tried_to_create = False
        self._not_before = 0.0
        self.lock_holder: LockHolder | None = None
        """The process that held the lock when ``write`` last returned None."""

    def _set_parameters(self, connection: Mapping[str, str | int]) -> None:
        """Set the parameters of libpq. Raises SettingsError if libpq cannot parse them."""
        try:
            # libpq's parameters, by name
            conninfo = make_conninfo(**connection)  # type: ignore[arg-type]
            parameters = conninfo_to_dict(conninfo)
        except psycopg.ProgrammingError:
            raise SettingsError(
                [f"libpq cannot parse {self._variable}: check its parameters and %-escapes"]
            ) from None
        defaults = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": self._application,
            # If the server vanishes, Linux would otherwise send again for about 15 minutes.
            "tcp_user_timeout": 10_000,
        }
        # This overrides the client_encoding of the environment, the role and the server. A pooler
        # keeps it.
        always = {"client_encoding": "utf8"}
        self._conninfo = make_conninfo(**(defaults | parameters | always))  # type: ignore[arg-type]
        host, port = parameters.get("host") or "localhost", parameters.get("port") or 5432
        self._place = f"{host}:{port}/{parameters.get('dbname') or ''}"
        self._user = str(parameters.get("user") or "")
        self._database = str(parameters.get("dbname") or self._user)
        self._several_hosts = "," in str(parameters.get("host") or parameters.get("hostaddr") or "")
        self._has_session_attrs = "target_session_attrs" in parameters

    def _refresh_parameters(self) -> None:
        """Set the current parameters, if they may change.

        Raises SettingsError. In a loop, raises DatabaseError instead, because the file may just be
        replaced by a new one.
        """
        if self._changing is None:
            return
        try:
            self._set_parameters(self._changing())
        except SettingsError as error:
            if not self._deadline_s:
                raise
            raise DatabaseError(f"no connection to database {self._place}: {error}") from None

    def write(
        self,
        spec: TransactionSpec,
        work: Callable[[Transaction], T],
        *,
        optional_tables: Sequence[str] = (),
    ) -> T | None:
        """Do the work in one transaction that may write; return None if the lock is held.

        The transaction holds the lock of ``spec`` until the commit. No process waits for this lock.
        ``optional_tables`` are tables without which the work is possible; ``Transaction.present``
        has the tables that exist.

        After a lost connection, a deadlock or a serialization failure, the work is repeated once.
        It is also repeated if the server became read-only since the connection was made: a new
        connection may lead to the new primary. Raises DatabaseError or SchemaError.
        """
        return self._transact(spec, work, optional_tables, read_only=False)

    def read(
        self,
        work: Callable[[Transaction], T],
        *,
        required_tables: Sequence[str] = (),
        optional_tables: Sequence[str] = (),
    ) -> T:
        """Do the work in one read-only transaction without a lock.

        Retries and errors are as in ``write``. A missing required table is a SchemaError.
        """
        # The number is not used: a read-only transaction takes no lock.
        spec = TransactionSpec(lock=0, required_tables=tuple(required_tables))
        result: T | None = self._transact(spec, work, optional_tables, read_only=True)
        return cast("T", result)  # None would mean a held lock, and a reader takes no lock

    def dry_run(
        self,
        spec: TransactionSpec,
        work: Callable[[Transaction], T],
        *,
        optional_tables: Sequence[str] = (),
    ) -> T:
        """Do the work of a writing transaction in a read-only transaction without the lock.

        The table that ``spec`` creates may be missing.
        """
        tables = [*optional_tables, spec.creates] if spec.creates else optional_tables
        return self.read(work, required_tables=spec.required_tables, optional_tables=tables)

    def _transact(
        self,
        spec: TransactionSpec,
        work: Callable[[Transaction], T],
        optional_tables: Sequence[str],
        *,
        read_only: bool,
    ) -> T | None:
        # Only an older connection can lead to a server that has become read-only since.
        reused = self._connection is not None
        try:
            return self._attempt(spec, work, optional_tables, read_only=read_only)
        except _LockHeldError:
            self.lock_holder = self._find_lock_holder(spec)
            return None
        except (psycopg.Error, NotWritableError) as error:
            first = self._translated(error)
            if isinstance(first, NotWritableError):
                if not reused:
                    raise self._leave_read_only(first) from error
                self.close()
            elif not (self._retries and isinstance(error, psycopg.Error) and worth_a_retry(error)):
                raise first from error
        try:
            return self._attempt(spec, work, optional_tables, read_only=read_only)
        except _LockHeldError:
            # Most likely, the lost connection still holds the lock. Nothing was recorded, so raise
            # the first error.
            raise first from None
        except (psycopg.Error, NotWritableError) as error:
            raise self._leave_read_only(self._translated(error)) from error

    def create(self, tables: Sequence[str]) -> dict[str, bool]:
        """Create those of these tables that are missing; return whether each one was created.

        Several processes may do this at the same time. The login role creates the tables if it may,
        else PG_ROLE does. In both cases, PG_ROLE may then read and write them.
        Raises DatabaseError or SchemaError.
        """
        from ops_worker.adapters.postgres import migrate

        with self._schema_change(tables) as (connection, present):
            migrate.create(connection, tables, present)
        return {table: table not in present for table in tables}

    def migrate(self, *, standalone: bool = False) -> Iterator[Change]:
        """Apply missing migrations, each in its own transaction, and repair the objects.

        Yield the changes after each commit. ``standalone`` includes the minimal tables of the
        platform. Raises DatabaseError or SchemaError. If a person has to make a repair, its change
        has a ``fault``.
        """
        from ops_worker.adapters.postgres import migrate

        names = migrate.objects(standalone=standalone)
        with self._schema_change(names) as (connection, _):
            # Check this first: an older program must not change a newer schema.
            newer = list(migrate.report_newer(connection, names))
        if newer:
            yield from newer
            return
        created = set()
        # Use a transaction for each migration, so that a failure keeps the earlier migrations.
        for migration in migrations():
            with self._schema_change(names) as (connection, _):
                changes = migrate.apply(connection, migration, names)
            created |= {change.subject for change in changes}
            yield from changes
        with self._schema_change(names) as (connection, _):
            changes = list(migrate.repair(connection, names, created))
        yield from changes

    @contextlib.contextmanager
    def _schema_change(self, names: Sequence[str]) -> Iterator[tuple[Connection, set[str]]]:
        """Open a transaction that may change the schema; commit it at the end.

        It holds the lock of the schema. Yield the connection and the names of the existing objects.
        """
        missing_grant = ""
        try:
            connection = self._connected()
            with self._rolled_back_on_error(connection):
                present, missing_grant = self._begin_schema_change(connection, names)
                yield connection, present
                for name in names:
                    for grant in self._grants(connection, name):
                        connection.execute(grant.encode())
                connection.execute(SQL["commit"])
        except psycopg.Error as error:
            fault = translated(error, self._place)
            if missing_grant and isinstance(error, pg.InsufficientPrivilege):
                remedy = f"run `{missing_grant}`, or `ops-worker init-db` as a role that may"
                fault = SchemaError(fault.problem, remedy)
            raise fault from error

    def _begin_schema_change(
        self, connection: Connection, names: Sequence[str]
    ) -> tuple[set[str], str]:
        """Begin the transaction; return the existing objects, and the GRANT that CREATE needs.

        The GRANT is empty if no object is missing or the role may create objects.
        """
        try:
            with connection.pipeline():
                connection.execute(SQL["begin"])
                connection.execute(SQL["set_limits"], limits())
                connection.execute(SQL["wait_for_lock"], {"space": LOCK_SPACE, "lock": SCHEMA_LOCK})
                allowed = connection.execute(
                    SQL["may_create"], {"role": self._role, "tables": list(names)}
                )
                survey = connection.execute(SQL["survey"], {"tables": list(names)})
        except pg.FeatureNotSupported:
            raise self._not_writable() from None
        present, may = set(one(survey)["present"]), one(allowed)
        is_missing = not present.issuperset(names)
        if may["temporary"] and is_missing:
            raise SchemaError(
                f"no table can be created in database {self._place}: search_path "
                f"({may['search_path']!r}) begins with pg_temp, which makes it temporary: "
                "ALTER ROLE ... SET search_path"
            )
        # By default, the login role creates and alters objects. PG_ROLE does if only it may.
        if self._role and ((is_missing and not may["allowed"]) or may["role_owns"]):
            connection.execute(SQL["set_role"], {"role": self._role})
        return present, (may["missing_grant"] or "") if is_missing else ""

    def missing(self, tables: Sequence[str]) -> SchemaError | None:
        """Return the error of a pass that needs these tables; None if its role sees all of them.

        Unlike ``read``, this needs no privilege on a table. Raises DatabaseError or SchemaError if
        the check itself fails.
        """
        try:
            connection = self._connected(writes=False)
            with self._rolled_back_on_error(connection):
                survey, _ = self._begin(connection, TransactionSpec(0), tables, read_only=True)
                connection.execute(SQL["rollback"])
        except psycopg.Error as error:
            raise translated(error, self._place) from error
        return self._missing(tables, survey)

    def indexes(self, *, make: bool = False) -> Iterator[Proposal]:
        """Yield a proposal for each built-in figure that an index could help.

        With ``make``, create its index first. Raises DatabaseError or SchemaError.
        """
        from ops_worker.adapters.postgres import indexes

        try:
            connection = self._connected()
            with self._rolled_back_on_error(connection):
                with connection.pipeline():
                    connection.execute(SQL["begin_read_only"])
                    connection.execute(SQL["set_limits"], limits())
                # Read all proposals first: CREATE INDEX CONCURRENTLY cannot run in a transaction.
                proposals = list(indexes.propose(connection))
                connection.execute(SQL["rollback"])
            for proposal in proposals:
                if make and proposal.statement:
                    indexes.create(connection, proposal.statement)
                yield proposal
        except psycopg.Error as error:
            raise translated(error, self._place) from error

    def limit(self, deadline_s: float) -> None:
        """Limit each later transaction to ``deadline_s`` seconds, without a retry."""
        self._deadline_s = deadline_s
        self._retries = False

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translated(self, error: psycopg.Error | OpsWorkerError) -> OpsWorkerError:
        """Return an error of psycopg as an error of the worker."""
        return translated(error, self._place) if isinstance(error, psycopg.Error) else error

    def _leave_read_only(self, error: OpsWorkerError) -> OpsWorkerError:
        """Close the connection to a server that accepts no writes, and return the error.

        A loop opens a new connection after the pause for a failed connection. By that time, the
        host name may lead to another server, or the server may be the primary again.
        """
        if isinstance(error, NotWritableError):
            self.close()
            self._pause()
        return error

    def _pause(self) -> None:
        """Set the earliest time of a loop's next connection; the pause grows with each failure."""
        self._failures += 1
        pause = backoff(self._failures, random.random())  # noqa: S311 - jitter is no secret
        self._not_before = time.monotonic() + pause

    def _find_lock_holder(self, spec: TransactionSpec) -> LockHolder | None:
        """Return the process that holds the lock. The login role may see its own processes."""
        # Without an answer, the pass counts as skipped, as if a healthy process held the lock.
        with contextlib.suppress(psycopg.Error, OpsWorkerError):
            connection = self._connected()
            with self._cut_at_deadline(connection):
                row = connection.execute(SQL["lock_holder"], self._lock_key(spec)).fetchone()
            return LockHolder(**row) if row else None
        return None

    def _lock_key(self, spec: TransactionSpec) -> dict[str, int]:
        # The lock of a spec is at most 255, so the bits above it number the shard.
        space = lock_space(self._installation) if spec.per_installation else LOCK_SPACE
        return {"space": space, "lock": spec.lock + (self._shard << 8)}

    def _attempt(
        self,
        spec: TransactionSpec,
        work: Callable[[Transaction], T],
        optional_tables: Sequence[str],
        *,
        read_only: bool,
        first: bool = True,
    ) -> T:
        connection = self._connected(writes=not read_only)
        with self._cut_at_deadline(connection), self._rolled_back_on_error(connection):
            creates = [spec.creates] if spec.creates else []
            tables = dict.fromkeys(
                (*spec.required_tables, *creates, *optional_tables, *spec.creates_if_permitted)
            )
            survey, locked = self._begin(connection, spec, tables, read_only=read_only)
            self._check(spec, survey, read_only=read_only)
            if not locked:
                raise _LockHeldError
            if spec.creates and spec.creates not in survey["present"] and not read_only:
                connection.execute(SQL["rollback"])
                # Create it in a separate transaction, which waits for the lock of the schema,
                # because several processes may start at once. This transaction never waits.
                self._create_for(spec, survey["role"], first=first)
                return self._attempt(spec, work, optional_tables, read_only=read_only, first=False)
            if not read_only and self._should_create(spec, survey):
                connection.execute(SQL["rollback"])
                with contextlib.suppress(SchemaError):  # `check` names the reason
                    self.create(spec.creates_if_permitted)
                return self._attempt(spec, work, optional_tables, read_only=read_only, first=first)
            result = work(Transaction(connection, survey, self._installation))
            self._commit(connection, survey["xid"])
        self._failures = 0
        return result

    def _should_create(self, spec: TransactionSpec, survey: Mapping[str, Any]) -> bool:
        """Return whether to try to create the optional tables of a transaction. Try only once."""
        if self._tried_to_create or not survey["may_create"]:
            return False
        self._tried_to_create = True
        return not set(spec.creates_if_permitted) <= set(survey["present"])

    def _create_for(self, spec: TransactionSpec, role: str, *, first: bool) -> None:
        """Create the table that a transaction needs, because ``role`` does not see it."""
        if not first:
            raise SchemaError(
                f"{spec.creates} exists, but role {role} does not see it in database "
                f"{self._place}: give the login role and PG_ROLE the same search_path, and USAGE "
                "on its schema"
            )
        self.create([spec.creates])

    def _begin(
        self,
        connection: Connection,
        spec: TransactionSpec,
        tables: Iterable[str],
        *,
        read_only: bool,
    ) -> tuple[dict[str, Any], bool]:
        """Begin a transaction; return the survey, and whether the lock is held or not needed."""
        lock = None
        try:
            with connection.pipeline():
                # In a pipeline, all of these statements cost one round trip.
                connection.execute(SQL["begin_read_only" if read_only else "begin"])
                if self._role:
                    connection.execute(SQL["set_role"], {"role": self._role})
                connection.execute(SQL["set_limits"], limits())
                if not read_only:
                    lock = connection.execute(SQL["try_lock"], self._lock_key(spec))
                survey = connection.execute(SQL["survey"], {"tables": list(tables)})
        except pg.FeatureNotSupported:
            raise self._not_writable() from None
        is_locked = lock is None or one(lock)["locked"]
        # This clock is read right after that of the database: ``time_of`` compares the two.
        return one(survey) | {"read_at": time.monotonic()}, is_locked

    def _not_writable(self) -> NotWritableError:
        """Return the error for a server that accepts no writes."""
        return NotWritableError(
            f"database {self._place} is read-only (a standby?)",
            "point DATABASE_URL or PG_HOST at the primary",
        )

    def _check(self, spec: TransactionSpec, survey: Mapping[str, Any], *, read_only: bool) -> None:
        """Raise an error if the survey shows that the work cannot be done."""
        if survey["read_only"] and not read_only:
            raise self._not_writable()
        if survey["encoding"] != "UTF8":
            raise SchemaError(
                f"database {self._place} is encoded in {survey['encoding']}, which cannot hold "
                "every answer",
                "it has to be UTF8",
            )
        if error := self._missing(spec.required_tables, survey):
            raise error
        if "fleet_alert" in survey["hidden"]:
            raise SchemaError(
                f"row level security hides fleet_alert from role {survey['role']}",
                ROW_SECURITY_REMEDY,
            )

    def _missing(self, tables: Sequence[str], survey: Mapping[str, Any]) -> SchemaError | None:
        """Return the error for the tables that are not in the survey; None if all are."""
        missing = [table for table in tables if table not in survey["present"]]
        if not missing:
            return None
        return SchemaError(
            f"no table {', '.join(missing)} in database {self._place} for role {survey['role']}",
            _remedy_for_missing(missing, survey),
        )

    def _commit(self, connection: Connection, xid: str | None) -> None:
        """Commit. If the answer is lost, ask the server whether the transaction was committed."""
        try:
            connection.execute(SQL["commit"])
        except psycopg.OperationalError:
            # If the connection is still open, the error is an answer: the server rolled back.
            if xid is None or not connection.closed or not self._was_committed(xid):
                raise

    def _was_committed(self, xid: str) -> bool:
        """Ask on a new connection whether a transaction was committed.

        With the answer, no retry writes the same rows twice. Raises CommitUnknownError if the
        server does not know it.
        """
        end = time.monotonic() + SETTLE_S
        while True:
            time.sleep(RECONNECT_PAUSE_S)
            self._connection = None
            # Ignore errors: the server may be restarting.
            with contextlib.suppress(OpsWorkerError, psycopg.Error):
                status = self._status_of(xid)
                if status in {"committed", "aborted"}:
                    return bool(status == "committed")
            if time.monotonic() > end:
                raise CommitUnknownError(xid)

    def _status_of(self, xid: str) -> str | None:
        """Return committed, aborted or in progress; None if the server no longer knows."""
        connection = self._connected()
        with self._cut_at_deadline(connection), self._rolled_back_on_error(connection):
            with connection.pipeline():
                connection.execute(SQL["begin"])
                connection.execute(SQL["set_limits"], limits())
                cursor = connection.execute(SQL["xact_status"], {"xid": xid})
                connection.execute(SQL["rollback"])
            status: str | None = one(cursor)["status"]
        return status

    def _grants(self, connection: Connection, table: str) -> list[str]:
        """Return the statements that let PG_ROLE use a table; none if another role owns it."""
        if not self._role:
            return []
        cursor = connection.execute(SQL["grants_to_role"], {"table": table, "role": self._role})
        return [row["statement"] for row in cursor]

    def _connected(self, *, writes: bool = True) -> Connection:
        """Return the connection; open it if needed. Raises DatabaseError or SettingsError."""
        if self._connection is None or self._connection.closed:
            if self._deadline_s and (pause := self._not_before - time.monotonic()) > 0:
                raise DatabaseError(
                    f"no connection to database {self._place}; "
                    f"the next attempt is due in {pause:.1f} s"
                )
            self._refresh_parameters()
            try:
                self._connection = self._connect(self._server_for(writes=writes))
            except psycopg.Error as error:
                # libpq checks most values only when it connects. So check them after the failure.
                if refused := refused_parameters(self._conninfo):
                    fault = (
                        f"{self._variable} or PG_*: libpq refuses the value of {', '.join(refused)}"
                    )
                    raise SettingsError([fault]) from None
                if not self._deadline_s and self._has_no_database():
                    fault = (
                        f"{self._variable} or PG_DB: the server has no database {self._database}"
                    )
                    raise SettingsError([fault]) from None
                self._pause()
                message = connection_message(error)
                raise DatabaseError(
                    f"no connection to database {self._place} as {self._user}: {message}",
                    connection_remedy(message, self._database, self._user),
                    joint="; ",
                ) from error
        return self._connection

    def _has_no_database(self) -> bool:
        """Return whether the server answers but has no database with this name.

        libpq gives no SQLSTATE for a failed connection, and the message may be in any language. So
        ask in the database ``postgres``, if this role may connect to it.
        """
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(self._conninfo, dbname="postgres", connect_timeout=2) as server,
        ):
            cursor = server.execute(SQL["database_exists"], {"database": self._database})
            return cursor.fetchone() is None
        return False

    def _server_for(self, *, writes: bool) -> dict[str, str]:
        """Return the parameters by which libpq chooses one of several hosts.

        A pass needs the primary. Without these parameters, libpq uses the first host that answers,
        which may always be a standby. A reader can use any host.
        """
        if writes and self._several_hosts and not self._has_session_attrs:
            return {"target_session_attrs": "primary"}
        return {}

    def _connect(self, server: Mapping[str, str]) -> Connection:
        """Open a connection. Retry as the policy defines; a loop retries at its next tick."""
        retries = 0 if self._deadline_s else self._connect_retries.times
        while True:
            try:
                connection = psycopg.connect(
                    self._conninfo,
                    # The worker sends BEGIN itself, so that it can be a part of a pipeline.
                    autocommit=True,
                    # A prepared statement outlives its transaction, but a pooler then gives the
                    # session to another client.
                    prepare_threshold=None,
                    row_factory=dict_row,
                    **server,  # type: ignore[arg-type]  # libpq's parameters, by name
                )
            except psycopg.OperationalError:
                # libpq gives no SQLSTATE for a failed connection, and the message may be in any
                # language. Some failures are temporary ("starting up"), so retry after each one.
                if not retries:
                    raise
            else:
                register(connection)
                return connection
            retries -= 1
            time.sleep(self._connect_retries.delay_s)

    @contextlib.contextmanager
    def _cut_at_deadline(self, connection: Connection) -> Iterator[None]:
        """Cut the connection at the deadline of the transaction. A frozen server never answers."""
        if not self._deadline_s:
            yield
            return
        # Duplicate the file descriptor, because libpq may close its own at any moment.
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            timer = threading.Timer(self._deadline_s, _cut, [sock])
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()

    @contextlib.contextmanager
    def _rolled_back_on_error(self, connection: Connection) -> Iterator[None]:
        """Roll back if the code inside this context raises."""
        try:
            yield
        except BaseException:
            # This includes GeneratorExit: a caller may leave a generator before its end.
            with contextlib.suppress(psycopg.Error):
                connection.execute(SQL["rollback"])
            raise


def _remedy_for_missing(missing: Sequence[str], survey: Mapping[str, Any]) -> str:
    """Return what to do about missing tables."""
    remedy = "run `ops-worker init-db`"
    if set(missing) <= set(LEDGER_TABLES):
        remedy += "; passes create the tables of the ledger as well, if their role may"
    if any(table in STANDALONE_TABLES for table in missing):
        remedy = "run the platform's migrations, or `ops-worker init-db --standalone`"
    if elsewhere := survey["elsewhere"]:
        return (
            f"there is {', '.join(elsewhere)}, which search_path ({survey['search_path']!r}) does "
            f"not reach: ALTER ROLE ... SET search_path, or else {remedy}"
        )
    return remedy


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the connection was closed in the meantime
        # shutdown also ends the wait of another thread for this connection. close would not.
        sock.shutdown(socket.SHUT_RDWR)


def backoff(failures: int, chance: float) -> float:
    """Return the pause in seconds after this number of consecutive failures.

    The pause doubles from 0.5 s up to 15 s. ``chance``, a number from 0 to 1, shortens it by up to
    half, so that not all loops reconnect at the same time.
    """
    pause = min(15.0, RECONNECT_PAUSE_S * 2 ** min(failures - 1, 10))
    return float(pause * (1 - chance / 2))
