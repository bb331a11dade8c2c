"""Tests of the rules about the worker's containers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ops_worker.cli import commands
from tests.manifest_rules.installation import (
    CATALOGUE,
    CONTAINER,
    ENV,
    GONE,
    HEALTH,
    INSTALLED,
    JOB,
    OURS,
    POD,
    PROXY,
    SUBJECT,
    assert_fault,
    broken,
    faults_of,
    health_faults,
    variant,
)

pytestmark = pytest.mark.unit

NEITHER = (
    "neither PG_PASS nor DATABASE_URL comes from a Secret; add envFrom with a secretRef, "
    "or a secretKeyRef, or mount the Secret and set PG_PASS_FILE"
)
URL_PLAIN = "DATABASE_URL is set in plain text; take it from a Secret"
SETTINGS = "20-configmap.yaml"
PASSWORD_OF_URL = "INGEST_URL contains a password in plain text; take it from a Secret"
PASSWORD_PLAIN = "PG_PASS is set in plain text; take it from a Secret"
INIT = f"{POD}.initContainers"
BOXES = f"{POD}.containers"
ENDS = (
    "ends after one pass, so Kubernetes restarts it again and again; "
    "run `sidecar` here, or use a CronJob"
)
ROWS: list[tuple[str, object, str, str]] = [
    (
        f"{CONTAINER}.args",
        ["helth"],
        f"{CONTAINER}.args",
        "argument COMMAND: invalid choice: 'helth' "
        f"(choose from {', '.join(map(repr, commands()))}); did you mean health?",
    ),
    (
        f"{CONTAINER}.args",
        ["health", "--evry", "5"],
        f"{CONTAINER}.args",
        "unrecognized arguments: --evry 5; did you mean --every instead of --evry?",
    ),
    (
        f"{CONTAINER}.args",
        ["health", "--help"],
        f"{CONTAINER}.args",
        "only prints help and does nothing",
    ),
    (f"{CONTAINER}.args", ["health", "--for=55"], f"{CONTAINER}.args", "--for requires --every"),
    (
        f"{CONTAINER}.args",
        ["health", "--every", "5"],
        f"{CONTAINER}.args",
        "never ends by itself: in a Job, run one pass, or use --every with --for",
    ),
    (
        f"{CONTAINER}.args",
        ["health", "--password=hunter2"],
        f"{CONTAINER}.args",
        "unrecognized arguments: --password=...",
    ),
    (
        ENV,
        {"name": "PGPASSWORD", "value": "hunter2"},
        f"{CONTAINER}.env",
        "PGPASSWORD is set in plain text; take it from a Secret",
    ),
    (
        f"{CONTAINER}.command",
        ["sh", "-c", "ops-worker health"],
        f"{CONTAINER}.command",
        "is sh; remove it: the image's entrypoint is ops-worker",
    ),
    (
        ENV,
        {"name": "PASS_DEADLIN", "value": "9"},
        f"{CONTAINER}.env",
        "PASS_DEADLIN is not a setting; did you mean PASS_DEADLINE?",
    ),
    (
        ENV,
        {"name": "COLOUR", "value": "red"},
        f"{CONTAINER}.env",
        "COLOUR is not a setting; `ops-worker health --help` lists the settings",
    ),
    (
        ENV,
        {"name": "CONFIRM_DELAY", "value": "soon"},
        f"{CONTAINER}.env",
        "CONFIRM_DELAY is 'soon'; expected a number of seconds, 0 to 30",
    ),
    (
        ENV,
        {"name": "INGEST_HEALTH_URL", "value": "ftp://x"},
        f"{CONTAINER}.env",
        "built-in catalogue: services.ingest.url: INGEST_HEALTH_URL is not a valid base URL: "
        "it must begin with http://, https://, tcp:// or tls://",
    ),
    (
        ENV,
        {"name": "PG_PASS", "value": "hunter2"},
        f"{CONTAINER}.env",
        PASSWORD_PLAIN,
    ),
    (
        ENV,
        {"name": "EVALUATOR_URL", "value": "http://u:hunter2@x:8080"},
        f"{CONTAINER}.env",
        "EVALUATOR_URL contains a password in plain text; take it from a Secret",
    ),
    (
        f"{CONTAINER}.envFrom[1]",
        GONE,
        f"{CONTAINER}.env",
        NEITHER,
    ),
    (
        f"{CONTAINER}.envFrom[0]",
        {"configMapRef": {"name": "other"}},
        f"{CONTAINER}.envFrom",
        "ConfigMap other of namespace ops-worker is not in the files",
    ),
    (
        f"{POD}.securityContext.runAsNonRoot",
        GONE,
        f"{CONTAINER}.securityContext.runAsNonRoot",
        "must be true",
    ),
    (
        f"{POD}.securityContext.runAsUser",
        0,
        f"{CONTAINER}.securityContext.runAsUser",
        "is 0; the image's user is 65532",
    ),
    (
        f"{CONTAINER}.securityContext.allowPrivilegeEscalation",
        GONE,
        f"{CONTAINER}.securityContext.allowPrivilegeEscalation",
        "must be false",
    ),
    (
        f"{CONTAINER}.securityContext.privileged",
        True,
        f"{CONTAINER}.securityContext.privileged",
        "must be false",
    ),
    (
        f"{CONTAINER}.securityContext.readOnlyRootFilesystem",
        GONE,
        f"{CONTAINER}.securityContext.readOnlyRootFilesystem",
        "must be true: the worker writes no file there",
    ),
    (
        f"{CONTAINER}.securityContext.capabilities",
        {},
        f"{CONTAINER}.securityContext.capabilities.drop",
        "must contain ALL",
    ),
    (
        f"{CONTAINER}.securityContext.capabilities.add",
        ["NET_RAW"],
        f"{CONTAINER}.securityContext.capabilities.add",
        "must be empty",
    ),
    (
        f"{POD}.securityContext.seccompProfile",
        {"type": "Unconfined"},
        f"{CONTAINER}.securityContext.seccompProfile.type",
        "must be RuntimeDefault",
    ),
    (f"{POD}.hostNetwork", True, f"{POD}.hostNetwork", "must be false"),
    (
        f"{POD}.volumes[0]",
        {"name": "root", "hostPath": {"path": "/"}},
        f"{POD}.volumes",
        "root is a hostPath; the worker needs only an emptyDir at /tmp",
    ),
    (
        f"{CONTAINER}.resources.limits",
        {},
        f"{CONTAINER}.resources.limits.memory",
        "is not set; set 128Mi, which is enough",
    ),
    (
        f"{CONTAINER}.resources.requests.cpu",
        GONE,
        f"{CONTAINER}.resources.requests.cpu",
        "is not set; set 50m, which is enough",
    ),
    (
        f"{CONTAINER}.terminationMessagePolicy",
        GONE,
        f"{CONTAINER}.terminationMessagePolicy",
        "must be FallbackToLogsOnError, so that a failed pod always shows the reason",
    ),
    (
        f"{POD}.automountServiceAccountToken",
        GONE,
        f"{POD}.automountServiceAccountToken",
        "must be false: the command does not call the Kubernetes API",
    ),
    (
        f"{POD}.enableServiceLinks",
        GONE,
        f"{POD}.enableServiceLinks",
        "must be false: a Service named pg would set PG_PORT",
    ),
    (
        f"{POD}.terminationGracePeriodSeconds",
        8,
        f"{POD}.terminationGracePeriodSeconds",
        "is 8; it must be greater than SHUTDOWN_GRACE (8)",
    ),
    (
        "metadata.labels",
        {},
        "metadata.labels",
        "has no app.kubernetes.io/name, app.kubernetes.io/component, app.kubernetes.io/part-of",
    ),
    (
        "spec.jobTemplate.metadata.labels.app|kubernetes|io/component",
        GONE,
        "spec.jobTemplate.metadata.labels",
        "has no app.kubernetes.io/component",
    ),
    (
        f"{JOB}.template.metadata.labels.app|kubernetes|io/part-of",
        GONE,
        f"{JOB}.template.metadata.labels",
        "has no app.kubernetes.io/part-of",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    ROWS,
    ids=[f"{row[2].rpartition('.')[2]}-{number}" for number, row in enumerate(ROWS)],
)
def test_rule(path: str, value: object, field: str, message: str) -> None:
    """A wrong field is a fault that names the file, the object, the field and the remedy."""
    assert_fault(path, value, field, message)


@pytest.mark.parametrize(
    ("image", "is_fixed"),
    [
        ("ops-worker:0.1.0", True),
        ("registry:5000/team/ops-worker:0.1.0", True),
        (f"ops-worker@sha256:{'0' * 64}", True),
        ("ops-worker:latest", False),
        ("registry:5000/team/ops-worker", False),
        ("ops-worker", False),
    ],
)
def test_image(image: str, is_fixed: bool) -> None:
    """An image needs a version tag or a digest. The port of a registry is no tag."""
    objects = INSTALLED
    for name in ("health", "init-db", "metrics", "rollup"):
        objects = broken(f"40-cronjob-{name}.yaml", f"{CONTAINER}.image", image, objects)
    message = f"{image!r} can change at any time; use a version tag or a digest"
    faults = [
        f"40-cronjob-{name}.yaml: CronJob/ops-worker-{name}: {CONTAINER}.image: {message}"
        for name in ("health", "init-db", "metrics", "rollup")
    ]
    assert faults_of(objects) == ([] if is_fixed else faults)


TOML = "data.catalogue|toml"
FILE = "/etc/ops-worker/catalogue.toml"


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        (
            CATALOGUE,
            TOML,
            "[services.a]",
            f"{CONTAINER}.env: {FILE}: services.a.url is missing; expected",
        ),
        (
            CATALOGUE,
            TOML,
            '[services.a]\nurl = "http://a"\ndeadline = 0',
            f"{CONTAINER}.env: {FILE}: services.a.deadline is 0",
        ),
        (
            CATALOGUE,
            TOML,
            5,
            f"{CONTAINER}.env: OPS_WORKER_CATALOGUE is {FILE}, but no ConfigMap in the files",
        ),
        (
            CATALOGUE,
            "metadata.name",
            "other",
            f"{CONTAINER}.env: OPS_WORKER_CATALOGUE is {FILE}, but no",
        ),
        (
            "40-cronjob-health.yaml",
            f"{CONTAINER}.volumeMounts[1].subPath",
            "x",
            f"{CONTAINER}.env: OPS_WORKER_CATALOGUE is",
        ),
        (
            "40-cronjob-health.yaml",
            f"{POD}.volumes[1].configMap.items",
            [{"key": "x", "path": "y"}],
            f"{CONTAINER}.env: OPS_WORKER_CATALOGUE is",
        ),
        # The content of another kind of volume is not known.
        ("40-cronjob-health.yaml", f"{POD}.volumes[1].configMap", GONE, ""),
        # SECRET_URL comes from a Secret.
        (CATALOGUE, TOML, '[services.a]\nurl = "${SECRET_URL}"', ""),
        (
            CATALOGUE,
            TOML,
            '[services.a]\nurl = "http://a:8080"\n'
            'headers = { A = "${TOKEN}", B = { file = "/run/x" } }',
            "",
        ),
    ],
)
def test_catalogue(file: str, path: str, value: object, message: str) -> None:
    """The catalogue is checked as the worker checks it, except for values from Secrets."""
    faults = [
        fault
        for fault in faults_of(broken(file, path, value))
        if "CronJob/ops-worker-health" in fault
    ]
    assert len(faults) == bool(message)
    assert all(
        fault.startswith(f"{HEALTH}: CronJob/ops-worker-health: {message}") for fault in faults
    )


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    [
        ("livenessProbe", GONE, "livenessProbe", "must be an httpGet of /health on port 8080"),
        (
            "readinessProbe.httpGet.path",
            "/health",
            "readinessProbe",
            "must be an httpGet of /ready on port 8080",
        ),
        ("env[1].value", "8081", "livenessProbe", "must be an httpGet of /health on port 8081"),
        (
            "env[0].value",
            "127.0.0.1",
            "env",
            "SIDECAR_HOST must be 0.0.0.0: the kubelet's probes come from outside the pod",
        ),
    ],
)
def test_sidecar(path: str, value: object, field: str, message: str) -> None:
    """The probes of a sidecar must match its paths and its port."""
    name, box = "Deployment/ops-worker-sidecar", "spec.template.spec.containers[0]"
    assert f"{name}: {name}: {box}.{field}: {message}" in faults_of(
        broken(name, f"{box}.{path}", value, variant("variants/sidecar"))
    )


def test_pass_in_a_deployment() -> None:
    """A single pass in a Deployment is a fault, because it would restart endlessly."""
    name, path = "Deployment/ops-worker-sidecar", "spec.template.spec.containers[0].args"
    assert faults_of(broken(name, path, ["health"], variant("variants/sidecar"))) == [
        f"{name}: {name}: {path}: {ENDS}"
    ]


def test_somebody_elses_pod() -> None:
    """In another program's pod, only the worker's container is checked."""
    app = variant("examples/inject")
    name, path = "Deployment/my-app", "spec.template.spec"
    assert faults_of(broken(name, f"{path}.containers[0].securityContext", {}, app)) == []
    privileged = f"{path}.initContainers[0].securityContext.privileged"
    assert faults_of(broken(name, privileged, True, app)) == [
        f"{name}: {name}: {privileged}: must be false"
    ]


WAIT = {
    "name": "wait",
    "image": "busybox",
    "command": ["sh", "-c", "until nc -z db 5432; do sleep 1; done"],
}
LOOP = OURS | {"name": "loop", "args": ["health", "--every", "5"]}
NATIVE = {"restartPolicy": "Always"}
HELD = (
    "keeps running after the pass, so the Job never completes; make it a native sidecar "
    "(an init container with restartPolicy: Always), because a Job does not wait for those"
)


def other(name: str, *command: str, **fields: object) -> dict[str, object]:
    """Return a container of another program, with a command if one is given."""
    content: dict[str, object] = {"name": name, "image": "b"}
    if command:
        content["command"] = list(command)
    return content | fields


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
    """Arguments may be in `command` instead of `args`."""
    assert health_faults((f"{CONTAINER}.args", GONE), (f"{CONTAINER}.command", command)) == []
    assert health_faults(
        (f"{CONTAINER}.args", GONE), (f"{CONTAINER}.command", [*command, "--evry"])
    ) == [
        f"{CONTAINER}.command: unrecognized arguments: --evry; "
        "did you mean --every instead of --evry?"
    ]


def test_neither_command_nor_args() -> None:
    """A container without arguments and without a command is a fault."""
    assert health_faults((f"{CONTAINER}.args", GONE)) == [
        f"{CONTAINER}.args: the following arguments are required: COMMAND"
    ]
    assert health_faults((f"{CONTAINER}.args", []))[0].startswith(
        f"{CONTAINER}.args: the following arguments"
    )


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ([(INIT, [PROXY | NATIVE, WAIT])], []),
        ([(BOXES, [OURS, PROXY])], [f"{BOXES}[1]: cloud-sql-proxy {HELD}"]),
        ([(BOXES, [PROXY, OURS])], [f"{BOXES}[0]: cloud-sql-proxy {HELD}"]),
        ([(BOXES, [OURS, PROXY]), (f"{POD}.shareProcessNamespace", True)], []),
        ([(BOXES, [OURS, other("a", "sleep", "infinity")])], [f"{BOXES}[1]: a {HELD}"]),
        ([(BOXES, [OURS, other("a", readinessProbe={"httpGet": {}})])], [f"{BOXES}[1]: a {HELD}"]),
        ([(BOXES, [OURS, other("a")])], []),
        ([(BOXES, [OURS, other("envoy", "sh", "-c", "./envoy & wait-for-done; kill $!")])], []),
        ([(BOXES, [OURS, other("a", "sh", "-c", "while true; do test -f /d && exit; done")])], []),
        ([(BOXES, [OURS, other("flush", "redis-cli", "flushall", image="redis:7")])], []),
        (
            [(BOXES, [OURS, other("db", "/cloud_sql_proxy", "-instances=a", image="x")])],
            [f"{BOXES}[1]: db {HELD}"],
        ),
        # Another container may need these fields.
        ([(INIT, [WAIT]), (f"{POD}.automountServiceAccountToken", GONE)], []),
        (
            [
                (INIT, [WAIT]),
                (f"{POD}.volumes[0]", {"name": "tmp", "hostPath": {"path": "/x"}}),
            ],
            [],
        ),
        # The worker as an init container must end, or be a native sidecar.
        ([(INIT, [OURS | {"name": "migrate", "args": ["init-db"]}])], []),
        (
            [(INIT, [LOOP])],
            [
                f"{INIT}[0].args: never ends, so the main containers never start; "
                "set restartPolicy: Always to make it a native sidecar"
            ],
        ),
        (
            [(INIT, [OURS | {"name": "loop", "args": ["health"]} | NATIVE])],
            [f"{INIT}[0].args: {ENDS}"],
        ),
        ([(INIT, [LOOP | NATIVE])], []),
        # Exit codes of another container need no rule of the worker.
        (
            [
                (INIT, [WAIT]),
                (
                    f"{JOB}.podFailurePolicy.rules[1]",
                    {
                        "action": "Count",
                        "onExitCodes": {"containerName": "wait", "operator": "In", "values": [1]},
                    },
                ),
            ],
            [
                f"{JOB}.podFailurePolicy.rules: has no Ignore rule for DisruptionTarget: "
                "a drained node would count as a failure"
            ],
        ),
        ([(f"{JOB}.podFailurePolicy.rules[0].onExitCodes.containerName", GONE)], []),
    ],
    ids=range(19),
)
def test_pods(changes: list[tuple[str, object]], faults: list[str]) -> None:
    """Another container is a fault only if the Job never completes because of it."""
    assert health_faults(*changes) == faults


def test_a_loop_in_a_job() -> None:
    """A loop in a Job is a fault. As a native sidecar in another CronJob, it is none."""
    job = copy.deepcopy(dict(INSTALLED)[HEALTH])
    job |= {"kind": "Job", "spec": job["spec"]["jobTemplate"]["spec"]}
    assert faults_of([*INSTALLED, ("j.yaml", job)]) == []
    job["spec"]["template"]["spec"]["containers"][0]["args"] = ["sidecar"]
    faults = faults_of([*INSTALLED, ("j.yaml", job)])
    assert (
        "spec.template.spec.containers[0].args: never ends by itself: "
        "in a Job, run one pass, or use --every with --for"
    ) in faults[0]
    sidecar = variant("examples/inject")
    content = dict(sidecar)["Deployment/my-app"]
    template = content["spec"]["template"]
    content |= {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": template}}},
    }
    assert faults_of(sidecar) == []


PASSWORD = {
    "name": "DBPASS",
    "valueFrom": {"secretKeyRef": {"name": "ops-worker", "key": "PG_PASS"}},
}


URL = "postgresql://iot:$(DBPASS)@pg:5432/iotcloud"
INGEST = "http://$(INGEST_SERVICE_HOST):$(INGEST_SERVICE_PORT)"
MAP = {"configMapRef": {"name": "ops-worker"}}
SECRET = {"secretRef": {"name": "ops-worker"}}


def variable(name: str, value: str) -> dict[str, str]:
    """Return a variable with a value."""
    return {"name": name, "value": value}


@pytest.mark.parametrize(
    ("env", "sources", "faults"),
    [
        ([PASSWORD, variable("DATABASE_URL", URL)], [MAP], []),
        ([variable("DATABASE_URL", "postgresql://iot:$(PG_PASS)@pg/iotcloud")], [MAP, SECRET], []),
        ([PASSWORD, variable("PG_PASS", "$(DBPASS)")], [MAP], []),
        (
            [
                PASSWORD,
                variable("A_HOST", "pg"),
                variable("DATABASE_URL", "postgresql://iot:$(DBPASS)@$(A_HOST)/x"),
            ],
            [MAP],
            [],
        ),
        # The password is in plain text, in spite of a Secret.
        ([variable("DATABASE_URL", "postgresql://iot:hunter2@pg/x")], [MAP, SECRET], [URL_PLAIN]),
        (
            [PASSWORD, variable("DATABASE_URL", "postgresql://iot:hunter2@pg/$(DBPASS)")],
            [MAP],
            [URL_PLAIN],
        ),
        (
            [variable("DBPASS", "hunter2"), variable("DATABASE_URL", URL)],
            [MAP, SECRET],
            [URL_PLAIN],
        ),
        (
            [variable("PG_PASS", "hunter2"), variable("INGEST_URL", "ftp://$(PG_PASS)")],
            [MAP, SECRET],
            [PASSWORD_PLAIN],
        ),
        (
            [variable("PG_PASS", "hunter2"), variable("INGEST_URL", "ftp://$(PG_PASS)")],
            [MAP],
            [NEITHER, PASSWORD_PLAIN],
        ),
        ([PASSWORD, variable("PG_PASS", "hunter2$(DBPASS)")], [MAP], [PASSWORD_PLAIN]),
        (
            [PASSWORD, variable("INGEST_URL", "http://u:hunter2@$(DBPASS):80")],
            [MAP, SECRET],
            ["INGEST_URL contains a password in plain text; take it from a Secret"],
        ),
        ([PASSWORD, variable("INGEST_URL", "http://u:$(DBPASS)@ingest:8080")], [MAP, SECRET], []),
        # A reference expands only to an earlier variable. Two dollar signs are one dollar sign.
        (
            [variable("DATABASE_URL", URL), PASSWORD],
            [MAP],
            [
                "DATABASE_URL refers to $(DBPASS), but no variable before it has that name: "
                "Kubernetes does not expand the reference",
                NEITHER,
                URL_PLAIN,
            ],
        ),
        (
            [PASSWORD, variable("DATABASE_URL", "postgresql://iot:$$(DBPASS)@pg/x")],
            [MAP],
            [
                "DBPASS is not a setting; `ops-worker health --help` lists the settings",
                NEITHER,
                URL_PLAIN,
            ],
        ),
        ([variable("CONFIRM_DELAY", "$(SHUTDOWN_GRACE)")], [MAP, SECRET], []),
        (
            [variable("SOON", "soon"), variable("CONFIRM_DELAY", "$(SOON)")],
            [MAP, SECRET],
            ["CONFIRM_DELAY is 'soon'; expected a number of seconds, 0 to 30"],
        ),
        ([variable("INGEST_URL", INGEST)], [MAP, SECRET], []),
        ([variable("INGEST_URL", "http://$(INGEST_SERVICE_HOST):80")], [MAP], [NEITHER]),
        ([variable("INGEST_URL", "http://$(NOBODY)")], [{**MAP, "prefix": "X_"}], None),
    ],
    ids=range(19),
)
def test_references(
    env: list[dict[str, Any]], sources: list[dict[str, Any]], faults: list[str] | None
) -> None:
    """The rules expand `$(NAME)` as Kubernetes does. A value from a Secret is not plain text."""
    objects = broken(
        HEALTH,
        f"{CONTAINER}.env",
        [*OURS["env"], *env],
        broken(HEALTH, f"{CONTAINER}.envFrom", sources),
    )
    problems = [fault.removeprefix(f"{SUBJECT}{CONTAINER}.env: ") for fault in faults_of(objects)]
    assert not any("hunter2" in fault for fault in problems)
    if faults is not None:
        assert problems == faults


def test_references_in_arguments() -> None:
    """Known variables are expanded in arguments. Arguments with unknown ones are not checked."""
    args = ["health", "--every", "$(EACH)", "--for", "42"]
    assert (
        health_faults(
            (f"{CONTAINER}.args", args), (f"{CONTAINER}.env", [*OURS["env"], variable("EACH", "5")])
        )
        == []
    )
    assert health_faults(
        (f"{CONTAINER}.args", args), (f"{CONTAINER}.env", [*OURS["env"], variable("EACH", "five")])
    )[0].startswith(f"{CONTAINER}.args: argument --every:")
    assert health_faults((f"{CONTAINER}.args", args)) == []
    quoted = health_faults(
        (f"{CONTAINER}.args", ["health", "--x", "$(A)"]),
        (f"{CONTAINER}.env", [*OURS["env"], variable("A", "hun'ter2")]),
    )
    assert quoted == [f"{CONTAINER}.args: unrecognized arguments: --x $(A)"]
    plain = [*OURS["env"], variable("PG_PASS", "hunter2")]
    assert health_faults(
        (f"{CONTAINER}.args", ["health", "--x", "$(PG_PASS)"]), (f"{CONTAINER}.env", plain)
    ) == [f"{CONTAINER}.env: {PASSWORD_PLAIN}"]
    password = OURS["env"] + [
        {"name": "PG_PASS", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}
    ]
    alone = health_faults(
        (f"{CONTAINER}.args", args), (f"{CONTAINER}.envFrom", [MAP]), (f"{CONTAINER}.env", password)
    )
    assert alone[0].startswith(f"{CONTAINER}.args: argument --every:")


@pytest.mark.parametrize("name", ["PG_PASS_FILE", "DATABASE_URL_FILE"])
def test_password_in_a_file(name: str) -> None:
    """The password may be in a file. A file of a ConfigMap is a fault."""

    def faults_with(path: str) -> list[str]:
        objects = broken(HEALTH, f"{CONTAINER}.env", [*OURS["env"], variable(name, path)])
        objects = broken(HEALTH, f"{CONTAINER}.envFrom", [MAP], objects)
        remaining = [item for item in objects if item[0] == HEALTH or item[1]["kind"] != "CronJob"]
        return [fault.removeprefix(SUBJECT) for fault in faults_of(remaining)]

    assert faults_with("/run/secrets/ops-worker/x") == []
    assert faults_with("/etc/ops-worker/catalogue.toml") == [
        f"{CONTAINER}.env: {name} is a file of a ConfigMap; mount a Secret there"
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PASS_DEADLNE", "9", "PASS_DEADLNE is not a setting; did you mean PASS_DEADLINE?"),
        ("CONFIRM_DELAY", "soon", "CONFIRM_DELAY is 'soon'; expected a number of seconds, 0 to 30"),
        (
            "INGEST_HEALTH_URL",
            "ftp://x",
            "built-in catalogue: services.ingest.url: INGEST_HEALTH_URL is not a valid base URL: "
            "it must begin with http://, https://, tcp:// or tls://",
        ),
        ("INGEST_URL", "http://u:hunter2@x:8080", PASSWORD_OF_URL),
        ("PGPASSWORD", "hunter2", "PGPASSWORD is set in plain text; take it from a Secret"),
    ],
)
def test_settings_of_a_config_map(name: str, value: str, message: str) -> None:
    """A fault of a ConfigMap that feeds several containers is reported once, at the ConfigMap."""
    faults = faults_of(broken(SETTINGS, f"data.{name}", value))
    assert faults == [f"{SETTINGS}: ConfigMap/ops-worker: data: {message}"]


def test_settings_of_several_places() -> None:
    """A container that sets a variable itself has the fault. The others blame the ConfigMap."""
    own = broken(HEALTH, ENV, {"name": "CONFIRM_DELAY", "value": "soon"})
    message = "CONFIRM_DELAY is 'soon'; expected a number of seconds, 0 to 30"
    in_health = f"{SUBJECT}{CONTAINER}.env: {message}"
    assert in_health in faults_of(own)
    faults = faults_of(broken(SETTINGS, "data.CONFIRM_DELAY", "soon", own))
    assert in_health in faults
    assert f"{SETTINGS}: ConfigMap/ops-worker: data: {message}" in faults
