"""Rules for the worker's containers: command, variables, permissions, probes, labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ops_worker.catalogue import Catalogue, Source, Surroundings, load, references
from ops_worker.core.passes import commands, container_commands
from ops_worker.core.pod_states import USE_NATIVE_SIDECAR
from ops_worker.core.pods import OURS, at, containers, items, mapping, text, workers
from ops_worker.core.suggest import intended_variable
from ops_worker.manifest_rules.parts import (
    JOBS,
    REFERENCE,
    SECRET_NAMES,
    Problem,
    number,
    serves,
    volumes_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops_worker.manifest_rules.parts import ProgramFacts, Worker

FOREIGN_VARIABLE = re.compile(r"SSL_CERT_FILE|SSL_CERT_DIR|TZ|PYTHON[A-Z0-9]+|PG[A-Z]+")
"""Variables that OpenSSL, Python and libpq read."""
SETTINGS_HINT = "`ops-worker health --help` lists the settings"
BLOCKS_POD = (
    "never ends, so the main containers never start; "
    "set restartPolicy: Always to make it a native sidecar"
)
NEVER_ENDS = "never ends by itself: in a Job, run one pass, or use --every with --for"
ENDS = (
    "ends after one pass, so Kubernetes restarts it again and again; "
    "run `sidecar` here, or use a CronJob"
)
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
"""The name of a variable in a message."""
URL_PASSWORD = re.compile(r"//[^/@:]*:([^/@]*)@")
"""The password of a URL."""
PASSWORD_FILES = ("PG_PASS_FILE", "DATABASE_URL_FILE")
"""Settings that name a file with the password."""
CLUSTER_COMMANDS = frozenset({"trigger", "cluster"})
"""Commands that call the Kubernetes API."""
LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of")
TRUE_WORDS = ("1", "true", "yes", "on")
RESOURCES = (
    ("requests", "cpu", "50m"),
    ("requests", "memory", "64Mi"),
    ("limits", "memory", "128Mi"),
)
"""Resources to set, with sufficient values: a pass uses at most 50 MB (docs/kubernetes.md)."""
DEFAULT_GRACE_S = 30
"""Default of ``terminationGracePeriodSeconds`` (kubernetes.io, "Pod Lifecycle")."""


def arguments(worker: Worker, facts: ProgramFacts) -> Iterator[Problem]:
    """The arguments are a valid command, which ends in a Job and does not end in a Deployment.

    Source: kubernetes.io, "Init Containers" and "Sidecar Containers": init containers must end, but
    init containers with ``restartPolicy: Always`` must not end.
    """
    field = f"{worker.container_path}.args"
    if "command" in worker.content and "args" not in worker.content:
        field = f"{worker.container_path}.command"
    if worker.invocation is None or worker.invocation.shell:
        program = next(iter(items(worker.content.get("command"))), "")
        message = f"is {program}; remove it: the image's entrypoint is ops-worker"
        yield Problem(f"{worker.container_path}.command", message)
        return
    error = facts.argument_error(worker.arguments) if worker.arguments_known else ""
    if error:
        yield Problem(field, _without_values(error, worker))
        return
    lifetime_problem = _lifetime_problem(worker)
    if lifetime_problem:
        yield Problem(field, lifetime_problem)


def _lifetime_problem(worker: Worker) -> str:
    """Return a problem if a command ends but must not, or never ends but must; otherwise empty."""
    if not worker.endless:
        return ENDS if worker.restarted else ""
    if worker.container.is_init:
        return BLOCKS_POD
    in_job = worker.container.is_main and worker.document.kind in JOBS
    return NEVER_ENDS if in_job else ""


def _without_values(error: str, worker: Worker) -> str:
    """Return an error with ``$(NAME)`` instead of the values of variables, which may be secret."""
    names = worker.environment.referenced & worker.values.keys()
    # Replace long values first, because a shorter value may be a part of a longer one.
    for name in sorted(names, key=lambda name: -len(worker.values[name])):
        value = worker.values[name]
        for quoted in (value, repr(value)[1:-1]):
            if quoted:
                error = error.replace(quoted, f"$({name})")
    return error


def neighbours(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """Other main containers in the pod of a Job end by themselves, like the pass.

    Source: kubernetes.io, "Sidecar Containers", section "Jobs with sidecar containers": a Job is
    complete when all containers of its pod have ended, except native sidecars.
    """
    if worker.document.kind not in JOBS or not worker.container.is_main:
        return
    if worker.pod.get("shareProcessNamespace") is True:
        return  # in a shared process namespace, one container can end another one
    ours = {container.name for container in workers(worker.pod, worker.labels)}
    for container in containers(worker.pod):
        if container.is_main and container.name not in ours and serves(container):
            yield Problem(
                f"{worker.pod_path}.containers[{container.position}]",
                f"{container.name} keeps running after the pass, so the Job never completes; "
                f"{USE_NATIVE_SIDECAR}",
            )


def variable_names(worker: Worker, facts: ProgramFacts) -> Iterator[Problem]:
    """Every environment variable is a setting, or is used by the catalogue or by another variable.

    Source: docs/settings.md. For ``$(NAME)``: kubernetes.io, "Define Dependent Environment
    Variables".
    """
    field = f"{worker.container_path}.env"
    usable = set(facts.defaults)
    source = mounted_catalogue(worker)
    if source is not None:
        usable |= set(references(source.text))
    names = {*worker.values, *worker.environment.unknown}
    for name in sorted(names - usable - worker.environment.referenced):
        if not FOREIGN_VARIABLE.fullmatch(name):
            similar = intended_variable(name, worker.values.get(name, ""), usable)
            hint = f"did you mean {similar}?" if similar else SETTINGS_HINT
            yield _of_settings(worker, f"{name} is not a setting; {hint}", name)
    for name, referenced in worker.environment.undefined:
        yield Problem(
            field,
            f"{name} refers to $({referenced}), but no variable before it has that name: "
            "Kubernetes does not expand the reference",
        )


def config_maps(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The ConfigMaps that a container needs are in the files.

    Source: kubernetes.io, "Configure a Pod to Use a ConfigMap", section "Restrictions": a pod does
    not start before its ConfigMap exists.
    """
    namespace = worker.document.namespace or "default"
    for name in worker.environment.missing_config_maps:
        yield Problem(
            f"{worker.container_path}.envFrom",
            f"ConfigMap {name} of namespace {namespace} is not in the files",
        )


def setting_values(worker: Worker, facts: ProgramFacts) -> Iterator[Problem]:
    """Every setting has a valid value.

    Source: docs/settings.md.
    """
    settings = {
        name: value
        for name, value in worker.values.items()
        if name in facts.defaults and name not in SECRET_NAMES
    }
    # Use a placeholder for the password in the Secret: else every manifest would have an error.
    for error in facts.setting_errors(settings | {"PG_PASS": "set"}):
        yield _of_settings(worker, error, *VARIABLE.findall(error))


def _of_settings(worker: Worker, message: str, *names: str) -> Problem:
    """Return a problem of variables at the ConfigMap that sets all of them, otherwise in ``env``.

    Several containers may have their variables from one ConfigMap, which has the problem once.
    """
    origins = {worker.environment.origins.get(name, "") for name in names if name in worker.values}
    if len(origins) == 1 and all(origins):
        return Problem("data", message, config_map=origins.pop())
    return Problem(f"{worker.container_path}.env", message)


def catalogue(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The catalogue is where the worker looks for it, and is valid.

    Source: docs/catalogue.md.
    """
    field = f"{worker.container_path}.env"
    path = worker.values.get("OPS_WORKER_CATALOGUE", "")
    runs_pass = worker.command in commands()
    if path and runs_pass and path not in worker.files and not _on_other_volume(worker, path):
        yield Problem(
            field,
            f"OPS_WORKER_CATALOGUE is {path}, but no ConfigMap in the files is mounted there",
        )
    for error in catalogue_of(worker)[1]:
        yield _of_settings(worker, error, *VARIABLE.findall(error))


def password(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The database password comes from a Secret, or from a file that is not in a ConfigMap.

    Source: kubernetes.io, "Distribute Credentials Securely Using Secrets".
    """
    if worker.command not in container_commands():
        return
    field = f"{worker.container_path}.env"
    names = password_files(worker)
    for name in names:
        if worker.values.get(name) in worker.files:
            yield Problem(field, f"{name} is a file of a ConfigMap; mount a Secret there")
    if names or worker.environment.password_from_secret:
        return
    yield Problem(
        field,
        "neither PG_PASS nor DATABASE_URL comes from a Secret; add envFrom with a secretRef, "
        "or a secretKeyRef, or mount the Secret and set PG_PASS_FILE",
    )


def password_files(worker: Worker) -> list[str]:
    """Return the settings of a worker that name a file with the database password."""
    names = {*worker.environment.unknown, *(name for name, value in worker.values.items() if value)}
    return [name for name in PASSWORD_FILES if name in names]


def mounted_catalogue(worker: Worker) -> Source | None:
    """Return the catalogue that a ConfigMap mounts where the worker looks for it."""
    path = worker.values.get("OPS_WORKER_CATALOGUE", "")
    return Source(path, worker.files[path]) if path in worker.files else None


def _on_other_volume(worker: Worker, path: str) -> bool:
    """Return whether a path is on a volume with unknown content, which is not a ConfigMap."""
    volumes = volumes_of(worker.pod)
    for mount in map(mapping, items(worker.content.get("volumeMounts"))):
        folder = text(mount.get("mountPath")).rstrip("/") + "/"
        volume = mapping(volumes.get(text(mount.get("name"))))
        if path.startswith(folder) and "configMap" not in volume:
            return True
    return False


def catalogue_of(worker: Worker) -> tuple[Catalogue, list[str]]:
    """Return the catalogue of a worker, as far as its variables are known, and its errors."""
    if worker.command not in commands():
        return Catalogue(), []
    surroundings = Surroundings(worker.values, known=False)
    loaded, errors = load(mounted_catalogue(worker), surroundings)
    return loaded, [*errors, *loaded.faults]


def plain_secrets(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """A manifest refers to secrets and never contains them.

    Source: kubernetes.io, "Good practices for Kubernetes Secrets".
    """
    partial = worker.environment.partial
    for name in SECRET_NAMES:
        written = partial.get(name, "")
        if name == "DATABASE_URL":
            written = "".join(URL_PASSWORD.findall(written))
        if worker.values.get(name) or REFERENCE.sub("", written):
            problem = f"{name} is set in plain text; take it from a Secret"
            yield _of_settings(worker, problem, name)
    for name, value in {**worker.values, **partial}.items():
        passwords = "".join(URL_PASSWORD.findall(value))
        if name not in SECRET_NAMES and REFERENCE.sub("", passwords):
            problem = f"{name} contains a password in plain text; take it from a Secret"
            yield _of_settings(worker, problem, name)


def hardening(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The container meets the Pod Security Standard `restricted`; its root is read-only.

    Source: kubernetes.io, "Pod Security Standards", section "Restricted".
    """
    of_container = at(worker.content, "securityContext")
    effective = {**at(worker.pod, "securityContext"), **of_container}
    capabilities = at(of_container, "capabilities")
    dropped = {str(capability) for capability in items(capabilities.get("drop"))}
    seccomp = text(at(effective, "seccompProfile").get("type"))
    requirements = (
        ("runAsNonRoot", effective.get("runAsNonRoot") is True, "must be true"),
        ("runAsUser", effective.get("runAsUser", 1) != 0, "is 0; the image's user is 65532"),
        (
            "allowPrivilegeEscalation",
            of_container.get("allowPrivilegeEscalation") is False,
            "must be false",
        ),
        ("privileged", of_container.get("privileged") is not True, "must be false"),
        (
            "readOnlyRootFilesystem",
            of_container.get("readOnlyRootFilesystem") is True,
            "must be true: the worker writes no file there",
        ),
        ("capabilities.drop", "ALL" in dropped, "must contain ALL"),
        ("capabilities.add", not capabilities.get("add"), "must be empty"),
        (
            "seccompProfile.type",
            seccomp in {"RuntimeDefault", "Localhost"},
            "must be RuntimeDefault",
        ),
    )
    for name, is_met, message in requirements:
        if not is_met:
            yield Problem(f"{worker.container_path}.securityContext.{name}", message)


def pod_hardening(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The worker's own pod uses neither the node's namespaces nor the node's files.

    Source: kubernetes.io, "Pod Security Standards", section "Baseline": "Host Namespaces" and
    "HostPath Volumes".
    """
    if not worker.owns_pod:
        return
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if worker.pod.get(name):
            yield Problem(f"{worker.pod_path}.{name}", "must be false")
    if not worker.only_container:
        return
    for volume in map(mapping, items(worker.pod.get("volumes"))):
        if "hostPath" in volume:
            yield Problem(
                f"{worker.pod_path}.volumes",
                f"{volume.get('name')} is a hostPath; the worker needs only an emptyDir at /tmp",
            )


def resources(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The container requests CPU and memory, and its memory has a limit.

    Source: kubernetes.io, "Resource Management for Pods and Containers".
    """
    content = at(worker.content, "resources")
    for kind, resource, enough in RESOURCES:
        if resource not in at(content, kind):
            yield Problem(
                f"{worker.container_path}.resources.{kind}.{resource}",
                f"is not set; set {enough}, which is enough",
            )


def termination_message(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """A failed container shows its last lines of log if it wrote no termination message.

    Source: kubernetes.io, "Determine the Reason for Pod Failure".
    """
    if worker.content.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        yield Problem(
            f"{worker.container_path}.terminationMessagePolicy",
            "must be FallbackToLogsOnError, so that a failed pod always shows the reason",
        )


def api_token(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The worker's own pod has a service account token if and only if the command needs it.

    Source: kubernetes.io, "Configure Service Accounts for Pods", section "Opt out of API credential
    automounting".
    """
    if not worker.owns_pod:
        return
    calls_api = worker.command in CLUSTER_COMMANDS or writes_events(worker)
    mounted = worker.pod.get("automountServiceAccountToken") is not False
    if mounted == calls_api:
        return
    field = f"{worker.pod_path}.automountServiceAccountToken"
    if calls_api:
        yield Problem(field, "must be true: the command calls the Kubernetes API")
    elif worker.only_container:  # another container may use the token
        yield Problem(field, "must be false: the command does not call the Kubernetes API")


def service_links(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The worker's own pod has no environment variables of other Services.

    Source: kubernetes.io, "Service", section "Environment variables".
    """
    if worker.owns_pod and worker.pod.get("enableServiceLinks") is not False:
        yield Problem(
            f"{worker.pod_path}.enableServiceLinks",
            "must be false: a Service named pg would set PG_PORT",
        )


def grace_period(worker: Worker, facts: ProgramFacts) -> Iterator[Problem]:
    """The grace period of the pod is longer than the time that the worker needs to end its pass.

    Source: kubernetes.io, "Pod Lifecycle", section "Termination of Pods".
    """
    if not worker.owns_pod:
        return
    needed = number(worker.values.get("SHUTDOWN_GRACE") or facts.defaults["SHUTDOWN_GRACE"])
    grace = number(worker.pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))
    if needed is not None and grace is not None and grace <= needed:
        yield Problem(
            f"{worker.pod_path}.terminationGracePeriodSeconds",
            f"is {grace:g}; it must be greater than SHUTDOWN_GRACE ({needed:g})",
        )


def probes(worker: Worker, facts: ProgramFacts) -> Iterator[Problem]:
    """The probes of a sidecar use its path and port, and it accepts connections of the kubelet.

    Source: kubernetes.io, "Configure Liveness, Readiness and Startup Probes", and docs/loops.md.
    """
    if worker.command != "sidecar":
        return
    port = worker.values.get("SIDECAR_PORT") or facts.defaults["SIDECAR_PORT"]
    names = {port}
    for declared in map(mapping, items(worker.content.get("ports"))):
        if str(declared.get("containerPort")) == port:
            names.add(str(declared.get("name")))
    probe_paths = {"livenessProbe": "/health"}
    if worker.owns_pod:
        probe_paths["readinessProbe"] = "/ready"
    for name, path in probe_paths.items():
        request = at(worker.content, name, "httpGet")
        if request.get("path") != path or str(request.get("port")) not in names:
            yield Problem(
                f"{worker.container_path}.{name}",
                f"must be an httpGet of {path} on port {port}",
            )
    every_interface = "0.0.0.0"  # noqa: S104 - the kubelet's probes come from outside the pod
    if worker.values.get("SIDECAR_HOST") != every_interface:
        yield Problem(
            f"{worker.container_path}.env",
            f"SIDECAR_HOST must be {every_interface}: "
            "the kubelet's probes come from outside the pod",
        )


def labels(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The object, the Job and the pod have the recommended labels.

    Source: kubernetes.io, "Recommended Labels".
    """
    if not worker.owns_pod:
        return
    document = worker.document
    labels_by_path: dict[str, Any] = {"metadata.labels": document.labels}
    if document.kind == "CronJob":
        labels_by_path["spec.jobTemplate.metadata.labels"] = at(
            document.content, "spec", "jobTemplate", "metadata", "labels"
        )
    labels_by_path[worker.pod_path.removesuffix("spec") + "metadata.labels"] = worker.labels
    for path, present in labels_by_path.items():
        missing = [label for label in LABELS if not present.get(label)]
        if missing:
            yield Problem(path, f"has no {', '.join(missing)}")


def image(worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """The image has a version tag or a digest.

    Source: kubernetes.io, "Images", section "Image names".
    """
    reference = str(worker.content.get("image") or "")
    tag = reference.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in reference and tag in {"", "latest"}:
        yield Problem(
            f"{worker.container_path}.image",
            f"{reference or OURS!r} can change at any time; use a version tag or a digest",
        )


def writes_events(worker: Worker) -> bool:
    """Return whether the worker writes Kubernetes Events."""
    return worker.values.get("KUBERNETES_EVENTS", "").strip().lower() in TRUE_WORDS


RULES = (
    arguments,
    neighbours,
    variable_names,
    config_maps,
    setting_values,
    catalogue,
    password,
    plain_secrets,
    hardening,
    pod_hardening,
    resources,
    termination_message,
    api_token,
    service_links,
    grace_period,
    probes,
    labels,
    image,
)
"""The rules for the worker's containers. Each rule takes a container and yields its problems."""
