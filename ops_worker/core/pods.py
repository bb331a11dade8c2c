"""Find the containers of a pod that run the worker, in a manifest or in a cluster.

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
"""Programs that run another program, which follows them in the command line."""
_ARGUMENTS = r"((?:[ \t]+[^\s;&|<>()]+)*)"
_SCRIPT = re.compile(
    r"(?:^|[;&|(\n]|\b(?:exec|then|do|else)\s)\s*"
    rf"(?:(?:[^\s;&|(]*/)?{OURS}|[^\s;&|(]*python[0-9.]*(?:\s+-\S+)*\s+-m\s+ops_worker){_ARGUMENTS}"
)
"""A command of a shell script that runs the worker. The group has its arguments."""
_COMMAND = re.compile(rf"`(kubectl|{OURS} (?:cluster|trigger))(?= )")
"""The beginning of a command in a message that accepts the flags of a cluster (``--context``)."""
RECOGNISED = (
    f"a container is the worker's if its name or its image's name is {OURS}, if it runs {OURS} or "
    "`python -m ops_worker`, or if it runs a pass and either sets OPS_WORKER_CATALOGUE or is in a "
    f"pod with the label {NAME_LABEL}: {OURS}"
)
"""The rules of ``workers`` in words, for messages."""


class Container(NamedTuple):
    """A container, its list (``containers`` or ``initContainers``) and its position there."""

    field: str
    position: int
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name; empty if it has none."""
        return text(self.content.get("name"))

    @property
    def is_init(self) -> bool:
        """Whether it is a plain init container: it must end before the main containers start."""
        return self.field == "initContainers" and not self.is_native_sidecar

    @property
    def is_native_sidecar(self) -> bool:
        """Whether it is an init container that runs beside the main containers.

        A Job does not wait for its end. Source: kubernetes.io, "Sidecar Containers".
        """
        return self.field == "initContainers" and self.content.get("restartPolicy") == "Always"

    @property
    def is_main(self) -> bool:
        """Whether it is in ``containers``: a Job waits for its end."""
        return self.field == "containers"


class Invocation(NamedTuple):
    """How a container runs the worker.

    ``arguments`` are the worker's arguments. ``shell`` is the shell whose script runs the worker;
    empty without a script.
    """

    arguments: tuple[str, ...]
    shell: str = ""


def mapping(node: Any) -> Mapping[str, Any]:
    """Return a mapping unchanged; an empty one for any other value."""
    return node if isinstance(node, dict) else {}


def items(node: Any) -> list[Any]:
    """Return a list unchanged; an empty one for any other value."""
    return node if isinstance(node, list) else []


def text(node: Any) -> str:
    """Return a string unchanged; an empty one for any other value."""
    return node if isinstance(node, str) else ""


def at(node: Any, *path: str) -> Mapping[str, Any]:
    """Return the mapping at a path of keys; an empty one if there is no mapping."""
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
    """Return the beginning of a command for the namespace of an object: ``kubectl -n NAME``."""
    namespace = text(at(content, "metadata").get("namespace"))
    return f"kubectl -n {namespace}" if namespace else "kubectl"


def trigger(cronjob: Mapping[str, Any]) -> str:
    """Return the command that runs a CronJob now, in its namespace."""
    command = f"{OURS} trigger {cronjob['metadata']['name']}"
    namespace = text(at(cronjob, "metadata").get("namespace"))
    return f"{command} -n {namespace} --wait" if namespace else f"{command} --wait"


def with_flags(message: str, flags: str) -> str:
    """Add flags to the commands in a message. The commands are in backquotes.

    ``flags`` name the cluster, for example ``--context NAME``. They are already quoted for a shell.
    """
    if not flags:
        return message
    return _COMMAND.sub(lambda match: f"`{match[1]} {flags}", message)


def workers(spec: Mapping[str, Any], labels: Mapping[str, Any]) -> list[Container]:
    """Return the containers that run the worker.

    If ``is_worker`` recognises none, and the pod has the worker's label, return the containers that
    run a pass.
    """
    candidates = containers(spec)
    recognised = [container for container in candidates if is_worker(container.content)]
    if recognised:
        return recognised
    if labels.get(NAME_LABEL) != OURS:
        return []
    return [container for container in candidates if _runs_pass(container.content)]


def is_worker(container: Mapping[str, Any]) -> bool:
    """Return whether a container runs the worker, whatever the labels of its pod are."""
    if text(container.get("name")) in _container_names() or image_name(container) == OURS:
        return True
    names_program = _program_arguments(_words(container)) is not None
    if names_program or items(container.get("command")):
        return invocation(container) is not None
    variables = {text(mapping(variable).get("name")) for variable in items(container.get("env"))}
    return _runs_pass(container) and "OPS_WORKER_CATALOGUE" in variables


def image_name(container: Mapping[str, Any]) -> str:
    """Return the last part of the name of an image, without registry, tag and digest."""
    return text(container.get("image")).rpartition("/")[2].partition("@")[0].partition(":")[0]


def invocation(container: Mapping[str, Any]) -> Invocation | None:
    """Return how a container runs the worker; None if its command runs another program.

    Without a command, the entrypoint of the image runs. It is taken for the worker.
    """
    words = _words(container)
    arguments = _program_arguments(words)
    if items(container.get("command")):
        if arguments is None:
            return _invocation_in_script(words)
        return Invocation(arguments)
    # The entrypoint of the worker's image is the worker. The entrypoint of another image may be a
    # wrapper, which runs the program that its arguments name.
    if arguments is None or image_name(container) == OURS:
        return Invocation(words)
    return Invocation(arguments)


def with_arguments(container: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a container that runs the worker, with these arguments.

    Raises ValueError if the container runs the worker in a shell script, or another program.
    """
    run = invocation(container)
    if run is None or run.shell:
        program = "a shell script" if run else "another program"
        raise ValueError(f"container {text(container.get('name'))} runs {program}")
    words = _words(container)
    # Keep the words before the arguments, for example an interpreter or a wrapper.
    program_words = words[: len(words) - len(run.arguments)]
    if items(container.get("command")):
        return {**container, "command": list(program_words), "args": list(arguments)}
    return {**container, "args": [*program_words, *arguments]}


def _invocation_in_script(words: Sequence[str]) -> Invocation | None:
    """Return how a shell script in a command line runs the worker; None if there is none.

    The script follows an option such as ``-c`` or ``-ec``.
    """
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
    """Return the arguments after the worker's name in a command line; None without the name."""
    for index, word in enumerate(words):
        if not _starts_program(words, index):
            continue
        if _file_name(word) == OURS:
            return tuple(words[index + 1 :])
        is_python = re.fullmatch(r"python[0-9.]*", _file_name(word))
        if is_python and "ops_worker" in words[index:]:
            module_index = words.index("ops_worker", index)
            if words[module_index - 1] != "-m":
                return None
            return tuple(words[module_index + 1 :])
    return None


def _starts_program(words: Sequence[str], index: int) -> bool:
    """Return whether a word of a command line is a program: the first word, or after a wrapper."""
    if index == 0 or words[index - 1] == "--":
        return True
    return index == 1 and _file_name(words[0]) in WRAPPERS


def _file_name(word: str) -> str:
    return word.rpartition("/")[2]


def _runs_pass(container: Mapping[str, Any]) -> bool:
    """Return whether the worker's first argument is a command that containers run."""
    run = invocation(container)
    if run is None or not run.arguments:
        return False
    return run.arguments[0] in container_commands()


def _container_names() -> frozenset[str]:
    """Return the names by which ``is_worker`` recognises a container."""
    return frozenset({OURS, *(f"{OURS}-{command}" for command in container_commands())})
