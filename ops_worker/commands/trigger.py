"""``ops-worker trigger``: run a pass, or any other command of the worker, in the cluster now."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.commands.cluster import connect, connection_options
from ops_worker.core.passes import HEALTH, PASSES
from ops_worker.core.pods import OURS
from ops_worker.errors import DONE, OpsWorkerError, SettingsError, severity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ops_worker.adapters.kubernetes import Cluster
    from ops_worker.core.cluster_events import ClusterEvent
    from ops_worker.core.jobs import JobEnd

POLL_S = 1.0
"""Seconds between two requests for the state of a Job."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The digits of base 36. A Kubernetes name may contain all of them."""
LEAST_TIMEOUT_S, MOST_TIMEOUT_S = 0.1, 86_400.0
"""The shortest and the longest ``--timeout`` in seconds. PASS_DEADLINE is at most a day."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``trigger``."""
    parser.add_argument(
        "name",
        metavar="PASS",
        nargs="?",
        default="",
        help=f"{', '.join(PASSES)}, init-db, or the full name of a CronJob; with --args, "
        f"the CronJob whose template is used (default: {HEALTH.name})",
    )
    parser.add_argument(
        "--args",
        type=_arguments,
        metavar="'COMMAND ...'",
        help="run this command of the worker instead of the pass, for example "
        "--args 'alerts list'; its Job does not count as a run of the CronJob",
    )
    connection_options(parser)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for the end of the Job, print the pod's log, and exit with the exit code of "
        "the pass or command",
    )
    parser.add_argument(
        "--timeout",
        type=_timeout,
        metavar="SECONDS",
        help="with --wait: wait at most this long "
        "(default: 120, or 30 more than activeDeadlineSeconds if that is longer); "
        "with --args: activeDeadlineSeconds of the Job, at least 12 (default: 300, or that of the "
        "template if it is longer)",
    )


def _arguments(text: str) -> list[str]:
    """Split a command line like a shell. Raises ArgumentTypeError if that is impossible."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be split: {error}") from None
    if words[:1] == [OURS]:
        del words[0]
    if not words:
        raise argparse.ArgumentTypeError("it is empty; write for example --args 'alerts list'")
    return words


def _timeout(text: str) -> float:
    """Return a timeout in seconds. Raises ArgumentTypeError if it is invalid."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_TIMEOUT_S <= seconds <= MOST_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0.1 to 86400")
    return seconds


def run(options: argparse.Namespace) -> int:
    """Create a Job from the CronJob's template; with ``--wait``, return its exit code."""
    from ops_worker.core.jobs import WAIT_MARGIN_S, longest_wait_s

    if not options.name and options.args is None:
        raise SettingsError(
            [f"name a pass ({', '.join(PASSES)}, init-db), or a command with --args"]
        )
    if options.args is not None and options.timeout is not None:
        _check_deadline(options.timeout)
    connection = connect(options)
    content = _content(connection, options)
    job = connection.create_job(content)
    print(f"job.batch/{job} created in namespace {connection.namespace}", file=sys.stderr)
    if not options.wait:
        return DONE
    timeout_s = options.timeout
    if timeout_s is None:
        timeout_s = longest_wait_s(content)
    elif options.args is not None:
        timeout_s += WAIT_MARGIN_S  # so that the Job ends first, and shows why
    return _wait(connection, job, timeout_s)


def _check_deadline(seconds: float) -> None:
    """Raise SettingsError if a command has too little time to report itself that it took too long.

    ``seconds`` is the deadline of the Job.
    """
    from ops_worker.core.jobs import LEAST_DEADLINE_S

    if seconds < LEAST_DEADLINE_S:
        problem = f"--timeout {seconds:g}: with --args it is at least {LEAST_DEADLINE_S}"
        raise SettingsError([f"{problem}, because half of it is left for the start of the pod"])


def _content(connection: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Return the Job to create. Raises SettingsError if the template cannot run a command."""
    from ops_worker.commands.alerts import user
    from ops_worker.core.jobs import command_job, job_of

    name = options.name or HEALTH.name
    is_command = name in {*PASSES, "init-db"}
    cronjob = connection.cronjob_of(name) if is_command else connection.cronjob(name)
    name = cronjob["metadata"]["name"]
    if options.args is None:
        return job_of(cronjob, _suffix())
    deadline_s = None if options.timeout is None else math.ceil(options.timeout)
    try:
        return command_job(cronjob, options.args, _suffix(), deadline_s, user())
    except ValueError as error:
        raise SettingsError(
            [f"CronJob {name} cannot run a command: {error}; name another CronJob"]
        ) from None


class _Ended(NamedTuple):
    """A Job that ended: the object, how it ended, its pods, and their logs by the pod's name.

    ``problem`` is the reason why its pod did not start, when its state was last read.
    """

    job: Mapping[str, Any]
    end: JobEnd
    pods: list[Mapping[str, Any]]
    logs: Mapping[str, bytes]
    problem: str


def _wait(connection: Cluster, name: str, timeout_s: float) -> int:
    """Wait for the end of a Job, print its log, and return the exit code of its pass."""
    from ops_worker.core.jobs import last_attempts

    ended = _wait_for_end(connection, name, timeout_s)
    attempts = last_attempts(ended.pods)
    for pod in attempts:
        _write(ended.logs.get(pod["metadata"]["name"]) or _log(connection, pod))
    return _report_end(connection, name, ended, attempts)


def _write(log: bytes) -> None:
    """Write a log to standard output with its bytes unchanged."""
    sys.stdout.flush()
    sys.stdout.buffer.write(log)
    sys.stdout.buffer.flush()


def _wait_for_end(connection: Cluster, name: str, timeout_s: float) -> _Ended:
    """Wait for the end of a Job, and print changes. Raises OpsWorkerError at the timeout."""
    from ops_worker.core.jobs import job_end, with_deleted
    from ops_worker.core.pod_states import blocked_job

    timeout_at = time.monotonic() + timeout_s
    printed_state = problem = ""
    # When activeDeadlineSeconds ends a Job, Kubernetes deletes the pod and its log before the Job
    # counts as failed. So keep the pod and the log of a pass that has ended while another container
    # still runs.
    blocked: dict[str, Mapping[str, Any]] = {}
    logs: dict[str, bytes] = {}
    while True:
        job = connection.job(name)
        end = job_end(job)
        pods = connection.pods(name)
        for pod in pods:
            pod_name = pod["metadata"]["name"]
            if blocked_job(pod) and pod_name not in blocked:
                blocked[pod_name] = pod
                logs[pod_name] = _log(connection, pod)
        if end is not None:
            all_pods = with_deleted(list(blocked.values()), pods)
            return _Ended(job, end, all_pods, logs, problem)
        newest_problem = _problem(connection, job, pods)
        # Between two attempts, there may be no pod. At the end, the pod may be in deletion. In both
        # cases, the last state is still valid.
        is_alive = any("deletionTimestamp" not in pod["metadata"] for pod in pods)
        if newest_problem or is_alive or not printed_state:
            problem = newest_problem
            state = problem or _state(pods)
            if state != printed_state:
                print(connection.addressed(f"{name}: {state}"), file=sys.stderr)
            printed_state = state
        if time.monotonic() >= timeout_at:
            problem = f"{name} has not ended within {timeout_s:g} s: {printed_state}"
            hint = f"see `kubectl -n {connection.namespace} describe job {name}`"
            raise OpsWorkerError(connection.addressed(f"{problem}; {hint}"))
        time.sleep(POLL_S)


def _report_end(
    connection: Cluster, name: str, ended: _Ended, attempts: Sequence[Mapping[str, Any]]
) -> int:
    """Print how a Job ended; return the exit code of its pass. Of several, return the worst."""
    from ops_worker.core.jobs import shard_problems, unexplained_failure
    from ops_worker.core.pod_states import kill_text, other_failure, pod_failure, terminated

    failed = ended.end.kind == "Failed"
    reason = f": {ended.end.reason}" if failed and ended.end.reason else ""
    print(f"{name}: {ended.end.kind}{reason}", file=sys.stderr)
    problems = [kill_text(pod) for pod in attempts]
    problems += [other_failure(pod) or pod_failure(pod) for pod in attempts]
    problems += shard_problems(ended.job, attempts)
    problems.append(unexplained_failure(ended.job, attempts, ended.problem))
    for problem in filter(None, problems):
        print(f"{name}: {connection.addressed(problem)}", file=sys.stderr)
    states = [terminated(pod) for pod in attempts]
    codes = [int(state["exitCode"]) for state in states if state is not None]
    if failed and (not states or None in states):
        codes.append(OpsWorkerError.exit_code)  # a pass did not reach its end
    return max(codes, key=severity, default=DONE)


def _log(connection: Cluster, pod: Mapping[str, Any]) -> bytes:
    """Return the output of the worker's containers, as far as it still exists."""
    from ops_worker.core.pod_states import terminated, worker_names

    if terminated(pod) is None:
        return b""
    name = pod["metadata"]["name"]
    logs = []
    for container in worker_names(pod):
        try:
            logs.append(connection.log(name, container))
        except OpsWorkerError as error:  # a missing log does not change how the pass ended
            print(f"no log of pod {name}: {error}", file=sys.stderr)
    return b"".join(logs)


def _problem(connection: Cluster, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> str:
    """Return why the newest pod of a Job does not start, or why the Job has no pod."""
    from ops_worker.core.cluster_events import creation_failure
    from ops_worker.core.jobs import last_attempts
    from ops_worker.core.pod_states import is_waiting, start_problem

    if not pods:
        name = str(job.get("metadata", {}).get("name", ""))
        return creation_failure(job, _events(connection, name))
    for pod in reversed(last_attempts(pods)):
        name = pod["metadata"]["name"]
        events = _events(connection, name) if is_waiting(pod) else []
        problem = start_problem(pod, events, datetime.now(UTC))
        if problem:
            return problem
    return ""


def _events(connection: Cluster, name: str) -> list[ClusterEvent]:
    """Return the Events of an object; none if the permission is missing."""
    try:
        return connection.events(name) if name else []
    except OpsWorkerError:
        return []


def _state(pods: Sequence[Mapping[str, Any]]) -> str:
    """Return the state of a Job that has not ended, from its pods."""
    from ops_worker.core.jobs import last_attempts
    from ops_worker.core.pod_states import blocked_job
    from ops_worker.core.pods import at

    if not pods:
        return "waiting for a pod"
    newest = pods[-1]
    state = str(at(newest, "status").get("phase", "Pending")).lower()
    attempt = 1 + len(pods) - len(last_attempts(pods))
    if attempt > 1:
        state = f"{state}, attempt {attempt}"
    return blocked_job(newest) or state


def _suffix() -> str:
    """Return a suffix for a Job's name: the time in milliseconds, in base 36."""
    digits = ""
    number = time.time_ns() // 1_000_000
    while number:
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return f"m{digits}"
