"""Rules of several objects together: one image, one way through the network, no right more than is used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ops_worker.core.passes import container_commands
from ops_worker.core.pods import NAME_LABEL, OURS, RECOGNISED, at, items, mapping, text
from ops_worker.manifest_rules.containers import catalogued, events
from ops_worker.manifest_rules.parts import Fault, pod_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

from ops_worker.manifest_rules.parts import Document, Facts, Worker

CLUSTER_SCOPED = re.compile(
    r"APIService|CSI(Driver|Node)|CertificateSigningRequest|Cluster(Role|RoleBinding|TrustBundle)"
    r"|ComponentStatus|CustomResourceDefinition|DeviceClass|FlowSchema|IPAddress|IngressClass"
    r"|(Mutating|Validating)(AdmissionPolicy(Binding)?|WebhookConfiguration)|Namespace|Node"
    r"|PersistentVolume|PodSecurityPolicy|PriorityClass|PriorityLevelConfiguration|ResourceSlice"
    r"|RuntimeClass|ServiceCIDR|StorageClass|StorageVersion|VolumeAttachment|VolumeAttributesClass"
)
"""Kinds without a namespace (`kubectl api-resources --namespaced=false`)."""
_APPS = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"}
_RBAC = {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
REMOVED = (
    ("batch/v2alpha1", {"CronJob"}, "1.21", "batch/v1"),
    ("batch/v1beta1", {"CronJob"}, "1.25", "batch/v1"),
    ("extensions/v1beta1", {"NetworkPolicy"}, "1.16", "networking.k8s.io/v1"),
    ("extensions/v1beta1", _APPS, "1.16", "apps/v1"),
    ("apps/v1beta1", _APPS, "1.16", "apps/v1"),
    ("apps/v1beta2", _APPS, "1.16", "apps/v1"),
    ("rbac.authorization.k8s.io/v1alpha1", _RBAC, "1.22", "rbac.authorization.k8s.io/v1"),
    ("rbac.authorization.k8s.io/v1beta1", _RBAC, "1.22", "rbac.authorization.k8s.io/v1"),
)
"""apiVersions that are gone: kinds, since which Kubernetes, and what to write instead.

From kubernetes.io, "Deprecated API Migration Guide"; see there for kinds that are not listed.
"""
MAX_DIGITS = 5
USED = {
    ("", "events"): {"create", "list"},
    ("events.k8s.io", "events"): {"create", "list"},
    ("", "pods"): {"list"},
    ("", "pods/log"): {"get"},
    ("", "namespaces"): {"get"},
    ("batch", "cronjobs"): {"get", "list"},
    ("batch", "jobs"): {"create", "get", "list"},
}
"""The verbs that `trigger`, `cluster` and KUBERNETES_EVENTS use."""


def files(documents: Sequence[Document], workers: Sequence[Worker]) -> Iterator[Fault]:
    """What `kubectl apply -f` cannot apply, what must not stand in a file, and what would land in the wrong namespace."""
    referenced = {reference for worker in workers for reference in _references(worker)}
    running = [worker.document for worker in workers]
    for one in documents:
        subject = f"{one.kind}/{one.name}"
        own = one in running or (one.kind, one.name) in referenced or _ours(one)
        if one.kind in {"Kustomization", "Component"}:
            yield Fault(
                one.file,
                subject,
                "kind",
                "`kubectl apply -f` fails on it; keep it in a folder of its own, for `kubectl apply -k`",
            )
        elif one.kind == "Secret" and (one.content.get("data") or one.content.get("stringData")):
            yield Fault(
                one.file,
                subject,
                "data",
                "a Secret is stored in a file; create it in the cluster, and reference it",
            )
        elif own and not one.namespace and not CLUSTER_SCOPED.fullmatch(one.kind):
            yield Fault(
                one.file,
                subject,
                "metadata.namespace",
                "is not set: it would land in whatever namespace is current",
            )
        for version, kinds, since, instead in REMOVED:
            if own and one.kind in kinds and one.content.get("apiVersion") == version:
                message = f"{version} is gone since Kubernetes {since}; write {instead}"
                yield Fault(one.file, subject, "apiVersion", message)


def none_found(documents: Sequence[Document], workers: Sequence[Worker]) -> Iterator[Fault]:
    """Among what makes pods there is the worker: otherwise nothing was checked."""
    makers = [one for one in documents if pod_template(one)[1]]
    if makers and not workers:
        one = makers[0]
        field = ".".join((*pod_template(one)[0], "spec"))
        message = f"no ops-worker container found: {RECOGNISED}"
        yield Fault(one.file, f"{one.kind}/{one.name}", field, message)


def _ours(one: Document) -> bool:
    """Whether an object is the worker's by its name or label."""
    named = re.search(rf"(^|-){OURS}(-|$)", one.name)
    return bool(named) or at(one.content, "metadata", "labels").get(NAME_LABEL) == OURS


def _references(worker: Worker) -> Iterator[tuple[str, str]]:
    """Give kind and name of what a worker needs by name."""
    yield "ServiceAccount", text(worker.pod.get("serviceAccountName"))
    for source in map(mapping, items(worker.container.get("envFrom"))):
        yield "ConfigMap", text(at(source, "configMapRef").get("name"))
    for variable in map(mapping, items(worker.container.get("env"))):
        yield "ConfigMap", text(at(variable, "valueFrom", "configMapKeyRef").get("name"))
    for volume in map(mapping, items(worker.pod.get("volumes"))):
        yield "ConfigMap", text(at(volume, "configMap").get("name"))
        yield "PersistentVolumeClaim", text(at(volume, "persistentVolumeClaim").get("claimName"))


def one_image(workers: Sequence[Worker]) -> Iterator[Fault]:
    """All containers of ours run the same image."""
    if not workers:
        return
    first = text(workers[0].container.get("image"))
    for worker in workers:
        if (found := text(worker.container.get("image"))) != first:
            yield _fault(
                worker,
                f"{worker.where}.image",
                f"is {found}, but {workers[0].document.name} has {first}; use one everywhere",
            )


def network(
    documents: Sequence[Document], workers: Sequence[Worker], facts: Facts
) -> Iterator[Fault]:
    """The policies that hold for a worker let it reach names, the database and every service that it watches."""
    policies = [
        one
        for one in documents
        if one.kind == "NetworkPolicy"
        and "Egress" in items(at(one.content, "spec").get("policyTypes"))
    ]
    for worker in workers:
        holding = [
            one
            for one in policies
            if one.namespace == worker.document.namespace and _selects(one, worker)
        ]
        if not holding:
            continue
        allowed = [
            mapping(rule)
            for one in holding
            for rule in items(at(one.content, "spec").get("egress"))
        ]
        for protocol, port, whither in _needs(worker, facts):
            if not any(_lets(rule, protocol, port) for rule in allowed):
                first = holding[0]
                message = f"does not let {worker.document.kind}/{worker.document.name} reach {protocol} {port} ({whither})"
                yield Fault(first.file, f"NetworkPolicy/{first.name}", "spec.egress", message)


def rights(documents: Sequence[Document], workers: Sequence[Worker]) -> Iterator[Fault]:
    """A Role of ours holds the verbs that are used, and no other; and what is used is granted."""
    granted: set[tuple[str, str, str]] = set()
    bound = {
        text(at(one.content, "roleRef").get("name"))
        for one in documents
        if one.kind in {"RoleBinding", "ClusterRoleBinding"}
    }
    for role in documents:
        if (
            role.kind not in {"Role", "ClusterRole"}
            or at(role.content, "metadata", "labels").get(NAME_LABEL) != OURS
        ):
            continue
        for index, rule in enumerate(map(mapping, items(role.content.get("rules")))):
            for group, resource, verb in _triples(rule):
                if role.name in bound:
                    granted.add((group, resource, verb))
                if verb not in USED.get((group, resource), set()):
                    yield Fault(
                        role.file,
                        f"{role.kind}/{role.name}",
                        f"rules[{index}]",
                        f"grants {verb} on {resource or '?'}, which nothing here uses",
                    )
    for worker in workers:
        if events(worker) and ("", "events", "create") not in granted:
            yield _fault(
                worker,
                f"{worker.where}.env",
                "KUBERNETES_EVENTS is on, but no Role that is bound here grants create on events",
            )


def _fault(worker: Worker, field: str, message: str) -> Fault:
    return Fault(
        worker.document.file, f"{worker.document.kind}/{worker.document.name}", field, message
    )


def _triples(rule: Any) -> Iterator[tuple[str, str, str]]:
    for group in items(rule.get("apiGroups")):
        for resource in items(rule.get("resources")):
            for verb in items(rule.get("verbs")):
                yield str(group), str(resource), str(verb)


def _selects(policy: Document, worker: Worker) -> bool:
    selector = at(policy.content, "spec", "podSelector")
    wanted = at(selector, "matchLabels")
    if not all(_expressed(mapping(one), worker) for one in items(selector.get("matchExpressions"))):
        return False
    return all(worker.labels.get(label) == value for label, value in wanted.items())


def _expressed(expression: Any, worker: Worker) -> bool:
    value, values = worker.labels.get(text(expression.get("key"))), items(expression.get("values"))
    told = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return told.get(text(expression.get("operator")), False)


def _needs(worker: Worker, facts: Facts) -> Iterator[tuple[str, int, str]]:
    yield "UDP", 53, "DNS"
    yield "TCP", 53, "DNS"
    if worker.command in container_commands():
        port = worker.env.get("PG_PORT") or facts.defaults["PG_PORT"]
        if port.isdecimal() and len(port) <= MAX_DIGITS:
            yield "TCP", int(port), "PG_PORT"
    seen = set()
    for target in catalogued(worker)[0].targets:
        try:
            url = urlsplit(target.url)
            asked = url.port or {"http": 80, "https": 443}[url.scheme]
        except (ValueError, KeyError):
            continue  # its variables are in a Secret, or it is no URL, which another rule tells
        if asked not in seen:
            yield "TCP", asked, f"service {target.name}"
        seen.add(asked)
    if events(worker):
        yield "TCP", 443, "the API server"


def _lets(rule: Any, protocol: str, port: int) -> bool:
    if "ports" not in rule:
        return True
    return any(_port(mapping(one), protocol, port) for one in items(rule.get("ports")))


def _port(allowed: Any, protocol: str, port: int) -> bool:
    if allowed.get("protocol", "TCP") != protocol:
        return False
    first, last = allowed.get("port"), allowed.get("endPort")
    return (
        first is None
        or first == port
        or (isinstance(first, int) and isinstance(last, int) and first <= port <= last)
    )
