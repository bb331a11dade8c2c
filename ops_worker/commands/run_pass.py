"""``ops-worker health`` and the other passes: one pass, what it prints and what it leaves."""

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
from ops_worker.core.output import RENDERERS, message, summary
from ops_worker.core.passes import peers
from ops_worker.errors import DONE, UNHEALTHY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ops_worker.adapters.postgres import Store
    from ops_worker.core.model import Observation, Outcome, Target
    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.1, 86_400.0
MAX_SHARDS = 1000
PROGRESS_AFTER_S, PROGRESS_EVERY_S = 2.0, 0.2
ANNOUNCE_RESERVE_S = 1.0
"""Seconds before PASS_DEADLINE at which Events and the heartbeat give up.

By then the pass is recorded; its deadline must not make a failure of it.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a pass."""
    env_file(parser)
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
    parser.add_argument(
        "--for",
        type=_seconds,
        dest="seconds",
        default=math.inf,
        metavar="SECONDS",
        help="with --every: end by itself after so long, with the exit code of the worst pass",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run one pass, or with --every a loop of it; return the exit code."""
    settings = _sharded(options, settings)
    if options.every is not None:
        from ops_worker.commands import run_loop

        return run_loop.run(options, settings)
    from ops_worker import process
    from ops_worker.passes import Context, function_of

    url = ""
    if settings.heartbeat_url and not options.dry_run:
        url = settings.heartbeat_url.get_secret_value()
    end = options.begun + settings.pass_deadline - ANNOUNCE_RESERVE_S
    with heartbeat(url, end), contextlib.closing(store(settings, options.command)) as database:
        left_s = settings.pass_deadline - (time.monotonic() - options.begun)
        context = Context(
            settings=settings,
            observe=observe(settings, left_s),
            store=database,
            clock=time.monotonic,
            dry_run=options.dry_run,
            period_s=settings.pass_period,
        )
        outcome = function_of(options.command)(context)
        outcome = outcome._replace(duration_s=time.monotonic() - options.begun)
        code = report(options, outcome)
    line = message(summary(outcome, code, settings.job_name))
    process.write_termination_message(settings.termination_message_path, line)
    if settings.kubernetes_events and (outcome.opened or outcome.closed) and not options.dry_run:
        left_s = settings.pass_deadline - (time.monotonic() - options.begun)
        _announce(settings.job_name, outcome, left_s - ANNOUNCE_RESERVE_S)
    return code


def store(settings: Settings, name: str, *, loop_deadline_s: float = 0.0) -> Store:
    """Return the database of a pass; nothing is connected yet."""
    from ops_worker.adapters import postgres

    return postgres.Store(
        settings.connection,
        role=settings.pg_role,
        application=f"ops-worker {name}",
        loop_deadline_s=loop_deadline_s,
        again=postgres.RetryPolicy(settings.confirm_failures, settings.confirm_delay),
        shard=settings.job_completion_index,
    )


def observe(settings: Settings, budget_s: float) -> Callable[[Sequence[Target]], list[Observation]]:
    """Return the function that probes targets in ``budget_s`` seconds at most."""
    from ops_worker.adapters import http

    wanted, fits = settings.probe_concurrency, http.fitting(settings.probe_concurrency)
    if fits < wanted and wanted != http.CONCURRENCY:  # the default adapts silently
        what = f"PROBE_CONCURRENCY is {wanted}, but open files are limited to {fits} probes at once"
        extra = {"action": "fewer probes at once", "what": what, "remedy": "raise ulimit -n"}
        _log.warning("fewer probes at once", extra=extra)
    probe = partial(
        http.confirm,
        times=settings.confirm_failures,
        delay_s=settings.confirm_delay,
        concurrency=settings.probe_concurrency,
        budget_s=budget_s - http.RESERVE_S,
    )

    def probe_with_progress(targets: Sequence[Target]) -> list[Observation]:
        with _Progress(len(targets)) as progress:
            return probe(targets, on_progress=progress)

    return probe_with_progress if sys.stderr.isatty() else probe


def report(options: argparse.Namespace, outcome: Outcome) -> int:
    """Print and log an outcome; return its exit code."""
    if not options.dry_run:
        _log_alerts(outcome)
    for warning in outcome.warnings:
        _log.warning("the sample", extra={"action": "sample", "what": warning})
    if outcome.unprobed:
        extra = {
            "action": "not probed",
            "count": len(outcome.unprobed),
            "first": " ".join(outcome.unprobed[:10]),
            "because": ", ".join(outcome.unprobed_because),
            "remedy": remedy(outcome.unprobed_because),
        }
        _log.warning("not probed", extra=extra)
    # Nobody may read any more, or a disk may be full: the database has what was done.
    with contextlib.suppress(OSError):
        line = RENDERERS[options.output](outcome)
        sys.stdout.write(line + "\n")  # one write, so that the lines of two loops never mix
        sys.stdout.flush()
    judged = outcome.result in {Result.RECORDED, Result.DRY_RUN}
    return UNHEALTHY if options.fail_on_unhealthy and judged and outcome.unhealthy else DONE


def _sharded(options: argparse.Namespace, settings: Settings) -> Settings:
    """Return the settings with the shard of the command line, which wins over the environment."""
    if options.shard is None:
        return settings
    index, count = options.shard
    return settings.model_copy(update={"job_completion_index": index, "shard_count": count})


def _log_alerts(outcome: Outcome) -> None:
    changed = {*outcome.opened, *outcome.closed}
    for change in outcome.updates:
        service = change.verdict.target.name
        if service in changed:
            changed.remove(service)
            action = "alert opened" if change.opens else "alert closed"
            extra = {"action": action, "service": service, "reason": change.verdict.reason}
            _log.info(action, extra=extra)
    for service in sorted(changed):  # the worker's own alert
        action = "alert opened" if service in outcome.opened else "alert closed"
        reason = f"the {_peers(outcome)} pass"
        _log.warning(action, extra={"action": action, "service": service, "reason": reason})


def _announce(job: str, outcome: Outcome, deadline_s: float) -> None:
    """Write an Event for each alert that was opened or closed."""
    from ops_worker.adapters.kubernetes import announce

    reasons = {verdict.target.name: verdict.reason for verdict in outcome.verdicts}
    own_reason = f"the {_peers(outcome)} pass stopped"
    opened = [(name, reasons.get(name, own_reason)) for name in outcome.opened]
    closed = [(name, "") for name in outcome.closed]
    for warning in announce(job, opened + closed, deadline_s):
        _log.warning("no Kubernetes Event", extra={"action": "no event", "error": warning})


def _peers(outcome: Outcome) -> str:
    return " or ".join(peers(outcome.name))


class _Progress:
    """A line on a terminal that counts probes. A short round shows none."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._due = time.monotonic() + PROGRESS_AFTER_S
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int) -> None:
        """Show how many probes are done."""
        if (now := time.monotonic()) >= self._due:
            self._write(f"probed {done} of {self._total}")
            self._due, self._shown = now + PROGRESS_EVERY_S, True

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._write("")

    @staticmethod
    def _write(line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal went away
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()


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
