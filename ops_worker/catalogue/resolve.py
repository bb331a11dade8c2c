"""Create targets from the entries of services: insert the values of variables and files."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.catalogue.urls import connection_problem, url_problem
from ops_worker.core import expressions
from ops_worker.core.conditions import EXPRESSIONS
from ops_worker.core.model import (
    BODY_METHODS,
    CONNECTION_SCHEMES,
    NO_TAGS,
    TLS_SCHEMES,
    Target,
    Tls,
    scheme_of,
)
from ops_worker.text import without_password

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ops_worker.catalogue.entries import ServiceEntry

MAX_SECRET = 16 << 10
"""Maximum size of a file with the value of a header, in bytes: 16 KiB."""
NO_HEADER = (
    "contains a character that a header value cannot have: "
    "a line end, a control character or a non-ASCII character"
)

_HTTP_KEYS = (
    "path",
    "expect",
    "json",
    "method",
    "body",
    "headers",
    "redirects",
    "redirect_hosts",
    "conditions",
    "counters",
    "counters_at",
)
"""Keys that have no effect without an HTTP request and its answer."""
_TLS_KEYS = ("ca", "certificate", "key", "skip_verify")
"""Keys that have no effect on a connection without TLS."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PATH = re.compile(r"(/|\./|\.\./)[^\x00-\x1f\x7f]{0,254}")


class Surroundings(NamedTuple):
    """The variables and files to which a catalogue may refer.

    ``known`` is false if the catalogue is for another machine. Then a missing variable is not a
    fault, and no file is read.
    """

    variables: Mapping[str, str]
    known: bool = True


def references(text: str) -> list[str]:
    """Return the names of the variables to which a text refers, in order and without duplicates."""
    return list(dict.fromkeys(_REFERENCE.findall(text)))


def is_header_value(text: str) -> bool:
    """Return whether a header can have this value.

    The value must be printable ASCII without spaces around it (RFC 9110, section 5.5, without
    obs-text).
    """
    return bool(re.fullmatch(r"[!-~]([\t -~]*[!-~])?", text))


def resolve(name: str, entry: ServiceEntry, surroundings: Surroundings) -> Target | None:
    """Return the target of a service, or None if its URL is empty.

    A value that is missing or unusable is one of the target's ``faults``.
    """
    return _Resolver(surroundings).target(name, entry)


class _Resolver:
    """Resolves the values of one service and collects their faults."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._variables = surroundings.variables
        self._known = surroundings.known
        self._faults: list[str] = []

    def target(self, name: str, entry: ServiceEntry) -> Target | None:
        """Return the service's target; None if its URL is empty."""
        url, url_template = self._url(entry.url)
        if not url and not self._faults:
            return None
        headers = [(header, self._header(header, value)) for header, value in entry.headers.items()]
        self._check_keys(entry, url)
        self._check_expressions(entry)
        return Target(
            name=name,
            url=_with_path(url, entry.path),
            series=entry.series or name,
            counters=entry.counters,
            counters_at=entry.counters_at,
            expect=entry.expect,
            deadline_s=entry.deadline,
            json=entry.json_body,
            method=entry.method,
            body=self._body(entry),
            body_secrets=self._body_secrets(entry),
            headers=tuple(headers),
            redirects=entry.redirects,
            redirect_hosts=self._redirect_hosts(entry),
            tls=self._tls(entry),
            conditions=entry.conditions,
            max_latency_ms=entry.max_latency_ms,
            certificate_days=entry.certificate_days,
            tags=entry.tags or NO_TAGS,
            alert_after=entry.alert_after,
            resolve_after=entry.resolve_after,
            needs=entry.needs,
            slo=entry.slo,
            slo_window_days=entry.slo_window,
            url_template=_with_path(url_template, entry.path),
            faults=tuple(self._faults),
        )

    def _url(self, choices: Sequence[str]) -> tuple[str, str]:
        """Return the first URL whose variables are all set, and a text to show instead of it.

        The text is empty if the URL itself can be shown. The text is needed if the URL contains
        variables, because they may be secret, or if the URL is invalid. An invalid URL is returned
        as an empty one.
        """
        chosen = next((choice for choice in choices if not self._missing(choice)), None)
        if chosen is None:
            if self._known:
                self._faults.append(f"url: {_not_set(self._missing(choices[-1]))}")
            return choices[-1], ""
        url = self._expanded(chosen)
        variable = _REFERENCE.fullmatch(chosen)
        problem = _url_problem(url) if url else ""
        if problem:
            subject = f"url: {variable.group(1)}" if variable else "url"
            self._faults.append(f"{subject} is not a valid base URL: {problem}")
            return "", _without_host(chosen)
        if variable or url == chosen:
            return url, ""
        return url, chosen

    def _check_keys(self, entry: ServiceEntry, url: str) -> None:
        """Report keys that have no effect with the scheme of the URL."""
        scheme = scheme_of(url)
        names = type(entry).model_fields
        written = {names[name].alias or name for name in entry.model_fields_set}
        if scheme in CONNECTION_SCHEMES:
            self._faults += [
                f"{key} is for http:// and https:// only" for key in _HTTP_KEYS if key in written
            ]
        useless = _TLS_KEYS if scheme in CONNECTION_SCHEMES - TLS_SCHEMES else ()
        if scheme not in {*TLS_SCHEMES, ""}:
            useless = (*useless, "certificate_days")
        self._faults += [
            f"{key} is for https:// and tls:// only" for key in useless if key in written
        ]

    def _check_expressions(self, entry: ServiceEntry) -> None:
        """Report expressions that cannot be used here. Another machine may have the extra."""
        for place, condition in enumerate(entry.conditions):
            if condition.relation not in EXPRESSIONS:
                continue
            problem = expressions.problem(condition.value)
            if problem and (self._known or problem != expressions.NO_EXTRA):
                self._faults.append(f"conditions.{place}.{condition.relation}: {problem}")

    def _body(self, entry: ServiceEntry) -> bytes:
        """Return the body of the request, with the unchanged values of variables."""
        if entry.method == "HEAD" and entry.json_body:
            self._faults.append("method: the answer to HEAD has no body; set `json = false`")
        if entry.body and entry.method not in BODY_METHODS:
            self._faults.append(f"body needs one of the methods {', '.join(BODY_METHODS)}")
        # Bytes of a variable that are not UTF-8 are sent unchanged.
        return self._expanded(entry.body, "body").encode(errors="surrogateescape")

    def _body_secrets(self, entry: ServiceEntry) -> tuple[str, ...]:
        """Return the values of the variables in the body."""
        values = (self._variables.get(name, "").strip() for name in references(entry.body))
        return tuple(value for value in values if value)

    def _redirect_hosts(self, entry: ServiceEntry) -> tuple[str, ...]:
        if entry.redirect_hosts and not entry.redirects:
            self._faults.append("redirect_hosts needs `redirects` as well")
        return entry.redirect_hosts

    def _header(self, header: str, value: str | Mapping[str, str]) -> str:
        """Return the value of a header, without the spaces around it."""
        where = f"headers.{header}"
        before = len(self._faults)
        if isinstance(value, str):
            template, path = value, None
        else:
            template, path = value.get("prefix", ""), value["file"]
        names = references(template)
        for name in names:
            is_empty = name in self._variables and not self._variables[name].strip()
            if is_empty:
                self._faults.append(f"{where}: {name} is empty")
        content = self._expanded(template, where)
        origins = [*names]
        if path is not None:
            content += self._content(where, path)
            origins.append(_shown_path(path))
        content = content.strip()
        if len(self._faults) == before and not is_header_value(content):
            subject = f"{where}: {' and '.join(origins)}" if origins else where
            self._report_header(subject, content)
        return content

    def _report_header(self, subject: str, content: str) -> None:
        if content:
            self._faults.append(f"{subject} {NO_HEADER}")
        elif self._known:
            self._faults.append(f"{subject} is empty")

    def _content(self, where: str, path: str) -> str:
        """Return the secret in a file, without a byte order mark and surrounding white space."""
        data = self._read(where, path, MAX_SECRET + 1)
        file = _shown_path(path)
        if len(data) > MAX_SECRET:
            self._faults.append(f"{where}: {file} cannot be read: larger than 16 KiB")
            return ""
        content = data.decode("utf-8-sig", errors="replace").strip()
        if data and not content:
            self._faults.append(f"{where}: {file} is empty")
        return content

    def _read(self, where: str, path_template: str, limit: int) -> bytes:
        """Return at most ``limit`` bytes of a file. If it cannot be read, add a fault.

        The fault does not show the value of a variable, which may be a secret instead of a path.
        """
        before = len(self._faults)
        path = self._expanded(path_template, where)
        if not self._known or len(self._faults) > before:
            return b""
        problem = "is empty"
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                if data := file.read(limit):
                    return data
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except ValueError:
            problem = "cannot be read: it is not a path"
        self._faults.append(f"{where}: {_shown_path(path_template)} {problem}")
        return b""

    def _tls(self, entry: ServiceEntry) -> Tls:
        """Return the paths of a service's PEM files; none if one of them cannot be read."""
        before = len(self._faults)
        tls = Tls(
            ca=self._path("ca", entry.ca),
            certificate=self._path("certificate", entry.certificate),
            key=self._path("key", entry.key),
            skip_verify=entry.skip_verify,
        )
        if tls.key and not tls.certificate:
            self._faults.append("key needs `certificate` as well")
        return tls if len(self._faults) == before else Tls()

    def _path(self, where: str, template: str) -> str:
        path = self._expanded(template, where)
        if path:
            self._read(where, template, 1)
        return path

    def _expanded(self, text: str, where: str = "") -> str:
        """Insert the values of variables, without the spaces around them.

        A missing variable is a fault, and the text is then empty. If variables are not known, the
        reference remains in the text.
        """
        missing = self._missing(text)
        if missing and self._known:
            self._faults.append(f"{where}: {_not_set(missing)}")
            return ""
        return _REFERENCE.sub(self._value, text)

    def _value(self, reference: re.Match[str]) -> str:
        return self._variables.get(reference.group(1), reference.group()).strip()

    def _missing(self, text: str) -> list[str]:
        return [name for name in references(text) if name not in self._variables]


def _url_problem(url: str) -> str:
    """Return why a service cannot have this URL; empty if the URL is valid."""
    if scheme_of(url) in CONNECTION_SCHEMES:
        return connection_problem(url)
    return url_problem(url, others=CONNECTION_SCHEMES)


def _with_path(base_url: str, path: str) -> str:
    if not base_url or scheme_of(base_url) in CONNECTION_SCHEMES:
        return base_url
    return base_url.rstrip("/") + path


def _without_host(url: str) -> str:
    """Return the beginning of an invalid URL, without parts that may be secret."""
    return re.sub(r"(://[^/:?#]*).*", r"\1", without_password(url), flags=re.DOTALL)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking. A pipe would block until another process writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _not_set(names: Iterable[str]) -> str:
    names = list(names)
    verb = "is" if len(names) == 1 else "are"
    return f"{' and '.join(names)} {verb} not set in the environment or .env"


def _shown_path(path: str) -> str:
    """Return a path for messages if it looks like a path. Otherwise it may be the secret itself."""
    looks_like_path = _REFERENCE.search(path) or _PATH.fullmatch(path)
    return path if looks_like_path else "its file"
