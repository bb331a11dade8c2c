"""Build Jobs from the template of a CronJob, and read how Jobs ended.

A pass that ``ops-worker trigger`` starts is a run of its CronJob. The Job of any other command has
no owner: otherwise the controller would count its success as a success of the pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.pod_states import (
    USE_NATIVE_SIDECAR,
    end_text,
    other_failure,
    terminated,
    worker_names,
)
from ops_worker.core.pods import (
    at,
    containers,
    items,
    kubectl,
    mapping,
    text,
    with_arguments,
    workers,
)
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_NAME = 63
"""The most characters of a Job's name. The name becomes a label of its pods.

Source: kubernetes.io, "Jobs".
"""
INDEX = "batch.kubernetes.io/job-completion-index"
"""The annotation with a pod's index in an Indexed Job (kubernetes.io, "Jobs")."""
JOB_LABEL = "batch.kubernetes.io/job-name"
"""The label of every pod of a Job, with the Job's name."""
MANUAL = "cronjob.kubernetes.io/instantiate"
"""The annotation of a Job that a person created from a CronJob, as kubectl writes it."""
RUN_LABEL = "ops-worker.io/run"
"""The label of a Job that runs a command. Its value is ``command``."""
WAIT_S = 120.0
"""Seconds in which a Job should end if it has no deadline or a shorter one."""
WAIT_MARGIN_S = 30.0
"""Seconds that Kubernetes may take to end a Job after its deadline.

The pod's terminationGracePeriodSeconds is 10 s in the manifests.
"""
COMMAND_DEADLINE_S = 300
"""The least default of activeDeadlineSeconds of a command.

A report of a long period takes longer than a pass.
"""
START_S = 60
"""Seconds of activeDeadlineSeconds that are reserved for the start of a command's pod.

At most half of the deadline is reserved.
"""
LEAST_DEADLINE_S = 12
"""The least activeDeadlineSeconds of a command: half of it is the least PASS_DEADLINE, 6 s."""
COMMAND_TTL_S = 3600
"""Seconds for which the Job of a command is kept. The manifests keep the Jobs of passes as long."""
_INDEXED_FIELDS = (
    "completionMode",
    "completions",
    "parallelism",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
    "successPolicy",
    "suspend",
)
"""Fields of a Job's spec that make no sense for a Job with a single pod."""


class JobEnd(NamedTuple):
    """How a Job ended: ``Complete`` or ``Failed``, and the reason on one line."""

    kind: str
    reason: str


def job_end(job: Mapping[str, Any], *, early: bool = False) -> JobEnd | None:
    """Return how a Job ended, or None if it has not ended.

    With ``early``, a Job that will fail as soon as its pods have ended counts as failed. Since
    Kubernetes 1.31 such a Job has the condition FailureTarget (KEP-3939).
    """
    kinds = {"Complete": "Complete", "Failed": "Failed"}
    if early:
        kinds["FailureTarget"] = "Failed"
    for condition in map(mapping, items(at(job, "status").get("conditions"))):
        kind = kinds.get(text(condition.get("type")))
        if kind and condition.get("status") == "True":
            reason = f"{text(condition.get('reason'))}: {text(condition.get('message'))}"
            return JobEnd(kind, one_line(reason.strip(": ")))
    return None


def exceeded_deadline(end: JobEnd) -> bool:
    """Return whether activeDeadlineSeconds ended a Job."""
    return end.reason.startswith("DeadlineExceeded")


def unexplained_failure(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], cause: str = ""
) -> str:
    """Return why a Job failed, if none of its pods shows the reason; empty for any other Job.

    ``cause`` is the reason why its pod did not start; empty if it is unknown.
    """
    end = job_end(job, early=True)
    if end is None or end.kind != "Failed":
        return ""
    if any(terminated(pod) or other_failure(pod) for pod in pods):
        return ""
    name = at(job, "metadata").get("name", "?")
    if not exceeded_deadline(end):
        problem = f"Job {name} failed, and none of its pods shows the reason: {end.reason}"
        return f"{problem}; {cause}" if cause else problem
    limit = at(job, "spec").get("activeDeadlineSeconds", "?")
    problem = f"Job {name} exceeded activeDeadlineSeconds ({limit} s)"
    if cause:
        return f"{problem}: {cause}"
    return (
        f"{problem}, and Kubernetes deleted its pod and log: "
        f"look in `{kubectl(job)} get events` for a pod that could not start; "
        f"otherwise raise activeDeadlineSeconds or lower PASS_DEADLINE{sidecar_hint(job)}"
    )


def sidecar_hint(job: Mapping[str, Any]) -> str:
    """Return a hint if a Job's pod has a main container that is not the worker's; else empty."""
    template = at(job, "spec", "template")
    names = worker_names(template)
    for container in containers(at(template, "spec")):
        if container.is_main and container.name not in names:
            return f"; if container {container.name} is a sidecar, {USE_NATIVE_SIDECAR}"
    return ""


def with_deleted(
    earlier: Sequence[Mapping[str, Any]], current: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the pods of a Job, also those that were deleted since ``earlier``.

    The deleted pods are first.
    """
    names = {pod["metadata"]["name"] for pod in current}
    deleted = [pod for pod in earlier if pod["metadata"]["name"] not in names]
    return [*deleted, *current]


def index_of(pod: Mapping[str, Any]) -> str:
    """Return the index of a pod in an Indexed Job; empty for a pod of another Job."""
    return one_line(text(at(pod, "metadata", "annotations").get(INDEX)))


def last_attempts(pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest pod of each index of a Job. ``pods`` are sorted, oldest first."""
    return list({index_of(pod): pod for pod in pods}.values())


def shard_count(job: Mapping[str, Any]) -> int:
    """Return the number of shards of an Indexed Job; 0 for any other Job."""
    spec = at(job, "spec")
    if spec.get("completionMode") != "Indexed":
        return 0
    return int(spec.get("completions") or 0)


def completed_indexes(job: Mapping[str, Any]) -> set[int]:
    """Return the complete indexes of an Indexed Job.

    Its status has them as numbers and ranges, for example ``1,3-5``.
    """
    indexes: set[int] = set()
    for part in text(at(job, "status").get("completedIndexes")).split(","):
        first, _, last = part.partition("-")
        if first:
            indexes.update(range(int(first), int(last or first) + 1))
    return indexes


def shard_problems(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a message for each shard of an Indexed Job that failed.

    ``pods`` are the newest pods of each index.
    """
    count = shard_count(job)
    if not count:
        return []
    problems = []
    for pod in pods:
        state = terminated(pod)
        if state is not None and state["exitCode"]:
            problems.append(
                f"shard {index_of(pod)} of {count} failed with exit code {state['exitCode']}: "
                f"{end_text(pod)}"
            )
    return problems


def job_name(pod: Mapping[str, Any]) -> str:
    """Return the name of a pod's Job; empty if it has none."""
    return text(at(pod, "metadata", "labels").get(JOB_LABEL))


def job_of(cronjob: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Build the Job of a pass from a CronJob's template, as `kubectl create job --from` does.

    ``suffix`` is the end of its name.
    """
    template = cronjob["spec"]["jobTemplate"]
    name = cronjob["metadata"]["name"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": name,
        "uid": cronjob["metadata"]["uid"],
        "controller": True,
    }
    metadata = _metadata(template, _name(name, suffix)) | {"ownerReferences": [owner]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def command_job(
    cronjob: Mapping[str, Any],
    arguments: Sequence[str],
    suffix: str,
    deadline_s: int | None = None,
    user: str = "",
) -> dict[str, Any]:
    """Build a Job that runs a command of the worker, from the template of a CronJob.

    It makes one attempt, in one pod, and has no owner. Its PASS_DEADLINE is shorter than its
    activeDeadlineSeconds, so that the command can still report why it ended.

    - ``suffix``: the end of the Job's name.
    - ``deadline_s``: activeDeadlineSeconds, at least LEAST_DEADLINE_S. None: the template's value,
      but at least COMMAND_DEADLINE_S.
    - ``user``: the person that a recorded action names. The user of the image has no name.

    Raises ValueError if no container of the template runs the worker directly.
    """
    template = at(cronjob, "spec", "jobTemplate")
    spec = at(template, "spec")
    if deadline_s is None:
        deadline_s = max(COMMAND_DEADLINE_S, int(spec.get("activeDeadlineSeconds") or 0))
    variables = {"PASS_DEADLINE": f"{deadline_s - min(START_S, deadline_s // 2)}"}
    if user:
        variables["LOGNAME"] = user
    if spec.get("completionMode") == "Indexed":
        variables["SHARD_COUNT"] = "1"  # the single pod has all services
    name = cronjob["metadata"]["name"]
    metadata = _metadata(template, _name(name, f"command-{suffix}"))
    metadata["labels"] = metadata["labels"] | {RUN_LABEL: "command"}
    pod_template = _command_template(at(spec, "template"), arguments, variables)
    job_spec = {key: value for key, value in spec.items() if key not in _INDEXED_FIELDS}
    job_spec |= {
        "activeDeadlineSeconds": deadline_s,
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": COMMAND_TTL_S,
        "template": pod_template,
    }
    policy = _single_attempt(at(job_spec, "podFailurePolicy"), pod_template["spec"])
    job_spec.pop("podFailurePolicy", None)
    if policy:
        job_spec["podFailurePolicy"] = policy
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job_spec}


def _command_template(
    template: Mapping[str, Any], arguments: Sequence[str], variables: Mapping[str, str]
) -> dict[str, Any]:
    """Return a pod's template whose worker has these arguments and variables.

    Raises ValueError if no main container runs the worker directly.
    """
    labels = at(template, "metadata", "labels")
    spec = at(template, "spec")
    main_workers = [container for container in workers(spec, labels) if container.is_main]
    if not main_workers:
        raise ValueError("no container of its template runs ops-worker")
    replaced, *removed = main_workers
    command = with_arguments(replaced.content, [_literal(word) for word in arguments])
    env = [
        entry
        for entry in map(mapping, items(command.get("env")))
        if entry.get("name") not in variables
    ]
    command["env"] = env + [{"name": name, "value": value} for name, value in variables.items()]
    # If a pod has several passes, the command replaces the first. The others are removed.
    removed_names = {container.name for container in removed}
    main_containers = [
        command if container.name == replaced.name else container.content
        for container in containers(spec)
        if container.is_main and container.name not in removed_names
    ]
    metadata = {**at(template, "metadata"), "labels": {**labels, RUN_LABEL: "command"}}
    # With OnFailure, Kubernetes would delete the pod and its log when the command fails.
    pod_spec = {**spec, "containers": main_containers, "restartPolicy": "Never"}
    return {"metadata": metadata, "spec": pod_spec}


def _literal(word: str) -> str:
    """Return an argument from which the container receives this word unchanged.

    In an argument, Kubernetes replaces ``$(NAME)`` by a variable of the container, which may be a
    secret, and ``$$`` by ``$``.

    Source: kubernetes.io, "Define a Command and Arguments for a Container", and API reference,
    "Container", field ``args``.
    """
    return word.replace("$", "$$")


def _single_attempt(policy: Mapping[str, Any], pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rules of a podFailurePolicy that are valid for a single attempt.

    A command is not repeated, so an evicted pod counts as a failure: no rule with the action Ignore
    remains. A rule may only name containers that exist.
    """
    names = {container.name for container in containers(pod)}
    rules = [
        rule
        for rule in map(mapping, items(policy.get("rules")))
        if rule.get("action") in {"FailJob", "Count"}
        and at(rule, "onExitCodes").get("containerName") in {None, *names}
    ]
    return {"rules": rules} if rules else {}


def _metadata(template: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the metadata of a Job that a person creates from a CronJob's template."""
    metadata = at(template, "metadata")
    return {
        "name": name,
        "labels": dict(at(metadata, "labels")),
        "annotations": {MANUAL: "manual"} | dict(at(metadata, "annotations")),
    }


def _name(name: str, suffix: str) -> str:
    """Return a Job's name of at most MAX_NAME characters. A long ``name`` is cut."""
    return f"{name[: MAX_NAME - 1 - len(suffix)].rstrip('-.')}-{suffix}"


def is_manual(job: Mapping[str, Any]) -> bool:
    """Return whether a person created a Job from a CronJob."""
    return at(job, "metadata", "annotations").get(MANUAL) == "manual"


def longest_wait_s(job: Mapping[str, Any]) -> float:
    """Return the seconds in which a Job should end, with all its attempts."""
    deadline_s = at(job, "spec").get("activeDeadlineSeconds")
    if deadline_s is None:
        return WAIT_S
    return max(WAIT_S, float(deadline_s) + WAIT_MARGIN_S)
