"""What a pass may do inside its transaction: read what is remembered, record what was seen."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from ops_worker.adapters.postgres.specs import MAINTENANCE_TABLE, limits
from ops_worker.core.backlog import Pending
from ops_worker.core.decoding import parse_time
from ops_worker.core.health import details, evidence, summary
from ops_worker.core.model import NO_TAGS, KnownState, Reading, Recorded
from ops_worker.core.samples import MAX_ROWS, OPS_WORKER, samples_of, shape_fault
from ops_worker.core.staleness import DEFAULT_PERIOD_S, PASSES, is_fresh, overdue, stopped
from ops_worker.sql import queries
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ops_worker.core.backlog import Packed
    from ops_worker.core.model import Figure, Sample, StateChange

Connection = psycopg.Connection[dict[str, Any]]
Cursor = psycopg.Cursor[dict[str, Any]]

SQL = queries()
STATEMENT_CHARACTERS = 4_000_000
"""Characters of JSON that one statement inserts: about 40,000 rows."""
WATCH_ROWS = 10_000
"""How many rows a pass looks at to find the other, or a shard of it: a week of a pass each 60 s, in some milliseconds."""


class Transaction:
    """An open transaction that holds its pass's lock. Made by the store; ``now`` is the database's clock when it began.

    ``warnings`` gathers what was spared the pass.

    What people's commands do in one is in ``people``, which a pass does not import.
    """

    def __init__(self, connection: Connection, survey: Mapping[str, Any]) -> None:
        """Take the connection and what the survey found."""
        self.connection = connection
        self._read_at: float = survey["read_at"]
        self.now: datetime = survey["now"].astimezone(UTC)
        self.present = frozenset[str](survey["present"])
        self.hidden = frozenset[str](survey["hidden"])
        self.warnings: list[str] = []

    def time_of(self, moment: float) -> datetime:
        """Give a moment of the monotonic clock (seconds) as the database's clock would have told it."""
        return self.now - timedelta(seconds=self._read_at - moment)

    def remembered(self, services: Sequence[str]) -> dict[str, KnownState]:
        """Read what earlier passes left of these services; one entry for each."""
        rows = None
        with self.connection.pipeline():
            if "service_health" in self.present:
                rows = self.connection.execute(
                    SQL["remembered"], {"services": json.dumps(services)}
                )
            alerts = self.connection.execute(SQL["alerted"])
        known = {row["service"]: row for row in rows.fetchall()} if rows else {}
        alerted = {row["service"] for row in alerts.fetchall()}
        return {
            service: _remembered(known.get(service), self.now, alerted=service in alerted)
            for service in services
        }

    def maintenance_until(self, told: datetime | None) -> datetime | None:
        """Give until when no alert is to open: by a person's word in the database or in the settings, whichever is later."""
        found = [told] if told is not None and told > self.now else []
        if MAINTENANCE_TABLE in self.present:
            with self._best_effort("no maintenance could be looked for, so that alerts open"):
                found += [
                    row["until"] for row in self.connection.execute(SQL["maintenance"]).fetchall()
                ]
        return max(found, default=None)

    def record_health(
        self, updates: Sequence[StateChange], origin: Mapping[str, str] = NO_TAGS
    ) -> Recorded:
        """Write the services' rows, open and close alerts; give those that were really opened and closed.

        ``origin`` names the pass that saw this: its job, pod and version. An alert keeps that with what was seen.
        """
        opening = [
            {
                "service": u.verdict.target.name,
                "summary": summary(u.verdict),
                "evidence": evidence(u, origin),
            }
            for u in updates
            if u.opens
        ]
        closing = [u.verdict.target.name for u in updates if u.closes]
        execute = self.connection.execute
        with self.connection.pipeline():
            execute(
                SQL["upsert_health"],
                {"rows": json.dumps([_row(update) for update in updates], allow_nan=False)},
            )
            if opening:
                execute(SQL["ensure_system_tenant"])
            opened = (
                execute(SQL["open_alerts"], {"alerts": json.dumps(opening)}) if opening else None
            )
            closed = (
                execute(SQL["close_alerts"], {"services": json.dumps(closing)}) if closing else None
            )
        return Recorded(tuple(updates), _services(opened), _services(closed))

    def figures(self, figures: Sequence[Figure], begun: float, until: float) -> list[Reading]:
        """Read each figure on its own: what keeps one of them from its value costs no other. Read-only is enforced.

        A figure with an interval of its own is read when nothing of it is recorded yet in the slot of the moment ``begun``.
        None takes longer than ``until``; both are moments of the monotonic clock.
        """
        waits = self._waiting([figure for figure in figures if figure.every_s], begun)
        return [
            Reading(figure) if figure.name in waits else self._reading(figure, until)
            for figure in figures
        ]

    def prepare(self, figure: Figure) -> tuple[str, bool]:
        """Ask the database about a figure's statement, without running it.

        Return what is wrong with it, if anything, and whether that is a privilege that is missing.
        """
        found, error = self._tried(figure, 0, figure.timeout_s)
        problem = _problem(error, figure.timeout_s) or shape_fault(_columns(found))
        return problem, isinstance(error, psycopg.errors.InsufficientPrivilege)

    def record_samples(self, passes: Sequence[Pending | Packed]) -> None:
        """Append the samples of these passes, all rows of a pass with the time of its moment.

        Usually this is one statement. No statement gets more than STATEMENT_CHARACTERS of JSON,
        or one document: PostgreSQL limits the size of a value and the time of a statement.
        """
        batch: list[str] = []
        size = 0
        for entry in passes:
            time = self.time_of(entry.moment).isoformat()
            for document in entry.documents:
                if batch and size + len(document) > STATEMENT_CHARACTERS:
                    self._insert_samples(batch)
                    batch, size = [], 0
                batch.append(f'{{"time": "{time}", "samples": {document}}}')
                size += len(document)
        if batch:
            self._insert_samples(batch)

    def _insert_samples(self, batch: Sequence[str]) -> None:
        self.connection.execute(SQL["insert_samples"], {"passes": f"[{', '.join(batch)}]"})

    def record_own(self, moment: float, samples: Sequence[Sample]) -> None:
        """Append the worker's own figures; what keeps it from that is a warning."""
        if "system_metrics" in self.present and samples:
            with self._best_effort(
                "the worker's own figures not recorded",
                "; RECORD_OWN_METRICS=false leaves them out",
            ):
                self.record_samples([Pending(moment, tuple(samples))])

    def watch(  # noqa: PLR0913 - who watches whom since when, and what it may do about it
        self,
        name: str,
        other: str,
        begun: float,
        origin: Mapping[str, str] = NO_TAGS,
        *,
        may_open: bool = True,
        dry_run: bool = False,
    ) -> Recorded:
        """Open the worker's own alert when the other pass has stopped, close it when that one is recorded again.

        Whoever calls this is alive, so that the alert is about the other. One that never ran is not missed, and nobody is by a
        pass that was away itself: what kept it may have kept the other, which has its turn first. In a maintenance it may only
        close. ``begun`` is the moment at which this pass began; what keeps it from looking is a warning.
        A dry run looks and decides in the same way, and gives what it would open or close.
        """
        nothing = done = Recorded((), (), ())
        if "system_metrics" not in self.present:
            return nothing
        execute = self.connection.execute
        before = self.time_of(begun) - timedelta(
            microseconds=1
        )  # not the row that this pass has just written
        with self._best_effort(f"nobody watches the {other} pass"):
            permitted = execute(SQL["alerts_can_open"])
            told = execute(SQL["passes_now"], passes_given(before, WATCH_ROWS)).fetchall()
            can, found = one(permitted)["can"], [row for row in told if row["time"]]
            others = [
                row["time"] for row in told if row["pass"] == other
            ]  # None: a shard that is not found
            gone = overdue(found, other, self.now)
            opens = bool(can and gone and may_open and is_fresh(found, name, self.now))
            closes = bool(can and not gone and others and all(others))
            if can is False:
                self.warnings.append(
                    f"nobody watches the {other} pass: row level security hides fleet_alert; set PG_ROLE"
                )
            elif dry_run and (opens or closes):
                is_open = OPS_WORKER in {row["service"] for row in execute(SQL["alerted"])}
                if opens and not is_open:
                    done = nothing._replace(opened=(OPS_WORKER,))
                if closes and is_open:
                    done = nothing._replace(closed=(OPS_WORKER,))
            elif opens and gone:
                reason = stopped(
                    other,
                    (self.now - gone["time"]).total_seconds(),
                    gone["period_s"] or DEFAULT_PERIOD_S,
                )
                seen = {
                    **origin,
                    "seen_by": f"{name} pass",
                    "reason": reason,
                    "last_recorded": gone["time"].astimezone(UTC).isoformat(),
                }
                alert = {
                    "service": OPS_WORKER,
                    "summary": f"Service unhealthy: {OPS_WORKER} ({reason})",
                    "evidence": seen,
                }
                execute(SQL["ensure_system_tenant"])
                done = nothing._replace(
                    opened=_services(execute(SQL["open_alerts"], {"alerts": json.dumps([alert])}))
                )
            elif closes:
                done = nothing._replace(
                    closed=_services(
                        execute(SQL["close_alerts"], {"services": json.dumps([OPS_WORKER])})
                    )
                )
        return done

    @contextlib.contextmanager
    def _best_effort(self, what: str, remedy: str = "") -> Iterator[None]:
        """Do inside what is worth no pass, and no wait: what fails there is a warning, and is as if it had not been tried."""
        execute = self.connection.execute
        try:
            with self.connection.pipeline():
                execute("SAVEPOINT best_effort")
                execute(SQL["best_effort_limits"])
                yield
                execute("RELEASE SAVEPOINT best_effort")
                execute(SQL["set_limits"], limits())
        except psycopg.Error as error:
            if self.connection.closed:
                raise
            execute("ROLLBACK TO SAVEPOINT best_effort")
            self.warnings.append(
                f"{what}: {one_line(error.diag.message_primary or str(error))}{remedy}"
            )

    def was_committed(self, xid: str) -> bool:
        """Say whether an earlier transaction, which is over, was committed; where nobody knows any more, that it was.

        It held the lock that this one holds, so it is over. Of two evils, a sample lost or written twice, lost it is.
        """
        status = one(self.connection.execute(SQL["xact_status"], {"xid": xid}))["status"]
        return bool(status != "aborted")

    def _waiting(self, figures: Sequence[Figure], begun: float) -> set[str]:
        if not figures or "system_metrics" not in self.present:
            return set()
        begun_at = self.time_of(begun)
        asked = [
            {
                "name": one.name,
                "metric": one.metric,
                "since": _slot(begun_at, one.every_s).isoformat(),
                "until": begun_at.isoformat(),
            }
            for one in figures
        ]
        return {
            row["name"]
            for row in self.connection.execute(
                SQL["already_taken"], {"figures": json.dumps(asked)}
            ).fetchall()
        }

    def _reading(self, figure: Figure, until: float) -> Reading:
        if missing := [table for table in figure.tables if table not in self.present]:
            return Reading(figure, problem=f"no table {', '.join(missing)}", absent=True)
        if hidden := [table for table in figure.tables if table in self.hidden]:
            return Reading(
                figure, problem=f"row level security hides {', '.join(hidden)}: set PG_ROLE"
            )
        begun = time.monotonic()
        timeout_s = min(figure.timeout_s, until - begun)
        if timeout_s <= 0:
            return Reading(figure, problem="the pass had no time left for it")
        found, refused = self._tried(figure, MAX_ROWS + 1, timeout_s)
        took_s = time.monotonic() - begun
        if found is None:
            return Reading(figure, problem=_problem(refused, timeout_s), took_s=took_s)
        try:
            samples, faults = samples_of(figure, _columns(found), found.fetchall())
        except (ValueError, psycopg.Error) as error:  # psycopg's: a date of `infinity`, for example
            return Reading(figure, problem=one_line(str(error)), took_s=took_s)
        return Reading(figure, samples, took_s=took_s, faults=faults)

    def _tried(
        self, figure: Figure, limit: int, timeout_s: float
    ) -> tuple[Cursor | None, psycopg.Error | None]:
        """Run a figure's statement where it can neither write nor become two; give its cursor, or what went wrong."""
        framed = f"SELECT * FROM (\n{figure.sql}\n) AS figure LIMIT {limit}"  # noqa: S608 - running it is what a figure is for
        execute = self.connection.execute
        try:
            with self.connection.pipeline():
                execute("SAVEPOINT figure")
                execute(
                    SQL["figure_limits"], {"statement_ms": str(max(1, round(timeout_s * 1000)))}
                )
                execute("SET LOCAL TimeZone TO DEFAULT")
                found = execute(framed.encode())
                execute("ROLLBACK TO SAVEPOINT figure")  # which takes the limits back as well
        except psycopg.Error as error:
            if self.connection.closed:
                raise
            execute("ROLLBACK TO SAVEPOINT figure")
            return None, error
        return found, None


def passes_given(at: datetime, rows: int) -> dict[str, Any]:
    """Give what the statement wants that looks for the passes before that time, in no more than so many rows of each."""
    return {"passes": list(PASSES), "metrics": list(PASSES.values()), "at": at, "rows": rows}


def one(cursor: Cursor) -> dict[str, Any]:
    """Give the row of a statement that always has one."""
    row = cursor.fetchone()
    assert row is not None, "a statement that always has a row"
    return row


def _problem(error: psycopg.Error | None, timeout_s: float) -> str:
    if isinstance(error, psycopg.errors.QueryCanceled):
        return f"took more than {timeout_s * 1000:.0f} ms"
    return "" if error is None else one_line(error.diag.message_primary or str(error))


def _columns(cursor: Cursor | None) -> list[str]:
    return [column.name for column in (cursor.description if cursor is not None else None) or ()]


def _slot(moment: datetime, every_s: float) -> datetime:
    """Give the beginning of the slot of so many seconds, counted from the epoch, in which a moment lies."""
    return datetime.fromtimestamp(moment.timestamp() // every_s * every_s, UTC)


def _services(cursor: Cursor | None) -> tuple[str, ...]:
    return tuple(row["service"] for row in cursor.fetchall()) if cursor else ()


def _remembered(row: Mapping[str, Any] | None, now: datetime, *, alerted: bool) -> KnownState:
    if row is None:
        return KnownState(alerted=alerted)
    streak = (
        row["streak"] if isinstance(row["streak"], int) else 0
    )  # absent in the rows of the old loops
    since = parse_time(row["since"])
    if since is not None and since > now:  # a clock was set back since, or somebody wrote it
        since = None
    return KnownState(row["status"] == "healthy", max(0, streak), since, row["checked_at"], alerted)


def _row(update: StateChange) -> dict[str, Any]:
    return {
        "service": update.verdict.target.name,
        "status": "healthy" if update.verdict.healthy else "unhealthy",
        "latency_ms": update.verdict.latency_ms,
        "details": details(update),
        "checked_at": update.checked_at.isoformat(),
    }
