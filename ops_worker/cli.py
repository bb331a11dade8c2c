"""The command line: arguments to settings, settings to a pass, its outcome to a line and an exit code.

The modules that a command needs are imported when it runs, so that ``--help`` costs what argparse costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker import __version__
from ops_worker.commands import cluster, manifests
from ops_worker.core.model import Result
from ops_worker.core.report import RENDERERS, failed, message, summary
from ops_worker.errors import DONE, UNHEALTHY, OpsWorkerError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ops_worker.core.model import Observation, Outcome, Target, Tick
    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.1, 86_400.0

EXIT_CODES = """\
exit codes:
  0  the pass was done and recorded, whatever the services' state; or skipped, because another one held the lock
  1  it was not done: the database was away, the deadline passed, or a bug; a retry may help
  2  usage or settings: the message names the variable and what it wants
  3  schema or permission: the message says what to run or to set
  4  only with --fail-on-unhealthy: done and recorded, and a service is unhealthy
"""


class Command(NamedTuple):
    """A subcommand: what it does in a line, what adds its options, what runs it. Without settings it runs with options only."""

    summary: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[..., int]
    has_settings: bool = True


def main(argv: Sequence[str] | None = None, *, guarded: bool = False) -> int:
    """Run one command and give its exit code. The one place that catches everything.

    ``guarded`` is for a process of its own: signals and the deadline then end it.
    """
    begun = time.monotonic()
    try:
        parser = _parser()
        options = parser.parse_args(argv)
    except SystemExit as usage:  # argparse has said what is wrong, or printed the help
        return int(usage.code or 0)
    options.begun, options.parser = begun, parser
    try:
        _check(options)
        return _run(options, guarded=guarded)
    except OpsWorkerError as error:
        _log.debug("the command failed", exc_info=True)
        return _fail(options, error)
    except Exception as error:  # noqa: BLE001 - a bug: the traceback is worth its lines
        _log.exception("this is a bug in ops-worker")
        return _fail(options, OpsWorkerError(f"{type(error).__name__}: {error}"))


def _check(options: argparse.Namespace) -> None:
    """Refuse what the parser cannot: raises SettingsError."""
    unknown = [name for name in getattr(options, "passes", ()) if name not in {"health", "metrics"}]
    if unknown:
        raise SettingsError([f"no pass {', '.join(unknown)}: there are health and metrics"])
    if getattr(options, "every", 0) is None and options.seconds != math.inf:
        raise SettingsError(["--for wants --every as well"])


def _run(options: argparse.Namespace, *, guarded: bool) -> int:
    from ops_worker import guard, log, settings

    command = COMMANDS[options.command]
    options.left_at = settings.termination_message_path() if command.has_settings else ""
    if not command.has_settings:
        log.setup("INFO")
        guard.release_signals()
        return command.run(options)
    found = settings.load(options.env_file)
    options.left_at, options.job = found.termination_message_path, found.job_name
    log.setup(found.log_level)
    if guarded and not _intervals(options, found):
        left = found.pass_deadline - (time.monotonic() - options.begun)
        guard.watch(left, lambda why: _fail(options, OpsWorkerError(why)))
    return command.run(options, found)


def _pass(options: argparse.Namespace, settings: Settings) -> int:
    if options.every is not None:
        return _loop(options, settings)
    from ops_worker import termination
    from ops_worker.edges import store
    from ops_worker.passes import PASSES, Context

    again = store.Patience(settings.confirm_failures, settings.confirm_delay)
    database = store.Store(settings.connection, role=settings.pg_role, application=f"ops-worker {options.command}", again=again)
    observe = _observe(settings, settings.pass_deadline - (time.monotonic() - options.begun))
    try:
        outcome = PASSES[options.command](Context(settings, observe, database, time.monotonic, options.dry_run))
    finally:
        database.close()
    outcome = outcome._replace(duration_s=time.monotonic() - options.begun)
    code = _tell(options, outcome)
    termination.leave(settings.termination_message_path, message(summary(outcome, code, settings.job_name)))
    if settings.kubernetes_events and (outcome.opened or outcome.closed) and not options.dry_run:
        _announce(settings.job_name, outcome)
    return code


def _observe(settings: Settings, budget_s: float) -> Callable[[Sequence[Target]], list[Observation]]:
    from ops_worker.edges import probes

    if not settings.confirm_failures:
        return probes.observe
    return partial(probes.confirm, times=settings.confirm_failures, delay_s=settings.confirm_delay, budget_s=budget_s)


def _announce(job: str, outcome: Outcome) -> None:
    from ops_worker.edges.cluster import announce

    reasons = {verdict.target.name: verdict.reason for verdict in outcome.verdicts}
    for warning in announce(job, [(name, reasons[name]) for name in (*outcome.opened, *outcome.closed)]):
        _log.warning("no Kubernetes Event", extra={"action": "no event", "error": warning})


def _loop(options: argparse.Namespace, settings: Settings) -> int:
    """Run the passes that are asked for, each in a loop of its own."""
    from threading import Event

    from ops_worker import loop, termination
    from ops_worker.core.backlog import Backlog
    from ops_worker.edges import store
    from ops_worker.passes import PASSES, Context, metrics

    intervals = _intervals(options, settings)
    telemetry = None
    if options.command == "sidecar" and settings.sidecar_port:
        from ops_worker.edges.endpoint import Telemetry

        telemetry = Telemetry(intervals, settings.pass_deadline)
        telemetry.serve(settings.sidecar_host, settings.sidecar_port)

    worst = DONE

    def told(tick: Tick) -> int:
        nonlocal worst
        if telemetry is not None:
            telemetry.tell(tick)
        loop.log_tick(tick)
        code = tick.exit_code if tick.outcome is None else _tell(options, tick.outcome)
        job = settings.job_name
        found = failed(tick.loop, str(tick.error), code, job) if tick.outcome is None else summary(tick.outcome, code, job)
        worst = max(worst, code, key=loop.SEVERITY.index)
        if code == worst:  # the exit code will be that of the worst pass: so is the message
            termination.leave(settings.termination_message_path, message(found))
        return code

    def context(name: str, interval_s: float) -> Context:
        told_as = f"ops-worker {name}"
        database = store.Store(settings.connection, role=settings.pg_role, application=told_as, loop_deadline_s=settings.pass_deadline)
        keeps = name == "metrics" and not options.dry_run  # a dry run leaves nothing to be written later
        waiting = Backlog(settings.metrics_buffer_samples or math.ceil(3600 / interval_s)) if keeps else None
        return Context(settings, _observe(settings, settings.pass_deadline), database, time.monotonic, options.dry_run, waiting)

    stop, until = Event(), time.monotonic() + options.seconds
    loops = [
        loop.Loop(name, interval_s, PASSES[name], context(name, interval_s), told=told, stop=stop, until=until)
        for name, interval_s in intervals.items()
    ]

    def last() -> None:
        for one in loops:
            with contextlib.suppress(OpsWorkerError):
                if written := metrics.flush(one.context):
                    _log.info("samples that waited are written", extra={"action": "flushed", "count": written})
            one.context.store.close()

    return loop.run(loops, stop, grace_s=settings.shutdown_grace, last=last)


def _intervals(options: argparse.Namespace, settings: Settings) -> dict[str, float]:
    """Give the loops that the command line asks for, by name, with their intervals in seconds; none for a single pass."""
    if options.command == "sidecar":
        own = {"health": settings.health_check_interval, "metrics": settings.metrics_collection_interval}
        return {name: interval for name, interval in own.items() if name in (options.passes or own)}
    return {} if getattr(options, "every", None) is None else {options.command: options.every}


def _tell(options: argparse.Namespace, outcome: Outcome) -> int:
    """Print and log an outcome; give its exit code."""
    for update in outcome.updates:
        if (service := update.verdict.target.name) in {*outcome.opened, *outcome.closed} and not options.dry_run:
            action = "alert opened" if update.opens else "alert closed"
            _log.info(action, extra={"action": action, "service": service, "reason": update.verdict.reason})
    for warning in outcome.warnings:
        _log.warning("left out of the sample", extra={"action": "left out", "what": warning})
    with contextlib.suppress(OSError):  # nobody reads any more, or a disk is full: what was done stands in the database
        sys.stdout.write(RENDERERS[options.output](outcome) + "\n")  # one write: lines of two loops never mix
        sys.stdout.flush()
    judged = outcome.result in {Result.RECORDED, Result.DRY_RUN}
    return UNHEALTHY if options.fail_on_unhealthy and judged and outcome.unhealthy else DONE


def _init_db(options: argparse.Namespace, settings: Settings) -> int:
    from ops_worker.edges import store

    database = store.Store(settings.connection, role=settings.pg_role, application="ops-worker init-db")
    own = ("system_metrics", "service_health")
    try:
        made = database.create([*(store.STANDALONE_TABLES if options.standalone else ()), *own])
    finally:
        database.close()
    for table, new in made.items():
        print(f"{table}: {'created' if new else 'already there'}")
    return DONE


def _fail(options: argparse.Namespace, error: OpsWorkerError) -> int:
    faults = error.faults if isinstance(error, SettingsError) else (str(error),)
    for fault in faults:
        print(f"ops-worker {options.command}: {fault}", file=sys.stderr)
    if getattr(options, "output", "") == "json":
        failure = {"pass": options.command, "result": "failed", "error": str(error), "exit_code": error.exit_code}
        print(json.dumps(failure))
    if path := getattr(options, "left_at", ""):
        from ops_worker import termination

        termination.leave(path, message(failed(options.command, str(error), error.exit_code, getattr(options, "job", ""))))
    return error.exit_code


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read settings from FILE instead of .env; the environment wins")


def _pass_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="probe, judge and read; show what would be written; write nothing")
    parser.add_argument("--output", choices=sorted(RENDERERS), default="text", help="the closing line (text, the default), or all of it")
    parser.add_argument("--fail-on-unhealthy", action="store_true", help="end with exit code 4 when a service is unhealthy")
    parser.add_argument(
        "--every", type=_seconds, metavar="SECONDS", help="run the pass again and again in this process, on a fixed cadence"
    )
    parser.add_argument("--for", type=_seconds, dest="seconds", default=math.inf, metavar="SECONDS",
                        help="with --every: end by itself after so long, with the exit code of the worst pass")  # fmt: skip


def _sidecar_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("passes", nargs="*", metavar="PASS", help="health, metrics; both when none is named")
    parser.set_defaults(output="text", dry_run=False, fail_on_unhealthy=False, seconds=math.inf)


def _seconds(text: str) -> float:
    value = float(text)
    if not MIN_INTERVAL_S <= value <= MAX_INTERVAL_S:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds from {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}")
    return value


def _init_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--standalone", action="store_true", help="also create minimal tenants and fleet_alert, where there is no platform")


COMMANDS = {
    "health": Command("probe the services once, record their state, open and close alerts", _pass_options, _pass),
    "metrics": Command("append one sample of the services' counters and the database's figures", _pass_options, _pass),
    "sidecar": Command("run both passes, or those named, each in a loop of its own, until told to stop", _sidecar_options, _loop),
    "init-db": Command("create the tables that the worker owns, where they are missing", _init_options, _init_db),
    "trigger": Command("run a pass in the cluster now, from its CronJob", cluster.trigger_options, cluster.trigger, has_settings=False),
    "cluster": Command(
        "show what the CronJobs in the cluster do, and what is wrong", cluster.cluster_options, cluster.cluster, has_settings=False
    ),
    "manifests": Command("check Kubernetes manifests that run the worker", manifests.options, manifests.run, has_settings=False),
}
"""Every subcommand. Adding one here is all it takes to have it parsed, run and helped."""


class _Parser(argparse.ArgumentParser):
    """A parser whose epilog is made when somebody asks for help, not at the start of every pass."""

    def format_help(self) -> str:
        command = self.prog.partition(" ")[2]
        self.epilog = f"{_variables(command)}\n{EXIT_CODES}" if command in COMMANDS and COMMANDS[command].has_settings else EXIT_CODES
        return super().format_help()


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Health and metrics passes for an IoT platform. A command is one pass, which does its work and ends, or a loop of them."
    parser = _Parser("ops-worker", description=about, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"ops-worker {__version__}")
    commands: Any = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.options(
            commands.add_parser(name, help=command.summary, description=command.summary.capitalize() + ".", formatter_class=raw)
        )
    return parser


def _variables(command: str) -> str:
    from ops_worker.variables import variables

    lines = ["environment variables, the first one set wins; an empty one is as good as unset, except where it says so:"]
    for variable in variables():
        if variable.commands and command not in variable.commands:
            continue
        default = f" (default {variable.default})" if variable.default else ""
        lines.append("  " + ", ".join(variable.names) + default)
        lines.append(textwrap.fill(variable.meaning, 100, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines) + "\n"
