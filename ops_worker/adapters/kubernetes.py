"""Calls of the Kubernetes API. The only importer of the Kubernetes client.

The client costs more to import than the rest of the program, so it is imported when it is needed.
Answers remain JSON: the client's models cost tens of megabytes and differ between its versions.
Every call has a deadline. No call uses the watches of the API.

Only the client's configuration and connection pool are used, not its generated calls. In version
37, the generated calls import the models of every kind, even if no answer is converted to a model:
`ops-worker cluster` would take 1.0 s of CPU instead of 0.4 s, and 69 MB instead of 45 MB.
``ApiClient.call_api`` differs between versions 36 and 37. Neither the generated calls nor
``rest_client.request`` accept one deadline for the connection and another one for the whole call.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from ops_worker.core.cluster_events import ClusterEvent, event_of, read_all
from ops_worker.core.decoding import yaml_problem
from ops_worker.core.jobs import JOB_LABEL
from ops_worker.core.pods import NAME_LABEL, OURS, at, text, with_flags, workers
from ops_worker.core.start_problems import APPLY_AGAIN, remedy, safe_message
from ops_worker.errors import OpsWorkerError, SettingsError
from ops_worker.text import one_line, without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CONNECT_S = 5.0
"""Deadline in seconds for the connection of a call."""
READ_S = 15.0
"""Deadline in seconds for every piece of an answer, and for the whole call."""
EVENTS_S = 5.0
"""Deadline in seconds for all Events of a pass."""
PAGE_SIZE = 500
"""Objects per page of a list: the chunk size of kubectl."""
LOG_S = 120.0
"""Deadline in seconds for a container's log. A node keeps 10 MiB of it by default.

Source: kubernetes.io, "Logging Architecture", containerLogMaxSize.
"""
WARNINGS = "type=Warning"
"""The field selector of Events that report a problem."""
NOTICES = ("reason=JobAlreadyActive", "reason=Killing", "reason=Pulling")
"""The field selectors of other Events that may mean a problem."""
MAX_ERROR_TEXT = 300
"""How many characters of an answer an error quotes if the answer has no message."""
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""The service account's token. The namespace is in the same folder.

Source: kubernetes.io, "Accessing the Kubernetes API from a Pod".
"""
SELECTOR = f"{NAME_LABEL}={OURS}"
"""The label of the worker's objects."""
_REFUSED = re.compile(r' is forbidden: (?!User ")|^admission webhook')
"""Matches the API server's message if a quota, a policy or a webhook refuses an object.

The status is 403, the same as for a missing permission. But the message about a missing permission
names the user.
"""
MULTIPLE_CHOICES, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 300, 401, 403, 404


class ClusterError(OpsWorkerError):
    """The API server failed or could not be reached. A retry may help."""


class NotPermittedError(OpsWorkerError):
    """The API server refused a call. No retry helps until a person grants the permission."""

    exit_code = 3


class CredentialsError(NotPermittedError):
    """The API server does not accept the credentials."""


class NotFoundError(OpsWorkerError):
    """The object does not exist."""

    exit_code = 2


class WorkerObjects(NamedTuple):
    """The worker's CronJobs and Deployments, and Jobs and pods that may include other programs'.

    ``events`` are sorted, oldest first. ``not_looked_at`` has the kinds that could not be read, and
    why.
    """

    cronjobs: list[dict[str, Any]]
    deployments: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    pods: list[dict[str, Any]]
    events: list[ClusterEvent]
    not_looked_at: list[str]


class _Request(NamedTuple):
    """A call of the API: everything except the server.

    ``resource`` and ``name`` are for error messages. ``path`` already contains both.
    """

    method: str
    path: str
    resource: str
    name: str = ""
    query: Mapping[str, Any] = {}
    body: Any = None
    deadline_s: float = READ_S

    @property
    def verb(self) -> str:
        """The verb, as a Role names it."""
        if self.method == "POST":
            return "create"
        return "get" if self.name else "list"


class Cluster:
    """An API server and a namespace."""

    def __init__(self, *, kubeconfig: str = "", context: str = "", namespace: str = "") -> None:
        """Read the service account inside a cluster, otherwise a kubeconfig. Make no connection.

        Raises SettingsError if neither exists, or if it is invalid.
        """
        connection = _connect(kubeconfig, context)
        self._api = connection.api
        self.label = connection.label
        """The server's URL and the source of its configuration, for people."""
        self.namespace = namespace or connection.namespace or "ops-worker"
        options = {"--kubeconfig": kubeconfig, "--context": context}
        self._flags = " ".join(
            f"{option} {one_line(shlex.quote(value))}" for option, value in options.items() if value
        )

    def addressed(self, message: str) -> str:
        """Return a message whose commands name this cluster, as the options of this one do."""
        return with_flags(message, self._flags)

    def cronjob(self, name: str) -> dict[str, Any]:
        """Return a CronJob. Raises NotFoundError with the names of the existing CronJobs."""
        try:
            return self._get("batch", "cronjobs", name)
        except NotFoundError:
            raise self._no_cronjob(name, self.cronjobs(selector="")) from None

    def cronjob_of(self, command: str) -> dict[str, Any]:
        """Return the CronJob of a pass or of init-db, even if the installation renamed it.

        The CronJob with the name in the manifests counts, otherwise the only CronJob that runs the
        command. Raises NotFoundError if there is none, and SettingsError if there are several.
        """
        from ops_worker.core.cronjobs import runs

        name = f"{OURS}-{command}"
        try:
            return self._get("batch", "cronjobs", name)
        except NotFoundError:
            existing = self.cronjobs(selector="")
        candidates = [cronjob for cronjob in existing if runs(cronjob, command)]
        if not candidates:
            raise self._no_cronjob(name, existing)
        if len(candidates) > 1:
            names = ", ".join(cronjob["metadata"]["name"] for cronjob in candidates)
            problem = f"several CronJobs in namespace {self.namespace} run {command}"
            raise SettingsError([f"{problem}: name one of {names}"])
        return candidates[0]

    def _no_cronjob(self, name: str, existing: Sequence[Mapping[str, Any]]) -> NotFoundError:
        """Return the error for a CronJob that does not exist. It names the existing ones."""
        names = ", ".join(cronjob["metadata"]["name"] for cronjob in existing)
        hint = f"existing CronJobs: {names}" if names else self._no_cronjob_hint()
        return NotFoundError(f"no CronJob {name} in namespace {self.namespace}: {hint}")

    def cronjobs(self, selector: str = SELECTOR) -> list[dict[str, Any]]:
        """Return the CronJobs with a label. An empty selector selects all."""
        return list(self._list("batch", "cronjobs", selector))

    def worker_objects(self) -> WorkerObjects:
        """Return the worker's objects: its CronJobs, and all Jobs and pods that may be theirs.

        If no CronJob has the worker's label, the CronJobs count that run a container of the worker.
        Deployments and Events are read if this is permitted.
        """
        not_looked_at: list[str] = []
        cronjobs, job_selector, pod_selector = self.cronjobs(), SELECTOR, SELECTOR
        if not cronjobs:
            # Without a label, only the owner of a Job shows whether the Job belongs to the worker.
            cronjobs = [cronjob for cronjob in self.cronjobs(selector="") if _runs_worker(cronjob)]
            job_selector, pod_selector = "", JOB_LABEL
        deployments = _if_permitted("Deployments", self._deployments, not_looked_at)
        jobs, pods = [], []
        if cronjobs:
            jobs = list(self._list("batch", "jobs", job_selector))
            pods = self._pods(pod_selector)
        for deployment in deployments:
            pods += self._pods_of(deployment, pods)
        events = []
        if cronjobs or deployments:
            events = _if_permitted("Events", self.events, not_looked_at)
        return WorkerObjects(
            cronjobs=cronjobs,
            deployments=deployments,
            jobs=jobs,
            pods=pods,
            events=events,
            not_looked_at=not_looked_at,
        )

    def events(self, name: str = "") -> list[ClusterEvent]:
        """Return the Events of the namespace that may report a problem, oldest first.

        With a name, return only the Events of objects with this name.
        """
        by_name = f"involvedObject.name={name}," if name else ""
        contents: list[dict[str, Any]] = []
        for selector in (WARNINGS, *NOTICES):
            contents += self._list("", "events", fields=by_name + selector)
        if any(content.get("reason") == "Pulling" for content in contents):
            contents += self._list("", "events", fields=f"{by_name}reason=Pulled")
        return read_all(contents)

    def _deployments(self) -> list[dict[str, Any]]:
        """Return the Deployments that have the worker's label or run the worker."""
        return [
            deployment
            for deployment in self._list("apps", "deployments")
            if at(deployment, "metadata", "labels").get(NAME_LABEL) == OURS
            or _has_worker(at(deployment, "spec", "template"))
        ]

    def _pods_of(
        self, deployment: Mapping[str, Any], known: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the pods of a Deployment that are not among the ``known`` pods."""
        labels = at(deployment, "spec", "selector", "matchLabels")
        if not labels:
            return []
        names = {pod["metadata"]["name"] for pod in known}
        pods = self._pods(",".join(f"{name}={value}" for name, value in labels.items()))
        return [pod for pod in pods if pod["metadata"]["name"] not in names]

    def pods(self, job: str) -> list[dict[str, Any]]:
        """Return the pods of a Job, oldest first."""
        return self._pods(f"{JOB_LABEL}={job}")

    def job(self, name: str) -> dict[str, Any]:
        """Return a Job."""
        return self._get("batch", "jobs", name)

    def create_job(self, job: Mapping[str, Any]) -> str:
        """Create a Job; return its name."""
        request = _Request("POST", self._path("batch", "jobs"), "jobs", body=job)
        created = json.loads(self._answer(request))
        return str(created["metadata"]["name"])

    def create_event(self, event: Mapping[str, Any], deadline_s: float) -> None:
        """Create an Event."""
        self._answer(
            _Request(
                method="POST",
                path=self._path("", "events"),
                resource="events",
                body=event,
                deadline_s=deadline_s,
            )
        )

    def log(self, pod: str, container: str) -> bytes:
        """Return the whole log of a container, which may contain any bytes.

        Without the name of a container, return the log of the pod's only container.
        """
        request = _Request(
            method="GET",
            path=f"{self._path('', 'pods', pod)}/log",
            resource="pods/log",
            name=pod,
            query={"container": container} if container else {},
            deadline_s=LOG_S,
        )
        return self._answer(request)

    def no_cronjobs(self) -> str:
        """Return the error for a namespace without CronJobs of the worker, with a hint."""
        hint = self._no_cronjob_hint()
        return f"no CronJob of ops-worker in namespace {self.namespace}: {hint}"

    def _no_cronjob_hint(self) -> str:
        """Return the likely reason why there is no CronJob, and what to do."""
        reason = "it has no CronJob at all"
        path = f"/api/v1/namespaces/{self.namespace}"
        try:
            self._answer(_Request("GET", path, "namespaces", self.namespace))
        except NotFoundError:
            reason = "the namespace does not exist"
        except NotPermittedError:
            pass  # it is unknown whether the namespace exists
        return self.addressed(f"{reason}; name another namespace with -n, or {APPLY_AGAIN}")

    def _pods(self, selector: str) -> list[dict[str, Any]]:
        """Return the pods with a label, oldest first."""
        pods = self._list("", "pods", selector)
        return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def _list(
        self,
        group: str,
        resource: str,
        selector: str = "",
        fields: str = "",
    ) -> Iterator[dict[str, Any]]:
        """Yield the objects of all pages of a list."""
        token = ""
        while True:
            query: dict[str, Any] = {"limit": PAGE_SIZE}
            if selector:
                query["labelSelector"] = selector
            if fields:
                query["fieldSelector"] = fields
            if token:
                query["continue"] = token
            request = _Request("GET", self._path(group, resource), resource, query=query)
            page = json.loads(self._answer(request))
            # Kubernetes is written in Go, which encodes an empty list as null.
            yield from page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return

    def _get(
        self, group: str, resource: str, name: str, deadline_s: float = READ_S
    ) -> dict[str, Any]:
        request = _Request(
            method="GET",
            path=self._path(group, resource, name),
            resource=resource,
            name=name,
            deadline_s=deadline_s,
        )
        content: dict[str, Any] = json.loads(self._answer(request))
        return content

    def _path(self, group: str, resource: str, name: str = "") -> str:
        root = f"/apis/{group}/v1" if group else "/api/v1"
        path = f"{root}/namespaces/{self.namespace}/{resource}"
        return f"{path}/{name}" if name else path

    def _answer(self, request: _Request) -> bytes:
        """Make a call; return the body of the answer."""
        from urllib3.exceptions import HTTPError

        try:
            answer = self._send(request)
            body: bytes = answer.data
        except (HTTPError, OSError, ValueError) as error:
            reason = one_line(str(error))
            if isinstance(error, ValueError):
                # Its text quotes the header or the URL, which may contain a token or a password.
                reason = "its URL or token contains characters that cannot be sent"
            raise ClusterError(
                f"no answer from {self.label}: {reason}; "
                "check that it is running and that this is the right cluster"
            ) from None
        if answer.status >= MULTIPLE_CHOICES:
            raise self._error(request, answer.status, body.decode("utf-8", "replace"))
        return body

    def _send(self, request: _Request) -> Any:
        from urllib3 import Timeout

        url = f"{self._api.configuration.host}{request.path}"
        if request.query:
            url += f"?{urlencode(request.query)}"
        deadline_s = request.deadline_s
        # The client's own pool, with its certificates. It is the same in versions 36 and 37.
        return self._api.rest_client.pool_manager.request(
            request.method,
            url,
            headers=self._headers(),
            body=None if request.body is None else json.dumps(request.body),
            timeout=Timeout(
                connect=min(CONNECT_S, deadline_s),
                read=min(READ_S, deadline_s),
                total=deadline_s,
            ),
            # A redirect would send the token to another server, and a Retry-After could exceed the
            # deadline.
            retries=False,
            redirect=False,
        )

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json, */*", "Content-Type": "application/json"}
        configuration = self._api.configuration
        # Version 36.0.0 of the client has the token only under the second name.
        for key in {"BearerToken", "authorization"} & configuration.api_key.keys():
            headers["Authorization"] = configuration.get_api_key_with_prefix(key)
        return headers

    def _error(self, request: _Request, status: int, body: str) -> OpsWorkerError:
        """Return the error for an answer that reports a failure."""
        call = f"{request.verb} {request.resource}"
        namespaced = f"kubectl -n {self.namespace}"
        try:
            message = str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError):
            message = body[:MAX_ERROR_TEXT]
        if status == NOT_FOUND:
            return NotFoundError(
                f"no {request.resource} {request.name} in namespace {self.namespace}"
            )
        if status == UNAUTHORIZED:
            return CredentialsError(
                f"{self.label} does not accept the credentials (401): "
                "renew the token of the kubeconfig or of the service account"
            )
        if status == FORBIDDEN and _REFUSED.search(message):
            problem = f"{self.label} refused to {call}: {safe_message(message)}"
            hint = self.addressed(remedy("FailedCreate", message, namespaced))
            return ClusterError(f"{problem}; {hint}")
        if status == FORBIDDEN:
            return NotPermittedError(
                f"not permitted to {call} in namespace {self.namespace}",
                "grant it in a Role of that namespace, bound to this account",
            )
        return ClusterError(f"{self.label} answered {status} to {call}: {one_line(message)}")


def announce(
    job: str, transitions: Sequence[tuple[str, str]], deadline_s: float = EVENTS_S
) -> list[str]:
    """Write an Event on the CronJob of this Job for every alert; return the problems.

    ``transitions`` has services, each with the reason of the alert that opened. The reason is empty
    for an alert that closed. Never raises: the pass is recorded, and an Event must not make it
    fail.
    """
    try:
        _create_events(job, transitions, time.monotonic() + min(EVENTS_S, deadline_s))
    except OpsWorkerError as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001 - see above: never raises
        return [f"{type(error).__name__}: {one_line(str(error))}"]
    return []


def may_ask() -> bool:
    """Return whether this pod has credentials for a cluster: a token, or KUBECONFIG."""
    return bool(os.environ.get("KUBECONFIG")) or TOKEN.is_file()


def _create_events(job: str, transitions: Sequence[tuple[str, str]], end: float) -> None:
    """Write the Events until ``end`` (monotonic clock). Raises OpsWorkerError on failure."""
    # Otherwise the kubeconfig of a developer would decide where the Events go.
    if not TOKEN.is_file():
        raise ClusterError(
            "KUBERNETES_EVENTS is on, but there is no service account token: "
            "set automountServiceAccountToken, see k8s/variants/events"
        )
    # The name of a CronJob's Job is the name of the CronJob, a dash and the scheduled time.
    name = job.rpartition("-")[0]
    if not name:
        raise ClusterError("KUBERNETES_EVENTS is on, but JOB_NAME is not a Job of a CronJob")
    cluster = Cluster()
    # Without the CronJob's uid, `kubectl describe cronjob` would not find the Events.
    left_s = _remaining_s(end)
    cronjob = cluster._get("batch", "cronjobs", name, left_s)  # noqa: SLF001 - same module
    reference = {"name": name, "uid": cronjob["metadata"]["uid"]}
    for service, reason in transitions:
        event = event_of(reference, cluster.namespace, service, reason, datetime.now(UTC))
        cluster.create_event(event, _remaining_s(end))


def _runs_worker(cronjob: Mapping[str, Any]) -> bool:
    return _has_worker(at(cronjob, "spec", "jobTemplate", "spec", "template"))


def _has_worker(template: Mapping[str, Any]) -> bool:
    """Return whether a container of a pod template runs the worker."""
    return bool(workers(at(template, "spec"), at(template, "metadata", "labels")))


def _if_permitted(kind: str, read: Callable[[], list[Any]], not_looked_at: list[str]) -> list[Any]:
    """Return the objects of a kind. If they cannot be read, add the reason to ``not_looked_at``.

    These objects only complete the output, so a missing permission must not prevent the rest of it.
    """
    try:
        return read()
    except OpsWorkerError as error:
        not_looked_at.append(f"{kind}: {error}")
        return []


def _remaining_s(end: float) -> float:
    """Return the seconds until ``end`` (monotonic clock). Raises ClusterError after this time."""
    remaining_s = end - time.monotonic()
    if remaining_s <= 0:
        raise ClusterError("no time was left for Kubernetes Events")
    return remaining_s


class _Connection(NamedTuple):
    """The client, the server's name for people, and the namespace of the configuration."""

    api: Any
    label: str
    namespace: str


def _connect(kubeconfig: str, context: str) -> _Connection:
    """Configure the client without making a connection."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise SettingsError(
            ["calling the Kubernetes API requires an extra: pip install 'ops-worker[cluster]'"]
        ) from None
    configuration: Any = client.Configuration()
    file = kubeconfig or os.environ.get("KUBECONFIG", "")
    in_cluster = not file and os.environ.get("KUBERNETES_SERVICE_HOST") and TOKEN.is_file()
    try:
        if in_cluster:
            namespace = _load_service_account(config, configuration)
            source = "the service account"
        else:
            name, namespace = _load_kubeconfig(config, configuration, file, context)
            source = f"context {name}"
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser, the files and the client raise anything
        raise SettingsError(
            [f"the kubeconfig cannot be used: {_kubeconfig_problem(error)}"]
        ) from None
    label = f"{without_password(configuration.host)} ({source})"
    return _Connection(client.ApiClient(configuration), label, namespace)


def _kubeconfig_problem(error: Exception) -> str:
    """Return what is wrong with a kubeconfig, without texts of parsers or credential plugins."""
    message = str(error)
    if message.startswith("Invalid kube-config"):
        return one_line(message)
    if message.startswith("exec: "):
        return one_line(message.partition(". ")[0])
    return yaml_problem(error)


def _load_service_account(config: Any, configuration: Any) -> str:
    """Load the service account of this pod; return its namespace."""
    config.load_incluster_config(client_configuration=configuration)
    return TOKEN.with_name("namespace").read_text(encoding="utf-8").strip()


def _load_kubeconfig(config: Any, configuration: Any, named: str, context: str) -> tuple[str, str]:
    """Load a context of a kubeconfig; return the name of the context and its namespace."""
    file = named or str(Path.home() / ".kube" / "config")
    # KUBECONFIG may name several files.
    if not any(Path(path).is_file() for path in file.split(os.pathsep)):
        raise SettingsError(
            [f"no kubeconfig: file {file} does not exist; set KUBECONFIG or --kubeconfig"]
        )
    file = _without_empty_files(file)
    merged = config.kube_config.KubeConfigMerger(file)
    # Of several files, the client takes the current context of the last one, kubectl of the first.
    name = context or _current_context([merged.config_files[path] for path in merged.paths])
    contexts: list[dict[str, Any]] = [entry.value for entry in merged.config.value["contexts"]]
    chosen = next((entry for entry in contexts if entry.get("name") == name), {})
    if context and not chosen:
        raise SettingsError([f"--context {context}: {file} has no such context"])
    # Without a name, the client reports that there is no current context.
    config.load_kube_config(
        config_file=file, context=name or None, client_configuration=configuration
    )
    return name, at(chosen, "context").get("namespace", "")


def _without_empty_files(files: str) -> str:
    """Return the list of kubeconfigs without the empty ones, which the client refuses.

    kubectl ignores them. If all files are empty, return the list unchanged.
    """
    paths = files.split(os.pathsep)
    filled = [path for path in paths if Path(path).is_file() and Path(path).read_bytes().strip()]
    return os.pathsep.join(filled or paths)


def _current_context(files: Sequence[Mapping[str, Any]]) -> str:
    """Return the current context of several kubeconfigs: that of the first one that names one.

    Source: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files", section "Merging
    kubeconfig files".
    """
    return next((name for file in files if (name := text(file.get("current-context")))), "")
