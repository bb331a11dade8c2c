"""Each rule, on the installation as it is rendered, with one thing in it broken."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops_worker.cli import _parser, commands, main
from ops_worker.commands.manifests import program_facts
from ops_worker.manifest_rules import Document, check

pytestmark = pytest.mark.unit

K8S = Path(__file__).parents[2] / "k8s"
JOB = "spec.jobTemplate.spec"
POD = f"{JOB}.template.spec"
BOX = f"{POD}.containers[0]"
GONE = object()
GOOD = [
    (path.name, yaml.safe_load(path.read_text(encoding="utf-8")))
    for path in sorted(K8S.glob("*.yaml"))
]
FACTS = program_facts(_parser())


def told(objects: list[tuple[str, Any]]) -> list[str]:
    """Give the faults of objects."""
    return [
        str(fault) for fault in check([Document(file, content) for file, content in objects], FACTS)
    ]


def broken(
    file: str, path: str, value: object, objects: list[tuple[str, Any]] = GOOD
) -> list[tuple[str, Any]]:
    """Give the objects with one field of one file set otherwise, or gone."""
    changed = copy.deepcopy(objects)
    node: Any = dict(changed)[file]
    *way, last = path.replace("[", ".[").split(".")
    for key in way:
        node = node[int(key[1:-1])] if key.startswith("[") else node.setdefault(key, {})
    place: Any = int(last[1:-1]) if last.startswith("[") else last.replace("|", ".")
    if value is GONE:
        del node[place]
    else:
        node[place] = value
    return changed


def test_good() -> None:
    """Nothing is wrong with the installation, nor with what has nothing to do with the worker."""
    assert told(GOOD) == []
    assert (
        told(
            [
                (
                    "x.yaml",
                    {
                        "kind": "Deployment",
                        "metadata": {"name": "x", "namespace": "x"},
                        "spec": {"template": {"spec": {}}},
                    },
                )
            ]
        )
        == []
    )


HEALTH = "40-cronjob-health.yaml"
ENV = f"{BOX}.env[0]"
ROWS: list[tuple[str, object, str, str]] = [
    (
        "spec.schedule",
        "*/5 * * * *",
        "spec.schedule",
        "runs every 300 s, but PASS_PERIOD is 60: set it to 300, or the other pass opens an alert although no run is due",
    ),
    (
        "spec.schedule",
        "* * * *",
        "spec.schedule",
        "'* * * *' is not a cron schedule: it has 4 fields instead of 5",
    ),
    (
        "spec.schedule",
        "0 * * * * *",
        "spec.schedule",
        "'0 * * * * *' is not a cron schedule: it has 6 fields instead of 5",
    ),
    (
        "spec.schedule",
        "60 * * * *",
        "spec.schedule",
        "'60 * * * *' is not a cron schedule: minute '60' is not in the range 0 to 59",
    ),
    (
        "spec.schedule",
        "TZ=UTC * * * * *",
        "spec.schedule",
        "'TZ=UTC * * * * *' is not a cron schedule: the time zone belongs in spec.timeZone",
    ),
    (
        "spec.timeZone",
        GONE,
        "spec.timeZone",
        "is not set, so the time zone of kube-controller-manager is used; set Etc/UTC",
    ),
    (
        "spec.timeZone",
        "Mars/Olympus",
        "spec.timeZone",
        "'Mars/Olympus' is not a time zone; set Etc/UTC",
    ),
    ("spec.concurrencyPolicy", "forbid", "spec.concurrencyPolicy", "is forbid; set Forbid"),
    ("spec.concurrencyPolicy", GONE, "spec.concurrencyPolicy", "is not set; set Forbid"),
    (
        "spec.startingDeadlineSeconds",
        GONE,
        "spec.startingDeadlineSeconds",
        "is not set: a run that missed its time starts however late it is, once for all missed runs "
        "(Kubernetes reports TooManyMissedTimes after more than 100); set 20 to 30",
    ),
    (
        "spec.startingDeadlineSeconds",
        10,
        "spec.startingDeadlineSeconds",
        "is 10; it must be greater than 10, or a run may never start",
    ),
    (
        "spec.startingDeadlineSeconds",
        60,
        "spec.startingDeadlineSeconds",
        "is 60; it must be less than the period (60)",
    ),
    (
        f"{JOB}.activeDeadlineSeconds",
        GONE,
        f"{JOB}.activeDeadlineSeconds",
        "is not set: with concurrencyPolicy Forbid, a pod that cannot start would block all later runs",
    ),
    (
        f"{JOB}.activeDeadlineSeconds",
        40,
        f"{JOB}.activeDeadlineSeconds",
        "is 40; it must be greater than PASS_DEADLINE (40), so that the pass can report why it is slow",
    ),
    (
        f"{JOB}.activeDeadlineSeconds",
        60,
        f"{JOB}.activeDeadlineSeconds",
        "is 60; it must be less than the period (60)",
    ),
    (
        f"{BOX}.args",
        ["health", "--every", "5", "--for", "55"],
        f"{JOB}.activeDeadlineSeconds",
        "is 50; it must be greater than --for (55), so that the pass can report why it is slow",
    ),
    (
        f"{POD}.restartPolicy",
        "OnFailure",
        f"{POD}.restartPolicy",
        "is OnFailure; set Never, so that every attempt is a pod with a log",
    ),
    (
        f"{JOB}.backoffLimit",
        GONE,
        f"{JOB}.backoffLimit",
        "is not set; set 1 (0 to 3 is accepted): the next run comes anyway",
    ),
    (
        f"{JOB}.backoffLimit",
        6,
        f"{JOB}.backoffLimit",
        "is 6; set 1 (0 to 3 is accepted): the next run comes anyway",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.values",
        [1, 2, 3],
        f"{JOB}.podFailurePolicy.rules",
        "FailJob is set for 1, 2, 3; set it for exit codes 2, 3 (settings, schema): a retry does not help there",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0]",
        {},
        f"{JOB}.podFailurePolicy.rules",
        "FailJob is set for no exit codes; set it for exit codes 2, 3 (settings, schema): a retry does not help there",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[1]",
        GONE,
        f"{JOB}.podFailurePolicy.rules",
        "has no Ignore rule for DisruptionTarget: a drained node would count as a failure",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.values",
        [3, 2],
        f"{JOB}.podFailurePolicy.rules[0]",
        "must have exit codes in ascending order, each once; Kubernetes refuses others",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.values",
        [2, 3, 3],
        f"{JOB}.podFailurePolicy.rules[0]",
        "must have exit codes in ascending order, each once; Kubernetes refuses others",
    ),
    *(
        (field, value, field, "must be a whole number, without quotes")
        for field, value in (
            ("spec.startingDeadlineSeconds", "25"),
            ("spec.startingDeadlineSeconds", 25.5),
            ("spec.failedJobsHistoryLimit", "3"),
            (f"{JOB}.activeDeadlineSeconds", "50"),
            (f"{JOB}.activeDeadlineSeconds", 49.5),
            (f"{JOB}.backoffLimit", "1"),
            (f"{JOB}.backoffLimit", True),
            (f"{JOB}.ttlSecondsAfterFinished", "3600"),
            (f"{JOB}.completions", "1"),
        )
    ),
    ("spec.suspend", "no", "spec.suspend", "must be true or false, without quotes"),
    ("spec.failedJobsHistoryLimit", -1, "spec.failedJobsHistoryLimit", "is below 0; set 3"),
    (
        "spec.successfulJobsHistoryLimit",
        GONE,
        "spec.successfulJobsHistoryLimit",
        "is not set; set 1",
    ),
    ("spec.failedJobsHistoryLimit", GONE, "spec.failedJobsHistoryLimit", "is not set; set 3"),
    (
        f"{JOB}.ttlSecondsAfterFinished",
        GONE,
        f"{JOB}.ttlSecondsAfterFinished",
        "is not set to a number of seconds; set 3600",
    ),
    (
        f"{JOB}.ttlSecondsAfterFinished",
        -1,
        f"{JOB}.ttlSecondsAfterFinished",
        "is not set to a number of seconds; set 3600",
    ),
    (
        f"{BOX}.args",
        ["helth"],
        f"{BOX}.args",
        f"argument COMMAND: invalid choice: 'helth' (choose from {', '.join(map(repr, commands()))}); did you mean health?",
    ),
    (
        f"{BOX}.args",
        ["health", "--evry", "5"],
        f"{BOX}.args",
        "unrecognized arguments: --evry 5; did you mean --every instead of --evry?",
    ),
    (f"{BOX}.args", ["health", "--help"], f"{BOX}.args", "only prints help and does nothing"),
    (f"{BOX}.args", ["health", "--for=55"], f"{BOX}.args", "--for requires --every"),
    (
        f"{BOX}.args",
        ["health", "--every=5", "--for=55"],
        f"{JOB}.activeDeadlineSeconds",
        "is 50; it must be greater than --for (55), so that the pass can report why it is slow",
    ),
    (
        f"{BOX}.args",
        ["health", "--every", "5"],
        f"{BOX}.args",
        "never ends by itself: in a Job, run one pass, or use --every with --for",
    ),
    (
        f"{BOX}.args",
        ["health", "--password=hunter2"],
        f"{BOX}.args",
        "unrecognized arguments: --password=...",
    ),
    (
        ENV,
        {"name": "PGPASSWORD", "value": "hunter2"},
        f"{BOX}.env",
        "PGPASSWORD is set in plain text; take it from a Secret",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].action",
        "Ignore",
        f"{JOB}.podFailurePolicy.rules[0]",
        "is not a FailJob rule for exit codes of this container; keep one rule, for exit codes 2, 3 of container ops-worker",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.containerName",
        "other",
        f"{JOB}.podFailurePolicy.rules[0]",
        "is not a FailJob rule for exit codes of this container; keep one rule, for exit codes 2, 3 of container ops-worker",
    ),
    (
        f"{BOX}.command",
        ["sh", "-c", "ops-worker health"],
        f"{BOX}.command",
        "is sh; remove it: the image's entrypoint is ops-worker",
    ),
    (
        ENV,
        {"name": "PASS_DEADLIN", "value": "9"},
        f"{BOX}.env",
        "PASS_DEADLIN is not a setting; `ops-worker health --help` lists the settings",
    ),
    (
        ENV,
        {"name": "CONFIRM_DELAY", "value": "soon"},
        f"{BOX}.env",
        "CONFIRM_DELAY is 'soon', but wants a number of seconds, 0 to 30",
    ),
    (
        ENV,
        {"name": "INGEST_HEALTH_URL", "value": "ftp://x"},
        f"{BOX}.env",
        "built-in catalogue: services.ingest.url: INGEST_HEALTH_URL is no base URL: it has to begin with http:// or https://",
    ),
    (
        ENV,
        {"name": "PG_PASS", "value": "hunter2"},
        f"{BOX}.env",
        "PG_PASS is set in plain text; take it from a Secret",
    ),
    (
        ENV,
        {"name": "EVALUATOR_URL", "value": "http://u:hunter2@x:8080"},
        f"{BOX}.env",
        "EVALUATOR_URL contains a password in plain text; take it from a Secret",
    ),
    (
        f"{BOX}.envFrom[1]",
        GONE,
        f"{BOX}.env",
        "neither PG_PASS nor DATABASE_URL comes from a Secret; add envFrom with a secretRef, or a secretKeyRef",
    ),
    (
        f"{BOX}.envFrom[0]",
        {"configMapRef": {"name": "other"}},
        f"{BOX}.envFrom",
        "ConfigMap other of namespace ops-worker is not in the files",
    ),
    (
        f"{POD}.securityContext.runAsNonRoot",
        GONE,
        f"{BOX}.securityContext.runAsNonRoot",
        "must be true",
    ),
    (
        f"{POD}.securityContext.runAsUser",
        0,
        f"{BOX}.securityContext.runAsUser",
        "is 0; the image's user is 65532",
    ),
    (
        f"{BOX}.securityContext.allowPrivilegeEscalation",
        GONE,
        f"{BOX}.securityContext.allowPrivilegeEscalation",
        "must be false",
    ),
    (
        f"{BOX}.securityContext.privileged",
        True,
        f"{BOX}.securityContext.privileged",
        "must be false",
    ),
    (
        f"{BOX}.securityContext.readOnlyRootFilesystem",
        GONE,
        f"{BOX}.securityContext.readOnlyRootFilesystem",
        "must be true: the worker writes no file there",
    ),
    (
        f"{BOX}.securityContext.capabilities",
        {},
        f"{BOX}.securityContext.capabilities.drop",
        "must contain ALL",
    ),
    (
        f"{BOX}.securityContext.capabilities.add",
        ["NET_RAW"],
        f"{BOX}.securityContext.capabilities.add",
        "must be empty",
    ),
    (
        f"{POD}.securityContext.seccompProfile",
        {"type": "Unconfined"},
        f"{BOX}.securityContext.seccompProfile.type",
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
        f"{BOX}.resources.limits",
        {},
        f"{BOX}.resources.limits.memory",
        "is not set; set 128Mi, which is enough",
    ),
    (
        f"{BOX}.resources.requests.cpu",
        GONE,
        f"{BOX}.resources.requests.cpu",
        "is not set; set 50m, which is enough",
    ),
    (
        f"{BOX}.terminationMessagePolicy",
        GONE,
        f"{BOX}.terminationMessagePolicy",
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
    (
        "metadata.name",
        "x" * 53,
        "metadata.name",
        "has 53 characters; it can have at most 52, because the controller appends 11",
    ),
    (
        "metadata.namespace",
        GONE,
        "metadata.namespace",
        "is not set, so kubectl would use whatever namespace is current",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    ROWS,
    ids=[f"{row[2].rpartition('.')[2]}-{number}" for number, row in enumerate(ROWS)],
)
def test_rule(path: str, value: object, field: str, message: str) -> None:
    """What is broken is told: the file, the object, the field, and what it should be."""
    name = value if path == "metadata.name" else "ops-worker-health"
    found = told(broken(HEALTH, path, value))
    assert f"{HEALTH}: CronJob/{name}: {field}: {message}" in found
    assert not any("hunter2" in fault for fault in found)


def test_whole_number() -> None:
    """A number with nothing behind the point is a whole one to the API server, too."""
    assert told(broken(HEALTH, f"{JOB}.activeDeadlineSeconds", 50.0)) == []


def test_image() -> None:
    """One image everywhere, that stays what it is."""
    path = f"{BOX}.image"
    assert told(broken("40-cronjob-metrics.yaml", path, "ops-worker:0.2.0")) == [
        f"40-cronjob-metrics.yaml: CronJob/ops-worker-metrics: {path}: is ops-worker:0.2.0, but ops-worker-health has ops-worker:0.1.0; use the same image everywhere"
    ]
    everywhere = GOOD
    for name in ("health", "init-db", "metrics"):
        everywhere = broken(f"40-cronjob-{name}.yaml", path, "ops-worker:latest", everywhere)
    message = "'ops-worker:latest' can change at any time; use a version tag or a digest"
    assert told(everywhere)[0] == f"{HEALTH}: CronJob/ops-worker-health: {path}: {message}"


@pytest.mark.parametrize(
    ("file", "path", "value", "missing"),
    [
        ("30-networkpolicy.yaml", "spec.egress[0].ports[1]", GONE, "TCP 53 (DNS)"),
        ("30-networkpolicy.yaml", "spec.egress[0].ports[0]", GONE, "UDP 53 (DNS)"),
        ("30-networkpolicy.yaml", "spec.egress[1]", GONE, "TCP 5432 (PG_PORT)"),
        ("20-configmap.yaml", "data.PG_PORT", "6432", "TCP 6432 (PG_PORT)"),
        (
            "20-configmap.yaml",
            "data.INGEST_HEALTH_URL",
            "https://ingest",
            "TCP 443 (service ingest)",
        ),
        (
            "20-configmap.yaml",
            "data.INGEST_HEALTH_URL",
            "http://ingest:8081",
            "TCP 8081 (service ingest)",
        ),
    ],
)
def test_network(file: str, path: str, value: object, missing: str) -> None:
    """A policy has to let every configured target through."""
    message = f"does not let CronJob/ops-worker-health reach {missing}"
    assert f"30-networkpolicy.yaml: NetworkPolicy/ops-worker: spec.egress: {message}" in told(
        broken(file, path, value)
    )


CATALOGUE = "20-configmap-catalogue.yaml"
TOML = "data.catalogue|toml"


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        (
            CATALOGUE,
            TOML,
            "[services.a]",
            f"{BOX}.env: /etc/ops-worker/catalogue.toml: services.a.url is missing; it wants",
        ),
        (
            CATALOGUE,
            TOML,
            '[services.a]\nurl = "http://a"\ndeadline = 0',
            f"{BOX}.env: /etc/ops-worker/catalogue.toml: services.a.deadline is 0",
        ),
        (
            CATALOGUE,
            TOML,
            5,
            f"{BOX}.env: OPS_WORKER_CATALOGUE is /etc/ops-worker/catalogue.toml, but no ConfigMap in the files",
        ),
        (
            CATALOGUE,
            "metadata.name",
            "other",
            f"{BOX}.env: OPS_WORKER_CATALOGUE is /etc/ops-worker/catalogue.toml, but no",
        ),
        (
            "40-cronjob-health.yaml",
            f"{BOX}.volumeMounts[1].subPath",
            "x",
            f"{BOX}.env: OPS_WORKER_CATALOGUE is",
        ),
        (
            "40-cronjob-health.yaml",
            f"{POD}.volumes[1].configMap.items",
            [{"key": "x", "path": "y"}],
            f"{BOX}.env: OPS_WORKER_CATALOGUE is",
        ),
        (
            "40-cronjob-health.yaml",
            f"{POD}.volumes[1].configMap",
            GONE,
            "",
        ),  # on another volume: nobody here knows what is there
        (CATALOGUE, TOML, '[services.a]\nurl = "${SECRET_URL}"', ""),  # from a Secret
        (
            CATALOGUE,
            TOML,
            '[services.a]\nurl = "http://a:8080"\nheaders = { A = "${TOKEN}", B = { file = "/run/x" } }',
            "",
        ),
    ],
)
def test_catalogue(file: str, path: str, value: object, message: str) -> None:
    """The catalogue in the ConfigMap is checked as the worker itself would, less what only its pod knows."""
    faults = [
        fault for fault in told(broken(file, path, value)) if "CronJob/ops-worker-health" in fault
    ]
    assert len(faults) == bool(message)
    assert all(
        fault.startswith(f"{HEALTH}: CronJob/ops-worker-health: {message}") for fault in faults
    )


def test_catalogue_in_the_network() -> None:
    """A policy has to let a catalogue's services through, and a variable that the catalogue names is known."""
    objects = broken(CATALOGUE, TOML, '[services.a]\nurl = "${SHOP}"')
    objects = broken("20-configmap.yaml", "data.SHOP", "http://shop:9000", objects)
    (fault,) = told(objects)[:1]
    assert fault.endswith("does not let CronJob/ops-worker-health reach TCP 9000 (service a)")
    assert len(told(objects)) == 2


def test_network_ranges() -> None:
    """A range of ports, and a rule without ports, let through what is in them."""
    wide = [
        {"ports": [{"protocol": protocol, "port": 1, "endPort": 9000}]}
        for protocol in ("TCP", "UDP")
    ]
    assert told(broken("30-networkpolicy.yaml", "spec.egress", wide)) == []
    assert told(broken("30-networkpolicy.yaml", "spec.egress", [{}])) == []


def test_secret() -> None:
    """A Secret in a file, and a kustomization among what is applied."""
    secret = {
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "x"},
        "stringData": {"PG_PASS": "hunter2"},
    }
    assert told([("s.yaml", secret)]) == [
        "s.yaml: Secret/s: data: a Secret is stored in a file; create it in the cluster and refer to it"
    ]
    assert told([("kustomization.yaml", {"kind": "Kustomization"})]) == [
        "kustomization.yaml: Kustomization/: kind: `kubectl apply -f` fails on it; move it to a folder of its own and use `kubectl apply -k`"
    ]


def variant(name: str) -> list[tuple[str, Any]]:
    """Give a variant's objects, each in a file of its kind and name."""
    objects = yaml.safe_load_all((K8S / name / "rendered.yaml").read_text(encoding="utf-8"))
    return [(f"{one['kind']}/{one['metadata']['name']}", one) for one in objects]


def test_rights() -> None:
    """No verb that is not used, and none missing that is."""
    events = variant("variants/events")
    role = "Role/ops-worker-events"
    assert told(broken(role, "rules[0].verbs", ["create", "delete"], events)) == [
        f"{role}: {role}: rules[0]: grants delete on events, which ops-worker does not use"
    ]
    assert told(broken(role, "rules[0].resources", ["*"], events))[:1] == [
        f"{role}: {role}: rules[0]: grants create on *, which ops-worker does not use"
    ]
    health = "CronJob/ops-worker-health"
    expected = f"{health}: {health}: {BOX}.env: KUBERNETES_EVENTS is on, but no bound Role in the files grants create on events"
    assert told([(file, content) for file, content in events if file != role]) == [expected]
    assert told(
        [(file, content) for file, content in events if not file.startswith("RoleBinding")]
    ) == [expected]
    assert (
        f"{health}: {health}: {POD}.automountServiceAccountToken: must be true: the command calls the Kubernetes API"
        in told(broken(health, f"{POD}.automountServiceAccountToken", False, events))
    )
    assert (
        f"NetworkPolicy/ops-worker: NetworkPolicy/ops-worker: spec.egress: does not let {health} reach TCP 443 (the API server)"
        in told(broken("NetworkPolicy/ops-worker", "spec.egress[3]", GONE, events))
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
    """A sidecar's probes ask what it serves."""
    name, box = "Deployment/ops-worker-sidecar", "spec.template.spec.containers[0]"
    assert f"{name}: {name}: {box}.{field}: {message}" in told(
        broken(name, f"{box}.{path}", value, variant("variants/sidecar"))
    )


def test_pass_in_a_deployment() -> None:
    """A pass in a Deployment would be started again and again."""
    name, path = "Deployment/ops-worker-sidecar", "spec.template.spec.containers[0].args"
    message = "ends after one pass, so Kubernetes restarts it again and again; run `sidecar` here, or use a CronJob"
    assert told(broken(name, path, ["health"], variant("variants/sidecar"))) == [
        f"{name}: {name}: {path}: {message}"
    ]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ({"key": "app.kubernetes.io/component", "operator": "In", "values": ["metrics"]}, False),
        ({"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["metrics"]}, True),
        ({"key": "app.kubernetes.io/name", "operator": "Exists"}, True),
        ({"key": "app.kubernetes.io/name", "operator": "DoesNotExist"}, False),
        ({"key": "app.kubernetes.io/name", "operator": "Like"}, False),
    ],
)
def test_network_expressions(expression: dict[str, Any], holds: bool) -> None:
    """A policy that selects by expressions counts for the pods that they select."""
    closed = broken(
        "30-networkpolicy.yaml",
        "spec.egress",
        GONE,
        broken("30-networkpolicy.yaml", "spec.podSelector", {"matchExpressions": [expression]}),
    )
    assert any("CronJob/ops-worker-health reach" in fault for fault in told(closed)) == holds


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    [
        (
            "completions",
            2,
            "completions",
            "must be 3 with SHARD_COUNT 3, and completionMode must be Indexed: one pod for every shard",
        ),
        (
            "completionMode",
            GONE,
            "completions",
            "must be 3 with SHARD_COUNT 3, and completionMode must be Indexed: one pod for every shard",
        ),
        (
            "parallelism",
            1,
            "parallelism",
            "must equal completions, so that all shards are probed in the same period",
        ),
    ],
)
def test_shards(path: str, value: object, field: str, message: str) -> None:
    """Each shard is an index of the Job."""
    name = "CronJob/ops-worker-health"
    assert f"{name}: {name}: {JOB}.{field}: {message}" in told(
        broken(name, f"{JOB}.{path}", value, variant("variants/sharded"))
    )


def test_somebody_elses_pod() -> None:
    """In a pod of the user's own only our container is looked at."""
    app = variant("examples/inject")
    path = "spec.template.spec"
    assert told(broken("Deployment/my-app", f"{path}.containers[0].securityContext", {}, app)) == []
    assert told(
        broken(
            "Deployment/my-app", f"{path}.initContainers[0].securityContext.privileged", True, app
        )
    ) == [
        f"Deployment/my-app: Deployment/my-app: {path}.initContainers[0].securityContext.privileged: must be false"
    ]


WEIRD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just({"a": {1: 2}}),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_it_holds(data: st.DataObject) -> None:
    """Any value anywhere gives faults or none, and never an exception."""
    objects = copy.deepcopy(
        data.draw(st.sampled_from([GOOD, variant("variants/events"), variant("variants/sidecar")]))
    )
    node: Any = data.draw(st.sampled_from([content for _, content in objects]))
    while True:
        key = data.draw(
            st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))
        )
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.integers(0, 9)) == 0:
            break
        node = inner
    node[key] = data.draw(WEIRD)
    told(objects)


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command counts what it checked, and ends with 4 for faults."""
    assert main(["manifests", "check", str(K8S)]) == 0
    assert capsys.readouterr().out == "manifests: 8 objects checked, 0 faults\n"
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        (K8S / HEALTH).read_text(encoding="utf-8").replace("timeZone: Etc/UTC", "timeZone: Moon"),
        encoding="utf-8",
    )
    assert (
        main(["manifests", "check", str(K8S / "20-configmap.yaml"), str(K8S / CATALOGUE), str(bad)])
        == 4
    )
    assert capsys.readouterr().out == (
        f"{bad}: CronJob/ops-worker-health: spec.timeZone: 'Moon' is not a time zone; set Etc/UTC\nmanifests: 3 objects checked, 1 fault\n"
    )


LAUGHS = "\n".join(
    [
        "a: &a {x: 1}",
        "b: &b [*a, *a]",
        *(f"{chr(n)}: &{chr(n)} [{', '.join([f'*{chr(n - 1)}'] * 9)}]" for n in range(99, 110)),
    ]
)
"""A text of five hundred characters that would have 9**11 values."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: [",
            "{path} is not valid YAML: expected the node content, but found '<stream end>' at line 1, column 5",
        ),
        ("a: &x [*x]", "{path} is not valid YAML: an anchor (&) contains an alias (*) of itself"),
        (LAUGHS, "{path} is not valid YAML: its aliases (*) repeat more than 1 MiB"),
        (
            LAUGHS.replace("[", "{<<: [").replace("]", "]}"),
            "{path} is not valid YAML: its aliases (*) repeat more than 1 MiB",
        ),
        (
            f"a: &x {'x' * 70_000}\nb: [{'*x, ' * 16}]",
            "{path} is not valid YAML: its aliases (*) repeat more than 1 MiB",
        ),
        ("[" * 5000, "{path} is not valid YAML: nested too deeply"),
        (
            "a: !hush b",
            "{path} is not valid YAML: could not determine a constructor for the tag at line 1, column 4",
        ),
        ("a: 0o9", "{path} contains something that is not a Kubernetes object"),
        (
            "a: 2026-13-45",
            "{path} is not valid YAML: it holds a value that cannot be read (ValueError)",
        ),
        ("just text", "{path} contains something that is not a Kubernetes object: it has no kind"),
        ("- 1", "{path} contains something that is not a Kubernetes object: it has no kind"),
        ("", "no Kubernetes object in {path}"),
        ("\udcff", "{path} cannot be read: it is not UTF-8"),
        (None, "{path} cannot be read: No such file or directory"),
    ],
)
def test_unreadable(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None, message: str
) -> None:
    """What cannot be read is one line and exit code 2."""
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["manifests", "check", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ops-worker manifests: {message.format(path=path)}")


def test_standard_input_and_lists() -> None:
    """`-` reads standard input, and a List is taken apart."""
    listed = yaml.safe_dump({"kind": "List", "items": [content for _, content in GOOD]})
    done = subprocess.run(
        [sys.executable, "-m", "ops_worker", "manifests", "check", "-"],
        input=listed,
        capture_output=True,
        text=True,
        check=False,
        cwd=K8S.parent,
    )
    assert (done.returncode, done.stdout) == (0, "manifests: 8 objects checked, 0 faults\n")
