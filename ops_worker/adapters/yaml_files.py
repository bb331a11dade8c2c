"""Read Kubernetes objects from YAML files. The only importer of yaml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ops_worker.core.decoding import yaml_problem
from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_BYTES = 10 << 20
"""The largest file that is read: 10 MiB."""
MAX_REPEATED = 1 << 20
"""Maximum number of characters that aliases may repeat in a document.

Without a limit, a small file could fill the memory.
"""
NO_KIND = "contains something that is not a Kubernetes object: it has no kind"
CHART = "is a Helm chart, which is skipped; check what `helm template` prints"
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
"""The files that `kubectl apply -f` reads in a folder."""


class FileObject(NamedTuple):
    """A Kubernetes object, and the file that it was read from."""

    file: str
    content: dict[str, Any]


class FileError(NamedTuple):
    """A file that cannot be read completely, and the reason."""

    file: str
    message: str


class Loaded(NamedTuple):
    """The objects of some files, what could not be read, and what was skipped on purpose."""

    objects: list[FileObject]
    errors: list[FileError]
    skipped: list[FileError]


def read(paths: Sequence[str]) -> Loaded:
    """Return the objects in files and folders; ``-`` is standard input.

    The items of a List are separate objects. A folder is read as `kubectl apply -f` reads it. An
    unreadable file or document is an error; the other files are still read. A Helm chart is
    skipped, because its templates are not YAML. Raises SettingsError with all errors if there is no
    object at all.
    """
    parse = _parser()
    loaded = Loaded([], [], [])
    manifests = []
    for path in paths:
        if path != "-" and _is_chart(Path(path)):
            loaded.skipped.append(FileError(path, CHART))
        else:
            manifests.append(path)
    for path, text in _texts(manifests, loaded.errors):
        for document in _documents(parse(text), path, loaded.errors):
            for part in _parts(document):
                if isinstance(part, dict) and isinstance(part.get("kind"), str):
                    loaded.objects.append(FileObject(path, part))
                else:
                    loaded.errors.append(FileError(path, NO_KIND))
    errors = list(dict.fromkeys(loaded.errors))
    if not loaded.objects:
        messages = [f"{error.file} {error.message}" for error in [*errors, *loaded.skipped]]
        raise SettingsError(messages or [f"no Kubernetes object in {', '.join(paths)}"])
    return Loaded(loaded.objects, errors, loaded.skipped)


def _is_chart(path: Path) -> bool:
    """Return whether a path is a Helm chart, or in the templates of a chart."""
    place = path.absolute()
    folders = [place]
    folders += [folder.parent for folder in (place, *place.parents) if folder.name == "templates"]
    return any((folder / "Chart.yaml").is_file() for folder in folders)


def _parser() -> Callable[[str], Iterator[Any]]:
    """Return a function that parses the documents of a text, one after the other."""
    try:
        import yaml
    except ImportError:
        raise SettingsError(
            ["manifests requires an extra: pip install 'ops-worker[cluster]'"]
        ) from None

    class Loader(yaml.SafeLoader):
        """A loader that limits how much aliases repeat."""

        def construct_document(self, node: Any) -> Any:
            """Construct a document. Raises _AliasError if its aliases repeat too much."""
            own_sizes: dict[int, int] = {}
            if _size(node, own_sizes, {}) - sum(own_sizes.values()) > MAX_REPEATED:
                raise _AliasError("its aliases (*) repeat more than 1 MiB")
            return super().construct_document(node)

    return lambda text: yaml.load_all(text, Loader=Loader)


class _AliasError(ValueError):
    """Aliases are used in a way that is not supported. The message does not quote the file."""


def _documents(documents: Iterator[Any], path: str, errors: list[FileError]) -> Iterator[Any]:
    """Yield the documents of a file up to the first invalid one. Add that one to the errors."""
    try:
        yield from documents
    except Exception as error:  # noqa: BLE001 - for some tags the parser raises any exception
        problem = str(error) if isinstance(error, _AliasError) else yaml_problem(error)
        errors.append(FileError(path, f"is not valid YAML: {problem}"))


def _parts(document: Any) -> list[Any]:
    """Return the objects in a document: the items of a List, one object, or none if it is empty."""
    if document is None:
        return []
    if not isinstance(document, dict):
        return [document]
    kind = document.get("kind")
    parts = document.get("items")
    if isinstance(parts, list) and str(kind).endswith("List"):
        return parts
    return [] if kind == "List" else [document]


def _size(node: Any, own_sizes: dict[int, int], sizes: dict[int, int]) -> int:
    """Return the size of a node in characters and nodes, with its aliases expanded.

    Add the size of every node without its children to ``own_sizes``, and the size with its children
    to ``sizes``. The keys of both are the identities of the nodes. Raises _AliasError for a node
    that contains itself.
    """
    key = id(node)
    if key in sizes:
        return sizes[key]
    if key in own_sizes:
        raise _AliasError("an anchor (&) contains an alias (*) of itself")
    if isinstance(node.value, str):
        own_sizes[key] = sizes[key] = 1 + len(node.value)
        return sizes[key]
    own_sizes[key] = 1
    total = 1
    for child in node.value:
        # The children of a mapping are pairs of key and value.
        for part in child if isinstance(child, tuple) else (child,):
            total += _size(part, own_sizes, sizes)
    sizes[key] = total
    return total


def _texts(paths: Sequence[str], errors: list[FileError]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every file."""
    for path in paths:
        if path == "-":
            yield from _text(path, sys.stdin.buffer, errors)
            continue
        for file in _files(path, errors):
            try:
                with file.open("rb") as opened:
                    yield from _text(str(file), opened, errors)
            except OSError as error:
                errors.append(FileError(str(file), f"cannot be read: {error.strerror}"))


def _files(path: str, errors: list[FileError]) -> list[Path]:
    """Return a file, or the files of a folder that `kubectl apply -f` reads, sorted."""
    place = Path(path)
    try:
        if not place.is_dir():
            return [place]
        return sorted(file for file in place.iterdir() if file.suffix in _SUFFIXES)
    except OSError as error:
        errors.append(FileError(path, f"cannot be read: {error.strerror}"))
        return []


def _text(path: str, file: BinaryIO, errors: list[FileError]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of a file; yield nothing if it is too large or not UTF-8."""
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        errors.append(FileError(path, f"is larger than {MAX_BYTES >> 20} MiB"))
        return
    try:
        yield path, data.decode("utf-8-sig")
    except UnicodeDecodeError:
        errors.append(FileError(path, "cannot be read: it is not UTF-8"))
