"""Rules about several objects: one image, sufficient network policies, no unused permission."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ops_worker.core.passes import HEALTH, PASSES, container_commands
from ops_worker.core.pods import NAME_LABEL, OURS, RECOGNISED, at, items, mapping, text
from ops_worker.manifest_rules.containers import catalogue_of, password_files, writes_events
from ops_worker.manifest_rules.parts import is_ours, pod_template, selects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ops_worker.manifest_rules.parts import Document, Fault, ProgramFacts, Worker

CLUSTER_SCOPED = re.compile(
    r"APIService|CSI(Driver|Node)|CertificateSigningRequest|Cluster(Role|RoleBinding|TrustBundle)"
    r"|ComponentStatus|CustomResourceDefinition|DeviceClass|FlowSchema|IPAddress|IngressClass"
    r"|(Mutating|Validating)(AdmissionPolicy(Binding)?|WebhookConfiguration)|Namespace|Node"
    r"|PersistentVolume|PodSecurityPolicy|PriorityClass|PriorityLevelConfiguration|ResourceSlice"
    r"|RuntimeClass|ServiceCIDR|StorageClass|StorageVersion|VolumeAttachment|VolumeAttributesClass"
)
"""Kinds without a namespace (`kubectl api-resources --namespaced=false`)."""
_APPS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})
_RBAC = frozenset({"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"})


class RemovedVersion(NamedTuple):
    """An apiVersion that Kubernetes no longer serves for some kinds."""

    version: str
    kinds: frozenset[str]
    removed_in: str
    replacement: str


REMOVED = (
    RemovedVersion("batch/v2alpha1", frozenset({"CronJob"}), "1.21", "batch/v1"),
    RemovedVersion("batch/v1beta1", frozenset({"CronJob"}), "1.25", "batch/v1"),
    RemovedVersion(
        "extensions/v1beta1", frozenset({"NetworkPolicy"}), "1.16", "networking.k8s.io/v1"
    ),
    RemovedVersion("extensions/v1beta1", _APPS, "1.16", "apps/v1"),
    RemovedVersion("apps/v1beta1", _APPS, "1.16", "apps/v1"),
    RemovedVersion("apps/v1beta2", _APPS, "1.16", "apps/v1"),
    RemovedVersion(
        "rbac.authorization.k8s.io/v1alpha1", _RBAC, "1.22", "rbac.authorization.k8s.io/v1"
    ),
    RemovedVersion(
        "rbac.authorization.k8s.io/v1beta1", _RBAC, "1.22", "rbac.authorization.k8s.io/v1"
    ),
)
"""The removed versions of the kinds that an installation uses.

Source: kubernetes.io, "Deprecated API Migration Guide".
"""
MAX_PORT_DIGITS = 5
"""Maximum number of digits of a TCP port."""
SHORT_NAME = 2
"""Number of labels in NAME.NAMESPACE, the longest name of a Service without ``svc``."""
CLUSTER_DOMAIN = ".cluster.local"
USED_VERBS = {
    ("", "events"): {"create", "list"},
    ("events.k8s.io", "events"): {"create", "list"},
    ("", "pods"): {"list"},
    ("", "pods/log"): {"get"},
    ("", "namespaces"): {"get"},
    ("batch", "cronjobs"): {"get", "list"},
    ("batch", "jobs"): {"create", "get", "list"},
}
"""The verbs that `trigger`, `cluster` and KUBERNETES_EVENTS use, by API group and resource."""


class Destination(NamedTuple):
    """A port to which a worker connects, the purpose, and whether it is outside the cluster."""

    protocol: str
    port: int
    purpose: str
    is_outside: bool = False


class Permission(NamedTuple):
    """A verb on a resource of an API group, as a Role grants it."""

    group: str
    resource: str
    verb: str


def files(documents: Sequence[Document], workers: Sequence[Worker]) -> Iterator[Fault]:
    """Every file has no secrets and can be applied with ``kubectl apply -f`` to its namespace.

    Source: kubernetes.io, "Declarative Management of Kubernetes Objects Using Configuration Files",
    "Good practices for Kubernetes Secrets" and "Deprecated API Migration Guide".
    """
    referenced = {reference for worker in workers for reference in _references(worker)}
    running = [worker.document for worker in workers]
    for document in documents:
        is_referenced = (document.kind, document.name) in referenced
        belongs = document in running or is_referenced or is_ours(document)
        cluster_scoped = CLUSTER_SCOPED.fullmatch(document.kind)
        if document.kind in {"Kustomization", "Component"}:
            yield document.fault(
                "kind",
                "`kubectl apply -f` fails on it; "
                "move it to a folder of its own and use `kubectl apply -k`",
            )
        elif _holds_secret(document):
            yield document.fault(
                "data",
                "a Secret is stored in a file; create it in the cluster and refer to it",
            )
        elif belongs and not document.namespace and not cluster_scoped:
            yield document.fault(
                "metadata.namespace",
                "is not set, so kubectl would use whatever namespace is current",
            )
        if belongs:
            yield from _removed_version(document)


def _holds_secret(document: Document) -> bool:
    content = document.content
    return document.kind == "Secret" and bool(content.get("data") or content.get("stringData"))


def _removed_version(document: Document) -> Iterator[Fault]:
    version = document.content.get("apiVersion")
    for removed in REMOVED:
        if removed.version == version and document.kind in removed.kinds:
            yield document.fault(
                "apiVersion",
                f"{version} was removed in Kubernetes {removed.removed_in}; "
                f"use {removed.replacement}",
            )


def no_worker(documents: Sequence[Document], workers: Sequence[Worker]) -> Iterator[Fault]:
    """If objects create pods, one of these pods runs the worker. Otherwise nothing was checked."""
    if workers:
        return
    for document in documents:
        path, template = pod_template(document)
        if template:
            field = ".".join((*path, "spec"))
            yield document.fault(field, f"no ops-worker container found: {RECOGNISED}")
            return


def _references(worker: Worker) -> Iterator[tuple[str, str]]:
    """Yield the kind and name of each object to which a worker refers."""
    yield "ServiceAccount", text(worker.pod.get("serviceAccountName"))
    for source in map(mapping, items(worker.content.get("envFrom"))):
        yield "ConfigMap", text(at(source, "configMapRef").get("name"))
    for variable in map(mapping, items(worker.content.get("env"))):
        yield "ConfigMap", text(at(variable, "valueFrom", "configMapKeyRef").get("name"))
    for volume in map(mapping, items(worker.pod.get("volumes"))):
        yield "ConfigMap", text(at(volume, "configMap").get("name"))
        yield "PersistentVolumeClaim", text(at(volume, "persistentVolumeClaim").get("claimName"))


def one_image(workers: Sequence[Worker]) -> Iterator[Fault]:
    """All containers of the worker run the same image."""
    if not workers:
        return
    first = workers[0]
    first_image = text(first.content.get("image"))
    for worker in workers:
        image = text(worker.content.get("image"))
        if image != first_image:
            yield worker.document.fault(
                f"{worker.container_path}.image",
                f"is {image}, but {first.document.name} has {first_image}; "
                "use the same image everywhere",
            )


def one_password_source(workers: Sequence[Worker]) -> Iterator[Fault]:
    """If one pod of the worker reads the password from a file, all pods of the worker do.

    Otherwise a rotated password reaches only some of the pods.
    """
    owners = [
        worker for worker in workers if worker.owns_pod and worker.command in container_commands()
    ]
    reading = [worker for worker in owners if password_files(worker)]
    for worker in owners:
        if reading and not password_files(worker):
            first = reading[0]
            yield worker.document.fault(
                f"{worker.container_path}.env",
                f"has no {password_files(first)[0]}, which {first.document.kind}/"
                f"{first.document.name} has (with kustomize, list the component secret-files "
                "after those that add pods)",
            )


def network(
    documents: Sequence[Document], workers: Sequence[Worker], facts: ProgramFacts
) -> Iterator[Fault]:
    """The network policies allow every connection that a worker makes.

    Source: kubernetes.io, "Network Policies": each policy allows more; without a policy, everything
    is allowed.
    """
    policies = [
        document
        for document in documents
        if document.kind == "NetworkPolicy"
        and "Egress" in items(at(document.content, "spec").get("policyTypes"))
    ]
    for worker in workers:
        policies_of_pod = [policy for policy in policies if _selects(policy, worker)]
        if not policies_of_pod:
            continue
        rules = [
            mapping(rule)
            for policy in policies_of_pod
            for rule in items(at(policy.content, "spec").get("egress"))
        ]
        subject = f"{worker.document.kind}/{worker.document.name}"
        for destination in _destinations(worker, facts):
            if not any(_allows(rule, destination) for rule in rules):
                yield policies_of_pod[0].fault(
                    "spec.egress", f"does not let {subject} reach {_described(destination)}"
                )


def _described(destination: Destination) -> str:
    """Return a destination for a message. If it is outside the cluster, add the rule it needs."""
    place = f"{destination.protocol} {destination.port}"
    if not destination.is_outside:
        return f"{place} ({destination.purpose})"
    return (
        f"{place} outside the cluster ({destination.purpose}); add an egress rule for port "
        f"{destination.port} with an ipBlock or without `to`"
    )


def rights(documents: Sequence[Document], workers: Sequence[Worker]) -> Iterator[Fault]:
    """The worker's Roles grant exactly what the worker uses.

    Source: kubernetes.io, "Role Based Access Control Good Practices", section "Least privilege".
    """
    granted: set[tuple[str, Permission]] = set()
    for role in documents:
        if role.kind not in {"Role", "ClusterRole"} or role.labels.get(NAME_LABEL) != OURS:
            continue
        bound = [binding for binding in documents if _binds(binding, role)]
        for index, permission in _permissions(role):
            group, resource, verb = permission
            granted |= {(binding.namespace, permission) for binding in bound}
            if verb not in USED_VERBS.get((group, resource), set()):
                yield role.fault(
                    f"rules[{index}]",
                    f"grants {verb} on {resource or '?'}, which ops-worker does not use",
                )
    create_events = Permission("", "events", "create")
    for worker in workers:
        namespaces = {worker.document.namespace, ""}
        may_create_events = any((namespace, create_events) in granted for namespace in namespaces)
        if writes_events(worker) and not may_create_events:
            yield worker.document.fault(
                f"{worker.container_path}.env",
                "KUBERNETES_EVENTS is on, but no bound Role in the files grants create on events",
            )


def _binds(binding: Document, role: Document) -> bool:
    """Return whether a binding grants a Role. A ClusterRoleBinding has no namespace."""
    if binding.kind not in {"RoleBinding", "ClusterRoleBinding"}:
        return False
    if role.kind == "Role" and binding.namespace != role.namespace:
        return False
    return text(at(binding.content, "roleRef").get("name")) == role.name


def _permissions(role: Document) -> Iterator[tuple[int, Permission]]:
    """Yield the permissions of a Role, each with the index of its rule."""
    for index, rule in enumerate(map(mapping, items(role.content.get("rules")))):
        for group in items(rule.get("apiGroups")):
            for resource in items(rule.get("resources")):
                for verb in items(rule.get("verbs")):
                    yield index, Permission(str(group), str(resource), str(verb))


def _selects(policy: Document, worker: Worker) -> bool:
    """Return whether a policy applies to a worker's pod."""
    if policy.namespace != worker.document.namespace:
        return False
    return selects(at(policy.content, "spec", "podSelector"), worker.labels)


def _destinations(worker: Worker, facts: ProgramFacts) -> Iterator[Destination]:
    """Yield the destinations to which a worker connects, as far as its variables are known."""
    yield Destination("UDP", 53, "DNS")
    yield Destination("TCP", 53, "DNS")
    if worker.command in container_commands():
        port = worker.values.get("PG_PORT") or facts.defaults["PG_PORT"]
        if port.isdecimal() and len(port) <= MAX_PORT_DIGITS:
            yield Destination("TCP", int(port), "PG_PORT")
    is_probing = worker.command not in PASSES or PASSES[worker.command].probes
    targets = catalogue_of(worker)[0].targets if is_probing else ()
    urls = [(target.url, f"service {target.name}") for target in targets]
    urls += [(url, "ALERTMANAGER_URL") for url in _alertmanagers(worker)]
    yield from _destinations_of(urls)
    if writes_events(worker):
        yield Destination("TCP", 443, "the API server")


def _alertmanagers(worker: Worker) -> list[str]:
    """Return the URLs of the Alertmanagers to which a worker posts."""
    if worker.command not in {HEALTH.name, "sidecar"}:
        return []
    return [url.strip() for url in worker.values.get("ALERTMANAGER_URL", "").split(",")]


def _destinations_of(urls: Iterable[tuple[str, str]]) -> Iterator[Destination]:
    """Yield the destinations of URLs with their purposes, each port once.

    A port comes twice if some URLs lead into the cluster and others lead out of it.
    """
    yielded = set()
    for url, purpose in urls:
        port = _port_of(url)
        if port is None:
            continue
        is_outside = _is_outside(url)
        if (port, is_outside) not in yielded:
            yielded.add((port, is_outside))
            yield Destination("TCP", port, purpose, is_outside)


def _is_outside(url: str) -> bool:
    """Return whether a URL leads out of the cluster.

    It does if it has an IP address, or a name that is not a Service of the cluster. Names with one
    or two labels (NAME, NAME.NAMESPACE) are inside. So is the loopback address, because no policy
    applies to it.

    Source: kubernetes.io, "DNS for Services and Pods".
    """
    host = (urlsplit(url).hostname or "").removesuffix(".")
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        labels = host.split(".")
    return len(labels) > SHORT_NAME and "svc" not in labels and not host.endswith(CLUSTER_DOMAIN)


def _port_of(url: str) -> int | None:
    """Return the port of a URL; None if its variables are in a Secret, or if it is invalid."""
    try:
        parts = urlsplit(url)
        return parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None


def _allows(rule: Mapping[str, Any], destination: Destination) -> bool:
    """Return whether an egress rule allows a destination.

    A rule without ``ports`` allows all ports. A rule without ``to`` allows every address; a peer of
    ``to`` without ``ipBlock`` selects pods, so it allows nothing outside the cluster.
    """
    peers = [mapping(peer) for peer in items(rule.get("to"))]
    selects_only_pods = bool(peers) and not any("ipBlock" in peer for peer in peers)
    if destination.is_outside and selects_only_pods:
        return False
    if "ports" not in rule:
        return True
    return any(_is_in(mapping(ports), destination) for ports in items(rule.get("ports")))


def _is_in(ports: Mapping[str, Any], destination: Destination) -> bool:
    """Return whether an entry of ``ports`` includes the port of a destination.

    An entry has a port, a range of ports, or all ports of a protocol.
    """
    if ports.get("protocol", "TCP") != destination.protocol:
        return False
    first, last = ports.get("port"), ports.get("endPort")
    if first is None or first == destination.port:
        return True
    if not isinstance(first, int) or not isinstance(last, int):
        return False
    return first <= destination.port <= last
