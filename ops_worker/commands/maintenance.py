"""``ops-worker maintenance``: start, plan, list and end maintenances, in which no alert opens."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ops_worker.arguments import (
    add_action,
    by_option,
    duration,
    env_file,
    output_option,
    row_number,
    words,
)
from ops_worker.commands.alerts import user
from ops_worker.commands.database import opened, warn_not_recorded, write
from ops_worker.commands.explain import named_target
from ops_worker.core.installations import is_own_service
from ops_worker.core.passes import (
    MAINTENANCE_LOG,
    MAINTENANCE_TABLE,
    MAINTENANCE_TABLES,
    WINDOW_TABLE,
)
from ops_worker.core.samples import OPS_WORKER
from ops_worker.errors import DONE, SchemaError, SettingsError
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.core.maintenance import Occurrence, Recurrence, Window
    from ops_worker.history.maintenances import Listed
    from ops_worker.history.rows import RunningMaintenance
    from ops_worker.settings import Settings

TABLES = (*MAINTENANCE_TABLES, MAINTENANCE_LOG)
DEFAULT_ZONE = "UTC"
_log = logging.getLogger(__name__)
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_number = partial(row_number, noun="a maintenance", listed_by="maintenance list")
"""Parse the number of a maintenance window."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = add_action(
        actions,
        "start",
        "start a maintenance, or plan it with --at or --every: no alert opens while it lasts",
    )
    _start_options(start)
    end = add_action(actions, "end", "let alerts open again, from the next pass on")
    end.add_argument(
        "id",
        nargs="?",
        type=_number,
        metavar="ID",
        help="the number that `maintenance list` shows; a maintenance that repeats ends for good. "
        "Default: the maintenance of all services that was started without --at and --every",
    )
    for action in (start, end):
        by_option(action)
    add_action(
        actions, "status", "show the maintenance that is running, its end and who started it"
    )
    list_ = add_action(actions, "list", "list every maintenance that is running or planned")
    output_option(list_, "a table for people (the default), or one JSON document", plain="table")


def _start_options(start: argparse.ArgumentParser) -> None:
    start.add_argument(
        "--service",
        dest="services",
        nargs="+",
        action="extend",
        type=words,
        metavar="NAME",
        help="the services under maintenance; default: all of them",
    )
    start.add_argument(
        "--for",
        type=duration,
        dest="for_s",
        default=3600.0,
        metavar="TIME",
        help="how long it lasts: 30m, 1h (the default), 2d",
    )
    begin = start.add_mutually_exclusive_group()
    begin.add_argument(
        "--at",
        type=_at,
        metavar="TIME",
        help="begin later: 22:30 (the next time that it is 22:30), or 2026-03-01T02:00",
    )
    begin.add_argument(
        "--every",
        dest="recurrence",
        type=_every,
        metavar="WHEN",
        help="repeat the maintenance: 'Sunday 02:00', 'Mon,Thu 22:30', or 'day 03:00' (every day)",
    )
    start.add_argument(
        "--zone",
        type=_zone,
        default=DEFAULT_ZONE,
        metavar="ZONE",
        help="the time zone of --at and --every, such as Europe/Berlin; default: UTC",
    )
    start.add_argument("--reason", type=words, default="", help="why there is maintenance")
    start.add_argument(
        "--replace",
        action="store_true",
        help="replace the running maintenance of all services; without it, only the same command "
        "again starts it anew. Not with --service, --at or --every: those may run side by side",
    )


def _at(text: str) -> datetime | time:
    """Parse a time of day, or a date and time. Raises ArgumentTypeError for anything else."""
    if clock := _CLOCK.fullmatch(text):
        return time(int(clock[1]), int(clock[2]))
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is not a time; write 22:30, 2026-03-01T02:00, or 2026-03-01T02:00+01:00"
        ) from None


def _every(text: str) -> Recurrence:
    """Parse a recurrence. Raises ArgumentTypeError for anything else."""
    from ops_worker.core.maintenance import parse_recurrence

    try:
        return parse_recurrence(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def _zone(text: str) -> str:
    """Return the name of a time zone. Raises ArgumentTypeError if it is not known."""
    from ops_worker.zones import zone_of

    try:
        zone_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    return text


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Do the action, then print the running maintenances.

    Raises DatabaseError, SchemaError, or SettingsError if another maintenance is running, for an
    unknown service or number, or for a time in the past.
    """
    with opened(settings, "maintenance") as store:
        if options.action == "list":
            _list(store, options, settings)
        elif options.action == "start" and _is_window(options):
            print(_start_window(store, options, settings))
        else:
            before = ""
            if options.action == "start":
                before = _start(store, options)
            elif options.action == "end":
                before = _end(store, options)
            _show_running(store, settings, before)
    return DONE


def _is_window(options: argparse.Namespace) -> bool:
    """Return whether the options describe a window, not a maintenance of all services from now on.

    Raises SettingsError for options that contradict each other.
    """
    is_timed = options.at is not None or options.recurrence is not None
    if options.zone != DEFAULT_ZONE and not is_timed:
        raise SettingsError(["--zone needs --at or --every: it is the time zone of these options"])
    is_window = is_timed or options.services is not None
    if is_window and options.replace:
        fault = "--replace cannot be used with --service, --at or --every"
        remedy = "end the other maintenance first: `ops-worker maintenance end ID`"
        raise SettingsError([f"{fault}; {remedy}"])
    return is_window


def _show_running(store: Store, settings: Settings, before: str) -> None:
    """Print the running maintenances; ``before`` is the start of the first line."""
    from ops_worker.adapters.postgres import operations
    from ops_worker.history.maintenances import describe

    running, occurrences, now = store.read(_running, optional_tables=MAINTENANCE_TABLES)
    until = settings.maintenance_until
    lasts = until is not None and until > datetime.now(UTC)
    lines = [describe(occurrence, now) for occurrence in occurrences]
    if running:
        lines.insert(0, operations.describe(running))
    if not (lines or lasts):
        lines.append("no maintenance is running; alerts open")
    text = before + "\n".join(lines)
    if text:
        print(text.removesuffix("; "))
    if until is not None:
        past = "" if lasts else ", which is past"
        print(f"MAINTENANCE_UNTIL is set: until {until:%Y-%m-%d %H:%M:%S %Z}{past}")


def _running(
    transaction: Transaction,
) -> tuple[RunningMaintenance | None, list[Occurrence], datetime]:
    from ops_worker.adapters.postgres import maintenance_reads

    of_all = maintenance_reads.running_maintenance(transaction)
    return of_all, maintenance_reads.running_windows(transaction), transaction.now


def _start(store: Store, options: argparse.Namespace) -> str:
    """Start a maintenance; return a line about the maintenance that it replaced, or nothing."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    store.create([MAINTENANCE_TABLE])
    try:
        store.create([MAINTENANCE_LOG])
    except SchemaError as error:
        # A role that may not create the log can still start a maintenance.
        warn_not_recorded([str(error)])
    with contextlib.suppress(SchemaError):
        store.create([WINDOW_TABLE])
    maintenance = operations.NewMaintenance(
        seconds=options.for_s, by=options.by or user(), reason=options.reason
    )
    replaced = write(
        store,
        postgres.MAINTENANCE,
        lambda transaction: operations.start(transaction, maintenance, replace=options.replace),
        optional_tables=TABLES,
    )
    if replaced is None or not options.replace:
        return ""
    return f"replaced: {operations.describe(replaced)}\n"


def _start_window(store: Store, options: argparse.Namespace, settings: Settings) -> str:
    """Create a window; return a line about it, and one for each window that it replaced."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations
    from ops_worker.core.maintenance import next_occurrence
    from ops_worker.history.maintenances import describe
    from ops_worker.zones import zone_of

    if options.recurrence is not None:
        _require_gap(options.recurrence, timedelta(seconds=options.for_s))
    services = _known_services(options.services, settings)
    zone = zone_of(options.zone)
    store.create([WINDOW_TABLE])

    def make(transaction: Transaction) -> tuple[Window, list[int], datetime]:
        """Create the window; return it, the numbers of the windows that it replaces, and now."""
        begins = None
        if options.at is not None:
            begins = _begins(options.at, zone, transaction.now)
        request = operations.NewWindow(
            seconds=options.for_s,
            by=options.by or user(),
            reason=options.reason,
            services=services,
            begins=begins,
            recurrence=options.recurrence.text if options.recurrence is not None else "",
            zone=options.zone,
        )
        return *operations.start_window(transaction, request), transaction.now

    window, replaced, now = write(store, postgres.MAINTENANCE, make, optional_tables=TABLES)
    occurrence = next_occurrence(window, now)
    assert occurrence is not None, "a window that was made now is not over"
    lines = [f"replaces maintenance {number}, which was the same" for number in replaced]
    return "\n".join([describe(occurrence, now), *lines])


def _known_services(names: Sequence[str] | None, settings: Settings) -> list[str] | None:
    """Return the names of monitored services; None for all services.

    Raises SettingsError for a service that is not monitored: a mistyped name would suppress no
    alert, and people would notice this only when an alert opens.
    """
    from ops_worker.core.suggest import did_you_mean

    if names is None:
        return None
    targets = {target.name: target for target in settings.catalogue.targets}
    services: list[str] = []
    problems = []
    for name in names:
        target = named_target(name, targets)
        if target is not None:
            services.append(target.name)
        elif name == OPS_WORKER:
            services.append(name)
        elif is_own_service(name):
            hint = f"a maintenance of {OPS_WORKER} holds back the own alerts of all installations"
            problems.append(f"--service {one_line(name)}: {hint}")
        else:
            hint = did_you_mean(name, [*targets, OPS_WORKER])
            hint = hint or "; `ops-worker catalogue show` lists the services"
            problems.append(f"--service {one_line(name)}: this service is not monitored{hint}")
    if problems:
        raise SettingsError(problems)
    return sorted(set(services))


def _begins(at: datetime | time, zone: tzinfo, now: datetime) -> datetime:
    """Return when a planned window begins.

    Raises SettingsError for a time in the past or too far in the future.
    """
    from ops_worker.adapters.postgres.maintenance_reads import AHEAD
    from ops_worker.core.maintenance import planned_time

    clock = f"the database's clock says {now:%Y-%m-%dT%H:%M:%S}Z"
    try:
        begins = planned_time(at, zone, now)
    except ValueError as error:
        raise SettingsError([f"--at {at}: {error}"]) from None
    if begins <= now:
        raise SettingsError([f"--at {at}: this time is in the past; {clock}"])
    if begins > now + AHEAD:
        raise SettingsError([f"--at {at}: it is more than ten years ahead; {clock}"])
    return begins


def _require_gap(recurrence: Recurrence, length: timedelta) -> None:
    """Raise SettingsError if a window that repeats would never end, because it is too long."""
    gap = recurrence.shortest_gap
    if length >= gap:
        hours = f"{gap.total_seconds() / 3600:g}h"
        fault = f"--for: this maintenance begins again after {hours}"
        raise SettingsError([f"{fault}; give a shorter time"])


def _end(store: Store, options: argparse.Namespace) -> str:
    """End a maintenance; return the start of a line about it, or nothing if none was running."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import operations

    by = options.by or user()

    def end(transaction: Transaction) -> bool:
        """End the maintenance; return whether one was running."""
        if options.id is None:
            return operations.end_any(transaction, by)
        operations.end_window(transaction, options.id, by)
        return True

    was_running = write(store, postgres.MAINTENANCE, end, optional_tables=TABLES)
    if options.id is not None:
        return f"maintenance {options.id} has ended; "
    return "the maintenance has ended; " if was_running else ""


def _list(store: Store, options: argparse.Namespace, settings: Settings) -> None:
    """Print every running or planned maintenance. Maintenances of all services come first."""
    from ops_worker.history.documents import as_json
    from ops_worker.history.maintenances import list_table
    from ops_worker.history.screen import fitted

    maintenances, problems = store.read(
        lambda transaction: (
            _listed(transaction, settings.maintenance_until),
            transaction.warnings,
        ),
        optional_tables=MAINTENANCE_TABLES,
    )
    for problem in problems:
        extra = {"action": "window left out", "error": problem}
        _log.warning("a maintenance window cannot be read", extra=extra)
    if options.output == "json":
        print(json.dumps(as_json(maintenances)))
        return
    from ops_worker.commands.status import draw, screen_width

    width = screen_width()
    draw([fitted(list_table(maintenances), width)], width=width)


def _listed(transaction: Transaction, setting: datetime | None) -> list[Listed]:
    from ops_worker.adapters.postgres import maintenance_reads
    from ops_worker.core.maintenance import next_occurrence
    from ops_worker.history.maintenances import listed, listed_until

    now = transaction.now
    maintenances = []
    of_all = maintenance_reads.running_maintenance(transaction)
    if of_all is not None:
        maintenances.append(listed_until(of_all.until, of_all.started_by, of_all.reason))
    if setting is not None and setting > now:
        maintenances.append(listed_until(setting, "MAINTENANCE_UNTIL"))
    windows = maintenance_reads.open_windows(transaction)
    coming = [next_occurrence(window, now) for window in windows]
    return maintenances + [listed(item, now) for item in coming if item is not None]
