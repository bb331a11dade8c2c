"""``ops-worker cluster`` and ``ops-worker trigger``: what the CronJobs do, and a pass now."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ops_worker.errors import DONE, UNHEALTHY, OpsWorkerError

if TYPE_CHECKING:
    import argparse

    from ops_worker.core.cronjobs import Row
    from ops_worker.edges.cluster import Cluster

POLL_S = 1.0


def cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cluster``."""
    _common(parser)
    parser.add_argument(
        "--output", choices=["json", "text"], default="text", help="a table with warnings (text, the default), or one document"
    )
    parser.add_argument("--fail-on-warnings", action="store_true", help="end with exit code 4 when there is a warning")


def trigger_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``trigger``."""
    parser.add_argument("name", metavar="PASS", help="health, metrics, init-db, or the full name of a CronJob")
    _common(parser)
    parser.add_argument("--wait", action="store_true", help="wait for the end; print the pod's log and end with the pass's exit code")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="with --wait: wait no longer than this (120)")


def cluster(options: argparse.Namespace) -> int:
    """Print the CronJobs; give 0, or 4 for warnings where asked."""
    from ops_worker.core import cronjobs

    where = _cluster(options)
    found = rows(where)
    if options.output == "json":
        print(json.dumps({"namespace": where.namespace, "cronjobs": [one._asdict() for one in found]}))
    else:
        print(cronjobs.table(found))
    return UNHEALTHY if options.fail_on_warnings and any(one.warnings for one in found) else DONE


def rows(where: Cluster) -> list[Row]:
    """Ask for the CronJobs as they stand. Raises NotFoundError when there are none."""
    from ops_worker.core import cronjobs
    from ops_worker.edges.cluster import NotFoundError

    found = where.cronjobs()
    if not found:
        raise NotFoundError(where.missing())
    jobs, pods, now = where.jobs(), where.pods(), datetime.now(UTC)
    return [cronjobs.row(one, jobs, pods, now, _period(one["spec"]["schedule"])) for one in found]


def trigger(options: argparse.Namespace) -> int:
    """Create a Job from the CronJob's template; with --wait give the pass's own exit code."""
    from ops_worker.core.cronjobs import job_of

    where = _cluster(options)
    name = f"ops-worker-{options.name}" if options.name in {"health", "metrics", "init-db"} else options.name
    job = where.create_job(job_of(where.cronjob(name), _suffix()))
    print(f"job.batch/{job} created in namespace {where.namespace}", file=sys.stderr)
    return _wait(where, job, options.timeout) if options.wait else DONE


def _wait(where: Cluster, job: str, timeout_s: float) -> int:
    from ops_worker.core import cronjobs

    end, shown = time.monotonic() + timeout_s, ""
    while True:
        done = cronjobs.finished(where.job(job))
        pods = where.pods(job)
        if done is not None:
            break
        if (state := _state(pods)) != shown:
            print(f"{job}: {state}", file=sys.stderr)
            shown = state
        if time.monotonic() >= end:
            raise OpsWorkerError(
                f"{job} has not ended within {timeout_s:g} s: {state}; see `kubectl -n {where.namespace} describe job {job}`"
            )
        time.sleep(POLL_S)
    ended = cronjobs.terminated(pods[-1]) if pods else None
    if ended is not None:
        print(where.log(pods[-1]["metadata"]["name"]), end="")
    kind, reason = done
    print(f"{job}: {kind}{': ' + reason if kind == 'Failed' and reason else ''}", file=sys.stderr)
    if ended is None:
        return DONE if kind == "Complete" else OpsWorkerError.exit_code
    return int(ended["exitCode"])


def _state(pods: list[dict[str, object]]) -> str:
    from ops_worker.core.cronjobs import stuck

    if not pods:
        return "waiting for a pod"
    status = pods[-1].get("status")
    phase = str(status.get("phase", "Pending")).lower() if isinstance(status, dict) else "pending"
    return stuck(pods[-1]) or f"{phase}{f', attempt {len(pods)}' if len(pods) > 1 else ''}"


def _cluster(options: argparse.Namespace) -> Cluster:
    from ops_worker.edges.cluster import Cluster

    found = Cluster(kubeconfig=options.kubeconfig, context=options.context, namespace=options.namespace)
    print(f"{found.place}, namespace {found.namespace}", file=sys.stderr)
    return found


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--namespace", default="", help="the namespace; else the context's, else ops-worker")
    parser.add_argument(
        "--kubeconfig", default="", metavar="FILE", help="the kubeconfig; else KUBECONFIG, the service account, ~/.kube/config"
    )
    parser.add_argument("--context", default="", metavar="NAME", help="the context of the kubeconfig; else its current one")


def _period(schedule: str) -> int | None:
    from ops_worker.manifests.cron import period

    try:
        return period(schedule)
    except ValueError:
        return None


def _suffix() -> str:
    digits, number = "", time.time_ns() // 1_000_000
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return f"m{digits}"
