"""Which containers of a pod are the worker's, in a manifest and in a cluster.

A value of an unexpected type counts as absent.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.passes import container_commands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = "ops-worker"
"""The name of the program, of its image and of its container."""
NAME_LABEL = "app.kubernetes.io/name"
"""The recommended label that names an application (kubernetes.io, "Recommended Labels")."""
SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh"})
WRAPPERS = frozenset({"tini", "dumb-init", "env", "nice"})
"""Programs that run the program that follows them."""
_ARGUMENTS = r"((?:[ \t]+[^\s;&|<>()]+)*)"
_SCRIPT = re.compile(
    r"(?:^|[;&|(\n]|\b(?:exec|then|do|else)\s)\s*"
    rf"(?:(?:[^\s;&|(]*/)?{OURS}|[^\s;&|(]*python[0-9.]*(?:\s+-\S+)*\s+-m\s+ops_worker){_ARGUMENTS}"
)
"""The worker as a command of a shell script."""
_COMMAND = re.compile(rf"`(kubectl|{OURS} (?:cluster|trigger))(?= )")
"""The beginning of a command in a message: those commands accept the same flags of a cluster."""
RECOGNISED = (
    f"a container is the worker's if its name or its image's name is {OURS}, if it runs {OURS} or "
    "`python -m ops_worker`, or if it runs a pass and either sets OPS_WORKER_CATALOGUE or is in a "
    f"pod with the label {NAME_LABEL}: {OURS}"
)
"""How a container is recognised, in words."""


class Container(NamedTuple):
    """A container, its list (``containers`` or ``initContainers``) and its position there."""

    field: str
    position: int
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name."""
        return text(self.content.get("name"))

    @property
    def is_init(self) -> bool:
        """True if it has to end before the main containers start: a plain init container."""
        return self.field == "initContainers" and not self.is_native_sidecar

    @property
    def is_native_sidecar(self) -> bool:
        """True if it is an init container that runs beside the main containers.

        A Job does not wait for it. Source: kubernetes.io, "Sidecar Containers".
        """
        return self.field == "initContainers" and self.content.get("restartPolicy") == "Always"

    @property
    def is_main(self) -> bool:
        """True if it is in ``containers``: a Job waits for it to end."""
        return self.field == "containers"


class Invocation(NamedTuple):
    """How a container runs the worker: the arguments, and the shell if a script holds them."""

    arguments: tuple[str, ...]
    shell: str = ""


def mapping(node: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return node if isinstance(node, dict) else {}


def items(node: Any) -> list[Any]:
    """Return a list as it is, and an empty one for anything else."""
    return node if isinstance(node, list) else []


def text(node: Any) -> str:
    """Return a string as it is, and an empty one for anything else."""
    return node if isinstance(node, str) else ""


def at(node: Any, *path: str) -> Mapping[str, Any]:
    """Return the mapping at a path of keys, and an empty one if there is none."""
    for key in path:
        node = mapping(node).get(key)
    return mapping(node)


def containers(spec: Mapping[str, Any]) -> list[Container]:
    """Return the containers of a pod's spec, in the order in which they start."""
    return [
        Container(field, position, mapping(content))
        for field in ("initContainers", "containers")
        for position, content in enumerate(items(spec.get(field)))
    ]


def kubectl(content: Mapping[str, Any]) -> str:
    """Return how a command for the namespace of an object begins: ``kubectl -n NAMESPACE``."""
    namespace = text(at(content, "metadata").get("namespace"))
    return f"kubectl -n {namespace}" if namespace else "kubectl"


def trigger(cronjob: Mapping[str, Any]) -> str:
    """Return the command that runs a CronJob now, in its namespace."""
    command = f"{OURS} trigger {cronjob['metadata']['name']}"
    namespace = text(at(cronjob, "metadata").get("namespace"))
    return f"{command} -n {namespace} --wait" if namespace else f"{command} --wait"


def with_flags(message: str, flags: str) -> str:
    """Return a message whose commands, which stand in backquotes, have more flags.

    ``flags`` name the cluster, for example ``--context NAME``. They are quoted for a shell.
    """
    return _COMMAND.sub(lambda match: f"`{match[1]} {flags}", message) if flags else message


def workers(spec: Mapping[str, Any], labels: Mapping[str, Any]) -> list[Container]:
    """Return the containers that run the worker.

    If none is recognised by itself, and the pod has the worker's label, those count that run a
    pass.
    """
    candidates = containers(spec)
    certain = [container for container in candidates if recognised(container.content)]
    if certain:
        return certain
    if labels.get(NAME_LABEL) != OURS:
        return []
    return [container for container in candidates if _runs_pass(container.content)]


def recognised(container: Mapping[str, Any]) -> bool:
    """Return whether a container is certainly the worker's, in any pod."""
    if text(container.get("name")) in _container_names() or image_name(container) == OURS:
        return True
    names_program = _program_arguments(_words(container)) is not None
    if names_program or items(container.get("command")):
        return invocation(container) is not None
    variables = {text(mapping(variable).get("name")) for variable in items(container.get("env"))}
    return _runs_pass(container) and "OPS_WORKER_CATALOGUE" in variables


def image_name(container: Mapping[str, Any]) -> str:
    """Return the last part of the image's name, without registry, tag and digest."""
    return text(container.get("image")).rpartition("/")[2].partition("@")[0].partition(":")[0]


def invocation(container: Mapping[str, Any]) -> Invocation | None:
    """Return how a container runs the worker; None if its command is another program."""
    words = _words(container)
    arguments = _program_arguments(words)
    if items(container.get("command")):
        if arguments is None:
            return _invocation_in_script(words)
        return Invocation(arguments)
    # The entrypoint of the worker's image is the worker. The entrypoint of another image may be a
    # wrapper that runs its arguments.
    if arguments is None or image_name(container) == OURS:
        return Invocation(words)
    return Invocation(arguments)


def with_arguments(container: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return a container that runs the worker with other arguments.

    Raises ValueError if a shell script runs the worker, or if another program runs.
    """
    run = invocation(container)
    if run is None or run.shell:
        program = "a shell script" if run else "another program"
        raise ValueError(f"container {text(container.get('name'))} runs {program}")
    words = _words(container)
    # What runs the worker, for example an interpreter or a wrapper, stays in front.
    program_words = words[: len(words) - len(run.arguments)]
    if items(container.get("command")):
        return {**container, "command": list(program_words), "args": list(arguments)}
    return {**container, "args": [*program_words, *arguments]}


def _invocation_in_script(words: Sequence[str]) -> Invocation | None:
    """Return how a shell script in a command line (``sh -c SCRIPT``) runs the worker."""
    shell = next((_file_name(word) for word in words if _file_name(word) in SHELLS), "")
    if not shell:
        return None
    for option, script in pairwise(words):
        if not re.fullmatch(r"-[a-z]*c", option):
            continue
        match = _SCRIPT.search(script)
        if match:
            return Invocation(tuple(match[1].split()), shell)
    return None


def _words(container: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the command line of a container."""
    return tuple(str(word) for field in ("command", "args") for word in items(container.get(field)))


def _program_arguments(words: Sequence[str]) -> tuple[str, ...] | None:
    """Return what follows the worker's name in a command line; None for another program."""
    for index, word in enumerate(words):
        if not _starts_program(words, index):
            continue
        if _file_name(word) == OURS:
            return tuple(words[index + 1 :])
        is_python = re.fullmatch(r"python[0-9.]*", _file_name(word))
        if is_python and "ops_worker" in words[index:]:
            module = words.index("ops_worker", index)
            if words[module - 1] != "-m":
                return None
            return tuple(words[module + 1 :])
    return None


def _starts_program(words: Sequence[str], index: int) -> bool:
    """Return whether a word of a command line is a program: the first, or after a wrapper."""
    if index == 0 or words[index - 1] == "--":
        return True
    return index == 1 and _file_name(words[0]) in WRAPPERS


def _file_name(word: str) -> str:
    return word.rpartition("/")[2]


def _runs_pass(container: Mapping[str, Any]) -> bool:
    """Return whether a container's first argument is a command that containers run."""
    run = invocation(container)
    return run is not None and run.arguments[:1] in {(name,) for name in container_commands()}


def _container_names() -> frozenset[str]:
    """Return the names of containers that are the worker's."""
    return frozenset({OURS, *(f"{OURS}-{command}" for command in container_commands())})
