"""Read and parse the text of a catalogue, and describe the faults of its shape."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops_worker.catalogue.entries import Entries

MAX_BYTES = 8 << 20
"""Maximum size of a catalogue in bytes: 8 MiB. 10,000 services need about 1 MiB."""
MAX_SHOWN = 100
"""Maximum number of characters of a value in a message: enough to recognise the value."""
MAX_SHOWN_BITS = 256
"""Maximum number of bits of an integer that a message shows as a number."""


class Source(NamedTuple):
    """The text of a catalogue, and the name of its file for messages."""

    file: str
    text: str


def read(path: Path) -> Source:
    """Read a file.

    Raises OSError if the file cannot be read, and ValueError if it is too large or not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("larger than 8 MiB")
    return Source(str(path), data.decode("utf-8"))


def parse(source: Source) -> tuple[Entries | None, list[str]]:
    """Return the entries of a catalogue and the faults of its shape.

    The entries are None if the text is not a valid catalogue.
    """
    # The import of pydantic takes long, and `--help` does not need it.
    from pydantic import ValidationError

    from ops_worker.catalogue.entries import Entries

    try:
        document = tomllib.loads(source.text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return None, [f"{source.file}: not valid TOML: {str(error) or 'nested too deeply'}"]
    try:
        entries = Entries.model_validate(document)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        return None, [_fault(source.file, details) for details in errors]
    return entries, _limits_exceeded(source.file, entries)


def _limits_exceeded(file: str, entries: Entries) -> list[str]:
    from ops_worker.catalogue.entries import MAX_FIGURES, MAX_SERVICES

    faults = []
    services = len(entries.services)
    if services > MAX_SERVICES:
        faults.append(
            f"{file}: services: {services} services, but the limit is {MAX_SERVICES}; "
            "divide them among several installations"
        )
    figures = sum(map(len, entries.figures.values()))
    if figures > MAX_FIGURES:
        faults.append(f"{file}: figures: {figures} figures, but the limit is {MAX_FIGURES}")
    return faults


def _fault(file: str, details: Mapping[str, Any]) -> str:
    """Describe an error of pydantic: file, key, value unless secret, and the accepted values."""
    from ops_worker.catalogue.entries import ExplainedError, keys, wants

    location = details["loc"]
    key = ".".join(str(part) for part in location if part != "[key]")
    if details["type"] == "extra_forbidden":
        return f"{file}: {key}: unknown key; valid keys are {', '.join(keys(location))}"
    expected, is_secret = wants(location)
    if details["type"] == "missing":
        return f"{file}: {key} is missing; expected {expected}"
    if "[key]" in location:
        return f"{file}: {key} is not a valid name; expected {expected}"
    if is_secret:
        return f"{file}: {key} has an invalid value (not shown); expected {expected}"
    error = details.get("ctx", {}).get("error")
    if isinstance(error, ExplainedError):
        return f"{file}: {key} is {_shown(details['input'])}; {error}"
    return f"{file}: {key} is {_shown(details['input'])}; expected {expected or 'a table'}"


def _shown(value: Any) -> str:
    text = " ".join(_plain(value).split())
    text = re.sub(r"//.*@", "//***@", text)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)
