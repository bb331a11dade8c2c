"""YAML files to objects. The only importer of yaml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ops_worker.core.decoding import yaml_problem
from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_BYTES = 10 << 20
MAX_REPEATED = 1 << 20
"""Characters that aliases may repeat in a document; unbounded, a small file would explode."""
NO_OBJECT = "holds something that is no Kubernetes object: it has no kind"
_SUFFIXES = {".yaml", ".yml", ".json"}


def read(paths: Sequence[str]) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, str]]]:
    """Give every object with its file, lists taken apart, and what cannot be read: file and fault.

    A folder is read as `kubectl apply -f` does. A bad file or document hides no other.
    Raises SettingsError, with all faults, when there is no object at all.
    """
    loaded = _loader()
    found: list[tuple[str, dict[str, Any]]] = []
    faults: list[tuple[str, str]] = []
    for path, text in _texts(paths, faults):
        for one in _parsed(loaded(text), path, faults):
            for part in _listed(one):
                if isinstance(part, dict) and isinstance(part.get("kind"), str):
                    found.append((path, part))
                else:
                    faults.append((path, NO_OBJECT))
    if not found:
        told = [f"{path} {fault}" for path, fault in dict.fromkeys(faults)]
        raise SettingsError(told or [f"no object in {', '.join(paths)}"])
    return found, list(dict.fromkeys(faults))


def _loader() -> Callable[[str], Iterator[Any]]:
    """Give what reads the documents of a text, one after the other."""
    try:
        import yaml
    except ImportError:
        raise SettingsError(
            ["manifests wants the extra: pip install 'ops-worker[cluster]'"]
        ) from None

    class Loader(yaml.SafeLoader):
        """YAML whose aliases repeat only so much."""

        def construct_document(self, node: Any) -> Any:
            own: dict[int, int] = {}
            if _size(node, own, {}) - sum(own.values()) > MAX_REPEATED:
                raise _AliasError("its aliases (*) repeat more than 1 MiB")
            return super().construct_document(node)

    return lambda text: yaml.load_all(text, Loader=Loader)


class _AliasError(ValueError):
    """Aliases are used in a way that is not read; the message quotes nothing of the file."""


def _parsed(documents: Iterator[Any], path: str, faults: list[tuple[str, str]]) -> Iterator[Any]:
    """Give the documents of a file, up to the first that is no YAML, whose fault is told."""
    try:
        yield from documents
    except Exception as error:  # noqa: BLE001 - a tag makes the parser raise what Python raises
        problem = str(error) if isinstance(error, _AliasError) else yaml_problem(error)
        faults.append((path, f"is no YAML: {problem}"))


def _listed(one: Any) -> list[Any]:
    """Give the objects of a List; anything else is one object. Nothing is none."""
    inside = one.get("items") if isinstance(one, dict) else None
    if isinstance(inside, list) and str(one.get("kind")).endswith("List"):
        return inside
    return [] if one is None or (isinstance(one, dict) and one.get("kind") == "List") else [one]


def _size(node: Any, own: dict[int, int], whole: dict[int, int]) -> int:
    """Give a node's size with its aliases expanded; ``own`` gets the size of each node alone."""
    if id(node) not in whole:
        if id(node) in own:
            raise _AliasError("an anchor (&) holds an alias (*) of itself")
        inner = [] if isinstance(node.value, str) else node.value
        own[id(node)] = 1 + len(node.value) - len(inner)
        parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        whole[id(node)] = own[id(node)] + sum(_size(part, own, whole) for part in parts)
    return whole[id(node)]


def _texts(paths: Sequence[str], faults: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for path in paths:
        if path == "-":
            yield from _text(path, sys.stdin.buffer, faults)
            continue
        place = Path(path)
        try:
            inside = (
                sorted(one for one in place.iterdir() if one.suffix in _SUFFIXES)
                if place.is_dir()
                else [place]
            )
        except OSError as error:
            faults.append((path, f"cannot be read: {error.strerror}"))
            continue
        for file in inside:
            try:
                with file.open("rb") as opened:
                    yield from _text(str(file), opened, faults)
            except OSError as error:
                faults.append((str(file), f"cannot be read: {error.strerror}"))


def _text(path: str, file: BinaryIO, faults: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        faults.append((path, "is larger than 10 MiB"))
        return
    try:
        yield path, data.decode("utf-8-sig")
    except UnicodeDecodeError:
        faults.append((path, "cannot be read: it is not UTF-8"))
