"""Rules about names: every object that the worker's objects refer to is in the files.

Kustomize renames an object (``namePrefix``, ``namespace``) in all fields that it knows. A field
that it does not know keeps the old name, and only these rules report it. If the files have no
object of a kind, the rules report nothing about this kind: the object may be in the cluster.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.adapters.cron import read
from ops_worker.core.passes import PASSES
from ops_worker.core.pods import at, items, mapping, text
from ops_worker.core.staleness import STALE_PERIODS
from ops_worker.manifest_rules.parts import is_ours, selects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ops_worker.manifest_rules.parts import Document, Fault, Worker

RECORD = "ops_worker:overdue_after_seconds"
"""The record of the PrometheusRule that has one rule for each CronJob."""


class Record(NamedTuple):
    """A rule of a PrometheusRule that names a CronJob, and its threshold in seconds."""

    field: str
    namespace: str
    cronjob: str
    threshold_s: float | None


def references(documents: Sequence[Document], workers: Sequence[Worker]) -> Iterator[Fault]:
    """Yield a fault for each name in the worker's objects that no object in the files has."""
    for document in documents:
        if not is_ours(document):
            continue
        if document.kind == "Role":
            yield from _resource_names(document, documents)
        elif document.kind == "RoleBinding":
            yield from _binding(document, documents)
        elif document.kind == "PrometheusRule":
            yield from _records(document, documents, workers)
        elif document.kind in {"Service", "PodMonitor", "ServiceMonitor"}:
            yield from _selector(document, documents, workers)


def _names(documents: Sequence[Document], kind: str, namespace: str) -> list[str]:
    """Return the names of the objects of a kind in a namespace."""
    return [
        document.name
        for document in documents
        if document.kind == kind and document.namespace == namespace
    ]


def _resource_names(role: Document, documents: Sequence[Document]) -> Iterator[Fault]:
    """A Role names CronJobs that exist.

    Source: kubernetes.io, "Using RBAC Authorization", section "Referring to resources".
    """
    cronjobs = _names(documents, "CronJob", role.namespace)
    if not cronjobs:
        return
    for index, rule in enumerate(map(mapping, items(role.content.get("rules")))):
        if "cronjobs" not in items(rule.get("resources")):
            continue
        for name in items(rule.get("resourceNames")):
            if name not in cronjobs:
                yield role.fault(
                    f"rules[{index}].resourceNames",
                    f"{name} is not in the files, which have {', '.join(cronjobs)}; "
                    "kustomize renames it only with a nameReference for rules/resourceNames",
                )


def _binding(binding: Document, documents: Sequence[Document]) -> Iterator[Fault]:
    """A RoleBinding names a Role and a ServiceAccount that exist.

    If one of the ServiceAccounts is in the files, the others may exist only in the cluster.

    Source: kubernetes.io, "Using RBAC Authorization", section "RoleBinding and ClusterRoleBinding".
    """
    reference = at(binding.content, "roleRef")
    roles = _names(documents, "Role", binding.namespace)
    if reference.get("kind") == "Role" and roles and reference.get("name") not in roles:
        yield binding.fault(
            "roleRef.name",
            f"{reference.get('name')} is not in the files, which have {', '.join(roles)}",
        )
    subjects = [mapping(subject) for subject in items(binding.content.get("subjects"))]
    has_account = any(_is_account_of(subject, documents) for subject in subjects)
    for index, subject in enumerate(subjects):
        if subject.get("kind") != "ServiceAccount":
            continue
        field = f"subjects[{index}]"
        namespace = text(subject.get("namespace"))
        if not namespace:
            yield binding.fault(f"{field}.namespace", "is not set; Kubernetes refuses the object")
            continue
        accounts = _names(documents, "ServiceAccount", namespace)
        # Kubernetes creates the account `default` in every namespace.
        is_missing = accounts and subject.get("name") not in [*accounts, "default"]
        if is_missing and not has_account:
            yield binding.fault(
                f"{field}.name",
                f"{subject.get('name')} of namespace {namespace} is not in the files, "
                f"which have {', '.join(accounts)}",
            )


def _is_account_of(subject: Mapping[str, Any], documents: Sequence[Document]) -> bool:
    """Return whether a subject is a ServiceAccount in the files."""
    if subject.get("kind") != "ServiceAccount":
        return False
    return subject.get("name") in _names(
        documents, "ServiceAccount", text(subject.get("namespace"))
    )


def _records(
    rule: Document, documents: Sequence[Document], workers: Sequence[Worker]
) -> Iterator[Fault]:
    """The PrometheusRule has one record for each CronJob with a schedule, and no other record.

    Source: docs/kubernetes.md, "Alerts when the worker does not run".
    """
    cronjobs = {
        (document.namespace, document.name): document
        for document in documents
        if document.kind == "CronJob"
    }
    records = list(_overdue_records(rule))
    if not cronjobs or not records:
        return
    for record in records:
        cronjob = cronjobs.get((record.namespace, record.cronjob))
        place = f"{record.namespace}/{record.cronjob}"
        if cronjob is None:
            yield rule.fault(
                f"{record.field}.labels",
                f"CronJob {place} is not in the files, so OpsWorkerUnknown would fire; remove this "
                "record (with kustomize, list the component monitoring before sidecar)",
            )
            continue
        needed_s = _longest_period_s(cronjob) * STALE_PERIODS
        if record.threshold_s is not None and record.threshold_s < needed_s:
            yield rule.fault(
                f"{record.field}.expr",
                f"is vector({record.threshold_s:g}); CronJob {place} needs {needed_s:g}, "
                f"{STALE_PERIODS} of its periods, or OpsWorkerOverdue fires too early",
            )
    recorded = {(record.namespace, record.cronjob) for record in records}
    for worker in workers:
        document = worker.document
        is_suspended = at(document.content, "spec").get("suspend") is True
        if not worker.scheduled or worker.command not in PASSES or is_suspended:
            continue
        if (document.namespace, document.name) not in recorded:
            yield rule.fault(
                "spec.groups",
                f"no record {RECORD} has CronJob {document.namespace}/{document.name}, "
                "so no alert fires if it stops",
            )


def _overdue_records(rule: Document) -> Iterator[Record]:
    """Yield the records of a PrometheusRule that name CronJobs."""
    groups = items(at(rule.content, "spec").get("groups"))
    for group_index, group in enumerate(map(mapping, groups)):
        for index, content in enumerate(map(mapping, items(group.get("rules")))):
            if content.get("record") != RECORD:
                continue
            labels = at(content, "labels")
            number = re.fullmatch(r"vector\(([0-9]{1,9})\)", text(content.get("expr")).strip())
            yield Record(
                field=f"spec.groups[{group_index}].rules[{index}]",
                namespace=text(labels.get("namespace")),
                cronjob=text(labels.get("cronjob")),
                threshold_s=float(number[1]) if number else None,
            )


def _longest_period_s(cronjob: Document) -> float:
    """Return the longest time between two runs in seconds; 0 if the schedule is invalid."""
    spec = at(cronjob.content, "spec")
    try:
        return read(text(spec.get("schedule")), text(spec.get("timeZone")) or "UTC").gaps.longest
    except (ValueError, KeyError, OSError):
        return 0.0  # a rule in ``schedules`` reports the invalid schedule


def _selector(
    document: Document, documents: Sequence[Document], workers: Sequence[Worker]
) -> Iterator[Fault]:
    """A Service and a PodMonitor select a pod of the worker, and a ServiceMonitor a Service.

    Source: kubernetes.io, "Service", section "Defining a Service"; the API reference of the
    Prometheus Operator, "PodMonitor" and "ServiceMonitor".
    """
    selector = at(document.content, "spec", "selector")
    noun = "pod of the worker"
    labels = [(worker.document.namespace, worker.labels) for worker in workers]
    if document.kind == "ServiceMonitor":
        noun = "Service"
        services = [candidate for candidate in documents if candidate.kind == noun]
        labels = [(service.namespace, service.labels) for service in services]
    if document.kind == "Service":
        if not selector:
            return  # a Service without a selector has its endpoints set by hand
        selector = {"matchLabels": selector}
    if not labels:
        return
    near = [candidate for namespace, candidate in labels if _is_in_reach(document, namespace)]
    if not any(selects(selector, candidate) for candidate in near):
        yield document.fault("spec.selector", f"selects no {noun} in the files")


def _is_in_reach(document: Document, namespace: str) -> bool:
    """Return whether an object can select objects in a namespace.

    It can in its own namespace. A monitor can also select in the namespaces that it names.
    """
    reach = at(document.content, "spec", "namespaceSelector")
    if document.kind == "Service" or not reach:
        return namespace == document.namespace
    return reach.get("any") is True or namespace in items(reach.get("matchNames"))


def two_loops(workers: Sequence[Worker]) -> Iterator[Fault]:
    """A CronJob (``--every``) or a sidecar repeats a pass, not both.

    Both begin at the same slots, so one of them would always be skipped.
    """
    for worker in workers:
        if not worker.scheduled or "--every" not in worker.options:
            continue
        for other in workers:
            is_near = other.document.namespace == worker.document.namespace
            if is_near and other.endless and worker.command in _loops(other):
                yield worker.document.fault(
                    f"{worker.container_path}.args",
                    f"repeats the {worker.command} pass, and so does "
                    f"{other.document.kind}/{other.document.name}: remove one of the two",
                )


def _loops(worker: Worker) -> set[str]:
    """Return the passes that an endless worker repeats."""
    if worker.command != "sidecar":
        return {worker.command}
    named = PASSES.keys() & set(worker.arguments[1:])
    return set(named or PASSES)
