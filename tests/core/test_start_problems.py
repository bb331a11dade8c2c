"""Remedies for a pod that cannot start, by the messages of Kubernetes 1.31 and containerd."""

from __future__ import annotations

import pytest

from ops_worker.core.start_problems import (
    MAX_MESSAGE,
    is_start_problem,
    problem_text,
    remedy,
    safe_message,
)

pytestmark = pytest.mark.unit

CONFIG = "CreateContainerConfigError"
PULL = (
    'Failed to pull image "reg/x:1": rpc error: code = Unknown desc = failed to resolve "reg/x:1": '
)


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        (CONFIG, 'secret "ops-worker" not found',
         "`kubectl -n ops create secret generic ops-worker --from-literal=PG_PASS=...`"),
        (CONFIG, 'secret "tokens" not found',
         "`kubectl -n ops create secret generic tokens --from-literal=KEY=VALUE`"),
        (CONFIG, 'configmap "ops-worker" not found',
         ("create ConfigMap ops-worker: "
          "apply your overlay again (`kubectl apply -k ...`), or run `helm upgrade`")),
        (CONFIG, 'configmap "extra" not found',
         "`kubectl -n ops create configmap extra --from-literal=KEY=VALUE`"),
        (CONFIG, "couldn't find key PG_PASS in Secret ops/half",
         "add key PG_PASS to Secret half: `kubectl -n ops edit Secret half`"),
        (CONFIG, "couldn't find key A in ConfigMap ops/half",
         "add key A to ConfigMap half: `kubectl -n ops edit ConfigMap half`"),
        (CONFIG,
         'container has runAsNonRoot and image will run as root (pod: "p_ops(u)", container: c)',
         "the image runs as root and runAsNonRoot is true: set securityContext.runAsUser"),
        (CONFIG,
         ("container has runAsNonRoot and image has non-numeric user (app), "
          'cannot verify user is non-root (pod: "p", container: c)'),
         "the image names its user, app, by no number"),
        (CONFIG, "container's runAsUser breaks non-root policy (pod: p)", "runAsUser is 0"),
        (CONFIG, "something else", "see `kubectl -n ops describe pod` for the field that is wrong"),
        ("StartError",
         ('failed to create containerd task: OCI runtime create failed: exec: "nope": '
          "executable file not found in $PATH: unknown"),
         "the image has no program nope"),
        ("StartError", 'exec: "/x/run": stat /x/run: no such file or directory: unknown',
         "the image has no program /x/run"),
        ("StartError", 'exec: "/x/run": permission denied: unknown',
         "/x/run is not executable for the container's user"),
        ("RunContainerError", "exec /bin/x: exec format error",
         "the image is not built for the processor of the node"),
        ("CreateContainerError", "no command specified", "the image has no ENTRYPOINT"),
        ("CreateContainerError", "context deadline exceeded", "the log of the node's kubelet"),
        ("RunContainerError", "mkdirat /data: read-only file system", "correct volumeMounts"),
        ("InvalidImageName", "couldn't parse image name: invalid reference format",
         "correct the image's name"),
        ("ErrImageNeverPull", 'Container image "x" is not present with pull policy of Never',
         "load the image onto the node"),
        ("ErrImagePull", PULL + "docker.io/library/x:1: not found",
         "no such image or tag in the registry"),
        ("ErrImagePull",
         PULL + "pull access denied, repository does not exist or may require authorization",
         "add its credentials as imagePullSecrets"),
        ("ErrImagePull", PULL + "unexpected status: 401 Unauthorized",
         "add its credentials as imagePullSecrets"),
        ("ErrImagePull", PULL + "429 Too Many Requests - toomanyrequests",
         "the registry limits its pulls"),
        ("ErrImagePull", PULL + "no match for platform in manifest", "build it for that platform"),
        ("ErrImagePull", PULL + "tls: failed to verify certificate: x509: unknown authority",
         "does not trust the registry's certificate"),
        ("ErrImagePull", PULL + "http: server gave HTTP response to HTTPS client",
         "the registry speaks HTTP only"),
        ("ErrImagePull", PULL + "dial tcp: lookup reg on 10.96.0.10:53: no such host",
         "cannot resolve the registry's name"),
        ("ImagePullBackOff", PULL + "dial tcp 10.0.0.1:443: i/o timeout",
         "the node cannot reach the registry"),
        ("ErrImagePull", "write /var/lib: no space left on device", "free disk space on the node"),
        ("ImagePullBackOff", 'Back-off pulling image "x"',
         "check the image's name, and that the cluster can pull it"),
        ("FailedCreate",
         ('pods "x" is forbidden: exceeded quota: none, '
          "requested: pods=1, used: pods=0, limited: pods=0"),
         ("raise ResourceQuota none, or delete what uses it up: "
          "`kubectl -n ops describe resourcequota none`")),
        ("FailedCreate",
         'pods "x" is forbidden: failed quota: q: must specify limits.cpu for: ops-worker',
         "ResourceQuota q requires limits.cpu"),
        ("FailedCreate",
         'error looking up service account ops/nobody: serviceaccount "nobody" not found',
         "`kubectl -n ops create serviceaccount nobody`"),
        ("FailedCreate", 'pods "x" is forbidden: no PriorityClass with name ops-worker was found',
         ("apply your overlay again (`kubectl apply -k ...`), or run `helm upgrade`; "
          "or create the PriorityClass: `kubectl create priorityclass ops-worker --value=NUMBER`")),
        ("FailedCreate",
         'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
         "set the securityContext that the message names"),
        ("FailedCreate", "minimum memory usage per Container is 1Gi, but request is 64Mi",
         "`kubectl -n ops get limitrange`"),
        ("FailedCreate", 'admission webhook "policy.example" denied the request',
         "webhook policy.example of the cluster refuses"),
        ("FailedCreate", 'failed calling webhook "w.example": refused',
         "webhook w.example of the cluster"),
        ("FailedCreatePodSandBox", 'no runtime for "kata" is configured',
         "has no handler kata: correct runtimeClassName"),
        ("FailedCreate", "what", "see `kubectl -n ops describe job`"),
        ("FailedScheduling", "0/1 nodes are available: 1 Insufficient memory.",
         "no node has enough free memory"),
        ("Unschedulable", "0/1 nodes are available: 1 Too many pods.", "as many pods as they may"),
        ("FailedScheduling", "1 node(s) had untolerated taint {a: b}", "add a toleration"),
        ("FailedScheduling", "1 node(s) didn't match Pod's node affinity/selector",
         "no node matches the nodeSelector"),
        ("FailedCreatePodSandBox",
         "plugin type=bridge failed (add): no IP addresses available in range",
         "range of pod addresses is used up"),
        ("FailedCreatePodSandBox", "cni plugin not initialized",
         "the network plugin or the container runtime"),
        ("FailedMount", 'MountVolume.SetUp failed for volume "c" : configmap "gone" not found',
         "create configmap gone"),
        ("FailedMount", "references non-existent config key: a.toml",
         "add key a.toml to the Secret or ConfigMap of the volume"),
        ("FailedMount", "timed out waiting for the condition", "check the volumes"),
        ("Unheard", "of", "see `kubectl -n ops describe`"),
    ],
)  # fmt: skip
def test_remedy(reason: str, message: str, expected: str) -> None:
    """Every known message has its own remedy. For other messages, the reason decides."""
    assert expected in remedy(reason, message, "kubectl -n ops")


def test_owner() -> None:
    """The remedy names the object to look at."""
    assert remedy("FailedCreate", "what", "kubectl -n ops", "job a-job") == (
        "see `kubectl -n ops describe job a-job`"
    )


@pytest.mark.parametrize(
    ("image", "is_local"),
    [
        ("ops-worker:0.1.9", True),
        ("docker.io/library/ops-worker:0.1.9", True),
        ("team/ops-worker:0.1.9", True),
        ("docker.io/team/ops-worker", True),
        ("registry.example/ops-worker:0.1.9", False),
        ("registry:5000/ops-worker", False),
        ("localhost/ops-worker:0.1.9", False),
        ("10.0.0.1/team/ops-worker@sha256:0", False),
    ],
)
@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("dial tcp 1.2.3.4:443: i/o timeout", "the node cannot reach the registry: "),
        ("dial tcp: lookup registry-1.docker.io: no such host", "the node cannot resolve "),
        ("pull access denied, repository does not exist", "the registry refuses the node: "),
    ],
)
def test_image_without_registry(image: str, is_local: bool, answer: str, problem: str) -> None:
    """If an image has no registry in its name, the hint first suspects its name or tag."""
    message = f'Failed to pull image "{image}": failed to do request: {answer}'
    hint = remedy("ImagePullBackOff", f'Back-off pulling image "{image}": {message}')
    assert hint.startswith("no image of this name and tag is on the node, or ") == is_local
    assert hint.startswith(problem) != is_local
    assert problem in hint


@pytest.mark.parametrize("answer", ["not found", "no match for platform in manifest"])
def test_answers_about_the_image(answer: str) -> None:
    """An answer about the image itself needs no other cause."""
    hint = remedy("ErrImagePull", f'Failed to pull image "ops-worker:0.1.9": {answer}')
    assert "on the node, or" not in hint
    assert hint.startswith(("no such image or tag in the registry: ", "the image is not built for"))


def test_no_secret_is_suggested_for_anything_else() -> None:
    """Only the remedy for a missing Secret is to create a Secret."""
    assert "create the Secret" not in remedy(CONFIG, 'configmap "ops-worker" not found')
    assert "create the Secret" not in remedy(CONFIG, "image will run as root")


def test_names_are_not_templates() -> None:
    """A name from the cluster is shown as it is, on one line."""
    assert "generic {kubectl} --from" in remedy(CONFIG, 'secret "{kubectl}" not found')  # fmt: skip
    assert "\x1b" not in remedy(CONFIG, 'secret "a\x1bb" not found')


def test_safe_message() -> None:
    """A message is complete, on one line, and without control characters and logins of proxies."""
    assert safe_message("a\n b\x1b[31m") == "a b [31m"
    assert safe_message("x" * MAX_MESSAGE) == "x" * MAX_MESSAGE
    assert len(safe_message("x" * 5000)) == MAX_MESSAGE
    assert safe_message("proxyconnect https://me:pw@proxy:1/ refused") == (
        "proxyconnect https://***@proxy:1/ refused"
    )


def test_problem_text() -> None:
    """Reason, message and remedy are one text. The message may be missing."""
    assert problem_text("ErrImageNeverPull", "").startswith(
        "ErrImageNeverPull; the node has no such"
    )
    assert problem_text("StartError", "m").startswith("StartError: m; check `command`")
    assert is_start_problem("FailedMount") and not is_start_problem("ContainerCreating")
