"""Pods of other shapes than the installation's: several containers, other commands, other schedules, files of several sorts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ops_worker.cli import main
from tests.manifest_rules.test_check import (
    BOX,
    CATALOGUE,
    GONE,
    GOOD,
    HEALTH,
    JOB,
    K8S,
    POD,
    broken,
    told,
    variant,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

SUBJECT = f"{HEALTH}: CronJob/ops-worker-health: "
PROXY = {"name": "cloud-sql-proxy", "image": "cloud-sql-proxy:2.8.0", "args": ["--port=5432"]}
WAIT = {
    "name": "wait",
    "image": "busybox",
    "command": ["sh", "-c", "until nc -z db 5432; do sleep 1; done"],
}
HELD = "keeps running after the pass, so the Job never completes; make it a native sidecar (an init container with restartPolicy: Always), because a Job does not wait for those"
OURS = dict(GOOD)[HEALTH]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]


def health(*changes: tuple[str, object]) -> list[str]:
    """Give the faults of the health CronJob with some of its fields set otherwise, without file and object."""
    objects = GOOD
    for path, value in changes:
        objects = broken(HEALTH, path, value, objects)
    found = told(objects)
    assert all(fault.startswith(SUBJECT) for fault in found)
    return [fault.removeprefix(SUBJECT) for fault in found]


@pytest.mark.parametrize(
    "command",
    [
        ["ops-worker", "health"],
        ["/usr/local/bin/ops-worker", "health"],
        ["python", "-m", "ops_worker", "health"],
        ["tini", "--", "ops-worker", "health"],
    ],
)
def test_command_without_args(command: list[str]) -> None:
    """A command that is the program needs no args, and is as good as them."""
    assert health((f"{BOX}.args", GONE), (f"{BOX}.command", command)) == []
    assert health((f"{BOX}.args", GONE), (f"{BOX}.command", [*command, "--evry"])) == [
        f"{BOX}.command: unrecognized arguments: --evry; did you mean --every instead of --evry?"
    ]


def test_neither_command_nor_args() -> None:
    """The image runs nothing by itself."""
    assert health((f"{BOX}.args", GONE)) == [
        f"{BOX}.args: the following arguments are required: COMMAND"
    ]
    assert health((f"{BOX}.args", []))[0].startswith(f"{BOX}.args: the following arguments")


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ([(f"{POD}.initContainers", [PROXY | {"restartPolicy": "Always"}, WAIT])], []),
        ([(f"{POD}.containers", [OURS, PROXY])], [f"{POD}.containers[1]: cloud-sql-proxy {HELD}"]),
        ([(f"{POD}.containers", [PROXY, OURS])], [f"{POD}.containers[0]: cloud-sql-proxy {HELD}"]),
        ([(f"{POD}.containers", [OURS, PROXY]), (f"{POD}.shareProcessNamespace", True)], []),
        ([(f"{POD}.containers", [OURS, {"name": "a", "image": "b", "command": ["sleep", "infinity"]}])], [f"{POD}.containers[1]: a {HELD}"]),
        ([(f"{POD}.containers", [OURS, {"name": "a", "image": "b", "readinessProbe": {"httpGet": {}}}])], [f"{POD}.containers[1]: a {HELD}"]),
        ([(f"{POD}.containers", [OURS, {"name": "a", "image": "b"}])], []),
        ([(f"{POD}.containers", [OURS, {"name": "envoy", "image": "b", "command": ["sh", "-c", "./envoy & wait-for-done; kill $!"]}])], []),
        ([(f"{POD}.containers", [OURS, {"name": "a", "image": "b", "command": ["sh", "-c", "while true; do test -f /d && exit; done"]}])], []),
        ([(f"{POD}.containers", [OURS, {"name": "flush", "image": "redis:7", "command": ["redis-cli", "flushall"]}])], []),
        ([(f"{POD}.containers", [OURS, {"name": "db", "image": "x", "command": ["/cloud_sql_proxy", "-instances=a"]}])], [f"{POD}.containers[1]: db {HELD}"]),
        # what another container has a use for is none of the worker's faults
        ([(f"{POD}.initContainers", [WAIT]), (f"{POD}.automountServiceAccountToken", GONE)], []),
        ([(f"{POD}.initContainers", [WAIT]), (f"{POD}.volumes[0]", {"name": "tmp", "hostPath": {"path": "/x"}})], []),
        # the worker as an init container: it has to end, or to be a native sidecar
        ([(f"{POD}.initContainers", [OURS | {"name": "migrate", "args": ["init-db"]}])], []),
        (
            [(f"{POD}.initContainers", [OURS | {"name": "loop", "args": ["health", "--every", "5"]}])],
            [f"{POD}.initContainers[0].args: never ends, so the main containers never start; set restartPolicy: Always to make it a native sidecar"],
        ),
        (
            [(f"{POD}.initContainers", [OURS | {"name": "loop", "args": ["health"], "restartPolicy": "Always"}])],
            [f"{POD}.initContainers[0].args: ends after one pass, so Kubernetes restarts it again and again; run `sidecar` here, or use a CronJob"],
        ),
        ([(f"{POD}.initContainers", [OURS | {"name": "loop", "args": ["health", "--every", "5"], "restartPolicy": "Always"}])], []),
        # exit codes of another container are its own
        ([(f"{POD}.initContainers", [WAIT]), (f"{JOB}.podFailurePolicy.rules[1]", {"action": "Count", "onExitCodes": {"containerName": "wait", "operator": "In", "values": [1]}})], [f"{JOB}.podFailurePolicy.rules: has no Ignore rule for DisruptionTarget: a drained node would count as a failure"]),
        ([(f"{JOB}.podFailurePolicy.rules[0].onExitCodes.containerName", GONE)], []),
    ],
    ids=range(19),
)  # fmt: skip
def test_pods(changes: list[tuple[str, object]], faults: list[str]) -> None:
    """The worker is found among other containers, and they are left alone, but for one that keeps the Job from completing."""
    assert health(*changes) == faults


def test_two_of_ours() -> None:
    """Both passes in one pod, each with its own rule for its exit codes."""
    rule = {
        "action": "FailJob",
        "onExitCodes": {"containerName": "second", "operator": "In", "values": [2, 3]},
    }
    first = dict(GOOD)[HEALTH]["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    both = [OURS, OURS | {"name": "second", "args": ["metrics"]}]
    assert (
        health((f"{POD}.containers", both), (f"{JOB}.podFailurePolicy.rules", [*first, rule])) == []
    )
    assert health((f"{POD}.containers", both)) == [
        f"{JOB}.podFailurePolicy.rules: FailJob is set for no exit codes; set it for exit codes 2, 3 (settings, schema): a retry does not help there"
    ]


def test_a_loop_in_a_job() -> None:
    """A Job waits for the end of a pass as a CronJob does; in somebody's CronJob, a native sidecar of ours is no run of it."""
    job = copy.deepcopy(dict(GOOD)[HEALTH])
    job |= {"kind": "Job", "spec": job["spec"]["jobTemplate"]["spec"]}
    assert told([*GOOD, ("j.yaml", job)]) == []
    job["spec"]["template"]["spec"]["containers"][0]["args"] = ["sidecar"]
    faults = told([*GOOD, ("j.yaml", job)])
    assert (
        "spec.template.spec.containers[0].args: never ends by itself: in a Job, run one pass, or use --every with --for"
        in faults[0]
    )
    sidecar = variant("examples/inject")
    content = dict(sidecar)["Deployment/my-app"]
    template = content["spec"]["template"]
    content |= {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": template}}},
    }
    assert told(sidecar) == []


EVERY = "with @every it must be at least the period (90), or no run ever starts"
LATE = (
    "is not set: a run that missed its time starts however late it is, once for all missed runs "
    "(Kubernetes reports TooManyMissedTimes after more than 100); set "
)
PERIODS: list[tuple[str, str, dict[str, object], list[str]]] = [
    ("*/5 9-17 * * 1-5", "Etc/UTC", {"PASS_PERIOD": "227100"}, []),
    ("*/5 9-17 * * 1-5", "Etc/UTC", {"PASS_PERIOD": "300"}, ["spec.schedule: leaves up to 227100 s between two runs, but PASS_PERIOD is 300: set it to 227100, or the other pass opens an alert although no run is due"]),
    ("@weekly", "Etc/UTC", {}, ["spec.schedule: runs every 604800 s, but PASS_PERIOD is 60: set it to 604800, or the other pass opens an alert although no run is due"]),
    ("@weekly", "Europe/Berlin", {"PASS_PERIOD": "604800"}, []),
    ("@monthly", "Etc/UTC", {"PASS_PERIOD": "604800"}, ["spec.schedule: leaves up to 2678400 s between two runs, but PASS_PERIOD is 604800: set it to 999999, or the other pass opens an alert although no run is due"]),
    ("@monthly", "Etc/UTC", {"PASS_PERIOD": "999999"}, []),
    ("@yearly", "Etc/UTC", {"PASS_PERIOD": "999999"}, ["spec.schedule: leaves up to 31622400 s between two runs, but the other pass opens an alert after 2999997 s; run it at least every month"]),
    ("0 6 * * *", "Europe/Berlin", {"PASS_PERIOD": "86400"}, []),
    ("30 2 * * *", "America/New_York", {"PASS_PERIOD": "86400"}, []),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "starting": 90}, []),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90"}, [f"spec.startingDeadlineSeconds: is 25; {EVERY}"]),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "starting": 89}, [f"spec.startingDeadlineSeconds: is 89; {EVERY}"]),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "starting": None}, [f"spec.startingDeadlineSeconds: {LATE}the period and 25"]),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "suspend": True}, []),
    ("@every 1h30m", "Etc/UTC", {"PASS_PERIOD": "5400", "starting": 5425}, []),
    ("@every 30s", "Etc/UTC", {"starting": 55}, ["spec.schedule: runs every 30 s, but Kubernetes starts at most one Job per minute; use --every with --for", f"{JOB}.activeDeadlineSeconds: is 50; it must be less than the period (30)"]),
    ("0,1 * * * *", "Etc/UTC", {"PASS_PERIOD": "3540", "active": 60}, [f"{JOB}.activeDeadlineSeconds: is 60; it must be less than the shortest time between two runs (60)"]),
    ("0,1 * * * *", "Etc/UTC", {"PASS_PERIOD": "3540", "starting": 60}, ["spec.startingDeadlineSeconds: is 60; it must be less than the shortest time between two runs (60)"]),
    ("0 1-23/2 * * *", "Europe/Berlin", {"PASS_PERIOD": "7200", "active": 3600}, [f"{JOB}.activeDeadlineSeconds: is 3600; it must be less than the shortest time between two runs (3600)"]),
    ("0 1-23/2 * * *", "Etc/UTC", {"PASS_PERIOD": "7200", "active": 3600}, []),
    ("0 0 31 2 *", "Etc/UTC", {}, ["spec.schedule: '0 0 31 2 *' is not a cron schedule: no time ever matches it"]),
    ("0 0 31 2 *", "Etc/UTC", {"suspend": True}, []),
    ("0 0 L * *", "Etc/UTC", {}, ["spec.schedule: '0 0 L * *' is not a cron schedule: day of the month 'L' is not in the range 1 to 31"]),
    ("* * * * * *", "Etc/UTC", {}, ["spec.schedule: '* * * * * *' is not a cron schedule: it has 6 fields instead of 5"]),
    ("* * * * *", "Moon", {}, ["spec.timeZone: 'Moon' is not a time zone; set Etc/UTC"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "zone", "told_of", "faults"), PERIODS, ids=range(len(PERIODS))
)
def test_periods(schedule: str, zone: str, told_of: dict[str, object], faults: list[str]) -> None:
    """The longest time between two runs counts for PASS_PERIOD, the shortest for the deadlines."""
    env = [
        *OURS["env"],
        *(
            [{"name": "PASS_PERIOD", "value": told_of["PASS_PERIOD"]}]
            if "PASS_PERIOD" in told_of
            else []
        ),
    ]
    found = health(
        ("spec.schedule", schedule),
        ("spec.timeZone", zone),
        ("spec.suspend", told_of.get("suspend", False)),
        (f"{BOX}.env", env),
        (f"{JOB}.activeDeadlineSeconds", told_of.get("active", 50)),
        ("spec.startingDeadlineSeconds", told_of.get("starting", 25)),
    )
    assert found == faults


PASSWORD = {
    "name": "DBPASS",
    "valueFrom": {"secretKeyRef": {"name": "ops-worker", "key": "PG_PASS"}},
}
URL = "postgresql://iot:$(DBPASS)@pg:5432/iotcloud"
PLAIN = "DATABASE_URL is set in plain text; take it from a Secret"
NEITHER = "neither PG_PASS nor DATABASE_URL comes from a Secret; add envFrom with a secretRef, or a secretKeyRef"
MAP = {"configMapRef": {"name": "ops-worker"}}
SECRET = {"secretRef": {"name": "ops-worker"}}


def variable(name: str, value: str) -> dict[str, str]:
    """Give a variable in plain text."""
    return {"name": name, "value": value}


@pytest.mark.parametrize(
    ("env", "sources", "faults"),
    [
        ([PASSWORD, variable("DATABASE_URL", URL)], [MAP], []),
        ([variable("DATABASE_URL", "postgresql://iot:$(PG_PASS)@pg/iotcloud")], [MAP, SECRET], []),
        ([PASSWORD, variable("PG_PASS", "$(DBPASS)")], [MAP], []),
        ([PASSWORD, variable("A_HOST", "pg"), variable("DATABASE_URL", "postgresql://iot:$(DBPASS)@$(A_HOST)/x")], [MAP], []),
        # a password that stands there all the same
        ([variable("DATABASE_URL", "postgresql://iot:hunter2@pg/x")], [MAP, SECRET], [PLAIN]),
        ([PASSWORD, variable("DATABASE_URL", "postgresql://iot:hunter2@pg/$(DBPASS)")], [MAP], [PLAIN]),
        ([variable("DBPASS", "hunter2"), variable("DATABASE_URL", URL)], [MAP, SECRET], [PLAIN]),
        ([variable("PG_PASS", "hunter2"), variable("INGEST_URL", "ftp://$(PG_PASS)")], [MAP, SECRET], ["PG_PASS is set in plain text; take it from a Secret"]),
        ([variable("PG_PASS", "hunter2"), variable("INGEST_URL", "ftp://$(PG_PASS)")], [MAP], [NEITHER, "PG_PASS is set in plain text; take it from a Secret"]),
        ([PASSWORD, variable("PG_PASS", "hunter2$(DBPASS)")], [MAP], ["PG_PASS is set in plain text; take it from a Secret"]),
        ([PASSWORD, variable("INGEST_URL", "http://u:hunter2@$(DBPASS):80")], [MAP, SECRET], ["INGEST_URL contains a password in plain text; take it from a Secret"]),
        ([PASSWORD, variable("INGEST_URL", "http://u:$(DBPASS)@ingest:8080")], [MAP, SECRET], []),
        # only what came before is put in, and two dollar signs are one
        ([variable("DATABASE_URL", URL), PASSWORD], [MAP], ["DATABASE_URL refers to $(DBPASS), but no variable before it has that name: Kubernetes does not expand the reference", NEITHER, PLAIN]),
        ([PASSWORD, variable("DATABASE_URL", "postgresql://iot:$$(DBPASS)@pg/x")], [MAP], ["DBPASS is not a setting; `ops-worker health --help` lists the settings", NEITHER, PLAIN]),
        ([variable("CONFIRM_DELAY", "$(SHUTDOWN_GRACE)")], [MAP, SECRET], []),
        ([variable("SOON", "soon"), variable("CONFIRM_DELAY", "$(SOON)")], [MAP, SECRET], ["CONFIRM_DELAY is 'soon', but wants a number of seconds, 0 to 30"]),
        ([variable("INGEST_URL", "http://$(INGEST_SERVICE_HOST):$(INGEST_SERVICE_PORT)")], [MAP, SECRET], []),
        ([variable("INGEST_URL", "http://$(INGEST_SERVICE_HOST):80")], [MAP], [NEITHER]),
        ([variable("INGEST_URL", "http://$(NOBODY)")], [{**MAP, "prefix": "X_"}], None),
    ],
    ids=range(19),
)  # fmt: skip
def test_references(
    env: list[dict[str, Any]], sources: list[dict[str, Any]], faults: list[str] | None
) -> None:
    """`$(NAME)` is what Kubernetes makes of it: a variable that came before; what comes from a Secret is no plain text."""
    objects = broken(
        HEALTH, f"{BOX}.env", [*OURS["env"], *env], broken(HEALTH, f"{BOX}.envFrom", sources)
    )
    found = [fault.removeprefix(f"{SUBJECT}{BOX}.env: ") for fault in told(objects)]
    assert not any("hunter2" in fault for fault in found)
    if faults is not None:
        assert found == faults


def test_references_in_arguments() -> None:
    """A known variable is put in; what comes from elsewhere is not judged; one that nobody sets stays as it is."""
    args = ["health", "--every", "$(EACH)", "--for", "45"]
    assert (
        health((f"{BOX}.args", args), (f"{BOX}.env", [*OURS["env"], variable("EACH", "5")])) == []
    )
    assert health((f"{BOX}.args", args), (f"{BOX}.env", [*OURS["env"], variable("EACH", "five")]))[
        0
    ].startswith(f"{BOX}.args: argument --every:")
    assert health((f"{BOX}.args", args)) == []
    quoted = health(
        (f"{BOX}.args", ["health", "--x", "$(A)"]),
        (f"{BOX}.env", [*OURS["env"], variable("A", "hun'ter2")]),
    )
    assert quoted == [f"{BOX}.args: unrecognized arguments: --x $(A)"]
    told_plain = [*OURS["env"], variable("PG_PASS", "hunter2")]
    assert health((f"{BOX}.args", ["health", "--x", "$(PG_PASS)"]), (f"{BOX}.env", told_plain)) == [
        f"{BOX}.env: PG_PASS is set in plain text; take it from a Secret"
    ]
    password = OURS["env"] + [
        {"name": "PG_PASS", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}
    ]
    alone = health((f"{BOX}.args", args), (f"{BOX}.envFrom", [MAP]), (f"{BOX}.env", password))
    assert alone[0].startswith(f"{BOX}.args: argument --every:")


@pytest.mark.parametrize(
    ("version", "kind", "since", "instead"),
    [
        ("batch/v1beta1", "CronJob", "1.25", "batch/v1"),
        ("batch/v2alpha1", "CronJob", "1.21", "batch/v1"),
        ("extensions/v1beta1", "NetworkPolicy", "1.16", "networking.k8s.io/v1"),
        ("extensions/v1beta1", "Deployment", "1.16", "apps/v1"),
        ("apps/v1beta2", "Deployment", "1.16", "apps/v1"),
        ("rbac.authorization.k8s.io/v1beta1", "Role", "1.22", "rbac.authorization.k8s.io/v1"),
    ],
)
def test_removed(version: str, kind: str, since: str, instead: str) -> None:
    """An apiVersion that is gone is a fault of the worker's objects; of others' it is not spoken."""
    ours = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "ops-worker-x", "namespace": "x"},
    }
    assert told([*GOOD, ("x.yaml", ours)]) == [
        f"x.yaml: {kind}/ops-worker-x: apiVersion: {version} was removed in Kubernetes {since}; use {instead}"
    ]
    assert told([*GOOD, ("x.yaml", ours | {"metadata": {"name": "theirs"}})]) == []


@pytest.mark.parametrize(
    ("kind", "metadata", "spoken"),
    [
        ("ConfigMap", {"name": "theirs"}, False),
        ("Service", {"name": "theirs", "labels": {"app.kubernetes.io/name": "theirs"}}, False),
        ("Service", {"name": "ops-worker"}, True),
        ("Service", {"name": "ops-worker-x"}, True),
        ("Service", {"name": "acme-ops-worker"}, True),
        ("Service", {"name": "ops-workers"}, False),
        ("Service", {"name": "x", "labels": {"app.kubernetes.io/name": "ops-worker"}}, True),
        ("ConfigMap", {"name": "extra"}, True),
        ("Secret", {"name": "extra"}, False),
        ("PersistentVolumeClaim", {"name": "claim"}, True),
        ("ServiceAccount", {"name": "ops-worker"}, True),
        *((kind, {"name": "ops-worker"}, False) for kind in ("Namespace", "ClusterRole", "PriorityClass", "IngressClass", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicyBinding", "CSIDriver")),
    ],
)  # fmt: skip
def test_namespaces(kind: str, metadata: dict[str, Any], spoken: bool) -> None:
    """A namespace is asked of what is the worker's by name, label or reference, and of no kind that has none."""
    more = [
        {"name": "a", "configMap": {"name": "extra", "optional": True}},
        {"name": "b", "persistentVolumeClaim": {"claimName": "claim"}},
    ]
    volumes = dict(GOOD)[HEALTH]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    objects = [
        *broken(HEALTH, f"{POD}.volumes", [*volumes, *more]),
        ("x.yaml", {"kind": kind, "metadata": metadata}),
    ]
    fault = f"x.yaml: {kind}/{metadata['name']}: metadata.namespace: is not set, so kubectl would use whatever namespace is current"
    assert told(objects) == [fault] * spoken


def renamed(**container: object) -> list[tuple[str, Any]]:
    """Give the installation with other labels and another image, as an overlay may make it."""
    objects = copy.deepcopy(GOOD)
    for _, content in objects:
        if content["kind"] == "CronJob":
            template = content["spec"]["jobTemplate"]["spec"]["template"]
            for labels in (content["metadata"]["labels"], template["metadata"]["labels"]):
                labels["app.kubernetes.io/name"] = "platform-watch"
            box = template["spec"]["containers"][0]
            box |= {"image": "registry.example:5000/platform/watcher:2026.11"} | container
            content["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"][
                "containerName"
            ] = box["name"]
    return objects


def test_an_overlay() -> None:
    """An overlay that renames image and labels keeps the container's name: it is recognised, and checked."""
    assert told(renamed()) == []
    assert (
        f"{HEALTH}: CronJob/ops-worker-health: {BOX}.resources.limits.memory: is not set; set 128Mi, which is enough"
        in told(renamed(resources={"requests": {"cpu": "50m", "memory": "64Mi"}}))
    )
    assert told(renamed(name="watcher")) == []  # by OPS_WORKER_CATALOGUE and the pass that it runs
    (fault,) = told(renamed(name="watcher", env=[]))
    assert fault.startswith(
        f"{HEALTH}: CronJob/ops-worker-health: {POD}: no ops-worker container found: a container is the worker's if "
    )


def test_labels_for_everybody() -> None:
    """A label that an overlay gives to all objects makes nobody else's CronJob one of ours."""
    theirs = copy.deepcopy(dict(GOOD)[HEALTH])
    theirs["metadata"]["name"] = "backup"
    box = {"name": "dump", "image": "postgres:15", "command": ["pg_dump"]}
    theirs["spec"] = {"schedule": "@daily", "jobTemplate": theirs["spec"]["jobTemplate"]}
    theirs["spec"]["jobTemplate"]["spec"]["template"]["spec"] = {"containers": [box]}
    assert told([*GOOD, ("x.yaml", theirs)]) == []


def test_lists() -> None:
    """A List is taken apart, an object whose kind ends so is not, and an empty List is nothing."""
    from ops_worker.adapters.yaml_files import _parts

    assert _parts({"kind": "CronJobList", "items": [1, 2]}) == [1, 2]
    assert _parts({"kind": "AllowList"}) == [{"kind": "AllowList"}]
    assert _parts({"kind": "List"}) == _parts(None) == []
    assert _parts(5) == [5]


def test_a_kind_of_others() -> None:
    """Another kind of object that has a pod where most have it is looked at as well."""
    rollout = {
        "kind": "Rollout",
        "metadata": {"name": "x", "namespace": "x"},
        "spec": {"template": {"spec": {"containers": [PROXY]}}},
    }
    assert " no ops-worker container found" in told([("x.yaml", rollout)])[0]
    rollout["spec"]["template"]["spec"]["containers"] = [OURS]  # type: ignore[index]
    assert any(".args: ends after one pass" in fault for fault in told([("x.yaml", rollout)]))


def test_aliases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An alias and a merge are read as what they stand for."""
    path = tmp_path / "x.yaml"
    content = copy.deepcopy(dict(GOOD)[HEALTH])
    labels = content["metadata"]["labels"]
    content["spec"]["jobTemplate"]["metadata"]["labels"] = content["spec"]["jobTemplate"]["spec"][
        "template"
    ]["metadata"]["labels"] = labels
    text = yaml.safe_dump(content)  # which writes an anchor, and aliases of it
    assert text.count("*id001") == 2
    path.write_text(text.replace("labels: *id001", "labels: {<<: *id001}", 1), encoding="utf-8")
    assert (
        main(
            ["manifests", "check", str(path), str(K8S / "20-configmap.yaml"), str(K8S / CATALOGUE)]
        )
        == 0
    )
    assert capsys.readouterr().out == "manifests: 3 objects checked, 0 faults\n"


def test_a_bad_file_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read is a fault of its own, and the others are checked: files, and documents before the bad one."""
    for name, text in (
        ("a.yaml", "a: ["),
        ("b.yml", "- 1\n---\nkind: Service\nmetadata: {name: ops-worker}\n---\n{{ helm }}\n"),
        ("c.json", "\udcff"),
    ):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "d.yaml").write_text(
        (K8S / HEALTH).read_text(encoding="utf-8").replace("timeZone: Etc/UTC", "timeZone: Moon"),
        encoding="utf-8",
    )
    (tmp_path / "e.yaml").symlink_to(tmp_path / "nowhere")
    config, catalogue = str(K8S / "20-configmap.yaml"), str(K8S / CATALOGUE)
    assert main(["manifests", "check", str(tmp_path), "/nowhere", config, catalogue]) == 4
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{tmp_path}/").partition(", ")[0] for line in lines] == [
        "a.yaml: is not valid YAML: expected the node content",
        "b.yml: contains something that is not a Kubernetes object: it has no kind",
        "b.yml: is not valid YAML: found unhashable key at line 6",
        "c.json: cannot be read: it is not UTF-8",
        "e.yaml: cannot be read: No such file or directory",
        "/nowhere: cannot be read: No such file or directory",
        "b.yml: Service/ops-worker: metadata.namespace: is not set",
        "d.yaml: CronJob/ops-worker-health: spec.timeZone: 'Moon' is not a time zone; set Etc/UTC",
    ]
    assert last == "manifests: 4 objects checked, 8 faults"
    (tmp_path / "d.yaml").unlink()
    (tmp_path / "b.yml").unlink()
    assert main(["manifests", "check", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("cannot be read") == 2
