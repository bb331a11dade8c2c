"""Tests of CronJobs of other programs: alone, beside the worker, and merged with its CronJob."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops_worker.adapters.cron import read
from ops_worker.core.pods import at, items
from tests.manifest_rules.installation import HEALTH, INSTALLED, POD, faults_of

pytestmark = pytest.mark.unit

FOREIGN = list(
    yaml.safe_load_all(
        (Path(__file__).parent / "field" / "cronjobs.yaml").read_text(encoding="utf-8")
    )
)
SHAPES = [shape for shape in FOREIGN if shape["kind"] == "CronJob"]
NATIVE = (
    "keeps running after the pass, so the Job never completes; make it a native sidecar "
    "(an init container with restartPolicy: Always), because a Job does not wait for those"
)
NO_ZONE = "'CRON_TZ=UTC 0 7 * * *' is not a cron schedule: the time zone belongs in spec.timeZone"
HALF_YEAR = (
    "leaves up to 15897600 s between two runs, but another pass opens an alert after 2999997 s; "
    "run it at least every month"
)
REAL = {
    "proxy-beside": [f"{POD}.containers[1]: cloud-sql-proxy {NATIVE}"],
    "mesh-injected": [f"{POD}.containers[2]: istio-proxy {NATIVE}"],
    "users": [f"{POD}.containers[2]: cloud-sql-proxy {NATIVE}"],
    "log-tail": [f"{POD}.containers[2]: tail {NATIVE}", f"spec.schedule: {HALF_YEAR}"],
    "zone-in-the-schedule": [f"spec.schedule: {NO_ZONE}"],
    "every-duration": [
        "spec.startingDeadlineSeconds: is 25; with @every it must be at least the period (5400), "
        "or no run ever starts"
    ],
}
"""The real faults: another container never ends, or the schedule is wrong for the worker."""


def test_how_many() -> None:
    """There are 53 CronJobs with different names."""
    assert len(SHAPES) == 53
    assert len({shape["metadata"]["name"] for shape in SHAPES}) == 53
    assert set(REAL) <= {shape["metadata"]["name"] for shape in SHAPES}


@pytest.mark.parametrize("shape", FOREIGN, ids=lambda shape: shape["metadata"]["name"])
def test_foreign(shape: dict[str, Any]) -> None:
    """A CronJob without the worker has one fault if it is alone, and none with the installation."""
    faults = faults_of([("x.yaml", shape)])
    assert all(
        " no ops-worker container found: a container is the worker's if " in fault
        for fault in faults
    )
    assert len(faults) == (
        shape["kind"] == "CronJob" and shape["metadata"]["name"] != "wrong-indent"
    )
    assert faults_of([*INSTALLED, ("x.yaml", shape)]) == []


def merged(shape: dict[str, Any], our_place: int) -> list[tuple[str, Any]]:
    """Return the installation with a CronJob's containers and schedule added to the worker's."""
    objects = copy.deepcopy(INSTALLED)
    ours, spec = dict(objects)[HEALTH]["spec"], shape["spec"]
    pod, theirs = ours["jobTemplate"]["spec"]["template"]["spec"], at(shape, *POD.split("."))
    boxes = [
        container | {"name": container["name"].replace("ops-worker", "theirs")}
        for container in items(theirs.get("containers"))
    ]
    pod["containers"] = [*boxes[:our_place], *pod["containers"], *boxes[our_place:]]
    pod["initContainers"] = items(theirs.get("initContainers"))
    pod["volumes"] += items(theirs.get("volumes"))
    pod["shareProcessNamespace"] = theirs.get("shareProcessNamespace", False)
    ours["schedule"], ours["timeZone"] = spec["schedule"], spec.get("timeZone", "Etc/UTC")
    ours["suspend"] = spec.get("suspend", False)
    try:
        period = min(read(ours["schedule"]).gaps.longest, 999_999)
    except ValueError:
        period = 60
    pod["containers"][our_place]["env"].append({"name": "PASS_PERIOD", "value": str(period)})
    return objects


CASES = [
    (shape, place)
    for shape in SHAPES
    for place in (0, 1)
    if place == 0 or at(shape, *POD.split("."))
]


@pytest.mark.parametrize(
    ("shape", "our_place"),
    CASES,
    ids=[f"{shape['metadata']['name']}-{place}" for shape, place in CASES],
)
def test_beside_ours(shape: dict[str, Any], our_place: int) -> None:
    """With other containers before or after it, the worker has only the real faults."""
    prefix = f"{HEALTH}: CronJob/ops-worker-health: "
    faults = faults_of(merged(shape, our_place))
    assert all(fault.startswith(prefix) for fault in faults)
    expected = REAL.get(shape["metadata"]["name"], [])
    if our_place:  # the other container is then the first one
        expected = [fault.replace("containers[1]", "containers[0]") for fault in expected]
    assert [fault.removeprefix(prefix) for fault in faults] == expected
