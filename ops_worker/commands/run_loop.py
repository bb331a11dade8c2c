"""``ops-worker sidecar`` and ``--every``: run passes in loops, one thread and connection each."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file
from ops_worker.commands.run_pass import observer, posts_alerts, report, store
from ops_worker.core.output import failure_summary, message, summary
from ops_worker.core.passes import HEALTH, PASSES
from ops_worker.errors import DONE, OpsWorkerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from ops_worker.adapters.http_server import Telemetry
    from ops_worker.commands.post_alerts import Poster
    from ops_worker.core.model import Tick
    from ops_worker.core.passes import PassSpec
    from ops_worker.loop import Loop
    from ops_worker.passes import Context
    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")

BUFFERED_S = 3600
"""Seconds of samples that a loop buffers by default (METRICS_BUFFER_SAMPLES)."""
CUT_SHORT = "stopped by a signal before the end of --for; the remaining passes were not run"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sidecar``."""
    env_file(parser)
    names = ", ".join(PASSES)
    parser.add_argument(
        "passes", nargs="*", metavar="PASS", help=f"passes to run: {names} (default: all)"
    )
    parser.set_defaults(output="text", dry_run=False, fail_on_unhealthy=False, for_s=math.inf)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the passes that the command line names, one loop each; return the exit code.

    Raises OpsWorkerError if a signal came before the end of ``--for`` and no pass had a worse end.
    """
    from threading import Event

    from ops_worker import loop
    from ops_worker.passes import function_of

    intervals = intervals_of(options, settings)
    poster = _poster(options, settings, intervals)
    report_tick = _Reporter(options, settings, _telemetry(options, settings, intervals), poster)
    stop = Event()
    until = loop.SYSTEM_CLOCK.monotonic() + options.for_s
    loops = [
        loop.Loop(
            name,
            interval_s,
            function_of(name),
            _context(options, settings, PASSES[name], interval_s),
            report=report_tick,
            stop=stop,
            until=until,
        )
        for name, interval_s in intervals.items()
    ]
    close = partial(_close, loops, poster=poster)
    code = loop.run(loops, stop, grace_s=settings.shutdown_grace, close=close)
    lost = _report_lost(loops)
    if options.for_s == math.inf:
        return code
    is_complete = all(loop.is_complete for loop in loops)
    if code == OpsWorkerError.exit_code and stop.is_set() and not is_complete:
        raise OpsWorkerError(CUT_SHORT)
    if lost and code == DONE:
        return OpsWorkerError.exit_code
    return code


class _Reporter:
    """Reports every tick: endpoint, log, closing line, termination message and post."""

    def __init__(
        self,
        options: argparse.Namespace,
        settings: Settings,
        telemetry: Telemetry | None,
        poster: Poster | None = None,
    ) -> None:
        self._options = options
        self._settings = settings
        self._telemetry = telemetry
        self._poster = poster
        self._worst = DONE

    def __call__(self, tick: Tick) -> int:
        """Report a tick; return its exit code."""
        from ops_worker import loop, process

        if self._telemetry is not None:
            self._telemetry.record(tick)
        loop.log_tick(tick)
        job = self._settings.job_name
        if tick.outcome is None:
            code = tick.exit_code
            document = failure_summary(tick.loop, tick.problem, code, job)
        else:
            code = report(self._options, tick.outcome)
            document = summary(tick.outcome, code, job)
        if self._poster is not None and tick.loop == HEALTH.name:
            self._poster.request(pass_failed=isinstance(tick.error, OpsWorkerError))
        self._worst = loop.worst(self._worst, code)
        # The termination message is about the worst pass, whose exit code ends the process.
        if code == self._worst:
            path = self._settings.termination_message_path
            process.write_termination_message(path, message(document))
        return code


def _telemetry(
    options: argparse.Namespace, settings: Settings, intervals: Mapping[str, float]
) -> Telemetry | None:
    """Serve /health, /ready and /metrics, if this is a sidecar with a port."""
    if options.command != "sidecar" or not settings.sidecar_port:
        return None
    from ops_worker.adapters.http_server import Telemetry

    telemetry = Telemetry(intervals, settings.pass_deadline)
    telemetry.serve(settings.sidecar_host, settings.sidecar_port)
    return telemetry


def _poster(
    options: argparse.Namespace, settings: Settings, intervals: Mapping[str, float]
) -> Poster | None:
    """Return the poster of alerts for the ticks of the health loop, with its own connection."""
    interval_s = intervals.get(HEALTH.name)
    is_wanted = posts_alerts(settings, HEALTH.name, dry_run=options.dry_run)
    if interval_s is None or not is_wanted:
        return None
    from ops_worker.commands import post_alerts

    deadline_s = post_alerts.POST_DEADLINE_S
    database = store(settings, "alertmanager", loop_deadline_s=deadline_s)
    return post_alerts.Poster(partial(post_alerts.post, settings, database, interval_s, deadline_s))


def intervals_of(options: argparse.Namespace, settings: Settings) -> dict[str, float]:
    """Return the interval in seconds of every requested loop, by pass.

    A single pass has no loop.
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
    """Return the context of a loop: its own connection, and a backlog if the pass has a flush."""
    from ops_worker.core.backlog import MEBIBYTE, Backlog
    from ops_worker.core.sightings import Sightings
    from ops_worker.passes import Context

    backlog = None
    if spec.flush and not options.dry_run:  # a dry run leaves nothing to write later
        backlog = Backlog(
            settings.metrics_buffer_samples or math.ceil(BUFFERED_S / interval_s),
            settings.metrics_buffer_mib * MEBIBYTE,
        )
    return Context(
        settings=settings,
        observe=observer(settings, settings.pass_deadline),
        store=store(settings, spec.name, loop_deadline_s=settings.pass_deadline),
        clock=time.monotonic,
        dry_run=options.dry_run,
        backlog=backlog,
        period_s=interval_s,
        sightings=Sightings(),
    )


def _close(loops: Sequence[Loop], deadline: float, *, poster: Poster | None = None) -> None:
    """Write the waiting samples until ``deadline`` (monotonic clock), then close the connections.

    Also wait until ``deadline`` for a running post.
    """
    from ops_worker.passes import flush_of

    for loop in loops:
        if not loop.finished:  # the pass of the loop still uses the connection
            continue
        flush = flush_of(loop.name)
        with contextlib.suppress(OpsWorkerError):
            written = flush(loop.context, deadline) if flush else 0
            if written:
                extra = {"action": "flushed", "count": written}
                _log.info("wrote the samples that waited for the database", extra=extra)
        loop.context.store.close()
    if poster is not None:
        poster.finish(deadline)


def _report_lost(loops: Sequence[Loop]) -> int:
    """Log the samples that were not written before the end; return their number."""
    lost = 0
    for loop in loops:
        backlog = loop.context.backlog
        if backlog is None or not backlog.unwritten:
            continue
        lost += backlog.unwritten
        _log.warning(
            "samples lost: the database did not take them before the end",
            extra={"action": "samples lost", "loop": loop.name, "count": backlog.unwritten},
        )
    return lost
