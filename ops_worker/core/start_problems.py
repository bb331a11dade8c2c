"""Choose a remedy for a pod that cannot be created, placed or started.

Kubernetes reports a reason, which is one word, and a message. The reason alone is not enough: the
cause of ``CreateContainerConfigError`` may be a missing Secret, a missing key, or an image that
runs as root. So the message decides the remedy. For an unknown message, the reason decides. The
messages are those of the kubelet, the scheduler and the API server of Kubernetes 1.31, and of
containerd.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_MESSAGE = 1024
"""The most characters of a message that are shown: as many as an Event's message may have.

Source: kubernetes.io, API reference, "Event" of events.k8s.io/v1, field ``note``.
"""
PULL_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
"""The reasons of a pod whose image cannot be pulled."""
START_ERRORS = frozenset({"StartError", "ContainerCannotRun"})
"""The reasons of a container that ended because its program could not be started."""
APPLY_AGAIN = "apply your overlay again (`kubectl apply -k ...`), or run `helm upgrade`"
"""The remedy for a missing object that the manifests create.

It is not `kubectl apply -f k8s/`, which could create a second installation: those files name a
namespace.
"""
WRONG_PLATFORM = "the image is not built for the processor of the node: build it for that platform"
NO_SUCH_IMAGE = (
    "no such image or tag in the registry: check the image's name and tag, and push the image"
)
IMAGE_REMEDIES = frozenset({WRONG_PLATFORM, NO_SUCH_IMAGE})
"""The remedies for a pull whose error is certainly about the image itself."""
NOT_ON_NODE = (
    "no image of this name and tag is on the node, or imagePullPolicy is Always: correct the "
    "image's name or tag, or load the image onto the node; if it is to come from Docker Hub: "
)
"""The first remedy for an image without a registry in its name.

Probably the image was to be loaded onto the node, and not to be pulled.
"""
_IMAGE = re.compile(r'image "(?:docker\.io/(?:library/)?)?(?P<name>[^"]+)"')
"""The name of the image in a pull error, without the default registry that containerd adds."""
_REGISTRY = re.compile(r"[^/]*[.:][^/]*/|localhost/")
"""The registry at the beginning of the name of an image.

A registry's host has a dot or a port, or is localhost. Source: docs.docker.com, "docker image tag".
"""
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
"""The login in a URL, for example of a proxy: it may have a password."""


class _Remedy(NamedTuple):
    """A pattern of messages, and what to do. ``text`` may name the groups of the pattern."""

    pattern: re.Pattern[str]
    text: str


def _remedies(pairs: Iterable[tuple[str, str]]) -> tuple[_Remedy, ...]:
    return tuple(_Remedy(re.compile(pattern, re.IGNORECASE), text) for pattern, text in pairs)


_PULL_ANSWERS = (
    (
        r"unauthorized|authorization|\b40[13]\b|denied|no basic auth",
        (
            "the registry refuses the node: add its credentials as imagePullSecrets of the "
            "ServiceAccount, and check the image's name: a registry also refuses unknown ones"
        ),
    ),
    (
        r"toomanyrequests|\b429\b|rate limit",
        "the registry limits its pulls: add credentials as imagePullSecrets, or use a mirror",
    ),
    (
        r"no match for platform|exec format",
        WRONG_PLATFORM,
    ),
    (
        r"x509|certificate",
        "the node does not trust the registry's certificate: add its CA to the container runtime",
    ),
    (
        r"HTTP response to HTTPS client",
        "the registry speaks HTTP only: use HTTPS, or configure the container runtime for it",
    ),
    (
        r"no such host|server misbehaving",
        "the node cannot resolve the registry's name: check the image's name and the node's DNS",
    ),
    (
        r"timeout|refused|no route|unreachable|deadline exceeded|connection reset",
        "the node cannot reach the registry: check the node's network, proxy and firewall",
    ),
    (
        r"not found|manifest unknown|does not exist",
        NO_SUCH_IMAGE,
    ),
)
"""The remedies for an image that cannot be pulled, by the error of the registry or network."""
_PULL_REMEDIES = _remedies(_PULL_ANSWERS)

_MESSAGES = (
    (
        r'secret "(?P<name>ops-worker)" not found',
        "create the Secret: `{kubectl} create secret generic {name} --from-literal=PG_PASS=...`",
    ),
    (
        r'secret "(?P<name>[^"]+)" not found',
        (
            "create the Secret: `{kubectl} create secret generic {name} --from-literal=KEY=VALUE`, "
            "or correct its name in the pod's template"
        ),
    ),
    (
        r'configmap "(?P<name>ops-worker(?:-catalogue)?)" not found',
        f"create ConfigMap {{name}}: {APPLY_AGAIN}",
    ),
    (
        r'configmap "(?P<name>[^"]+)" not found',
        (
            "create the ConfigMap: `{kubectl} create configmap {name} --from-literal=KEY=VALUE`, "
            "or correct its name in the pod's template"
        ),
    ),
    (
        (
            r"couldn't find key (?P<key>\S+) in (?P<kind>Secret|ConfigMap) "
            r"(?P<namespace>[^/\s]+)/(?P<name>[^\s:;,]+)"
        ),
        (
            "add key {key} to {kind} {name}: `kubectl -n {namespace} edit {kind} {name}`, "
            "or correct the key in the pod's template"
        ),
    ),
    (
        r"references non-existent (?:secret|config) key: (?P<key>\S+)",
        "add key {key} to the Secret or ConfigMap of the volume, or correct `items` of the volume",
    ),
    (
        r"image will run as root",
        (
            "the image runs as root and runAsNonRoot is true: set securityContext.runAsUser "
            "(the manifests set 65532), or use an image with another USER"
        ),
    ),
    (
        r"non-numeric user \((?P<user>[^)]*)\)",
        (
            "the image names its user, {user}, by no number: set securityContext.runAsUser to one "
            "(the manifests set 65532), or build the image with a number as USER"
        ),
    ),
    (
        r"runAsUser breaks non-root policy",
        (
            "runAsUser is 0 and runAsNonRoot is true: set runAsUser to another number "
            "(the manifests set 65532)"
        ),
    ),
    (
        r'exec: "(?P<program>[^"]*)":.*(?:not found|no such file)',
        "the image has no program {program}: correct `command` of the container, or the image",
    ),
    (
        r'exec: "(?P<program>[^"]*)":.*permission denied',
        "{program} is not executable for the container's user: correct the image or runAsUser",
    ),
    (
        r"exec format error|no match for platform",
        WRONG_PLATFORM,
    ),
    (
        r"no command specified",
        "the image has no ENTRYPOINT and the container no `command`: correct the image's name",
    ),
    (r"no space left on device", "free disk space on the node, or use another node"),
    (
        r"read-only file system",
        "something is to be mounted or written where the image is read-only: correct volumeMounts",
    ),
    (
        r"exceeded quota: (?P<quota>[^,\s]+)",
        (
            "raise ResourceQuota {quota}, or delete what uses it up: "
            "`{kubectl} describe resourcequota {quota}`"
        ),
    ),
    (
        r"failed quota: (?P<quota>[^:\s]+): must specify (?P<fields>[a-z.,\-]+)",
        "ResourceQuota {quota} requires {fields}: set it in `resources` of the container",
    ),
    (
        r'serviceaccount "(?P<name>[^"]+)" not found',
        "create the ServiceAccount: `{kubectl} create serviceaccount {name}`",
    ),
    (
        r"no PriorityClass with name (?P<name>\S+) was found",
        (
            f"{APPLY_AGAIN}; or create the PriorityClass: "
            "`kubectl create priorityclass {name} --value=NUMBER`"
        ),
    ),
    (
        r"violates PodSecurity",
        "set the securityContext that the message names, as the manifests do",
    ),
    (
        r"(?:minimum|maximum) \S+ usage per|limit to request ratio",
        "change `resources` of the container, or the LimitRange: `{kubectl} get limitrange`",
    ),
    (
        r'(?:admission|failed calling) webhook "(?P<name>[^"]+)"',
        (
            "webhook {name} of the cluster refuses or fails: change what it names, "
            "or ask who runs the webhook"
        ),
    ),
    (
        r"Insufficient (?P<resource>[\w./-]*\w)",
        "no node has enough free {resource}: lower resources.requests, or add or enlarge a node",
    ),
    (r"Too many pods", "the nodes run as many pods as they may: delete pods, or add a node"),
    (
        r"untolerated taint",
        (
            "no node without a taint has room: remove the taint (`kubectl describe nodes`), "
            "or add a toleration to the pod's template"
        ),
    ),
    (
        r"node affinity|node selector|node\(s\) didn't match",
        (
            "no node matches the nodeSelector or affinity of the pod's template: correct it, "
            "or label a node"
        ),
    ),
    (
        r'no runtime for "(?P<name>[^"]+)" is configured',
        (
            "the node's container runtime has no handler {name}: correct runtimeClassName of the "
            "pod's template, or configure the handler on the node"
        ),
    ),
    (
        r"no IP addresses available|failed to allocate for range",
        "the node's range of pod addresses is used up: delete pods, or enlarge the range",
    ),
)
"""The remedies by message, for all reasons. The first pattern that matches decides."""
_REMEDIES = _remedies(_MESSAGES)

_BY_REASON = {
    "ErrImagePull": "check the image's name, and that the cluster can pull it",
    "ImagePullBackOff": "check the image's name, and that the cluster can pull it",
    "RegistryUnavailable": "check that the node reaches the registry",
    "ErrImageNeverPull": (
        "the node has no such image, and imagePullPolicy is Never: load the image onto the node, "
        "or set imagePullPolicy: IfNotPresent"
    ),
    "InvalidImageName": "correct the image's name: REGISTRY/NAME:TAG in lower case, without blanks",
    "ImageInspectError": "the node's container runtime fails: see the log of the kubelet",
    "CreateContainerConfigError": "see `{kubectl} describe pod` for the field that is wrong",
    "CreateContainerError": "see `{kubectl} describe pod`, and the log of the node's kubelet",
    "RunContainerError": "see `{kubectl} describe pod`, and check `command` and volumeMounts",
    "StartError": "check `command` and volumeMounts of the container, and the image",
    "ContainerCannotRun": "check `command` and volumeMounts of the container, and the image",
    "CrashLoopBackOff": "see `{kubectl} logs`",
    "Unschedulable": (
        "check the free resources and the taints of the nodes: `{kubectl} describe pod`"
    ),
    "FailedScheduling": (
        "check the free resources and the taints of the nodes: `{kubectl} describe pod`"
    ),
    "FailedCreatePodSandBox": (
        "the network plugin or the container runtime of the node fails: "
        "see `kubectl -n kube-system get pods` and the log of the node's kubelet"
    ),
    "FailedMount": "check the volumes of the pod's template: `{kubectl} describe pod`",
    "FailedAttachVolume": "check the volumes of the pod's template: `{kubectl} describe pod`",
    "FailedCreate": "see `{kubectl} describe {owner}`",
}
"""The remedies by reason, for unknown messages. A reason that is not here is not a problem."""


def is_start_problem(reason: str) -> bool:
    """Return whether a reason means that a pod cannot start."""
    return reason in _BY_REASON


def remedy(reason: str, message: str, kubectl: str = "kubectl", owner: str = "job") -> str:
    """Return what to do about a pod that cannot start.

    ``kubectl`` is the beginning of a command for the pod's namespace. ``owner`` is the object that
    creates the pod: its kind and, if known, its name.
    """
    candidates = _REMEDIES
    if reason in PULL_REASONS:
        candidates = (*_PULL_REMEDIES, *_REMEDIES)
    for candidate in candidates:
        match = candidate.pattern.search(message)
        if match is None:
            continue
        names = {name: one_line(value or "") for name, value in match.groupdict().items()}
        hint = candidate.text.format(kubectl=kubectl, **names)
        # The node may have asked a registry only because the image was not loaded onto it.
        is_of_registry = candidate in _PULL_REMEDIES and hint not in IMAGE_REMEDIES
        if is_of_registry and _has_no_registry(message):
            return f"{NOT_ON_NODE}{hint}"
        return hint
    return _BY_REASON.get(reason, "see `{kubectl} describe`").format(kubectl=kubectl, owner=owner)


def _has_no_registry(message: str) -> bool:
    """Return whether a pull error names an image without a registry."""
    match = _IMAGE.search(message)
    return match is not None and not _REGISTRY.match(match["name"])


def safe_message(message: str) -> str:
    """Return a message of Kubernetes on one line, without the logins of URLs.

    It is cut only after MAX_MESSAGE characters.
    """
    return one_line(_LOGIN.sub("***@", " ".join(message.split())), MAX_MESSAGE)


def problem_text(reason: str, message: str, kubectl: str = "kubectl", owner: str = "job") -> str:
    """Return a reason, its message, and what to do. See ``remedy``."""
    problem = ": ".join(filter(None, (one_line(reason), safe_message(message))))
    return f"{problem}; {remedy(reason, message, kubectl, owner)}"
