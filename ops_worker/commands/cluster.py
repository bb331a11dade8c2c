"""``ops-worker cluster``: show the CronJobs and Deployments, and what is wrong with them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.arguments import output_option
from ops_worker.errors import DONE, UNHEALTHY

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any

    from ops_worker.adapters.kubernetes import Cluster
    from ops_worker.core.cronjobs import CronJobState
    from ops_worker.core.deployments import DeploymentState


class View(NamedTuple):
    """The worker's objects in a namespace. ``warnings`` concern several objects together.

    ``not_looked_at`` has the kinds that could not be read, and why.
    """

    cronjobs: list[CronJobState]
    deployments: list[DeploymentState]
    warnings: list[str]
    not_looked_at: list[str]

    @property
    def all_warnings(self) -> list[str]:
        """Every warning: first the warnings of the rows, then the others."""
        return [
            *(warning for row in self.cronjobs for warning in row.warnings),
            *(warning for row in self.deployments for warning in row.warnings),
            *self.warnings,
        ]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cluster``."""
    connection_options(parser)
    output_option(parser, "text: a table with warnings (default); json: one document")
    parser.add_argument(
        "--fail-on-warnings",
        action="store_true",
        help="exit with code 4 if there is a warning",
    )


def connection_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a cluster and a namespace."""
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


def run(options: argparse.Namespace) -> int:
    """Print the worker's objects; return 0, or 4 for warnings with ``--fail-on-warnings``."""
    connection = connect(options)
    view = look(connection)
    if options.output == "json":
        document = {
            "namespace": connection.namespace,
            "cronjobs": [_document(row) for row in view.cronjobs],
            "deployments": [_document(row) for row in view.deployments],
            "warnings": view.warnings,
            "not_looked_at": view.not_looked_at,
        }
        print(json.dumps(document))
    else:
        from ops_worker.commands.cluster_screen import screen, screen_width

        print(screen(view, screen_width()))
    return UNHEALTHY if options.fail_on_warnings and view.all_warnings else DONE


def _document(row: CronJobState | DeploymentState) -> dict[str, Any]:
    """Return a row for JSON. Convert nested tuples, which would lose the names of their fields."""
    document = row._asdict()
    if "shards" in document:
        document["shards"] = [shard._asdict() for shard in document["shards"]]
    return document


def look(connection: Cluster) -> View:
    """Return the worker's objects in the namespace. Raises NotFoundError if there are none."""
    from ops_worker.adapters.kubernetes import NotFoundError
    from ops_worker.core import cronjobs, deployments

    objects = connection.worker_objects()
    if not objects.cronjobs and not objects.deployments:
        raise NotFoundError("; ".join([connection.no_cronjobs(), *objects.not_looked_at]))
    now = datetime.now(UTC)
    shared = cronjobs.Objects(objects.jobs, objects.pods, objects.events)
    cronjob_rows = []
    for cronjob in objects.cronjobs:
        row = cronjobs.row(cronjob, shared, now, due(cronjob, now))
        suspended = deployments.suspended(cronjob, objects.deployments)
        warnings = (*row.warnings, *_starved(cronjob), *suspended)
        cronjob_rows.append(row._replace(warnings=tuple(map(connection.addressed, warnings))))
    deployment_rows = []
    for deployment in objects.deployments:
        deployment_row = deployments.row(deployment, objects.pods, now, objects.events)
        warnings = tuple(map(connection.addressed, deployment_row.warnings))
        deployment_rows.append(deployment_row._replace(warnings=warnings))
    leftovers = deployments.leftovers(objects.cronjobs, objects.deployments)
    return View(
        cronjobs=cronjob_rows,
        deployments=deployment_rows,
        warnings=list(map(connection.addressed, leftovers)),
        not_looked_at=objects.not_looked_at,
    )


def rows(connection: Cluster) -> list[CronJobState]:
    """Return the rows of the CronJobs. Raises NotFoundError if the worker has no objects here."""
    return look(connection).cronjobs


def _starved(cronjob: Mapping[str, Any]) -> list[str]:
    """Return a warning if Kubernetes never starts a run, because no Event reports this."""
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
    """Return a function that counts the runs due since a time, or returns None.

    It returns None for an invalid schedule. Without ``spec.timeZone``, the time zone of
    kube-controller-manager applies, which is unknown here. UTC is assumed. If the last run
    contradicts UTC, the count is a lower bound: the time divided by the longest gap between two
    runs.
    """
    from ops_worker.adapters import cron
    from ops_worker.core.pods import at

    spec = cronjob["spec"]
    zone = spec.get("timeZone")
    last_run = at(cronjob, "status").get("lastScheduleTime")
    try:
        schedule = cron.read(spec["schedule"], zone or "UTC")
    except (ValueError, KeyError, OSError):  # KeyError: this machine does not know the zone
        return lambda _: None
    if zone or not last_run or schedule.names(datetime.fromisoformat(last_run)):
        return lambda since: len(schedule.slots(since, now))
    return lambda since: int((now - since).total_seconds() // schedule.gaps.longest)


def connect(options: argparse.Namespace) -> Cluster:
    """Return the cluster that the options name, and print which one it is."""
    from ops_worker.adapters.kubernetes import Cluster

    connection = Cluster(
        kubeconfig=options.kubeconfig, context=options.context, namespace=options.namespace
    )
    print(f"{connection.label}, namespace {connection.namespace}", file=sys.stderr)
    return connection
