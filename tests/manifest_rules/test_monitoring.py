"""Tests of the alerts on CronJobs that do not run: they fit the manifests, and fire when due."""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from ops_worker.adapters.cron import read
from ops_worker.cli import _parser
from tests.manifest_rules import prometheusrule
from tests.manifest_rules.installation import documents

if TYPE_CHECKING:
    from collections.abc import Sequence

K8S = Path(__file__).parents[2] / "k8s"
MONITORING = K8S / "variants" / "monitoring"
(RULE,) = (
    content
    for content in documents((MONITORING / "rendered.yaml").read_text(encoding="utf-8"))
    if content["kind"] == "PrometheusRule"
)
(GROUP,) = RULE["spec"]["groups"]
RECORDS = [rule for rule in GROUP["rules"] if "record" in rule]
ALERTS = {rule["alert"]: rule for rule in GROUP["rules"] if "alert" in rule}
OVERDUE, NEVER, SUSPENDED, UNKNOWN = (
    "OpsWorkerOverdue",
    "OpsWorkerNeverSucceeded",
    "OpsWorkerSuspended",
    "OpsWorkerUnknown",
)
PERIODS = 3
EXPECTED = "ops_worker:overdue_after_seconds"
METRICS = {
    "kube_cronjob_created",
    "kube_cronjob_spec_suspend",
    "kube_cronjob_status_last_successful_time",
}
"""Metrics of kube-state-metrics (docs/metrics/workload/cronjob-metrics.md).

All are stable, and have the labels namespace and cronjob.
"""


def scheduled(objects: list[Any]) -> dict[tuple[str, str], int]:
    """Return the period of each CronJob that is not suspended, by namespace and name."""
    jobs = [
        cronjob
        for cronjob in objects
        if cronjob["kind"] == "CronJob" and not cronjob["spec"]["suspend"]
    ]
    return {
        (cronjob["metadata"]["namespace"], cronjob["metadata"]["name"]): read(
            cronjob["spec"]["schedule"]
        ).gaps.longest
        for cronjob in jobs
    }


def covered(rule: Any) -> dict[tuple[str, str], int]:
    """Return the seconds after which each CronJob is overdue, by namespace and name."""
    (group,) = rule["spec"]["groups"]
    thresholds = {}
    for entry in group["rules"]:
        if "record" in entry:
            number = re.fullmatch(r"vector\(([0-9]+)\)", entry["expr"])
            assert entry["record"] == EXPECTED and number
            thresholds[entry["labels"]["namespace"], entry["labels"]["cronjob"]] = int(number[1])
    return thresholds


def objects(path: Path) -> list[Any]:
    """Return the objects of a file."""
    return documents(path.read_text(encoding="utf-8"))


INSTALLED = scheduled([content for path in sorted(K8S.glob("*.yaml")) for content in objects(path)])


@pytest.mark.unit
def test_every_cronjob_is_covered() -> None:
    """Each CronJob that is not suspended is overdue after three of its periods."""
    names = sorted(name for _, name in INSTALLED)
    assert names == ["ops-worker-health", "ops-worker-metrics", "ops-worker-rollup"]
    assert covered(RULE) == {job: PERIODS * seconds for job, seconds in INSTALLED.items()}


@pytest.mark.unit
@pytest.mark.parametrize("variant", ["events", "every-5s", "sharded"])
def test_variants_are_covered(variant: str) -> None:
    """The thresholds fit the variants with CronJobs. Each run ends within its period."""
    contents = objects(K8S / "variants" / variant / "rendered.yaml")
    assert covered(RULE) == {job: PERIODS * seconds for job, seconds in scheduled(contents).items()}
    for content in contents:
        if content["kind"] == "CronJob" and not content["spec"]["suspend"]:
            assert (
                content["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
                < read(content["spec"]["schedule"]).gaps.longest
            )


@pytest.mark.unit
def test_every_alert_is_about_every_cronjob() -> None:
    """Each alert uses the expected times and known metrics.

    It joins them by namespace and cronjob, and selects no CronJob or namespace by name.
    """
    assert list(ALERTS) == [OVERDUE, NEVER, SUSPENDED, UNKNOWN]
    for rule in ALERTS.values():
        assert EXPECTED in rule["expr"]
        assert not re.search(r"[\"'{}]", rule["expr"])
        assert set(re.findall(r"\b(?:on|by) \(([^)]*)\)", rule["expr"])) == {"namespace, cronjob"}
        assert set(re.findall(r"\bkube_\w+", rule["expr"])) <= METRICS


@pytest.mark.unit
def test_a_resumed_cronjob_has_three_periods() -> None:
    """The alert looks for a suspension in the last three periods."""
    minutes = re.findall(r"\[([0-9]+)m\]", ALERTS[OVERDUE]["expr"])
    assert [int(number) * 60 for number in minutes] == [
        PERIODS * seconds for seconds in sorted(set(INSTALLED.values()))
    ]


@pytest.mark.unit
@pytest.mark.parametrize("name", list(ALERTS))
def test_alerts_say_what_to_do(name: str) -> None:
    """The summary names the CronJob. The description has valid commands for its namespace."""
    summary, description = (
        ALERTS[name]["annotations"][text] for text in ("summary", "description")
    )
    assert "{{ $labels.cronjob }} in {{ $labels.namespace }}: " in summary
    quoted = re.findall(
        r"`([^`]+)`",
        description.replace("{{ $labels.namespace }}", "NS").replace(
            "{{ $labels.cronjob }}", "JOB"
        ),
    )
    commands = [shlex.split(command) for command in quoted]
    assert {command[0] for command in commands} == {"kubectl", "ops-worker"}
    for command in commands:
        assert command[command.index("-n") + 1] == "NS"
        if command[0] == "ops-worker":
            assert _parser().parse_args(command[1:]).namespace == "NS"


GONE = object()
FIRST = "spec.groups.0.rules.0"
LAST = f"spec.groups.0.rules.{len(GROUP['rules']) - 1}"
CLOSED = "Extra inputs are not permitted"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (
            "apiVersion",
            "monitoring.coreos.com/v2",
            "apiVersion: Input should be 'monitoring.coreos.com/v1'",
        ),
        ("metadata.namespace", GONE, "metadata.namespace: Field required"),
        (
            "metadata.name",
            "Ops_Worker",
            "metadata.name: String should match pattern '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'",
        ),
        ("spec.group", [], f"spec.group: {CLOSED}"),
        (
            "spec.groups",
            [],
            "spec.groups: List should have at least 1 item after validation, not 0",
        ),
        ("spec.groups.0.name", "", "spec.groups.0.name: String should have at least 1 character"),
        ("spec.groups", [GROUP, GROUP], "spec.groups: two are called ops-worker"),
        ("spec.groups.0.rules", GONE, "spec.groups.0.rules: Field required"),
        (f"{FIRST}.for", "1m", f"{FIRST}.record.for: {CLOSED}"),
        (f"{FIRST}.alert", "Both", f"{FIRST}.record.alert: {CLOSED}"),
        (f"{FIRST}.expr", 180, f"{FIRST}.record.expr: Input should be a valid string"),
        (
            f"{FIRST}.labels.shard",
            1,
            f"{FIRST}.record.labels.shard: Input should be a valid string",
        ),
        (f"{LAST}.alert", GONE, f"{LAST}.alert.alert: Field required"),
        (f"{LAST}.expression", "1", f"{LAST}.alert.expression: {CLOSED}"),
        (f"{LAST}.for", 300, f"{LAST}.alert.for: Input should be a valid string"),
        (f"{LAST}.labels.severity", GONE, f"{LAST}.alert.labels.severity: Field required"),
        (
            f"{LAST}.labels.severity",
            "urgent",
            f"{LAST}.alert.labels.severity: Input should be 'critical', 'warning' or 'info'",
        ),
        (f"{LAST}.annotations.summary", GONE, f"{LAST}.alert.annotations.summary: Field required"),
        (
            f"{LAST}.annotations.description",
            "",
            f"{LAST}.alert.annotations.description: String should have at least 1 character",
        ),
    ],
)
def test_shape(path: str, value: object, fault: str) -> None:
    """A PrometheusRule of another shape has a fault, although Kubernetes has no schema for it."""
    assert prometheusrule.faults(RULE) == []
    changed = copy.deepcopy(RULE)
    *way, last = path.split(".")
    node: Any = changed
    for key in way:
        node = node[int(key)] if key.isdecimal() else node[key]
    if value is GONE:
        del node[last]
    else:
        node[last] = value
    assert prometheusrule.faults(changed) == [fault]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("duration", "right"),
    [("5m", True), ("1h30m", True), ("0", True), ("", False), ("5", False), ("5 m", False)],
)
def test_durations(duration: str, right: bool) -> None:
    """A duration must have the syntax of Prometheus."""
    changed = copy.deepcopy(RULE)
    changed["spec"]["groups"][0]["rules"][-1]["for"] = duration
    assert (prometheusrule.faults(changed) == []) == right


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("beside", "settings"),
    [
        ("base", {}),
        ("base", {"namespace": "elsewhere"}),
        ("variants/events", {"namespace": "elsewhere", "namePrefix": "eu-"}),
        ("variants/every-5s", {"namespace": "elsewhere", "nameSuffix": "-b"}),
        (
            "variants/sidecar",
            {
                "patches": [
                    {
                        "target": {"kind": "PrometheusRule"},
                        "patch": "- {op: remove, path: /spec/groups/0/rules/1}",
                    }
                ]
            },
        ),
        (
            "base",
            {
                "patches": [
                    {
                        "target": {"kind": "CronJob", "name": "ops-worker-rollup"},
                        "patch": "$patch: delete\napiVersion: batch/v1\nkind: CronJob\n"
                        "metadata: {name: ops-worker-rollup}",
                    },
                    {
                        "target": {"kind": "PrometheusRule"},
                        "patch": "- {op: remove, path: /spec/groups/0/rules/2}",
                    },
                ]
            },
        ),
    ],
)
def test_overlays(tmp_path: Path, beside: str, settings: dict[str, Any]) -> None:
    """The rule follows the namespace and the names that an overlay gives to the CronJobs.

    An overlay without metrics or rollup removes its record with a patch.
    """
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine, which is what renders an overlay")
    folders = [os.path.relpath(folder, tmp_path.resolve()) for folder in (K8S / beside, MONITORING)]
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": folders, **settings}), encoding="utf-8"
    )
    output = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    contents = documents(output)
    (rule,) = (content for content in contents if content["kind"] == "PrometheusRule")
    assert covered(rule) == {job: PERIODS * seconds for job, seconds in scheduled(contents).items()}
    assert {namespace for namespace, _ in covered(rule)} == {
        settings.get("namespace", "ops-worker")
    }
    assert prometheusrule.faults(rule) == []


# The tests below run promtool. A scrape happens every minute, and the rules are evaluated every
# 30 s. The alerts are compared in the middle of each minute. Times are seconds since the epoch,
# when every history begins.
END = 100
HEALTH, OTHER, ROLLUP = "ops-worker-health", "ops-worker-metrics", "ops-worker-rollup"
NAMESPACE = "ops-worker"
SUCCEEDS = [60 * minute - 57 for minute in range(END + 1)]
"""A success 3 s into each minute, as the scrape at the end of the minute sees it."""
ALWAYS = [0] * (END + 1)


class History(NamedTuple):
    """The values of a CronJob at each scrape, one a minute. A value that is None is absent."""

    succeeded: Sequence[int | None] | None = SUCCEEDS
    suspend: Sequence[int | None] | None = ALWAYS
    created: Sequence[int | None] | None = ALWAYS
    cronjob: str = HEALTH
    namespace: str = NAMESPACE
    instance: str = "a"

    def series(self) -> list[dict[str, str]]:
        """Return the series. Each ends with a stale marker, as when its target disappears."""
        metrics = {
            "kube_cronjob_status_last_successful_time": self.succeeded,
            "kube_cronjob_spec_suspend": self.suspend,
            "kube_cronjob_created": self.created,
        }
        labels = (
            f'namespace="{self.namespace}", cronjob="{self.cronjob}", '
            f'job="kube-state-metrics", instance="{self.instance}"'
        )
        return [
            {
                "series": f"{metric}{{{labels}}}",
                "values": " ".join(
                    [*("_" if value is None else str(value) for value in values), "stale"]
                ),
            }
            for metric, values in metrics.items()
            if values is not None
        ]


def until(minute: int) -> list[int]:
    """Return the last success at each scrape, if the last run that succeeds is at ``minute``."""
    return [min(success, SUCCEEDS[minute]) for success in SUCCEEDS]


def between(first: int, last: int) -> list[int]:
    """Return 1 from the first scrape to the last one, and 0 before and after."""
    return [int(first <= minute <= last) for minute in range(END + 1)]


WELL = History(cronjob=OTHER)
HOURLY = History([None if minute < 17 else 1020 for minute in range(END + 1)], cronjob=ROLLUP)
STOPPED = [WELL, History(succeeded=until(10))]
NEVER_SUCCEEDED = [WELL, History(succeeded=None)]
PAUSED = [SUCCEEDS[10] if 10 < minute < 43 else success for minute, success in enumerate(SUCCEEDS)]
SWITCHED_OFF = [WELL, History(until(10), between(11, END))]
Firing = dict[tuple[str, str], range]
HISTORIES: dict[str, tuple[list[History], Firing]] = {
    "healthy": ([WELL, History()], {}),
    "each run takes its whole minute": ([WELL, History([success - 5 for success in SUCCEEDS])], {}),
    "a run is missed": (
        [
            WELL,
            History(
                [
                    SUCCEEDS[19] if minute == 20 else success
                    for minute, success in enumerate(SUCCEEDS)
                ]
            ),
        ],
        {},
    ),
    "stopped": (STOPPED, {(OVERDUE, HEALTH): range(12, END)}),
    "stopped for a while": (
        [
            WELL,
            History(
                [
                    SUCCEEDS[10] if 10 < minute < 31 else success
                    for minute, success in enumerate(SUCCEEDS)
                ]
            ),
        ],
        {(OVERDUE, HEALTH): range(12, 31)},
    ),
    "both stopped": (
        [History(until(10), cronjob=OTHER), History(until(20))],
        {(OVERDUE, OTHER): range(12, END), (OVERDUE, HEALTH): range(22, END)},
    ),
    "never succeeded": (NEVER_SUCCEEDED, {(NEVER, HEALTH): range(13, END)}),
    "succeeds for the first time after a while": (
        [
            WELL,
            History([None if minute < 20 else success for minute, success in enumerate(SUCCEEDS)]),
        ],
        {(NEVER, HEALTH): range(13, 20)},
    ),
    "suspended briefly": ([WELL, History(PAUSED, between(11, 40))], {}),
    "suspended for long": (SWITCHED_OFF, {(SUSPENDED, HEALTH): range(71, END)}),
    "suspended from the start": (
        [WELL, History(None, between(0, END))],
        {(SUSPENDED, HEALTH): range(60, END)},
    ),
    "not meant to run by itself": (
        [WELL, History(), History(None, between(0, END), cronjob="ops-worker-init-db")],
        {},
    ),
    "resumed in vain": (
        [WELL, History(until(10), between(11, 40))],
        {(OVERDUE, HEALTH): range(43, END)},
    ),
    "the rollup stopped": (
        [WELL, History(), History([-20_000] * (END + 1), cronjob=ROLLUP)],
        {(OVERDUE, ROLLUP): range(END)},
    ),
    "the rollup was resumed": (
        [WELL, History(), History([-20_000] * (END + 1), between(0, 40), cronjob=ROLLUP)],
        {},
    ),
    "kube-state-metrics goes away": (
        [
            History(SUCCEEDS[:20], ALWAYS[:20], ALWAYS[:20]),
            History(SUCCEEDS[:20], ALWAYS[:20], ALWAYS[:20], OTHER),
        ],
        {(UNKNOWN, HEALTH): range(25, END), (UNKNOWN, OTHER): range(25, END)},
    ),
    "no kube-state-metrics": (
        [],
        {(UNKNOWN, HEALTH): range(5, END), (UNKNOWN, OTHER): range(5, END)},
    ),
    "deleted": (
        [WELL, History(SUCCEEDS[:20], ALWAYS[:20], ALWAYS[:20])],
        {(UNKNOWN, HEALTH): range(25, END)},
    ),
    "no metric of the creation": (
        [WELL, History(created=None)],
        {(UNKNOWN, HEALTH): range(5, END)},
    ),
    "no metric of the suspension": (
        [WELL, History(suspend=None)],
        {(UNKNOWN, HEALTH): range(5, END)},
    ),
    "two kube-state-metrics, all well": (
        [WELL, History(), WELL._replace(instance="b"), History(instance="b")],
        {},
    ),
    "two kube-state-metrics, stopped": (
        [*STOPPED, STOPPED[1]._replace(instance="b")],
        {(OVERDUE, HEALTH): range(12, END)},
    ),
    "two kube-state-metrics, never succeeded": (
        [*NEVER_SUCCEEDED, NEVER_SUCCEEDED[1]._replace(instance="b")],
        {(NEVER, HEALTH): range(13, END)},
    ),
    "another namespace's troubles": (
        [
            WELL,
            History(),
            *(
                history._replace(namespace="other")
                for history in (*STOPPED, NEVER_SUCCEEDED[1]._replace(cronjob="ops-worker-b"))
            ),
        ],
        {},
    ),
    "another namespace's health": (
        [WELL._replace(namespace="other"), History(namespace="other")],
        {(UNKNOWN, HEALTH): range(5, END), (UNKNOWN, OTHER): range(5, END)},
    ),
}


@pytest.fixture
def promtool(tmp_path: Path) -> str:
    """Return the path of promtool, and write the rules to rules.yaml in the test's folder."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on this machine; Debian's package prometheus has one")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULE["spec"]), encoding="utf-8")
    return program


def complaints(
    promtool: str, folder: Path, histories: list[History], expected: dict[str, Any]
) -> str:
    """Return the errors of promtool for the rules and the series of some CronJobs.

    The result is empty if the alerts are as expected.
    """
    others = [] if any(history.cronjob == ROLLUP for history in histories) else [HOURLY]
    test = {
        "interval": "1m",
        "input_series": [
            series for history in [*histories, *others] for series in history.series()
        ],
        **expected,
    }
    path = folder / "tests.yaml"
    path.write_text(
        yaml.safe_dump(
            {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [test]}
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.acceptance
def test_check(promtool: str, tmp_path: Path) -> None:
    """Prometheus accepts all the rules."""
    done = subprocess.run(
        [promtool, "check", "rules", str(tmp_path / "rules.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"SUCCESS: {len(RECORDS) + len(ALERTS)} rules found" in done.stdout


@pytest.mark.acceptance
@pytest.mark.parametrize("name", list(HISTORIES))
def test_firing(promtool: str, tmp_path: Path, name: str) -> None:
    """In each minute of a history, exactly the expected alerts fire."""
    histories, firing = HISTORIES[name]
    looks = []
    for minute in range(END):
        samples = [
            f'ALERTS{{alertname="{alert}", alertstate="firing", namespace="{NAMESPACE}", '
            f'cronjob="{cronjob}", severity="{ALERTS[alert]["labels"]["severity"]}"}}'
            for (alert, cronjob), minutes in firing.items()
            if minute in minutes
        ]
        looks.append(
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": f"{minute}m30s",
                "exp_samples": [{"labels": labels, "value": 1} for labels in samples],
            }
        )
    assert complaints(promtool, tmp_path, histories, {"promql_expr_test": looks}) == ""


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("alert", "histories", "minute", "value"),
    [
        (OVERDUE, STOPPED, 20, "10m 57s"),
        (NEVER, NEVER_SUCCEEDED, 20, "20m 0s"),
        (SUSPENDED, SWITCHED_OFF, 80, ""),
        (UNKNOWN, [WELL], 20, ""),
    ],
)
def test_texts(
    promtool: str, tmp_path: Path, alert: str, histories: list[History], minute: int, value: str
) -> None:
    """The texts of an alert contain the CronJob, the namespace and the time."""
    texts = {
        name: text.replace("{{ $labels.namespace }}", NAMESPACE)
        .replace("{{ $labels.cronjob }}", HEALTH)
        .replace("{{ $value | humanizeDuration }}", value)
        for name, text in ALERTS[alert]["annotations"].items()
    }
    labels = {"namespace": NAMESPACE, "cronjob": HEALTH, **ALERTS[alert]["labels"]}
    look = {
        "eval_time": f"{minute}m",
        "alertname": alert,
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": texts}],
    }
    assert complaints(promtool, tmp_path, histories, {"alert_rule_test": [look]}) == ""
