"""The rights that `ops-worker cluster` and `trigger` need, with and without each of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main
from tests.cluster.conftest import NAMESPACE, kubectl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("plain")]

ACCOUNT = "t-person"
CLUSTER = ["list cronjobs.batch", "list jobs.batch", "list pods"]
"""What `cluster` needs, as docs/kubernetes.md has it."""
WHOLE = [*CLUSTER, "list deployments.apps", "list events"]
TRIGGER = [
    "get cronjobs.batch",
    "get jobs.batch",
    "create jobs.batch",
    "list pods",
    "get pods/log",
]
"""What `trigger` needs, as docs/kubernetes.md has it."""


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Callable[[list[str]], str]]:
    """Make an account. Yield a function that grants it only these rights.

    The function returns the path of the account's kubeconfig.
    """
    in_namespace = ("-n", NAMESPACE)
    kubectl(*in_namespace, "create", "serviceaccount", ACCOUNT)
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    token = kubectl(*in_namespace, "create", "token", ACCOUNT).strip()
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")

    def with_rights(rights: list[str]) -> str:
        """Grant the rights."""
        rules = []
        for right in rights:
            verb, _, resource = right.partition(" ")
            name, _, group = resource.partition(".")
            rules.append({"apiGroups": [group], "resources": [name], "verbs": [verb]})
        api = "rbac.authorization.k8s.io"
        metadata = {"name": ACCOUNT, "namespace": NAMESPACE}
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
        role = {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
        binding = {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": ACCOUNT},
            "subjects": [subject],
        }
        items = {"apiVersion": "v1", "kind": "List", "items": [role, binding]}
        kubectl("create", "-f", "-", stdin=json.dumps(items))
        return str(path)

    try:
        yield with_rights
    finally:
        names = ("rolebinding,role,serviceaccount", ACCOUNT, "--ignore-not-found")
        kubectl(*in_namespace, "delete", *names)


def test_cluster(account: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str]) -> None:
    """With `list` on CronJobs, Jobs and pods, `cluster` shows them, and says what it leaves out."""
    config = account(CLUSTER)
    arguments = ["cluster", "-n", NAMESPACE, "--output", "json", "--kubeconfig", config]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in document["cronjobs"]} >= {"ops-worker-health"}
    assert document["warnings"] == []
    text = " ".join(document["not_looked_at"])
    assert "deployments" in text and "events" in text


def test_whole_cluster(
    account: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With `list` on Deployments and Events, too, nothing is left out."""
    arguments = ["cluster", "-n", NAMESPACE, "--output", "json", "--kubeconfig", account(WHOLE)]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["not_looked_at"] == []


@pytest.mark.parametrize("missing", CLUSTER)
def test_cluster_not_permitted(
    account: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    """Without one of the rights, `cluster` names it, and ends with 3."""
    config = account([right for right in WHOLE if right != missing])
    assert main(["cluster", "-n", NAMESPACE, "--kubeconfig", config]) == 3
    resource = missing.partition(" ")[2].partition(".")[0]
    assert capsys.readouterr().err.endswith(
        f"not permitted to list {resource} in namespace {NAMESPACE}: "
        "grant it in a Role of that namespace, bound to this account\n"
    )


def test_trigger(account: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str]) -> None:
    """`trigger --wait` runs a pass with the rights that the page lists."""
    config = account(TRIGGER)
    assert main(["trigger", "health", "--wait", "-n", NAMESPACE, "--kubeconfig", config]) == 0
    assert "health: 4 services, 4 healthy" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["get cronjobs.batch", "create jobs.batch"])
def test_trigger_not_permitted(
    account: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    """Without the right to read the template, or to create the Job, `trigger` ends with 3."""
    config = account([right for right in TRIGGER if right != missing])
    assert main(["trigger", "health", "--wait", "-n", NAMESPACE, "--kubeconfig", config]) == 3
    verb, _, resource = missing.partition(" ")
    assert f"not permitted to {verb} {resource.partition('.')[0]}" in capsys.readouterr().err


def test_no_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    """A namespace that does not exist is a wrong argument."""
    assert main(["trigger", "health", "-n", "nowhere-at-all"]) == 2
    assert "the namespace does not exist" in capsys.readouterr().err
