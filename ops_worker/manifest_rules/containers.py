"""Rules of the worker's containers: what they run, what they are told, what they may."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ops_worker.catalogue import Catalogue, Source, Surroundings, load, references
from ops_worker.core.cronjobs import NATIVE
from ops_worker.core.passes import commands, container_commands
from ops_worker.core.pods import OURS, at, containers, items, mapping, text, workers
from ops_worker.manifest_rules.parts import JOBS, REFERENCE, SECRETS, number, serves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops_worker.manifest_rules.parts import Facts, Worker

Found = tuple[str, str]
FOREIGN = re.compile(r"SSL_CERT_FILE|SSL_CERT_DIR|TZ|PYTHON[A-Z0-9]+|PG[A-Z]+")
"""Variables that are read by what the worker is made of: OpenSSL, Python, libpq."""
BLOCKS = "never ends, so the pod never starts: set restartPolicy: Always, which makes it a sidecar"
ENDLESS = "never ends by itself: a CronJob wants a pass, or --every with --for"
RESTARTED = (
    "ends after one pass, and would be started again and again; run sidecar here, or a CronJob"
)
PASSWORD = re.compile(r"//[^/@:]*:([^/@]*)@")
"""The password of a URL."""
ASKS_CLUSTER = frozenset({"trigger", "cluster"})
LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of")
ON = ("1", "true", "yes", "on")


def arguments(worker: Worker, facts: Facts) -> Iterator[Found]:
    """The arguments are a command of the program, and it ends where it has to."""
    field = "args" if "args" in worker.container or "command" not in worker.container else "command"
    if worker.run is None or worker.run.shell:
        first = next(iter(items(worker.container.get("command"))), "")
        message = f"is {first}; leave it out: the image's entrypoint is ops-worker"
        yield f"{worker.where}.command", message
    elif worker.known and (problem := facts.parse(worker.arguments)):
        yield f"{worker.where}.{field}", _unexpanded(problem, worker)
    elif worker.box.first and worker.endless:
        yield f"{worker.where}.{field}", BLOCKS
    elif worker.box.main and worker.document.kind in JOBS and worker.endless:
        yield f"{worker.where}.{field}", ENDLESS
    elif worker.restarted and not worker.endless:
        yield f"{worker.where}.{field}", RESTARTED


def _unexpanded(problem: str, worker: Worker) -> str:
    """Put ``$(NAME)`` back where a fault quotes a variable's value, which may be a secret."""
    told = sorted(
        worker.variables.used & worker.env.keys(), key=lambda name: -len(worker.env[name])
    )
    for name in told:
        for value in (worker.env[name], repr(worker.env[name])[1:-1]):
            if value:
                problem = problem.replace(value, f"$({name})")
    return problem


def neighbours(worker: Worker, _: Facts) -> Iterator[Found]:
    """What runs beside a pass ends with it: a Job waits for all but native sidecars."""
    if worker.document.kind not in JOBS or not worker.box.main:
        return
    if worker.pod.get("shareProcessNamespace") is True:
        return  # so that one container may end another
    names = {one.name for one in workers(worker.pod, worker.labels)}
    for box in containers(worker.pod):
        if box.main and box.name not in names and serves(box):
            message = f"{box.name} goes on after the pass, so the Job never completes; {NATIVE}"
            yield f"{worker.pod_path}.containers[{box.place}]", message


def variables(worker: Worker, facts: Facts) -> Iterator[Found]:
    """Every variable is a setting with a valid value, and what is required is there."""
    source = written(worker)
    known = {*facts.defaults, *(references(source.text) if source else ())}
    for variable in sorted({*worker.env, *worker.variables.hidden} - known - worker.variables.used):
        if not FOREIGN.fullmatch(variable):
            yield (
                f"{worker.where}.env",
                f"{variable} is no setting; `ops-worker health --help` lists them",
            )
    for variable, name in worker.variables.undefined:
        refers = f"{variable} refers to $({name}), which no variable before it is called"
        yield f"{worker.where}.env", f"{refers}: it stays as it is"
    for missing in worker.variables.missing:
        yield (
            f"{worker.where}.envFrom",
            f"ConfigMap {missing} is not among the files of namespace {worker.document.namespace or 'default'}",
        )
    told = {
        variable: value
        for variable, value in worker.env.items()
        if variable in known and variable not in SECRETS
    }
    for fault in facts.faults(
        {name: value for name, value in told.items() if name in facts.defaults} | {"PG_PASS": "set"}
    ):
        yield f"{worker.where}.env", fault
    path = worker.env.get("OPS_WORKER_CATALOGUE", "")
    if (
        path
        and path not in worker.files
        and worker.command in commands()
        and not _from_elsewhere(worker, path)
    ):
        yield (
            f"{worker.where}.env",
            f"OPS_WORKER_CATALOGUE is {path}, where no ConfigMap among the files puts a file",
        )
    for fault in catalogued(worker)[1]:
        yield f"{worker.where}.env", fault
    if worker.command in container_commands() and not worker.variables.secrets:
        yield (
            f"{worker.where}.env",
            "neither PG_PASS nor DATABASE_URL comes from a Secret; add envFrom: secretRef, or a secretKeyRef",
        )


def written(worker: Worker) -> Source | None:
    """Give the catalogue that a ConfigMap puts where the worker looks for it."""
    path = worker.env.get("OPS_WORKER_CATALOGUE", "")
    return Source(path, worker.files[path]) if path in worker.files else None


def _from_elsewhere(worker: Worker, path: str) -> bool:
    """Whether the path lies on a volume that is no ConfigMap, so that its content is not known here."""
    volumes = {text(one.get("name")): one for one in map(mapping, items(worker.pod.get("volumes")))}
    mounts = [mapping(one) for one in items(worker.container.get("volumeMounts"))]
    covering = [
        text(one.get("name"))
        for one in mounts
        if path.startswith(text(one.get("mountPath")).rstrip("/") + "/")
    ]
    return any("configMap" not in mapping(volumes.get(name)) for name in covering)


def catalogued(worker: Worker) -> tuple[Catalogue, list[str]]:
    """Give the catalogue that is in force for a worker, as far as its variables are known, and its faults."""
    if worker.command not in commands():
        return Catalogue(), []
    found, faults = load(written(worker), Surroundings(worker.env, known=False))
    return found, [*faults, *found.faults]


def plain_secrets(worker: Worker, _: Facts) -> Iterator[Found]:
    """Secrets are referenced, never written down."""
    for variable in SECRETS:
        written = worker.variables.partly.get(variable, "")
        if variable == "DATABASE_URL":
            written = "".join(PASSWORD.findall(written))
        if worker.env.get(variable) or REFERENCE.sub("", written):
            yield (
                f"{worker.where}.env",
                f"{variable} stands there in plain text; take it from a Secret",
            )
    for variable, value in {**worker.env, **worker.variables.partly}.items():
        passwords = "".join(PASSWORD.findall(value))
        if variable not in SECRETS and REFERENCE.sub("", passwords):
            yield (
                f"{worker.where}.env",
                f"{variable} holds a password in plain text; take it from a Secret",
            )


def hardening(worker: Worker, _: Facts) -> Iterator[Found]:
    """What Pod Security `restricted` asks of a container, and a read-only root (kubernetes.io, "Pod Security Standards")."""
    own, whole = at(worker.container, "securityContext"), at(worker.pod, "securityContext")
    either = {**whole, **own}
    root = own.get("readOnlyRootFilesystem") is True
    caps = {str(one) for one in items(at(own, "capabilities").get("drop"))}
    wanted = (
        ("runAsNonRoot", either.get("runAsNonRoot") is True, "has to be true"),
        ("runAsUser", either.get("runAsUser", 1) != 0, "is 0; the image's user is 65532"),
        (
            "allowPrivilegeEscalation",
            own.get("allowPrivilegeEscalation") is False,
            "has to be false",
        ),
        ("privileged", own.get("privileged") is not True, "has to be false"),
        ("readOnlyRootFilesystem", root, "has to be true: the worker writes no file there"),
        ("capabilities.drop", "ALL" in caps, "has to hold ALL"),
        ("capabilities.add", not at(own, "capabilities").get("add"), "has to be empty"),
        (
            "seccompProfile.type",
            text(at(either, "seccompProfile").get("type")) in {"RuntimeDefault", "Localhost"},
            "has to be RuntimeDefault",
        ),
    )
    for field, right, message in wanted:
        if not right:
            yield f"{worker.where}.securityContext.{field}", message
    if not worker.sole:
        return
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if worker.pod.get(field):
            yield f"{worker.pod_path}.{field}", "has to be false"
    for volume in map(mapping, items(worker.pod.get("volumes"))):
        if worker.alone and "hostPath" in volume:
            yield (
                f"{worker.pod_path}.volumes",
                f"{volume.get('name')} is a hostPath; the worker needs an emptyDir at /tmp, nothing else",
            )


def resources(worker: Worker, _: Facts) -> Iterator[Found]:
    """A place on a node is asked for, and memory is bounded."""
    found = at(worker.container, "resources")
    for kind, what, wanted in (
        ("requests", "cpu", "50m"),
        ("requests", "memory", "64Mi"),
        ("limits", "memory", "128Mi"),
    ):
        if what not in at(found, kind):
            yield (
                f"{worker.where}.resources.{kind}.{what}",
                f"is not set; {wanted} was measured to do",
            )


def pod(worker: Worker, facts: Facts) -> Iterator[Found]:
    """The pod carries no token that nobody uses and no variables of other Services, and says why it ended."""
    if worker.container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        yield (
            f"{worker.where}.terminationMessagePolicy",
            "has to be FallbackToLogsOnError, so that a pod always says why it failed",
        )
    if not worker.sole:
        return
    asks = worker.command in ASKS_CLUSTER or events(worker)
    mounted = worker.pod.get("automountServiceAccountToken") is not False
    if mounted != asks and (asks or worker.alone):  # another container may have a use for it
        reason = "the command asks the cluster" if asks else "the command does not ask the cluster"
        yield (
            f"{worker.pod_path}.automountServiceAccountToken",
            f"has to be {str(asks).lower()}: {reason}",
        )
    if worker.pod.get("enableServiceLinks") is not False:
        yield (
            f"{worker.pod_path}.enableServiceLinks",
            "has to be false: a Service named pg would set PG_PORT",
        )
    grace = number(worker.env.get("SHUTDOWN_GRACE") or facts.defaults["SHUTDOWN_GRACE"])
    period = number(worker.pod.get("terminationGracePeriodSeconds", 30))
    if grace is not None and period is not None and period <= grace:
        yield (
            f"{worker.pod_path}.terminationGracePeriodSeconds",
            f"is {period:g}; it has to be above SHUTDOWN_GRACE ({grace:g})",
        )


def probes(worker: Worker, facts: Facts) -> Iterator[Found]:
    """A sidecar's probes ask what it serves, and it serves where they ask."""
    if worker.command != "sidecar":
        return
    port = worker.env.get("SIDECAR_PORT") or facts.defaults["SIDECAR_PORT"]
    ports = {
        port,
        *(
            str(one.get("name"))
            for one in map(mapping, items(worker.container.get("ports")))
            if str(one.get("containerPort")) == port
        ),
    }
    for field, path in (
        ("livenessProbe", "/health"),
        *([("readinessProbe", "/ready")] if worker.sole else []),
    ):
        asked = at(worker.container, field, "httpGet")
        if asked.get("path") != path or str(asked.get("port")) not in ports:
            yield f"{worker.where}.{field}", f"has to be an httpGet of {path} on port {port}"
    if worker.env.get("SIDECAR_HOST") != "0.0.0.0":  # noqa: S104 - what a probe from outside the pod needs
        yield (
            f"{worker.where}.env",
            "SIDECAR_HOST has to be 0.0.0.0: the kubelet asks from outside the pod",
        )


def labels(worker: Worker, _: Facts) -> Iterator[Found]:
    """The recommended labels are on the object, the Job and the pod (kubernetes.io, "Recommended Labels")."""
    if not worker.sole:
        return
    content = worker.document.content
    places: list[tuple[str, Any]] = [("metadata.labels", at(content, "metadata", "labels"))]
    if worker.document.kind == "CronJob":
        places.append(
            (
                "spec.jobTemplate.metadata.labels",
                at(content, "spec", "jobTemplate", "metadata", "labels"),
            )
        )
    places.append((worker.pod_path.removesuffix("spec") + "metadata.labels", worker.labels))
    for path, found in places:
        if missing := [label for label in LABELS if not found.get(label)]:
            yield path, f"{', '.join(missing)} missing"


def image(worker: Worker, _: Facts) -> Iterator[Found]:
    """The image is named with a tag or digest that stays what it is."""
    reference = str(worker.container.get("image") or "")
    tag = reference.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in reference and tag in {"", "latest"}:
        yield (
            f"{worker.where}.image",
            f"{reference or OURS!r} may change by itself; name a version or a digest",
        )


def events(worker: Worker) -> bool:
    """Tell whether the worker writes Kubernetes Events."""
    return worker.env.get("KUBERNETES_EVENTS", "").strip().lower() in ON


RULES = (
    arguments,
    neighbours,
    variables,
    plain_secrets,
    hardening,
    resources,
    pod,
    probes,
    labels,
    image,
)
"""The rules of a container of ours. Each gives fields and what is wrong with them."""
