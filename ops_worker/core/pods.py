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
NAME_LABEL = "app.kubernetes.io/name"
SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh"})
WRAPPERS = frozenset({"tini", "dumb-init", "env", "nice"})
"""Programs that become another one, which follows."""
_ARGUMENTS = r"((?:[ \t]+[^\s;&|<>()]+)*)"
_SCRIPT = re.compile(
    r"(?:^|[;&|(\n]|\b(?:exec|then|do|else)\s)\s*"
    rf"(?:(?:[^\s;&|(]*/)?{OURS}|[^\s;&|(]*python[0-9.]*(?:\s+-\S+)*\s+-m\s+ops_worker){_ARGUMENTS}"
)
"""The worker where a shell's script has a command."""
RECOGNISED = (
    f"a container is the worker's when it is called {OURS}, or its image is, or it runs {OURS} or "
    "`python -m ops_worker`, or it runs a pass and sets OPS_WORKER_CATALOGUE or is in a pod with "
    f"the label {NAME_LABEL}: {OURS}"
)


class Container(NamedTuple):
    """A container and its place: ``containers`` or ``initContainers``, and which of them."""

    field: str
    place: int
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name."""
        return text(self.content.get("name"))

    @property
    def first(self) -> bool:
        """Whether it has to end before the main containers start: a plain init container."""
        return self.field == "initContainers" and not self.native

    @property
    def native(self) -> bool:
        """Whether it is a native sidecar, which does not keep a Job from completing."""
        return self.field == "initContainers" and self.content.get("restartPolicy") == "Always"

    @property
    def main(self) -> bool:
        """Whether it is one of those that a Job waits for."""
        return self.field == "containers"


class Invocation(NamedTuple):
    """How a container runs the worker: its arguments, and the shell whose script holds them."""

    arguments: tuple[str, ...]
    shell: str = ""


def mapping(node: Any) -> Mapping[str, Any]:
    """Give a mapping, or an empty one for anything else."""
    return node if isinstance(node, dict) else {}


def items(node: Any) -> list[Any]:
    """Give a list, or an empty one for anything else."""
    return node if isinstance(node, list) else []


def text(node: Any) -> str:
    """Give a string, or an empty one for anything else."""
    return node if isinstance(node, str) else ""


def at(node: Any, *path: str) -> Mapping[str, Any]:
    """Follow the keys to a mapping; an empty one where the way ends."""
    for key in path:
        node = mapping(node).get(key)
    return mapping(node)


def containers(spec: Mapping[str, Any]) -> list[Container]:
    """Give the containers of a pod's spec, in the order in which they start."""
    return [
        Container(field, place, mapping(one))
        for field in ("initContainers", "containers")
        for place, one in enumerate(items(spec.get(field)))
    ]


def workers(spec: Mapping[str, Any], labels: Mapping[str, Any]) -> list[Container]:
    """Find the containers that run the worker."""
    all_of_them = containers(spec)
    if sure := [one for one in all_of_them if recognised(one.content)]:
        return sure
    if labels.get(NAME_LABEL) != OURS:
        return []
    return [one for one in all_of_them if _pass(one.content)]


def recognised(container: Mapping[str, Any]) -> bool:
    """Tell whether a container is the worker's, whatever pod it is in."""
    if text(container.get("name")) in _names() or image_name(container) == OURS:
        return True
    if items(container.get("command")) or _program(_words(container)) is not None:
        return invocation(container) is not None
    names = {text(mapping(one).get("name")) for one in items(container.get("env"))}
    return _pass(container) and "OPS_WORKER_CATALOGUE" in names


def image_name(container: Mapping[str, Any]) -> str:
    """Give the last part of the image's name, without registry, tag and digest."""
    return text(container.get("image")).rpartition("/")[2].partition("@")[0].partition(":")[0]


def invocation(container: Mapping[str, Any]) -> Invocation | None:
    """Tell how a container runs the worker; None when its command is something else's."""
    words = _words(container)
    if not items(container.get("command")):
        # the image's entrypoint is the worker, or a wrapper that runs its arguments
        named = None if image_name(container) == OURS else _program(words)
        return Invocation(words) if named is None else Invocation(named)
    if (arguments := _program(words)) is not None:
        return Invocation(arguments)
    shell = next((_base(word) for word in words if _base(word) in SHELLS), "")
    after_c = [word for option, word in pairwise(words) if re.fullmatch(r"-[a-z]*c", option)]
    scripts = after_c if shell else []
    found = next((match for script in scripts if (match := _SCRIPT.search(script))), None)
    return Invocation(tuple(found[1].split()), shell) if found else None


def _words(container: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(one) for field in ("command", "args") for one in items(container.get(field)))


def _program(words: Sequence[str]) -> tuple[str, ...] | None:
    """Give what follows the worker's name in a command line; None for another program."""
    for place, word in enumerate(words):
        run = place == 0 or words[place - 1] == "--" or (place == 1 and _base(words[0]) in WRAPPERS)
        if run and _base(word) == OURS:
            return tuple(words[place + 1 :])
        if run and re.fullmatch(r"python[0-9.]*", _base(word)) and "ops_worker" in words[place:]:
            module = words.index("ops_worker", place)
            return tuple(words[module + 1 :]) if words[module - 1] == "-m" else None
    return None


def _base(word: str) -> str:
    return word.rpartition("/")[2]


def _pass(container: Mapping[str, Any]) -> bool:
    found = invocation(container)
    return found is not None and bool(set(found.arguments[:1]) & {*container_commands()})


def _names() -> frozenset[str]:
    """Return the names of containers that are the worker's."""
    return frozenset({OURS, *(f"{OURS}-{command}" for command in container_commands())})
