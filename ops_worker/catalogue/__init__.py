"""The catalogue: which services are watched, which figures are taken. Data, read and checked here, and nowhere else.

``builtin.toml`` holds the platform's own; a file of the user's adds to them, replaces them by name, or stands alone.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ops_worker.core.model import NO_TAGS, Figure, Target, Tls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ops_worker.catalogue.entries import Entries, FigureEntry, ServiceEntry

BUILTIN = Path(__file__).with_name("builtin.toml")
MAX_BYTES = 8 << 20
"""Bytes of a catalogue: 10,000 services take one."""
MAX_SECRET = 16 << 10
"""Bytes of a file with the value of a header."""
URL_WANTS = "an http:// or https:// base URL, or nothing: not watched"
RESERVED = ("postgres", "ops_worker")
"""Series of the database's and the worker's own rows."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Source(NamedTuple):
    """A catalogue as text, and the name of its file for what is told of it."""

    file: str
    text: str


class Catalogue(NamedTuple):
    """What is in force: the watched services, the figures, the services whose URL is empty; which of these are of the user's file."""

    targets: tuple[Target, ...] = ()
    figures: tuple[Figure, ...] = ()
    unwatched: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()  # "services.NAME" and "figures.SERVICE.NAME"


class Surroundings(NamedTuple):
    """What a catalogue may refer to: variables by name, and files. Where they are another machine's, they are not ``known``."""

    variables: Mapping[str, str]
    known: bool = True


def read(path: Path) -> Source:
    """Read a file. Raises OSError or ValueError with what is wrong."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("larger than 8 MiB")
    return Source(str(path), data.decode("utf-8"))


def load(source: Source | None, around: Surroundings) -> tuple[Catalogue, list[str]]:
    """Give what is in force with a user's catalogue, or without; and every fault that there is."""
    builtin, faults = _entries(Source("built-in catalogue", BUILTIN.read_text(encoding="utf-8")))
    mine, wrong = _entries(source) if source is not None else (None, [])
    if builtin is None or wrong:
        return Catalogue(), [*faults, *wrong]
    layers = [(builtin, "built-in catalogue")] if mine is None or mine.builtin else []
    layers += [(mine, source.file)] if mine is not None and source is not None else []
    services = {name: (entry, file) for layer, file in layers for name, entry in layer.services.items()}
    figures = {
        (group, name): (entry, file) for layer, file in layers for group, found in layer.figures.items() for name, entry in found.items()
    }
    resolver = _Resolver(around, faults)
    targets, unwatched = [], []
    for name, (service, file) in services.items():
        target = resolver.target(name, service, file)
        if target is None:
            unwatched.append(name)
        else:
            targets.append(target)
    taken = tuple(_figure(group, name, entry) for (group, name), (entry, _) in figures.items())
    faults += _together(targets, taken, source.file if source is not None else "built-in catalogue")
    return Catalogue(tuple(targets), taken, tuple(unwatched), _names(mine)), faults


def references(text: str) -> frozenset[str]:
    """Name the variables that a catalogue refers to."""
    return frozenset(_REFERENCE.findall(text))


def builtin_urls() -> list[tuple[str, tuple[str, ...], str]]:
    """List the platform's services for the documentation: name, variables (the first one set wins), default URL."""
    services = tomllib.loads(BUILTIN.read_text(encoding="utf-8"))["services"]
    return [(name, tuple(_REFERENCE.findall(" ".join(one["url"]))), one["url"][-1]) for name, one in services.items()]


def _entries(source: Source) -> tuple[Entries | None, list[str]]:
    from pydantic import ValidationError

    from ops_worker.catalogue.entries import MAX_FIGURES, MAX_SERVICES, Entries

    try:
        document = tomllib.loads(source.text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return None, [f"{source.file}: no TOML: {str(error) or 'nested too deeply'}"]
    try:
        found = Entries.model_validate(document)
    except ValidationError as error:
        return None, [_fault(source.file, fault) for fault in error.errors(include_url=False, include_context=False)]
    faults = []
    if len(found.services) > MAX_SERVICES:
        faults.append(
            f"{source.file}: services: {len(found.services)} services, but at most {MAX_SERVICES}; divide them among several installations"
        )
    if (count := sum(map(len, found.figures.values()))) > MAX_FIGURES:
        faults.append(f"{source.file}: figures: {count} figures, but at most {MAX_FIGURES}")
    return found, faults


def _fault(file: str, fault: Mapping[str, Any]) -> str:
    from ops_worker.catalogue.entries import keys, wants

    location = fault["loc"]
    where = ".".join(str(part) for part in location if part != "[key]")
    if fault["type"] == "extra_forbidden":
        return f"{file}: {where}: unknown key; there are {', '.join(keys(location))}"
    wanted, secret = wants(location)
    if fault["type"] == "missing":
        return f"{file}: {where} is missing; it wants {wanted}"
    if "[key]" in location:
        return f"{file}: {where} is no name; it wants {wanted}"
    shown = "set to something (not shown)" if secret else _shown(fault["input"])
    return f"{file}: {where} is {shown}, but wants {wanted or 'a table'}"


def _shown(value: Any) -> str:
    text = " ".join(_plain(value).split())
    text = re.sub(r"//\S*@", "//***@", text)
    return text if len(text) <= 100 else f"{text[:99]}…"  # noqa: PLR2004 - enough to recognise it


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"an integer of {value.bit_length()} bits" if isinstance(value, int) and value.bit_length() > 256 else repr(value)  # noqa: PLR2004


class _Resolver:
    """Puts the values of variables and files where an entry refers to them."""

    def __init__(self, around: Surroundings, faults: list[str]) -> None:
        self._around = around
        self._faults = faults

    def target(self, name: str, entry: ServiceEntry, file: str) -> Target | None:
        """Make a service's target; None where its URL is empty."""
        where = f"{file}: services.{name}"
        url, written = self._url(where, entry.url)
        if not url:
            return None
        headers = tuple((header, self._header(f"{where}.headers.{header}", value)) for header, value in entry.headers.items())
        files = (entry.ca, entry.certificate, entry.key)
        tls = Tls(*(self._path(f"{where}.{what}", path) for what, path in zip(("ca", "certificate", "key"), files, strict=True)))
        if tls.key and not tls.certificate:
            self._faults.append(f"{where}.key wants a certificate beside it")
        return Target(
            name,
            url.rstrip("/") + entry.path,
            entry.series or name,
            entry.counters,
            entry.counters_at,
            entry.expect,
            entry.deadline,
            entry.json_body,
            headers,
            tls,
            entry.conditions,
            entry.max_latency_ms,
            entry.tags or NO_TAGS,
            entry.alert_after,
            entry.resolve_after,
            written and written.rstrip("/") + entry.path,
        )

    def _url(self, where: str, choices: Sequence[str]) -> tuple[str, str]:
        """Give the first URL whose variables are all set, and how it is written where variables are parts of it, which may be secret."""
        variables = self._around.variables
        missing = [[name for name in _REFERENCE.findall(choice) if name not in variables] for choice in choices]
        chosen = next((index for index, names in enumerate(missing) if not names), None)
        if chosen is None:
            if self._around.known:
                self._faults.append(f"{where}.url: {' and '.join(missing[-1])} is not set, in the environment or .env")
            return choices[-1], ""
        url = self._expanded(choices[chosen])
        variable = _REFERENCE.fullmatch(choices[chosen])
        if url and not is_base_url(url):
            subject = variable.group(1) if variable else f"{where}.url"
            self._faults.append(f"{subject} is {_shown(url)}, but wants {URL_WANTS}")
        return url, "" if variable or url == choices[chosen] else choices[chosen]

    def _header(self, where: str, value: str | Mapping[str, str]) -> str:
        content = self._expanded(value, where) if isinstance(value, str) else self._expanded(value.get("prefix", ""), where)
        if not isinstance(value, str):
            content += self._content(where, self._expanded(value["file"], where))
        if not re.fullmatch(r"[\t -~\x80-\xff]*", content):
            self._faults.append(f"{where} is set to something (not shown) that no header can hold: a line end or another control character")
        return content

    def _content(self, where: str, path: str) -> str:
        if not self._around.known:
            return ""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_SECRET + 1)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        else:
            if len(data) <= MAX_SECRET:
                return data.decode("latin-1").strip()
            reason = "larger than 16 KiB"
        self._faults.append(f"{where}: {path} cannot be read: {reason}")
        return ""

    def _path(self, where: str, path: str) -> str:
        found = self._expanded(path, where)
        if found and self._around.known and not Path(found).is_file():
            self._faults.append(f"{where}: {found}: no such file")
        return found

    def _expanded(self, text: str, where: str = "") -> str:
        """Put in the variables; one that is not set is a fault, or stands as it is where nobody knows them."""

        def value(found: re.Match[str]) -> str:
            name = found.group(1)
            if name not in self._around.variables:
                if self._around.known:
                    self._faults.append(f"{where}: {name} is not set, in the environment or .env")
                return found.group() if not self._around.known else ""
            return self._around.variables[name]

        return _REFERENCE.sub(value, text)


def is_base_url(url: str) -> bool:
    """Whether this is an http or https URL to which a path can be appended."""
    try:
        parts = urlsplit(url)  # raises ValueError for a bad IPv6 address
        port_in_range = parts.port is None or parts.port > 0  # the property raises ValueError above 65535
    except ValueError:
        return False
    plain = not re.search(r"[\s\x00-\x1f]", url) and not parts.query and not parts.fragment
    return bool(parts.scheme in {"http", "https"} and parts.hostname and port_in_range and plain)


def _figure(group: str, name: str, entry: FigureEntry) -> Figure:
    return Figure(group, name, entry.sql, entry.tables, entry.timeout, entry.every, entry.tags or NO_TAGS)


def _names(mine: Entries | None) -> frozenset[str]:
    if mine is None:
        return frozenset()
    figures = (f"figures.{group}.{name}" for group, found in mine.figures.items() for name in found)
    return frozenset([*(f"services.{name}" for name in mine.services), *figures])


def _together(targets: Sequence[Target], figures: Sequence[Figure], file: str) -> Iterator[str]:
    """Say what no entry can know alone: rows that would be written twice."""
    owners: dict[str, str] = {}
    for target in targets:
        where = f"{file}: services.{target.name}: series {target.series}"
        if target.series in RESERVED:
            yield f"{where} is the worker's own; give it another `series`"
        elif target.series in owners:
            yield f"{where} is that of services.{owners[target.series]} as well; give it another `series`"
        owners.setdefault(target.series, target.name)
    for figure in figures:
        if figure.metric == "healthy" and (figure.series in owners or figure.series in RESERVED):
            yield f"{file}: figures.{figure.name}: is recorded already, of the service"
    metrics = Counter(figure.metric for figure in figures)
    for figure in figures:
        if figure.every_s and (count := metrics[figure.metric]) > 1:
            yield f"{file}: figures.{figure.name}: with `every` its name has to be its own; {count} figures are called {figure.metric}"
