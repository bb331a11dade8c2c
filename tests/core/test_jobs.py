"""Jobs of commands, and Jobs of several shards."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from ops_worker.core.jobs import (
    COMMAND_DEADLINE_S,
    MAX_NAME,
    command_job,
    completed_indexes,
    job_end,
    job_of,
    shard_count,
    shard_problems,
    unexplained_failure,
)

pytestmark = pytest.mark.unit

POLICY = [
    {"action": "FailJob", "onExitCodes": {"containerName": "ops-worker", "values": [2, 3]}},
    {"action": "FailJob", "onExitCodes": {"containerName": "gone", "values": [9]}},
    {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [5]}},
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
]


def cronjob(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Return a CronJob as the manifests have it, with these containers."""
    worker = {
        "name": "ops-worker",
        "image": "ops-worker:0.1.0",
        "args": ["health"],
        "env": [{"name": "PASS_DEADLINE", "value": "40"}, {"name": "A", "value": "b"}],
    }
    job = {
        "activeDeadlineSeconds": 50,
        "backoffLimit": 1,
        "podFailurePolicy": {"rules": POLICY},
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/name": "ops-worker"}},
            "spec": {"restartPolicy": "OnFailure", "containers": list(containers) or [worker]},
        },
    }
    return {
        "metadata": {"name": "ops-worker-health", "uid": "u"},
        "spec": {
            "jobTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": job | spec,
            }
        },
    }


def test_command() -> None:
    """A command makes one attempt in its own pod. Its Job belongs to no CronJob."""
    source = cronjob()
    before = copy.deepcopy(source)
    job = command_job(source, ["alerts", "list"], "m1")
    assert source == before
    assert job["metadata"] == {
        "name": "ops-worker-health-command-m1",
        "labels": {"a": "b", "ops-worker.io/run": "command"},
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual", "c": "d"},
    }
    assert {key: value for key, value in job["spec"].items() if key != "template"} == {
        "activeDeadlineSeconds": COMMAND_DEADLINE_S,
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": 3600,
        "podFailurePolicy": {"rules": [POLICY[0]]},
    }
    template = job["spec"]["template"]
    assert template["metadata"]["labels"]["ops-worker.io/run"] == "command"
    assert template["spec"]["restartPolicy"] == "Never"
    (container,) = template["spec"]["containers"]
    assert container["args"] == ["alerts", "list"]
    assert container["env"] == [
        {"name": "A", "value": "b"},
        {"name": "PASS_DEADLINE", "value": "240"},
    ]


@pytest.mark.parametrize(
    ("template_s", "asked_s", "deadline_s", "pass_deadline"),
    [(600, None, 600, "540"), (None, None, 300, "240"), (50, 20, 20, "10"), (50, 12, 12, "6")],
)
def test_deadlines(
    template_s: int | None, asked_s: int | None, deadline_s: int, pass_deadline: str
) -> None:
    """The command ends before its Job is killed."""
    source = cronjob(activeDeadlineSeconds=template_s)
    spec = command_job(source, ["check"], "m1", asked_s)["spec"]
    assert spec["activeDeadlineSeconds"] == deadline_s
    (container,) = spec["template"]["spec"]["containers"]
    assert {"name": "PASS_DEADLINE", "value": pass_deadline} in container["env"]


def expanded(word: str, variables: dict[str, str]) -> str:
    """Expand an argument as the kubelet does.

    Source: kubernetes, third_party/forked/golang/expansion/expand.go.
    """

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        return "$" if name is None else variables.get(name, match[0])

    return re.sub(r"\$(?:\$|\((?P<name>[^)]*)\))", value, word)


@pytest.mark.parametrize(
    "word",
    [
        "$(PG_PASS)",
        "$$(PG_PASS)",
        "$$$(PG_PASS)",
        "$",
        "$$",
        "$$$",
        "a$b$(",
        "$(A)$(PG_PASS)$",
        "x",
    ],
)
def test_no_variable_is_expanded(word: str) -> None:
    """The command receives the words as typed, and never the value of a variable."""
    assert expanded("$(PG_PASS) $$(A) $(B)", {"PG_PASS": "hush"}) == "hush $(A) $(B)"
    source = cronjob({"name": "ops-worker", "command": ["ops-worker"], "args": ["health"]})
    job = command_job(source, ["maintenance", "start", "--reason", word], "m1")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert expanded(container["args"][-1], {"PG_PASS": "hush", "A": "hush"}) == word


def test_sharded() -> None:
    """The Job of a command has one pod, with all services."""
    source = cronjob(completionMode="Indexed", completions=3, parallelism=3, backoffLimitPerIndex=1)
    spec = command_job(source, ["health"], "m1")["spec"]
    assert not {"completionMode", "completions", "parallelism", "backoffLimitPerIndex"} & {*spec}
    (container,) = spec["template"]["spec"]["containers"]
    assert {"name": "SHARD_COUNT", "value": "1"} in container["env"]


def test_other_containers() -> None:
    """Other containers stay. If a pod has several passes, the command replaces one of them."""
    mesh = {"name": "mesh", "image": "envoy"}
    first = {"name": "ops-worker-health", "command": ["/tini", "--", "ops-worker", "health"]}
    second = {"name": "ops-worker-metrics", "image": "ops-worker", "args": ["metrics"]}
    spec = command_job(cronjob(mesh, first, second), ["status"], "m1")["spec"]
    assert [container["name"] for container in spec["template"]["spec"]["containers"]] == [
        "mesh",
        "ops-worker-health",
    ]
    assert spec["template"]["spec"]["containers"][1]["command"] == ["/tini", "--", "ops-worker"]
    assert spec["template"]["spec"]["containers"][1]["args"] == ["status"]
    # The policy has no rule for a container that stays.
    assert "podFailurePolicy" not in spec


def test_user() -> None:
    """The recorded action names the person who ran the command, not the user of the image."""
    spec = command_job(cronjob(), ["maintenance", "end"], "m1", None, "kim")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert {"name": "LOGNAME", "value": "kim"} in container["env"]


def test_nulls() -> None:
    """A field may be null."""
    source = cronjob({"name": "ops-worker", "env": None}, activeDeadlineSeconds=None)
    source["spec"]["jobTemplate"]["metadata"] = None
    assert command_job(source, ["x"], "m")["spec"]["activeDeadlineSeconds"] == COMMAND_DEADLINE_S
    pod = shard(1, 0)
    for code in ({}, {"exitCode": None}):
        pod["status"]["containerStatuses"][0]["state"] = {"terminated": code | {"message": "why"}}
        job = {"spec": {"completionMode": "Indexed", "completions": 2}}
        assert shard_problems(job, [pod]) == ["shard 1 of 2 failed with exit code 1: why"]
    source["spec"]["jobTemplate"] = None
    with pytest.raises(ValueError, match="no container of its template runs ops-worker"):
        command_job(source, ["x"], "m")


def test_without_a_policy() -> None:
    """A template may have no podFailurePolicy."""
    assert "podFailurePolicy" not in command_job(cronjob(podFailurePolicy=None), ["x"], "m")["spec"]


@pytest.mark.parametrize(
    ("container", "problem"),
    [
        ({"name": "a", "image": "b"}, "no container of its template runs ops-worker"),
        ({"name": "ops-worker", "command": ["sh", "-c", "ops-worker health"]},
         "container ops-worker runs a shell script"),
        ({"name": "ops-worker", "command": ["sleep", "9"]},
         "container ops-worker runs another program"),
    ],
)  # fmt: skip
def test_no_command(container: dict[str, Any], problem: str) -> None:
    """A template that does not run the worker directly is refused."""
    with pytest.raises(ValueError, match=problem):
        command_job(cronjob(container), ["check"], "m1")


@pytest.mark.parametrize("name", ["x" * 60, "x" * 45 + "-.-" + "y" * 10, "health"])
def test_names_fit(name: str) -> None:
    """A Job's name has at most 63 characters, ends with the suffix and is valid."""
    source = cronjob()
    source["metadata"]["name"] = name
    for job, suffix in (
        (job_of(source, "m12345678"), "m12345678"),
        (command_job(source, ["check"], "m12345678"), "command-m12345678"),
    ):
        job_name = job["metadata"]["name"]
        assert len(job_name) <= MAX_NAME
        assert job_name.endswith(f"-{suffix}") and job_name[: -len(suffix) - 1][-1].isalnum()


@pytest.mark.parametrize(
    ("text", "indexes"),
    [("", set()), ("0", {0}), ("0,2", {0, 2}), ("1,3-5", {1, 3, 4, 5}), (None, set())],
)
def test_completed_indexes(text: str | None, indexes: set[int]) -> None:
    """Ranges are written with a dash."""
    assert completed_indexes({"status": {"completedIndexes": text}}) == indexes


def shard(index: int, code: int | None) -> dict[str, Any]:
    """Return the pod of a shard. Without an exit code, the pod is running."""
    state = {} if code is None else {"terminated": {"exitCode": code, "message": "why"}}
    return {
        "metadata": {
            "name": f"p{index}",
            "annotations": {"batch.kubernetes.io/job-completion-index": f"{index}"},
        },
        "status": {"containerStatuses": [{"name": "ops-worker", "state": state}]},
    }


def test_shards() -> None:
    """The pods of an Indexed Job are shards. Failed shards are named."""
    job = {"spec": {"completionMode": "Indexed", "completions": 3}}
    pods = [shard(0, 0), shard(1, 3), shard(2, None)]
    assert shard_count(job) == 3
    assert shard_problems(job, pods) == ["shard 1 of 3 failed with exit code 3: why"]
    assert shard_count({"spec": {"completions": 3}}) == 0
    assert shard_problems({"spec": {"completions": 3}}, pods) == []


def test_reason_on_one_line() -> None:
    """No control character of a condition reaches the terminal."""
    condition = {
        "type": "Failed",
        "status": "True",
        "reason": "A\x1b[2J",
        "message": "b\r\nc\x9b1m",
    }
    job = {"metadata": {"name": "j"}, "status": {"conditions": [condition]}}
    assert job_end(job) == ("Failed", "A [2J: b c 1m")
    assert unexplained_failure(job, []).endswith("shows the reason: A [2J: b c 1m")
    pod = shard(1, 3)
    pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = "1\x1b[31m"
    spec = {"spec": {"completionMode": "Indexed", "completions": 2}}
    assert shard_problems(spec, [pod]) == ["shard 1 [31m of 2 failed with exit code 3: why"]


def test_failure_target() -> None:
    """A Job with the condition FailureTarget has not ended. With ``early``, it counts as failed."""
    condition = {"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}
    job = {"status": {"conditions": [condition]}}
    assert job_end(job) is None
    assert job_end(job, early=True) == ("Failed", "DeadlineExceeded")


def test_cause_of_a_lost_pod() -> None:
    """If the cause is known, the message has the cause instead of a hint where to look."""
    late = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "long"}
    job = {
        "metadata": {"name": "j"},
        "spec": {"activeDeadlineSeconds": 50},
        "status": {"conditions": [late]},
    }
    assert unexplained_failure(job, [], "no quota") == (
        "Job j exceeded activeDeadlineSeconds (50 s): no quota"
    )
    job["status"] = {"conditions": [late | {"reason": "BackoffLimitExceeded"}]}
    assert unexplained_failure(job, [], "no quota").endswith("BackoffLimitExceeded: long; no quota")
