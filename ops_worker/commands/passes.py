"""The passes as commands: once, in a loop, and what they need made before; what is printed, logged and left of each."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import re
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Self

from ops_worker.adapters.http.heartbeat import heartbeat
from ops_worker.arguments import env_file
from ops_worker.core.health import remedy
from ops_worker.core.model import Result
from ops_worker.core.output import RENDERERS, failed, message, summary
from ops_worker.errors import DONE, UNHEALTHY, OpsWorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ops_worker.adapters.postgres import Store
    from ops_worker.core.model import Observation, Outcome, Target, Tick
    from ops_worker.loop import Loop
    from ops_worker.passes import Context
    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.1, 86_400.0
MAX_SHARDS = 1000
OTHER = {"health": "metrics", "metrics": "health"}
"""Whom each pass watches."""
PROGRESS_AFTER_S, PROGRESS_EACH_S = 2.0, 0.2
ANNOUNCE_RESERVE_S = 1.0
"""Seconds of a pass that Events and the heartbeat must leave: it is recorded by then, and its deadline must not make a failure of it."""


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run one pass, or with --every a loop of it; give the exit code."""
    settings = _sharded(options, settings)
    if options.every is not None:
        return repeat(options, settings)
    from ops_worker import process
    from ops_worker.passes import PASSES, Context

    beat = (
        settings.heartbeat_url.get_secret_value()
        if settings.heartbeat_url and not options.dry_run
        else ""
    )
    end = options.begun + settings.pass_deadline - ANNOUNCE_RESERVE_S
    with heartbeat(beat, end), contextlib.closing(_store(settings, options.command)) as database:
        observe = _observe(settings, settings.pass_deadline - (time.monotonic() - options.begun))
        context = Context(
            settings,
            observe,
            database,
            time.monotonic,
            options.dry_run,
            period_s=settings.pass_period,
        )
        outcome = PASSES[options.command](context)
        outcome = outcome._replace(duration_s=time.monotonic() - options.begun)
        code = _tell(options, outcome)
    process.write_termination_message(
        settings.termination_message_path, message(summary(outcome, code, settings.job_name))
    )
    if settings.kubernetes_events and (outcome.opened or outcome.closed) and not options.dry_run:
        left = settings.pass_deadline - (time.monotonic() - options.begun)
        _announce(settings.job_name, outcome, left - ANNOUNCE_RESERVE_S)
    return code


def _sharded(options: argparse.Namespace, settings: Settings) -> Settings:
    """Give the settings with the shard that the command line names, which wins over the environment's."""
    if options.shard is None:
        return settings
    index, count = options.shard
    return settings.model_copy(update={"job_completion_index": index, "shard_count": count})


def _observe(
    settings: Settings, budget_s: float
) -> Callable[[Sequence[Target]], list[Observation]]:
    from ops_worker.adapters import http

    wanted, fits = settings.probe_concurrency, http.fitting(settings.probe_concurrency)
    if fits < wanted and wanted != http.CONCURRENCY:  # the default adapts silently
        what = f"PROBE_CONCURRENCY is {wanted}, but open files are limited to {fits} probes at once"
        facts = {"action": "fewer probes at once", "what": what, "remedy": "raise ulimit -n"}
        _log.warning("fewer probes at once", extra=facts)
    look = partial(
        http.confirm,
        times=settings.confirm_failures,
        delay_s=settings.confirm_delay,
        concurrency=settings.probe_concurrency,
        budget_s=budget_s - http.RESERVE_S,
    )

    def observe(targets: Sequence[Target]) -> list[Observation]:
        with _Progress(len(targets)) as progress:
            return look(targets, told=progress)

    return observe if sys.stderr.isatty() else look


class _Progress:
    """A line on a terminal that tells how far a long round of probes is; nothing is told of a short one."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._due = time.monotonic() + PROGRESS_AFTER_S
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int) -> None:
        """Take how many are done."""
        if (now := time.monotonic()) >= self._due:
            self._write(f"probed {done} of {self._total}")
            self._due, self._shown = now + PROGRESS_EACH_S, True

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._write("")

    @staticmethod
    def _write(line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal went away
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()


def _announce(job: str, outcome: Outcome, deadline_s: float) -> None:
    from ops_worker.adapters.kubernetes import announce

    reasons = {verdict.target.name: verdict.reason for verdict in outcome.verdicts}
    told = [
        (name, reasons.get(name, f"the {OTHER[outcome.name]} pass stopped"))
        for name in outcome.opened
    ]
    transitions = told + [(name, "") for name in outcome.closed]
    for warning in announce(job, transitions, deadline_s):
        _log.warning("no Kubernetes Event", extra={"action": "no event", "error": warning})


def repeat(options: argparse.Namespace, settings: Settings) -> int:
    """Run the passes that are asked for, each in a loop of its own."""
    from threading import Event

    from ops_worker import loop, process
    from ops_worker.passes import PASSES

    intervals = intervals_of(options, settings)
    telemetry = None
    if options.command == "sidecar" and settings.sidecar_port:
        from ops_worker.adapters.http_server import Telemetry

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
        found = (
            failed(tick.loop, tick.problem, code, job)
            if tick.outcome is None
            else summary(tick.outcome, code, job)
        )
        worst = max(worst, code, key=loop.SEVERITY.index)
        if code == worst:  # the exit code will be that of the worst pass: so is the message
            process.write_termination_message(settings.termination_message_path, message(found))
        return code

    stop, until = Event(), time.monotonic() + options.seconds
    loops = [
        loop.Loop(
            name,
            interval_s,
            PASSES[name],
            _looped(options, settings, name, interval_s),
            told=told,
            stop=stop,
            until=until,
        )
        for name, interval_s in intervals.items()
    ]

    code = loop.run(loops, stop, grace_s=settings.shutdown_grace, last=partial(_close, loops))
    if _lost(loops) and code == DONE and options.seconds != math.inf:
        return OpsWorkerError.exit_code
    return code


def _close(loops: Sequence[Loop], end: float) -> None:
    """Write the samples that wait, until the moment ``end``, and close the connections."""
    from ops_worker.passes import metrics

    for one in (ended for ended in loops if ended.finished):
        with contextlib.suppress(OpsWorkerError):
            if written := metrics.flush(one.context, end):
                _log.info(
                    "samples that waited are written", extra={"action": "flushed", "count": written}
                )
        one.context.store.close()


def _lost(loops: Sequence[Loop]) -> int:
    """Count and report the samples that are lost, because the database did not take them in time."""
    lost = 0
    for one in loops:
        if one.context.backlog is not None and (left := one.context.backlog.unwritten):
            lost += left
            _log.warning(
                "samples lost: the database did not take them before the end",
                extra={"action": "samples lost", "loop": one.name, "count": left},
            )
    return lost


def _looped(
    options: argparse.Namespace, settings: Settings, name: str, interval_s: float
) -> Context:
    """Give a loop's pass what it needs: a connection of its own, and for the metrics a place where samples wait."""
    from ops_worker.core.backlog import MEBIBYTE, Backlog
    from ops_worker.passes import Context

    database = _store(settings, name, loop_deadline_s=settings.pass_deadline)
    keeps = (
        name == "metrics" and not options.dry_run
    )  # a dry run leaves nothing to be written later
    waiting = None
    if keeps:
        waiting = Backlog(
            settings.metrics_buffer_samples or math.ceil(3600 / interval_s),
            settings.metrics_buffer_mib * MEBIBYTE,
        )
    observe = _observe(settings, settings.pass_deadline)
    return Context(
        settings, observe, database, time.monotonic, options.dry_run, waiting, interval_s
    )


def _store(settings: Settings, name: str, *, loop_deadline_s: float = 0.0) -> Store:
    from ops_worker.adapters import postgres

    return postgres.Store(
        settings.connection,
        role=settings.pg_role,
        application=f"ops-worker {name}",
        loop_deadline_s=loop_deadline_s,
        again=postgres.RetryPolicy(settings.confirm_failures, settings.confirm_delay),
        shard=settings.job_completion_index,
    )


def intervals_of(options: argparse.Namespace, settings: Settings) -> dict[str, float]:
    """Give the loops that the command line asks for, by name, with their intervals in seconds; none for a single pass."""
    if options.command == "sidecar":
        own = {
            "health": settings.health_check_interval,
            "metrics": settings.metrics_collection_interval,
        }
        return {name: interval for name, interval in own.items() if name in (options.passes or own)}
    return {} if getattr(options, "every", None) is None else {options.command: options.every}


def _tell(options: argparse.Namespace, outcome: Outcome) -> int:
    """Print and log an outcome; give its exit code."""
    changed = set() if options.dry_run else {*outcome.opened, *outcome.closed}
    for update in outcome.updates:
        if (service := update.verdict.target.name) in changed:
            action = "alert opened" if update.opens else "alert closed"
            _log.info(
                action,
                extra={"action": action, "service": service, "reason": update.verdict.reason},
            )
    for service in (
        ()
        if options.dry_run
        else sorted(changed - {update.verdict.target.name for update in outcome.updates})
    ):
        action = "alert opened" if service in outcome.opened else "alert closed"
        _log.warning(
            action,
            extra={
                "action": action,
                "service": service,
                "reason": f"the {OTHER[outcome.name]} pass",
            },
        )
    for warning in outcome.warnings:
        _log.warning("the sample", extra={"action": "sample", "what": warning})
    if outcome.unprobed:
        facts = {
            "count": len(outcome.unprobed),
            "first": " ".join(outcome.unprobed[:10]),
            "because": ", ".join(outcome.unprobed_because),
            "remedy": remedy(outcome.unprobed_because),
        }
        _log.warning("not probed", extra={"action": "not probed", **facts})
    with contextlib.suppress(
        OSError
    ):  # nobody reads any more, or a disk is full: what was done stands in the database
        sys.stdout.write(
            RENDERERS[options.output](outcome) + "\n"
        )  # one write: lines of two loops never mix
        sys.stdout.flush()
    judged = outcome.result in {Result.RECORDED, Result.DRY_RUN}
    return UNHEALTHY if options.fail_on_unhealthy and judged and outcome.unhealthy else DONE


def init_db(options: argparse.Namespace, settings: Settings) -> int:
    """Make the worker's tables where they are missing, or look at the indexes; tell of each."""
    from ops_worker.adapters import postgres

    database = _store(settings, "init-db")
    if options.indexes:
        with contextlib.closing(database):
            for proposal in database.indexes(make=options.indexes == "create"):
                print(
                    f"-- {proposal.said}",
                    *([f"{proposal.statement};"] if proposal.statement else []),
                    sep="\n",
                    flush=True,
                )
        return DONE
    maintenance = (postgres.MAINTENANCE_TABLE, postgres.MAINTENANCE_LOG)
    own = ("system_metrics", "service_health", "service_health_current", *maintenance)
    try:
        made = database.create([*(postgres.STANDALONE_TABLES if options.standalone else ()), *own])
    finally:
        database.close()
    for table, new in made.items():
        print(f"{table}: {'created' if new else 'already there'}")
    return DONE


def _common_options(parser: argparse.ArgumentParser) -> None:
    env_file(parser)


def pass_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a pass."""
    _common_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="probe, judge and read; show what would be written; write nothing",
    )
    parser.add_argument(
        "--output",
        choices=sorted(RENDERERS),
        default="text",
        help="the closing line (text, the default), or all of it",
    )
    parser.add_argument(
        "--fail-on-unhealthy",
        action="store_true",
        help="end with exit code 4 when a service is unhealthy",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only the I-th of N shares of the services, from 0; else SHARD_COUNT",
    )
    parser.add_argument(
        "--every",
        type=_seconds,
        metavar="SECONDS",
        help="run the pass again and again in this process, on a fixed cadence",
    )
    parser.add_argument("--for", type=_seconds, dest="seconds", default=math.inf, metavar="SECONDS",
                        help="with --every: end by itself after so long, with the exit code of the worst pass")  # fmt: skip


def sidecar_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sidecar``."""
    _common_options(parser)
    parser.add_argument(
        "passes", nargs="*", metavar="PASS", help="health, metrics; both when none is named"
    )
    parser.set_defaults(output="text", dry_run=False, fail_on_unhealthy=False, seconds=math.inf)


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    numbers = re.fullmatch(r"[0-9]{1,4}/[0-9]{1,4}", text)
    if numbers is None or not int(index) < int(count) <= MAX_SHARDS:
        raise argparse.ArgumentTypeError(
            f"{text} is no shard: 0/4 is the first of four, of at most {MAX_SHARDS}"
        )
    return int(index), int(count)


def _seconds(text: str) -> float:
    value = float(text)
    if not MIN_INTERVAL_S <= value <= MAX_INTERVAL_S:
        raise argparse.ArgumentTypeError(
            f"{text} is no number of seconds from {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}"
        )
    return value


def init_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``init-db``."""
    _common_options(parser)
    parser.add_argument(
        "--indexes",
        nargs="?",
        choices=["print", "create"],
        const="print",
        help="instead: print, as SQL, the indexes that make the figures cost what they find; `create` also makes them, concurrently",
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="also create minimal tenants and fleet_alert, where there is no platform",
    )
