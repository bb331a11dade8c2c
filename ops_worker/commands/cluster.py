"""``ops-worker cluster`` and ``ops-worker trigger``: what the CronJobs do, and a pass now."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ops_worker.core.passes import PASSES, container_commands
from ops_worker.errors import DONE, UNHEALTHY, OpsWorkerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any

    from ops_worker.adapters.kubernetes import Cluster
    from ops_worker.core.cronjobs import Row

POLL_S = 1.0


def cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cluster``."""
    _common(parser)
    parser.add_argument(
        "--output",
        choices=["json", "text"],
        default="text",
        help="a table with warnings (text, the default), or one document",
    )
    parser.add_argument(
        "--fail-on-warnings",
        action="store_true",
        help="end with exit code 4 when there is a warning",
    )


def trigger_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``trigger``."""
    parser.add_argument(
        "name", metavar="PASS", help=f"{', '.join(PASSES)}, init-db, or the full name of a CronJob"
    )
    _common(parser)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for the end; print the pod's log and end with the pass's exit code",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="with --wait: wait no longer than this (120)",
    )


def cluster(options: argparse.Namespace) -> int:
    """Print the CronJobs; give 0, or 4 for warnings where asked."""
    from ops_worker.core import cronjobs

    where = _cluster(options)
    found = rows(where)
    if options.output == "json":
        print(
            json.dumps({"namespace": where.namespace, "cronjobs": [one._asdict() for one in found]})
        )
    else:
        print(cronjobs.table(found))
    return UNHEALTHY if options.fail_on_warnings and any(one.warnings for one in found) else DONE


def rows(where: Cluster) -> list[Row]:
    """Ask for the CronJobs as they stand. Raises NotFoundError when there are none."""
    from ops_worker.adapters.kubernetes import NotFoundError
    from ops_worker.core import cronjobs

    found, jobs, pods = where.worker_objects()
    if not found:
        raise NotFoundError(where.missing())
    now = datetime.now(UTC)
    told = [cronjobs.row(one, jobs, pods, now, due(one, now)) for one in found]
    return [
        row._replace(warnings=(*row.warnings, *_starved(one)))
        for row, one in zip(told, found, strict=True)
    ]


def _starved(cronjob: Mapping[str, Any]) -> list[str]:
    """Say why Kubernetes never starts a run of a CronJob, which no event tells."""
    from ops_worker.adapters import cron

    spec, name = cronjob["spec"], cronjob["metadata"]["name"]
    deadline_s = spec.get("startingDeadlineSeconds")
    if deadline_s is None or spec.get("suspend"):
        return []
    try:
        problem = cron.read(spec["schedule"]).starved(deadline_s)
    except ValueError:
        return []
    return [f"{name}: startingDeadlineSeconds {problem}"] if problem else []


def due(cronjob: Mapping[str, Any], now: datetime) -> Callable[[datetime], int | None]:
    """Give a function that counts the due runs since a time; it gives None for a bad schedule.

    Without ``spec.timeZone`` the controller's zone holds. It is taken to be UTC unless the last run
    contradicts that; then the count is a lower bound, by the longest time between two runs.
    """
    from ops_worker.adapters import cron

    spec, last = cronjob["spec"], cronjob.get("status", {}).get("lastScheduleTime")
    try:
        found = cron.read(spec["schedule"], spec.get("timeZone") or "UTC")
    except (ValueError, KeyError, OSError):  # KeyError: this machine does not know the zone
        return lambda _: None
    if spec.get("timeZone") or not last or found.names(datetime.fromisoformat(last)):
        return lambda since: len(found.slots(since, now))
    return lambda since: int((now - since).total_seconds() // found.gaps.longest)


def trigger(options: argparse.Namespace) -> int:
    """Create a Job from the CronJob's template; with --wait give the pass's own exit code."""
    from ops_worker.core.cronjobs import job_of

    where = _cluster(options)
    name = f"ops-worker-{options.name}" if options.name in container_commands() else options.name
    job = where.create_job(job_of(where.cronjob(name), _suffix()))
    print(f"job.batch/{job} created in namespace {where.namespace}", file=sys.stderr)
    return _wait(where, job, options.timeout) if options.wait else DONE


def _wait(where: Cluster, job: str, timeout_s: float) -> int:
    from ops_worker.core import cronjobs

    end, shown = time.monotonic() + timeout_s, ""
    beside: dict[str, dict[str, Any]] = {}
    logs: dict[str, str] = {}
    while True:
        found = where.job(job)
        done = cronjobs.finished(found)
        pods = where.pods(job)
        for pod in pods:
            if cronjobs.held(pod) and pod["metadata"]["name"] not in beside:
                # a deadline takes pod and log away before the Job counts as failed
                beside[pod["metadata"]["name"]] = pod
                logs[pod["metadata"]["name"]] = _log(where, pod)
        if done is not None:
            break
        state = _state(pods) if pods or not shown else shown
        if state != shown:
            print(f"{job}: {state}", file=sys.stderr)
            shown = state
        if time.monotonic() >= end:
            raise OpsWorkerError(
                f"{job} has not ended within {timeout_s:g} s: {state}; see `kubectl -n {where.namespace} describe job {job}`"
            )
        time.sleep(POLL_S)
    tries = cronjobs.last_tries(cronjobs.with_gone(list(beside.values()), pods))
    for last in tries:
        print(logs.get(last["metadata"]["name"]) or _log(where, last), end="")
    return _result(job, found, done, tries)


def _result(
    job: str,
    found: Mapping[str, Any],
    done: tuple[str, str],
    tries: list[Mapping[str, Any]],
) -> int:
    """Say how a Job has ended, and give the exit code of its passes, the worst of several."""
    from ops_worker.core import cronjobs

    kind, reason = done
    print(f"{job}: {kind}{': ' + reason if kind == 'Failed' and reason else ''}", file=sys.stderr)
    for problem in (*map(cronjobs.other_failure, tries), cronjobs.lost(found, tries)):
        if problem:
            print(f"{job}: {problem}", file=sys.stderr)
    ended = [cronjobs.terminated(pod) for pod in tries]
    codes = [int(state["exitCode"]) for state in ended if state is not None]
    if kind == "Failed" and (not ended or None in ended):
        codes.append(OpsWorkerError.exit_code)
    return max(codes, key=cronjobs.severity, default=DONE)


def _log(where: Cluster, pod: Mapping[str, Any]) -> str:
    """Give what the worker's containers printed, as far as it is still there."""
    from ops_worker.core.cronjobs import terminated, worker_names

    if terminated(pod) is None:
        return ""
    found = []
    for container in worker_names(pod):
        try:
            found.append(where.log(pod["metadata"]["name"], container))
        except OpsWorkerError as error:  # which does not change what the pass has done
            print(f"no log of pod {pod['metadata']['name']}: {error}", file=sys.stderr)
    return "".join(found)


def _state(pods: list[dict[str, Any]]) -> str:
    from ops_worker.core.cronjobs import held, last_tries, stuck

    if not pods:
        return "waiting for a pod"
    status = pods[-1].get("status")
    phase = str(status.get("phase", "Pending")).lower() if isinstance(status, dict) else "pending"
    attempt = 1 + len(pods) - len(last_tries(pods))
    if attempt > 1:
        phase = f"{phase}, attempt {attempt}"
    return stuck(pods[-1]) or held(pods[-1]) or phase


def _cluster(options: argparse.Namespace) -> Cluster:
    from ops_worker.adapters.kubernetes import Cluster

    found = Cluster(
        kubeconfig=options.kubeconfig, context=options.context, namespace=options.namespace
    )
    print(f"{found.place}, namespace {found.namespace}", file=sys.stderr)
    return found


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--namespace", default="", help="the namespace; else the context's, else ops-worker"
    )
    parser.add_argument(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="the kubeconfig; else KUBECONFIG, the service account, ~/.kube/config",
    )
    parser.add_argument(
        "--context",
        default="",
        metavar="NAME",
        help="the context of the kubeconfig; else its current one",
    )


def _suffix() -> str:
    digits, number = "", time.time_ns() // 1_000_000
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return f"m{digits}"
