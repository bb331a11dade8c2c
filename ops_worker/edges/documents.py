"""YAML files to objects. The only importer of yaml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ops_worker.core.answer import yaml_problem
from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_BYTES = 10 << 20
MAX_DEPTH = 100
_SUFFIXES = {".yaml", ".yml", ".json"}


def read(paths: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Give every object with the file that it stands in, lists taken apart; a folder is read as `kubectl apply -f` does.

    Raises SettingsError for what cannot be read, and when there is no object at all.
    """
    try:
        import yaml
    except ImportError:
        raise SettingsError(["manifests wants the extra: pip install 'ops-worker[cluster]'"]) from None

    class Loader(yaml.SafeLoader):
        """YAML without aliases, with which a small file grows without end."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("an alias (*) stands there, which is not read")
            return super().compose_node(parent, index)

    found = []
    for path, text in _texts(paths):
        try:
            objects = list(yaml.load_all(text, Loader=Loader))
        except Exception as error:  # noqa: BLE001 - a tag makes the parser raise whatever its value makes Python raise
            # The Loader's own error has the base class.
            problem = str(error) if type(error) is yaml.YAMLError else yaml_problem(error)
            raise SettingsError([f"{path} is no YAML: {problem}"]) from None
        for one in objects:
            listed = one.get("items") if isinstance(one, dict) and str(one.get("kind")).endswith("List") else [one]
            found += [(path, part) for part in (listed if isinstance(listed, list) else []) if part is not None]
    for path, one in found:
        if not (isinstance(one, dict) and isinstance(one.get("kind"), str)):
            raise SettingsError([f"{path} holds something that is no Kubernetes object: it has no kind"])
    if not found:
        raise SettingsError([f"no object in {', '.join(paths)}"])
    return found


def _texts(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    for path in paths:
        place = Path(path)
        try:
            if path == "-":
                yield "-", _bounded(sys.stdin.buffer, "standard input")
                continue
            inside = sorted(one for one in place.iterdir() if one.suffix in _SUFFIXES) if place.is_dir() else [place]
            for file in inside:
                with file.open("rb") as opened:
                    yield str(file), _bounded(opened, str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError([f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"]) from None


def _bounded(file: BinaryIO, name: str) -> str:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SettingsError([f"{name} is larger than 10 MiB"])
    return data.decode("utf-8")
