"""The catalogue: which services are watched, which figures are taken. Data, read and checked here, and nowhere else.

``builtin.toml`` holds the platform's own; a file of the user's adds to them, replaces them by name, or stands alone.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ops_worker.core.model import NO_TAGS, Figure, Target, Tls
from ops_worker.core.samples import OPS_WORKER, OWN_METRICS, RESERVED
from ops_worker.text import without_password

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from urllib.parse import SplitResult

    from ops_worker.catalogue.entries import Entries, FigureEntry, ServiceEntry

BUILTIN = Path(__file__).with_name("builtin.toml")
MAX_BYTES = 8 << 20
"""Bytes of a catalogue: 10,000 services take one."""
MAX_LABEL = 63
"""Characters between two dots of a host name (RFC 1035, section 2.3.4)."""
MAX_SECRET = 16 << 10
"""Bytes of a file with the value of a header."""
MAX_SHOWN_BITS = 256
"""Bits of an integer that a fault still quotes."""
BUILTIN_FILE = "built-in catalogue"
NO_HEADER = (
    "holds a character that no header can: a line end, a control character, or one beyond ASCII"
)

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PATH = re.compile(r"(/|\./|\.\./)[^\x00-\x1f\x7f]{0,254}")


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
    file: str = BUILTIN_FILE  # of the user, where there is one

    def located(self, service: str, fault: str) -> str:
        """Return a fault of a service with the file and the entry in which it is."""
        entry = f"services.{service}"
        file = self.file if entry in self.own else BUILTIN_FILE
        return f"{file}: {entry}.{fault}"

    @property
    def faults(self) -> list[str]:
        """The faults of single services, which cost no other service anything."""
        return [
            self.located(target.name, fault) for target in self.targets for fault in target.faults
        ]


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
    """Return what is in force with a user's catalogue, or without; and every fault of its shape.

    A value that one service needs and that is missing or unusable is no fault of the shape: it is
    one of its target's ``faults``.
    """
    builtin, faults = _entries(Source(BUILTIN_FILE, BUILTIN.read_text(encoding="utf-8")))
    mine, wrong = _entries(source) if source is not None else (None, [])
    if builtin is None or wrong:
        return Catalogue(), [*faults, *wrong]
    layers = [builtin] if mine is None or mine.builtin else []
    layers += [mine] if mine is not None else []
    services = {name: entry for layer in layers for name, entry in layer.services.items()}
    figures: dict[tuple[str, str], FigureEntry] = {}
    for layer in layers:
        for group, found in layer.figures.items():
            figures |= {(group, name): entry for name, entry in found.items()}
    file = source.file if source is not None else BUILTIN_FILE
    targets, unwatched = [], []
    for name, service in services.items():
        target = _Resolver(around).target(name, service)
        if target is None:
            unwatched.append(name)
        else:
            targets.append(target)
    taken = tuple(_figure(group, name, entry) for (group, name), entry in figures.items())
    faults += _together(services, targets, taken, file)
    return Catalogue(tuple(targets), taken, tuple(unwatched), _names(mine), file), faults


def references(text: str) -> frozenset[str]:
    """Name the variables that a catalogue refers to."""
    return frozenset(_REFERENCE.findall(text))


def builtin_urls() -> list[tuple[str, tuple[str, ...], str]]:
    """List the platform's services for the documentation: name, variables (the first one set wins), default URL."""
    services = tomllib.loads(BUILTIN.read_text(encoding="utf-8"))["services"]
    return [
        (name, tuple(_REFERENCE.findall(" ".join(one["url"]))), one["url"][-1])
        for name, one in services.items()
    ]


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
        return None, [
            _fault(source.file, fault)
            for fault in error.errors(include_url=False, include_context=False)
        ]
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
    text = re.sub(r"//.*@", "//***@", text)
    return text if len(text) <= 100 else f"{text[:99]}…"  # noqa: PLR2004 - enough to recognise it


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


class _Resolver:
    """Puts the values of variables and files where a service's entry refers to them.

    Gathers what is wrong with these values.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._faults: list[str] = []

    def target(self, name: str, entry: ServiceEntry) -> Target | None:
        """Make a service's target; None where its URL is empty."""
        url, written = self._url(entry.url)
        if not url and not self._faults:
            return None
        headers = [(header, self._header(header, value)) for header, value in entry.headers.items()]
        return Target(
            name=name,
            url=url and url.rstrip("/") + entry.path,
            series=entry.series or name,
            counters=entry.counters,
            counters_at=entry.counters_at,
            expect=entry.expect,
            deadline_s=entry.deadline,
            json=entry.json_body,
            headers=tuple(headers),
            tls=self._tls(entry),
            conditions=entry.conditions,
            max_latency_ms=entry.max_latency_ms,
            tags=entry.tags or NO_TAGS,
            alert_after=entry.alert_after,
            resolve_after=entry.resolve_after,
            url_template=written and written.rstrip("/") + entry.path,
            faults=tuple(self._faults),
        )

    def _url(self, choices: Sequence[str]) -> tuple[str, str]:
        """Return the first URL whose variables are all set, and what to show in its place.

        Something else is shown where variables are parts of it, which may be secret, and where it
        is no URL: then the URL is empty.
        """
        variables = self._around.variables
        missing = [
            [name for name in _REFERENCE.findall(choice) if name not in variables]
            for choice in choices
        ]
        chosen = next((index for index, names in enumerate(missing) if not names), None)
        if chosen is None:
            if self._around.known:
                self._faults.append(f"url: {_not_set(missing[-1])}")
            return choices[-1], ""
        written = choices[chosen]
        url = self._expanded(written)
        problem = url_problem(url) if url else ""
        variable = _REFERENCE.fullmatch(written)
        if problem:
            subject = f"url: {variable.group(1)}" if variable else "url"
            self._faults.append(f"{subject} is no base URL: {problem}")
            return "", re.sub(r"(://[^/:?#]*).*", r"\1", without_password(written), flags=re.DOTALL)
        return url, "" if variable or url == written else written

    def _header(self, header: str, value: str | Mapping[str, str]) -> str:
        """Return a header's value, without the blanks around it, which belong to no value."""
        where = f"headers.{header}"
        before = len(self._faults)
        written = value if isinstance(value, str) else value.get("prefix", "")
        names = dict.fromkeys(_REFERENCE.findall(written))
        for name in names:
            if not self._around.variables.get(name, name).strip():
                self._faults.append(f"{where}: {name} is empty")
        content = self._expanded(written, where)
        origins = [*names]
        if not isinstance(value, str):
            content += self._content(where, value["file"])
            origins.append(_shown_path(value["file"]))
        content = content.strip()
        if len(self._faults) > before or is_header_value(content):
            return content
        subject = f"{where}: {' and '.join(origins)}" if origins else where
        if content:
            self._faults.append(f"{subject} {NO_HEADER}")
        elif self._around.known:
            self._faults.append(f"{subject} is empty")
        return content

    def _content(self, where: str, written: str) -> str:
        """Return what a secret's file holds, without blanks, line ends and a byte order mark around."""
        data = self._read(where, written, MAX_SECRET + 1)
        file = _shown_path(written)
        if len(data) > MAX_SECRET:
            self._faults.append(f"{where}: {file} cannot be read: larger than 16 KiB")
            return ""
        content = data.decode("utf-8-sig", errors="replace").strip()
        if data and not content:
            self._faults.append(f"{where}: {file} is empty")
        return content

    def _read(self, where: str, written: str, limit: int) -> bytes:
        """Return the beginning of a file; nothing, with a fault, where there is none to read.

        What a variable holds that should have been a path is not shown: it may be the secret.
        """
        before = len(self._faults)
        path = self._expanded(written, where)
        if not self._around.known or len(self._faults) > before:
            return b""
        problem = "is empty"
        try:
            with open(path, "rb", opener=_at_once) as file:
                if data := file.read(limit):
                    return data
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except ValueError:
            problem = "cannot be read: it is no path"
        self._faults.append(f"{where}: {_shown_path(written)} {problem}")
        return b""

    def _tls(self, entry: ServiceEntry) -> Tls:
        """Return the paths of a service's PEM files; none where one of them cannot be read."""
        before = len(self._faults)
        found = Tls(*(self._path(where, getattr(entry, where)) for where in Tls._fields))
        if found.key and not found.certificate:
            self._faults.append("key wants a certificate beside it")
        return found if len(self._faults) == before else Tls()

    def _path(self, where: str, written: str) -> str:
        path = self._expanded(written, where)
        if path:
            self._read(where, written, 1)
        return path

    def _expanded(self, text: str, where: str = "") -> str:
        """Put in the variables, without the blanks around their values.

        One that is not set is a fault, or stands as it is where nobody knows them.
        """
        variables = self._around.variables
        names = dict.fromkeys(_REFERENCE.findall(text))
        if missing := [name for name in names if name not in variables]:
            if not self._around.known:
                return _REFERENCE.sub(
                    lambda found: variables.get(found.group(1), found.group()), text
                )
            self._faults.append(f"{where}: {_not_set(missing)}")
            return ""
        return _REFERENCE.sub(lambda found: variables[found.group(1)].strip(), text)


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for anybody: nobody may ever write into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _not_set(names: Sequence[str]) -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{' and '.join(names)} {verb} not set, in the environment or .env"


def _shown_path(written: str) -> str:
    """Return a path as it is written, if it looks like one: else it may be the secret itself."""
    return written if _REFERENCE.search(written) or _PATH.fullmatch(written) else "its file"


def is_header_value(text: str) -> bool:
    """Return whether a header can have this value.

    That is printable ASCII without blanks around it (RFC 9110, section 5.5, without obs-text).
    """
    return bool(re.fullmatch(r"[!-~]([\t -~]*[!-~])?", text))


def url_problem(url: str, *, query: bool = False) -> str:
    """Return why this is no http or https URL to which a path can be added; nothing where it is one.

    No part of it is quoted: whatever is no URL may be a secret.
    """
    bad_host = "its host is no name or address"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return bad_host
    checks = (
        (re.search(r"[\s\x00-\x1f\x7f]", url), "it holds a blank or a control character"),
        (parts.scheme not in {"http", "https"}, "it has to begin with http:// or https://"),
        (not host, "it names no host"),
        (not _has_port(parts), "its port has to be 1 to 65535"),
        ("#" in url or ("?" in url and not query), "it has a query or a fragment"),
        (not is_host(host), bad_host),
    )
    return next((problem for wrong, problem in checks if wrong), "")


def _has_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:  # beyond 65535, or no number
        return False


def is_host(host: str) -> bool:
    """Return whether a host can be a name or an address. What looks like IPv4 has to be one."""
    if re.search(r"[\s\x00-\x1f\x7f]", host) or any(
        len(label) > MAX_LABEL for label in host.split(".")
    ):
        return False
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", host):
        byte = r"25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9]"
        return all(re.fullmatch(byte, part) for part in host.split("."))
    try:
        return host.isascii() or bool(host.encode("idna"))
    except UnicodeError:
        return False


def _figure(group: str, name: str, entry: FigureEntry) -> Figure:
    return Figure(
        group, name, entry.sql, entry.tables, entry.timeout, entry.every, entry.tags or NO_TAGS
    )


def _names(mine: Entries | None) -> frozenset[str]:
    if mine is None:
        return frozenset()
    figures = (f"figures.{group}.{name}" for group, found in mine.figures.items() for name in found)
    return frozenset([*(f"services.{name}" for name in mine.services), *figures])


def _together(
    services: Mapping[str, ServiceEntry],
    targets: Sequence[Target],
    figures: Sequence[Figure],
    file: str,
) -> Iterator[str]:
    """Report what no entry can know alone: names that are taken, rows that would be written twice."""
    yield from _taken(services, targets, file)
    owners = {target.series: target for target in reversed(targets)}
    for figure in figures:
        if problem := _clash(figure, owners):
            yield f"{file}: figures.{figure.name}: {problem}"
    metrics = Counter(figure.metric for figure in figures)
    for figure in figures:
        if figure.every_s and (count := metrics[figure.metric]) > 1:
            yield f"{file}: figures.{figure.name}: with `every` its name has to be its own; {count} figures are called {figure.metric}"


def _taken(services: Iterable[str], targets: Sequence[Target], file: str) -> Iterator[str]:
    """Report names of services and series that are another's, or the worker's own."""
    owners: dict[str, Target] = {}
    for name in services:
        if name in RESERVED:
            yield f"{file}: services.{name}: the name is the worker's own; give it another"
    for target in targets:
        where = f"{file}: services.{target.name}: series {target.series}"
        if target.series in RESERVED and target.name not in RESERVED:
            yield f"{where} is the worker's own; give it another `series`"
        elif target.series in owners:
            owner = owners[target.series]
            yield f"{where} is that of services.{owner.name} as well; give it another `series`"
        owners.setdefault(target.series, target)
    for target in targets:
        owner = owners.get(target.name, target)
        if target.name not in {owner.name, target.series}:  # else the series has been reported
            where = f"{file}: services.{target.name}: the name"
            yield f"{where} is the series of services.{owner.name}; give it another"


def _clash(figure: Figure, owners: Mapping[str, Target]) -> str:
    """Return whose rows a figure would write; nothing where they are its own.

    ``owners`` are the services by their series.
    """
    if figure.series == OPS_WORKER:
        return f"the service {OPS_WORKER} is the worker itself; give it another"
    owner = owners.get(figure.series)
    if figure.metric in OWN_METRICS and (owner or figure.series in RESERVED):
        return "is recorded already, of the service"
    if owner and figure.metric in {counter.name for counter in owner.counters or ()}:
        return f"is recorded already, as a counter of services.{owner.name}"
    return ""
