"""``ops-worker cluster`` and ``trigger``: show the CronJobs; run a pass in the cluster now."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.arguments import output_option
from ops_worker.core.passes import PASSES
from ops_worker.errors import DONE, UNHEALTHY, OpsWorkerError, severity

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from ops_worker.adapters.kubernetes import Cluster
    from ops_worker.core.cronjobs import CronJobState, JobEnd

POLL_S = 1.0
"""Seconds between two looks at a Job."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The digits of base 36. A Kubernetes name may contain all of them."""


def cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cluster``."""
    _common_options(parser)
    output_option(parser, "text: a table with warnings (default); json: one document")
    parser.add_argument(
        "--fail-on-warnings",
        action="store_true",
        help="exit with code 4 if there is a warning",
    )


def trigger_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``trigger``."""
    parser.add_argument(
        "name", metavar="PASS", help=f"{', '.join(PASSES)}, init-db, or the full name of a CronJob"
    )
    _common_options(parser)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for the end of the Job, print the pod's log, and exit with the pass's exit code",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="with --wait: wait at most this long "
        "(default: 120, or 30 more than activeDeadlineSeconds if that is longer)",
    )


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n",
        "--namespace",
        default="",
        help="the namespace (default: that of the context, otherwise ops-worker)",
    )
    parser.add_argument(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="the kubeconfig (default: KUBECONFIG, the service account, or ~/.kube/config)",
    )
    parser.add_argument(
        "--context",
        default="",
        metavar="NAME",
        help="the context of the kubeconfig (default: the current one)",
    )


def cluster(options: argparse.Namespace) -> int:
    """Print the CronJobs; return 0, or 4 for warnings with ``--fail-on-warnings``."""
    from ops_worker.core import cronjobs

    connection = _connect(options)
    cronjob_rows = rows(connection)
    if options.output == "json":
        document = {
            "namespace": connection.namespace,
            "cronjobs": [row._asdict() for row in cronjob_rows],
        }
        print(json.dumps(document))
    else:
        print(cronjobs.table(cronjob_rows))
    has_warnings = any(row.warnings for row in cronjob_rows)
    return UNHEALTHY if options.fail_on_warnings and has_warnings else DONE


def rows(connection: Cluster) -> list[CronJobState]:
    """Return the rows of the worker's CronJobs. Raises NotFoundError if there are none."""
    from ops_worker.adapters.kubernetes import NotFoundError
    from ops_worker.core import cronjobs

    objects = connection.worker_objects()
    if not objects.cronjobs:
        raise NotFoundError(connection.no_cronjobs())
    now = datetime.now(UTC)
    cronjob_rows = []
    for cronjob in objects.cronjobs:
        row = cronjobs.row(cronjob, objects.jobs, objects.pods, now, due(cronjob, now))
        warnings = (*row.warnings, *_starved(cronjob))
        cronjob_rows.append(row._replace(warnings=warnings))
    return cronjob_rows


def _starved(cronjob: Mapping[str, Any]) -> list[str]:
    """Return a warning if Kubernetes never starts a run. No Event reports that."""
    from ops_worker.adapters import cron

    spec = cronjob["spec"]
    deadline_s = spec.get("startingDeadlineSeconds")
    if deadline_s is None or spec.get("suspend"):
        return []
    try:
        problem = cron.read(spec["schedule"]).starved(deadline_s)
    except ValueError:
        return []
    if not problem:
        return []
    return [f"{cronjob['metadata']['name']}: startingDeadlineSeconds {problem}"]


def due(cronjob: Mapping[str, Any], now: datetime) -> Callable[[datetime], int | None]:
    """Return a function that counts the runs due since a time; None for an invalid schedule.

    Without ``spec.timeZone``, the time zone of kube-controller-manager applies, which is unknown
    here. UTC is assumed unless the last run contradicts it. Then the count is a lower bound: the
    time divided by the longest gap between two runs.
    """
    from ops_worker.adapters import cron

    spec = cronjob["spec"]
    zone = spec.get("timeZone")
    last_run = cronjob.get("status", {}).get("lastScheduleTime")
    try:
        schedule = cron.read(spec["schedule"], zone or "UTC")
    except (ValueError, KeyError, OSError):  # KeyError: this machine does not know the zone
        return lambda _: None
    if zone or not last_run or schedule.names(datetime.fromisoformat(last_run)):
        return lambda since: len(schedule.slots(since, now))
    return lambda since: int((now - since).total_seconds() // schedule.gaps.longest)


def trigger(options: argparse.Namespace) -> int:
    """Create a Job from the CronJob's template; with ``--wait``, return the pass's exit code."""
    from ops_worker.core.cronjobs import job_of, longest_wait_s

    connection = _connect(options)
    name = options.name
    if name in {*PASSES, "init-db"}:
        name = f"ops-worker-{name}"
    content = job_of(connection.cronjob(name), _suffix())
    job = connection.create_job(content)
    print(f"job.batch/{job} created in namespace {connection.namespace}", file=sys.stderr)
    if not options.wait:
        return DONE
    timeout_s = longest_wait_s(content) if options.timeout is None else options.timeout
    return _wait(connection, job, timeout_s)


class _Ended(NamedTuple):
    """A Job that ended: the object, how it ended, its pods, and logs by the pod's name."""

    job: Mapping[str, Any]
    end: JobEnd
    pods: list[Mapping[str, Any]]
    logs: Mapping[str, str]


def _wait(connection: Cluster, name: str, timeout_s: float) -> int:
    """Wait for the end of a Job, print its log, and return the exit code of its pass."""
    from ops_worker.core import cronjobs

    ended = _wait_for_end(connection, name, timeout_s)
    attempts = cronjobs.last_attempts(ended.pods)
    for pod in attempts:
        print(ended.logs.get(pod["metadata"]["name"]) or _log(connection, pod), end="")
    return _report_end(name, ended, attempts)


def _wait_for_end(connection: Cluster, name: str, timeout_s: float) -> _Ended:
    """Wait for the end of a Job, and print what changes. Raises OpsWorkerError at the timeout."""
    from ops_worker.core import cronjobs

    timeout_at = time.monotonic() + timeout_s
    shown = ""
    # When activeDeadlineSeconds ends a Job, Kubernetes deletes the pod and the log before the Job
    # counts as failed. So keep those of a pass that has ended while another container runs.
    blocked: dict[str, Mapping[str, Any]] = {}
    logs: dict[str, str] = {}
    while True:
        job = connection.job(name)
        end = cronjobs.finished(job)
        pods = connection.pods(name)
        for pod in pods:
            pod_name = pod["metadata"]["name"]
            if cronjobs.blocked_job(pod) and pod_name not in blocked:
                blocked[pod_name] = pod
                logs[pod_name] = _log(connection, pod)
        if end is not None:
            return _Ended(job, end, cronjobs.with_deleted(list(blocked.values()), pods), logs)
        # Between two attempts there may be no pod: then the last state still holds.
        state = _state(pods) if pods or not shown else shown
        if state != shown:
            print(f"{name}: {state}", file=sys.stderr)
            shown = state
        if time.monotonic() >= timeout_at:
            raise OpsWorkerError(
                f"{name} has not ended within {timeout_s:g} s: {state}; "
                f"see `kubectl -n {connection.namespace} describe job {name}`"
            )
        time.sleep(POLL_S)


def _report_end(name: str, ended: _Ended, attempts: Sequence[Mapping[str, Any]]) -> int:
    """Print how a Job ended; return the exit code of its pass, the worst one of several."""
    from ops_worker.core import cronjobs

    failed = ended.end.kind == "Failed"
    reason = f": {ended.end.reason}" if failed and ended.end.reason else ""
    print(f"{name}: {ended.end.kind}{reason}", file=sys.stderr)
    problems = [cronjobs.out_of_memory(pod) for pod in attempts]
    problems += [cronjobs.other_failure(pod) for pod in attempts]
    problems.append(cronjobs.unexplained_failure(ended.job, attempts))
    for problem in filter(None, problems):
        print(f"{name}: {problem}", file=sys.stderr)
    states = [cronjobs.terminated(pod) for pod in attempts]
    codes = [int(state["exitCode"]) for state in states if state is not None]
    if failed and (not states or None in states):
        codes.append(OpsWorkerError.exit_code)  # a pass did not get to its end
    return max(codes, key=severity, default=DONE)


def _log(connection: Cluster, pod: Mapping[str, Any]) -> str:
    """Return what the worker's containers printed, as far as it still exists."""
    from ops_worker.core.cronjobs import terminated, worker_names

    if terminated(pod) is None:
        return ""
    name = pod["metadata"]["name"]
    logs = []
    for container in worker_names(pod):
        try:
            logs.append(connection.log(name, container))
        except OpsWorkerError as error:  # a missing log does not change how the pass ended
            print(f"no log of pod {name}: {error}", file=sys.stderr)
    return "".join(logs)


def _state(pods: Sequence[Mapping[str, Any]]) -> str:
    """Return the state of a Job that has not ended, from its pods."""
    from ops_worker.core.cronjobs import blocked_job, last_attempts, start_problem
    from ops_worker.core.pods import at

    if not pods:
        return "waiting for a pod"
    newest = pods[-1]
    state = str(at(newest, "status").get("phase", "Pending")).lower()
    attempt = 1 + len(pods) - len(last_attempts(pods))
    if attempt > 1:
        state = f"{state}, attempt {attempt}"
    return start_problem(newest) or blocked_job(newest) or state


def _connect(options: argparse.Namespace) -> Cluster:
    """Return the cluster that the options name, and print which one it is."""
    from ops_worker.adapters.kubernetes import Cluster

    connection = Cluster(
        kubeconfig=options.kubeconfig, context=options.context, namespace=options.namespace
    )
    print(f"{connection.label}, namespace {connection.namespace}", file=sys.stderr)
    return connection


def _suffix() -> str:
    """Return a suffix for a Job's name: the time in milliseconds, in base 36."""
    digits = ""
    number = time.time_ns() // 1_000_000
    while number:
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return f"m{digits}"
