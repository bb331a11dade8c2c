"""Kubernetes: the only importer of its client, which costs more to import than all the rest and is imported when first needed.

Answers are left as the JSON that they are: the client's models cost tens of megabytes and differ between its versions.
Every call has a deadline; nothing is watched.

Of the client, its configuration and its connection pool are used, not its generated calls. In version 37
these import the models of every kind, whether or not an answer is made into one: `ops-worker cluster`
would take 1.0 s of CPU instead of 0.4, and 69 MB instead of 45. ``ApiClient.call_api`` differs between 36
and 37. Neither they nor ``rest_client.request`` take one deadline for the connection and another in total.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ops_worker.core.cronjobs import event_of
from ops_worker.core.decoding import yaml_problem
from ops_worker.core.pods import at, workers
from ops_worker.errors import OpsWorkerError, SettingsError
from ops_worker.text import one_line, without_password

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONNECT_S, READ_S = 5.0, 15.0
"""Deadlines of a call: for the connection, and for each piece of the answer."""
EVENTS_S = 5.0
"""Deadline for all Events of a pass."""
PAGE = 500
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
SELECTOR = "app.kubernetes.io/name=ops-worker"
OF_JOBS = "batch.kubernetes.io/job-name"
REFUSED, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 300, 401, 403, 404


class ClusterError(OpsWorkerError):
    """The API server did not do its part; a retry may help."""


class NotPermittedError(OpsWorkerError):
    """The API server refuses: no retry helps until somebody grants it."""

    exit_code = 3


class NotFoundError(OpsWorkerError):
    """There is no such object."""

    exit_code = 2


class Cluster:
    """An API server, and the namespace that is meant."""

    def __init__(self, *, kubeconfig: str = "", context: str = "", namespace: str = "") -> None:
        """Read the service account inside a cluster, else a kubeconfig; nothing is contacted yet. Raises SettingsError."""
        self._api, self.place, own = _connected(kubeconfig, context)
        self.namespace = namespace or own or "ops-worker"

    def cronjob(self, name: str) -> dict[str, Any]:
        """Get a CronJob. Raises NotFoundError, which names those that there are."""
        try:
            return self._call("GET", "batch", "cronjobs", name)
        except NotFoundError:
            there = [one["metadata"]["name"] for one in self.cronjobs(selector="")]
            what = (
                f"there {'is' if len(there) == 1 else 'are'} {', '.join(there)}"
                if there
                else self._nothing()
            )
            raise NotFoundError(
                f"no CronJob {name} in namespace {self.namespace}: {what}"
            ) from None

    def cronjobs(self, selector: str = SELECTOR) -> list[dict[str, Any]]:
        """List the CronJobs with a label."""
        return list(self._list("batch", "cronjobs", selector))

    def worker_objects(
        self,
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """List the worker's CronJobs, and the Jobs and pods among which theirs are.

        If no CronJob has the label, those count that run a container of the worker's.
        """
        if found := self.cronjobs():
            return found, list(self._list("batch", "jobs", SELECTOR)), self._pods(SELECTOR)
        found = [one for one in self.cronjobs(selector="") if _runs_worker(one)]
        if not found:
            return [], [], []
        return found, list(self._list("batch", "jobs", "")), self._pods(OF_JOBS)

    def pods(self, job: str) -> list[dict[str, Any]]:
        """List the pods of a Job, oldest first."""
        return self._pods(f"{OF_JOBS}={job}")

    def _pods(self, selector: str) -> list[dict[str, Any]]:
        found = self._list("", "pods", selector)
        return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def job(self, name: str) -> dict[str, Any]:
        """Get a Job."""
        return self._call("GET", "batch", "jobs", name)

    def create_job(self, job: Mapping[str, Any]) -> str:
        """Create a Job; give its name."""
        return str(self._call("POST", "batch", "jobs", body=job)["metadata"]["name"])

    def create_event(self, event: Mapping[str, Any], deadline_s: float) -> None:
        """Create an Event."""
        self._call("POST", "", "events", body=event, deadline_s=deadline_s)

    def log(self, pod: str, container: str) -> str:
        """Give the last thousand lines of a container; without a name, of the pod's only one."""
        query = {"tailLines": 1000} | ({"container": container} if container else {})
        path = f"{self._path('', 'pods', pod)}/log"
        return self._text("GET", path, "pods/log", query, name=pod).decode("utf-8", "replace")

    def missing(self) -> str:
        """Say why there is nothing to show."""
        return f"no CronJob of ops-worker in namespace {self.namespace}: {self._nothing()}"

    def _nothing(self) -> str:
        try:
            self._text("GET", f"/api/v1/namespaces/{self.namespace}", "namespaces", {})
        except NotFoundError:
            return (
                "there is no such namespace; name another with -n, or run `kubectl apply -f k8s/`"
            )
        except NotPermittedError:
            pass
        return (
            "there is none at all; name another namespace with -n, or run `kubectl apply -f k8s/`"
        )

    def _list(self, group: str, resource: str, selector: str) -> Iterator[dict[str, Any]]:
        more = ""
        while True:
            query = {"limit": PAGE, "labelSelector": selector, "continue": more}
            page = json.loads(
                self._text(
                    "GET",
                    self._path(group, resource),
                    resource,
                    {key: value for key, value in query.items() if value},
                )
            )
            yield from page.get("items") or ()
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return

    def _call(  # noqa: PLR0913 - as is a call
        self,
        method: str,
        group: str,
        resource: str,
        name: str = "",
        *,
        body: Any = None,
        deadline_s: float = READ_S,
    ) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self._text(
                method, self._path(group, resource, name), resource, {}, body, deadline_s, name=name
            )
        )
        return found

    def _path(self, group: str, resource: str, name: str = "") -> str:
        root = f"/apis/{group}/v1" if group else "/api/v1"
        return f"{root}/namespaces/{self.namespace}/{resource}{'/' + name if name else ''}"

    def _text(  # noqa: PLR0913, PLR0917 - a request is all of these
        self,
        method: str,
        path: str,
        resource: str,
        query: Mapping[str, Any],
        body: Any = None,
        deadline_s: float = READ_S,
        *,
        name: str = "",
    ) -> bytes:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json, */*", "Content-Type": "application/json"}
        url = f"{self._api.configuration.host}{path}{'?' + urlencode(query) if query else ''}"
        timeout = Timeout(
            connect=min(CONNECT_S, deadline_s), read=min(READ_S, deadline_s), total=deadline_s
        )
        try:
            settings = self._api.configuration
            for key in {
                "BearerToken",
                "authorization",
            } & settings.api_key.keys():  # 36.0.0 knows it by the second name only
                headers["Authorization"] = settings.get_api_key_with_prefix(key)
            pool = (
                self._api.rest_client.pool_manager
            )  # the client's own: its certificates, and the same in its versions 36 and 37
            sent = None if body is None else json.dumps(body)
            answer = pool.request(
                method,
                url,
                headers=headers,
                body=sent,
                timeout=timeout,
                retries=False,
                redirect=False,
            )
            data: bytes = answer.data
        except (HTTPError, OSError, ValueError) as error:
            why = one_line(str(error))
            if isinstance(error, ValueError):  # a header or URL that is none, which it quotes
                why = "its URL or token is none that can be sent"
            said = f"no answer from {self.place}: {why}; check that it runs, and that this is the cluster meant"
            raise ClusterError(said) from None
        if answer.status >= REFUSED:
            raise self._refused(
                answer.status, method, resource, name, data.decode("utf-8", "replace")
            )
        return data

    def _refused(
        self, status: int, method: str, resource: str, name: str, said: str
    ) -> OpsWorkerError:
        verb = "create" if method == "POST" else "get" if name else "list"
        if status == NOT_FOUND:
            return NotFoundError(f"no {resource} {name} in namespace {self.namespace}")
        if status == UNAUTHORIZED:
            return NotPermittedError(
                f"{self.place} does not accept the credentials (401): renew the kubeconfig's or the service account's token"
            )
        if status == FORBIDDEN:
            return NotPermittedError(
                f"not permitted to {verb} {resource} in namespace {self.namespace}: grant it in a Role there, bound to this account"
            )
        try:
            said = json.loads(said)["message"]
        except (ValueError, KeyError, TypeError):
            said = said[:300]
        return ClusterError(f"{self.place} answers {status} to {verb} {resource}: {one_line(said)}")


def announce(
    job: str, transitions: Sequence[tuple[str, str]], deadline_s: float = EVENTS_S
) -> list[str]:
    """Write an Event on the CronJob of this Job for each service that has a new reason, or none any more; give what went wrong.

    Without the CronJob's uid, `kubectl describe cronjob` would not find them: it is asked for first. Never raises.
    """
    end = time.monotonic() + min(EVENTS_S, deadline_s)
    try:
        if not TOKEN.is_file():
            return [
                "KUBERNETES_EVENTS is on, but there is no service account token: set automountServiceAccountToken, see k8s/variants/events"
            ]
        cluster = Cluster()
        name = job.rpartition("-")[0]
        if not name:
            return ["KUBERNETES_EVENTS is on, but JOB_NAME names no Job of a CronJob"]
        found = cluster._call("GET", "batch", "cronjobs", name, deadline_s=_left(end))  # noqa: SLF001 - of this module
        about = {"name": name, "uid": found["metadata"]["uid"]}
        for service, reason in transitions:
            event = event_of(about, cluster.namespace, service, reason, datetime.now(UTC))
            cluster.create_event(event, _left(end))
    except OpsWorkerError as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001 - the pass is done and recorded: nothing here may undo that
        return [f"{type(error).__name__}: {one_line(str(error))}"]
    return []


def may_ask() -> bool:
    """Say whether there is anything in this pod to ask a cluster with: a service account's token, or a kubeconfig that is named."""
    return bool(os.environ.get("KUBECONFIG")) or TOKEN.is_file()


def _runs_worker(cronjob: Mapping[str, Any]) -> bool:
    template = at(cronjob, "spec", "jobTemplate", "spec", "template")
    return bool(workers(at(template, "spec"), at(template, "metadata", "labels")))


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise ClusterError("no time was left for Kubernetes Events")
    return left


def _connected(kubeconfig: str, context: str) -> tuple[Any, str, str]:
    """Give the client, what to call the server, and the namespace that the configuration names."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise SettingsError(
            ["asking a cluster wants the extra: pip install 'ops-worker[cluster]'"]
        ) from None
    settings: Any = client.Configuration()
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    inside = not named and os.environ.get("KUBERNETES_SERVICE_HOST") and TOKEN.is_file()
    try:
        namespace, whose = (
            _inside(config, settings) if inside else _outside(config, settings, named, context)
        )
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001 - the client raises whatever the YAML parser, the file system and itself do
        raise SettingsError(
            [f"the kubeconfig cannot be used: {_kubeconfig_problem(error)}"]
        ) from None
    return client.ApiClient(settings), f"{without_password(settings.host)} ({whose})", namespace


def _kubeconfig_problem(error: Exception) -> str:
    """Return what is wrong with a kubeconfig, without what parsers or a credential plugin quote."""
    said = str(error)
    if said.startswith("Invalid kube-config"):
        return one_line(said)
    if said.startswith("exec: "):
        return one_line(said.partition(". ")[0])
    return yaml_problem(error)


def _inside(config: Any, settings: Any) -> tuple[str, str]:
    config.load_incluster_config(client_configuration=settings)
    return TOKEN.with_name("namespace").read_text(encoding="utf-8").strip(), "the service account"


def _outside(config: Any, settings: Any, named: str, context: str) -> tuple[str, str]:
    file = named or str(Path.home() / ".kube" / "config")
    if not any(Path(one).is_file() for one in file.split(os.pathsep)):
        raise SettingsError(
            [f"no kubeconfig: there is no file {file}; set KUBECONFIG or --kubeconfig"]
        )
    contexts, active = config.list_kube_config_contexts(config_file=file)
    used = next((one for one in contexts if one["name"] == context), None) if context else active
    if used is None:
        raise SettingsError([f"--context {context}: there is no such context in {file}"])
    config.load_kube_config(config_file=file, context=used["name"], client_configuration=settings)
    return used["context"].get("namespace", ""), f"context {used['name']}"
