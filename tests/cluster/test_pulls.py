"""The messages of `ops-worker cluster` about images: slow pulls, refusals, images that cannot run.

The images come from a registry on this machine. So the node has to be on this machine, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker.cli import main
from tests.cluster.conftest import NAMESPACE, container, faulty, row_with

if TYPE_CHECKING:
    from tests.cluster.registry import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("installation")]


def test_slow_pull(capsys: pytest.CaptureFixture[str], registry: Registry) -> None:
    """A pull that takes more than 20 s is a warning, although Kubernetes reports no problem."""
    image, _ = registry.add()
    registry.hold()

    def change(spec: dict[str, Any]) -> None:
        """Name the image."""
        container(spec)["image"] = image

    try:
        with faulty("t-slow-pull", change, activeDeadlineSeconds=300) as cronjob:
            row = row_with(capsys, cronjob, "has waited for ")
            assert main(["cluster", "-n", NAMESPACE, "--fail-on-warnings"]) == 4
            registry.release()
    finally:
        registry.release()
    (warning,) = [warning for warning in row["warnings"] if "has waited for " in warning]
    assert f'Pulling image "{image}"; load the image onto the nodes beforehand' in warning
    assert "raise activeDeadlineSeconds, which counts while the image is pulled" in warning


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({}, "the image runs as root and runAsNonRoot is true: set securityContext.runAsUser"),
        ({"User": "app"}, "the image names its user, app, by no number"),
        ({"User": "1000"}, "the image has no ENTRYPOINT and the container no `command`"),
        ({"User": "1000", "Entrypoint": ["absent"]}, "the image has no program absent"),
    ],
)
def test_image(
    capsys: pytest.CaptureFixture[str],
    registry: Registry,
    config: dict[str, Any],
    remedy: str,
) -> None:
    """An image that cannot run with the securityContext of the manifests does not start."""
    image, _ = registry.add(**config)

    def change(spec: dict[str, Any]) -> None:
        """Name the image, without a user, so that the user is the image's."""
        container(spec)["image"] = image
        container(spec).pop("args")
        del spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]

    with faulty("t-image", change, backoffLimit=0) as cronjob:
        row_with(capsys, cronjob, remedy)
        assert main(["cluster", "-n", NAMESPACE, "--fail-on-warnings"]) == 4


@pytest.mark.parametrize(
    ("status", "code", "message", "remedy"),
    [
        (401, "UNAUTHORIZED", "authentication required", "the registry refuses the node"),
        (403, "DENIED", "requested access is denied", "the registry refuses the node"),
        (404, "MANIFEST_UNKNOWN", "manifest unknown", "no such image or tag in the registry"),
        (429, "TOOMANYREQUESTS", "you have reached your limit", "the registry limits its pulls"),
        (500, "UNKNOWN", "disk of the registry is full", "check the image's name"),
    ],
)
def test_refused(
    capsys: pytest.CaptureFixture[str],
    registry: Registry,
    status: int,
    code: str,
    message: str,
    remedy: str,
) -> None:
    """The warning has the answer of the registry, and what to do about it."""
    image, _ = registry.add()
    registry.refusal = status, code, message

    def change(spec: dict[str, Any]) -> None:
        """Name the image."""
        container(spec)["image"] = image

    with faulty("t-refused", change) as cronjob:
        row = row_with(capsys, cronjob, remedy)
    print(json.dumps(row))
