"""``ops-worker sidecar`` and ``--every``: passes in loops, each with its own thread and connection."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file
from ops_worker.commands.run_pass import observe, report, store
from ops_worker.core.output import failed, message, summary
from ops_worker.core.passes import PASSES
from ops_worker.errors import DONE, OpsWorkerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ops_worker.core.model import Tick
    from ops_worker.core.passes import PassSpec
    from ops_worker.loop import Loop
    from ops_worker.passes import Context
    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sidecar``."""
    env_file(parser)
    names = ", ".join(PASSES)
    parser.add_argument(
        "passes", nargs="*", metavar="PASS", help=f"{names}; all of them when none is named"
    )
    parser.set_defaults(output="text", dry_run=False, fail_on_unhealthy=False, seconds=math.inf)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the passes that the command line asks for, each in a loop of its own."""
    from threading import Event

    from ops_worker import loop, process
    from ops_worker.passes import function_of

    intervals = intervals_of(options, settings)
    telemetry = None
    if options.command == "sidecar" and settings.sidecar_port:
        from ops_worker.adapters.http_server import Telemetry

        telemetry = Telemetry(intervals, settings.pass_deadline)
        telemetry.serve(settings.sidecar_host, settings.sidecar_port)

    worst = DONE

    def report_tick(tick: Tick) -> int:
        nonlocal worst
        if telemetry is not None:
            telemetry.tell(tick)
        loop.log_tick(tick)
        if tick.outcome is None:
            code = tick.exit_code
            document = failed(tick.loop, tick.problem, code, settings.job_name)
        else:
            code = report(options, tick.outcome)
            document = summary(tick.outcome, code, settings.job_name)
        worst = max(worst, code, key=loop.SEVERITY.index)
        if code == worst:  # the exit code will be that of the worst pass: so is the message
            path = settings.termination_message_path
            process.write_termination_message(path, message(document))
        return code

    stop, until = Event(), time.monotonic() + options.seconds
    loops = [
        loop.Loop(
            name,
            interval_s,
            function_of(name),
            _context(options, settings, PASSES[name], interval_s),
            told=report_tick,
            stop=stop,
            until=until,
        )
        for name, interval_s in intervals.items()
    ]
    code = loop.run(loops, stop, grace_s=settings.shutdown_grace, last=partial(_close, loops))
    if _lost(loops) and code == DONE and options.seconds != math.inf:
        return OpsWorkerError.exit_code
    return code


def intervals_of(options: argparse.Namespace, settings: Settings) -> dict[str, float]:
    """Return the intervals in seconds of the loops that the command line asks for, by name.

    There are none for a single pass.
    """
    if options.command == "sidecar":
        names = options.passes or PASSES
        return {
            name: getattr(settings, spec.interval_setting)
            for name, spec in PASSES.items()
            if name in names
        }
    if getattr(options, "every", None) is None:
        return {}
    return {options.command: options.every}


def _context(
    options: argparse.Namespace, settings: Settings, spec: PassSpec, interval_s: float
) -> Context:
    """Return what the pass of a loop needs: its own connection, and a backlog if it buffers."""
    from ops_worker.core.backlog import MEBIBYTE, Backlog
    from ops_worker.passes import Context

    backlog = None
    if spec.buffers and not options.dry_run:  # a dry run leaves nothing to be written later
        backlog = Backlog(
            settings.metrics_buffer_samples or math.ceil(3600 / interval_s),
            settings.metrics_buffer_mib * MEBIBYTE,
        )
    return Context(
        settings=settings,
        observe=observe(settings, settings.pass_deadline),
        store=store(settings, spec.name, loop_deadline_s=settings.pass_deadline),
        clock=time.monotonic,
        dry_run=options.dry_run,
        backlog=backlog,
        period_s=interval_s,
    )


def _close(loops: Sequence[Loop], end: float) -> None:
    """Write the samples that wait, until the moment ``end``, and close the connections."""
    from ops_worker.passes import metrics

    for loop in loops:
        if not loop.finished:
            continue
        with contextlib.suppress(OpsWorkerError):
            if written := metrics.flush(loop.context, end):
                extra = {"action": "flushed", "count": written}
                _log.info("samples that waited are written", extra=extra)
        loop.context.store.close()


def _lost(loops: Sequence[Loop]) -> int:
    """Count and report the samples that are lost because the database did not take them in time."""
    lost = 0
    for loop in loops:
        if loop.context.backlog is not None and (left := loop.context.backlog.unwritten):
            lost += left
            _log.warning(
                "samples lost: the database did not take them before the end",
                extra={"action": "samples lost", "loop": loop.name, "count": left},
            )
    return lost
