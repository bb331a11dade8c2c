"""``ops-worker health`` and the other passes: run one pass, print and log its outcome."""

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

from ops_worker.arguments import env_file
from ops_worker.core.health import remedy
from ops_worker.core.model import Result
from ops_worker.core.output import RENDERERS, message, summary
from ops_worker.core.passes import HEALTH, PASSES
from ops_worker.core.shards import MAX_SHARDS
from ops_worker.errors import DONE, UNHEALTHY, OpsWorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ops_worker.adapters.postgres import Store
    from ops_worker.core.model import Observation, Outcome, Target
    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.1, 86_400.0
"""Limits of ``--every`` and ``--for``, in seconds."""
PROGRESS_AFTER_S, PROGRESS_EVERY_S = 2.0, 0.2
"""Seconds until the first line of progress, and between two lines."""
MAX_NAMES = 10
"""Maximum number of services that one log line names."""
ANNOUNCE_RESERVE_S = 1.0
"""Seconds before PASS_DEADLINE at which posts, Events and the heartbeat give up.

At this time the pass is recorded. It must not be reported as failed because posts, Events or the
heartbeat exceed the deadline.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a pass."""
    env_file(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="probe, judge and read; show what a pass would write; write nothing",
    )
    parser.add_argument(
        "--output",
        choices=sorted(RENDERERS),
        default="text",
        help="text: the closing line (the default); table or json: the whole outcome",
    )
    parser.add_argument(
        "--fail-on-unhealthy",
        action="store_true",
        help="end with exit code 4 if a service is unhealthy, or the pass is blind",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="probe only share I of N shares of the services; I counts from 0 (default: that of "
        "SHARD_COUNT and JOB_COMPLETION_INDEX)",
    )
    parser.add_argument(
        "--every",
        type=_seconds,
        metavar="SECONDS",
        help="repeat the pass in this process, every SECONDS",
    )
    parser.add_argument(
        "--for",
        type=_seconds,
        dest="for_s",
        default=math.inf,
        metavar="SECONDS",
        help="with --every: end after SECONDS, with the exit code of the worst pass",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run one pass, or a loop of passes with ``--every``; return the exit code."""
    settings = _with_shard(options, settings)
    if options.every is not None:
        from ops_worker.commands import run_loop

        return run_loop.run(options, settings)
    outcome, code = _run_once(options, settings)
    if settings.kubernetes_events and (outcome.opened or outcome.closed) and not options.dry_run:
        left_s = settings.pass_deadline - (time.monotonic() - options.begun)
        _announce(settings.job_name, outcome, left_s - ANNOUNCE_RESERVE_S)
    return code


def _run_once(options: argparse.Namespace, settings: Settings) -> tuple[Outcome, int]:
    """Run the pass inside its heartbeat and report it; return its outcome and exit code."""
    from ops_worker import process
    from ops_worker.adapters.http import heartbeat
    from ops_worker.passes import Context, function_of

    url = ""
    if settings.heartbeat_url and not options.dry_run:
        url = settings.heartbeat_url.get_secret_value()
    end = options.begun + settings.pass_deadline - ANNOUNCE_RESERVE_S
    database = store(settings, options.command)
    with heartbeat.heartbeat(url, end), contextlib.closing(database):
        left_s = settings.pass_deadline - (time.monotonic() - options.begun)
        context = Context(
            settings=settings,
            observe=observer(settings, left_s),
            store=database,
            clock=time.monotonic,
            dry_run=options.dry_run,
            period_s=max(settings.pass_period, PASSES[options.command].least_period_s),
        )
        pass_failed = False
        try:
            outcome = function_of(options.command)(context)
            outcome = outcome._replace(duration_s=time.monotonic() - options.begun)
            code = report(options, outcome)
            line = message(summary(outcome, code, settings.job_name))
            process.write_termination_message(settings.termination_message_path, line)
            options.reported_code = code  # a later signal does not change the exit code
        except OpsWorkerError:
            pass_failed = True
            raise
        finally:
            # Post also after a failure: Alertmanager ends an open alert that is not posted again.
            if posts_alerts(settings, options.command, dry_run=options.dry_run):
                from ops_worker.commands import post_alerts

                left_s = end - time.monotonic()
                post_alerts.post_within(
                    settings, database, context.period_s, left_s, pass_failed=pass_failed
                )
        return outcome, code


def posts_alerts(settings: Settings, name: str, *, dry_run: bool) -> bool:
    """Return whether passes with this name post alerts. Of several shards, only shard 0 does."""
    if dry_run or name != HEALTH.name or settings.job_completion_index:
        return False
    return bool(settings.alertmanager_urls)


def store(settings: Settings, name: str, *, loop_deadline_s: float = 0.0) -> Store:
    """Return the database of a pass. It connects at the first transaction.

    ``loop_deadline_s`` limits a transaction in a loop, in seconds. It is 0 in a single pass, which
    the deadline of the process limits.
    """
    from ops_worker.adapters import postgres

    return postgres.Store(
        settings.connection,
        role=settings.pg_role,
        application=f"ops-worker {name}",
        loop_deadline_s=loop_deadline_s,
        connect_retries=postgres.RetryPolicy(settings.confirm_failures, settings.confirm_delay),
        shard=settings.job_completion_index,
        changing=settings.changing_connection,
        installation=settings.installation,
    )


def observer(
    settings: Settings, budget_s: float
) -> Callable[[Sequence[Target]], list[Observation]]:
    """Return the function that probes targets within ``budget_s`` seconds.

    On a terminal, the function shows its progress.
    """
    from ops_worker.adapters import http

    concurrency = settings.probe_concurrency
    fitting = http.fitting(concurrency)
    # The default value adapts without a warning.
    if fitting < concurrency and concurrency != http.CONCURRENCY:
        problem = (
            f"PROBE_CONCURRENCY is {concurrency}, "
            f"but the limit of open files allows {fitting} probes at once"
        )
        extra = {"action": "fewer probes at once", "what": problem, "remedy": "raise ulimit -n"}
        _log.warning("fewer probes at once", extra=extra)
    probe = partial(
        http.confirm,
        times=settings.confirm_failures,
        delay_s=settings.confirm_delay,
        concurrency=concurrency,
        budget_s=budget_s - http.DATABASE_RESERVE_S,
    )

    def probe_with_progress(targets: Sequence[Target]) -> list[Observation]:
        """Probe the targets, and count them on the terminal."""
        with _Progress(len(targets)) as progress:
            return probe(targets, on_progress=progress)

    return probe_with_progress if sys.stderr.isatty() else probe


def report(options: argparse.Namespace, outcome: Outcome) -> int:
    """Print and log an outcome; return its exit code."""
    if not options.dry_run:
        _log_alerts(outcome)
        _log_dependents(outcome)
    for warning in outcome.warnings:
        _log.warning("the pass has a warning", extra={"action": "warning", "what": warning})
    if outcome.blind_because:
        blind = {
            "action": "blind",
            "because": ", ".join(outcome.blind_because),
            "remedy": "check the network, resolver and limits of this machine",
        }
        _log.warning("the pass is blind: no service was judged", extra=blind)
    if outcome.unprobed:
        extra = {
            "action": "not probed",
            "count": len(outcome.unprobed),
            "first": " ".join(outcome.unprobed[:MAX_NAMES]),
            "because": ", ".join(outcome.unprobed_because),
            "remedy": remedy(outcome.unprobed_because),
        }
        _log.warning("not probed", extra=extra)
    # The pipe may be closed or the disk full. The database has the result of the pass.
    with contextlib.suppress(OSError):
        line = RENDERERS[options.output](outcome)
        sys.stdout.write(line + "\n")  # one write, so that the lines of two loops never mix
        sys.stdout.flush()
    judged = outcome.result in {Result.RECORDED, Result.DRY_RUN}
    is_well = not outcome.unhealthy and not outcome.blind_because
    if options.fail_on_unhealthy and judged and not is_well:
        return UNHEALTHY
    return DONE


def _with_shard(options: argparse.Namespace, settings: Settings) -> Settings:
    """Return the settings with ``--shard``, which wins over the environment."""
    if options.shard is None:
        return settings
    index, count = options.shard
    return settings.model_copy(update={"job_completion_index": index, "shard_count": count})


def _log_alerts(outcome: Outcome) -> None:
    """Log every alert that the pass opened or closed."""
    reasons = {change.verdict.target.name: change.verdict.reason for change in outcome.updates}
    logged = (
        ("alert opened", outcome.opened, outcome.own_reason),
        ("alert closed", outcome.closed, "no pass has stopped, and none is blind any more"),
    )
    for action, services, own_reason in logged:
        for service in services:
            is_own = service not in reasons  # the worker's own alert
            extra = {
                "action": action,
                "service": service,
                "reason": own_reason if is_own else reasons[service],
            }
            _log.log(logging.WARNING if is_own else logging.INFO, action, extra=extra)


def _log_dependents(outcome: Outcome) -> None:
    """Log the services that are unhealthy because of others, so that no alert opens for them."""
    if not outcome.because_of:
        return
    causes = {cause for causes in outcome.because_of.values() for cause in causes}
    extra = {
        "action": "no alert opens",
        "count": len(outcome.because_of),
        "first": " ".join([*outcome.because_of][:MAX_NAMES]),
        "causes": " ".join(sorted(causes)[:MAX_NAMES]),
    }
    _log.info("services are unhealthy because of others", extra=extra)


def _announce(job: str, outcome: Outcome, left_s: float) -> None:
    """Write a Kubernetes Event for each alert that the pass opened or closed."""
    from ops_worker.adapters.kubernetes import announce

    reasons = {verdict.target.name: verdict.reason for verdict in outcome.verdicts}
    opened = [(name, reasons.get(name, outcome.own_reason)) for name in outcome.opened]
    closed = [(name, "") for name in outcome.closed]
    for warning in announce(job, opened + closed, left_s):
        _log.warning("no Kubernetes Event", extra={"action": "no event", "error": warning})


class _Progress:
    """A line on a terminal that counts probes. A short pass shows none."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._due = time.monotonic() + PROGRESS_AFTER_S
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int) -> None:
        """Show the number of completed probes."""
        now = time.monotonic()
        if now >= self._due:
            self._write(f"probed {done} of {self._total}")
            self._due = now + PROGRESS_EVERY_S
            self._shown = True

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._write("")

    @staticmethod
    def _write(line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()


def _shard(text: str) -> tuple[int, int]:
    """Parse ``I/N``: the index of a shard, from 0, and the number of shards."""
    numbers = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if numbers is not None:
        index, count = int(numbers[1]), int(numbers[2])
        if index < count <= MAX_SHARDS:
            return index, count
    raise argparse.ArgumentTypeError(
        f"{text} is not a shard I/N: 0/4 is the first of four; N is at most {MAX_SHARDS}"
    )


def _seconds(text: str) -> float:
    """Parse a number of seconds."""
    value = float(text)
    if not MIN_INTERVAL_S <= value <= MAX_INTERVAL_S:
        raise argparse.ArgumentTypeError(
            f"{text} is not a number of seconds from {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}"
        )
    return value
