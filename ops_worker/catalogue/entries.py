"""The format of a catalogue: the keys of services and figures, and the values that they accept.

The docstrings of the fields and the texts of ``wants`` are public: docs/catalogue.md is generated
from them, and error messages quote ``wants``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
)

from ops_worker.catalogue.urls import is_host
from ops_worker.core.conditions import RELATIONS, wanted_value
from ops_worker.core.model import METHODS, PROBE_DEADLINE_S, Condition, Counter
from ops_worker.core.samples import OWN_METRICS
from ops_worker.core.statuses import expand

MAX_SERVICES, MAX_FIGURES = 10_000, 200
"""Maximum numbers of services and figures in one file."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$"
NAME_WANTS = (
    "a name of at most 128 letters, digits and . _ : @ / -, beginning with a letter or digit"
)
MAX_REQUEST_BODY = 64 << 10
"""Maximum length of the body of a request, in characters."""
MAX_NEEDS = 50
"""Maximum number of services that one service may need directly.

The causes are computed inside a transaction, which must stay short.
"""
MAX_REDIRECTS = 10
"""Maximum number of redirects that one probe may follow. Longer chains are usually loops."""
READS = frozenset({"select", "with", "values", "table"})
"""The first words of statements that read."""
FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "accept-encoding",
    }
)
"""Headers that only the worker sets: they control the connection and the length of the body."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110, section 5.6.2
_COMMENT_OR_SPACE = re.compile(r"--[^\n]*|/\*.*?\*/|[\s(]+", re.DOTALL)


class ExplainedError(ValueError):
    """A value is not accepted. The message says why, instead of listing all accepted values."""


def field(default: Any = ..., *, wants: str, secret: bool = False, **constraints: Any) -> Any:
    """Declare a key.

    ``wants`` describes the accepted values, for error messages. The value of a ``secret`` key is
    never shown.
    """
    return Field(default, json_schema_extra={"wants": wants, "secret": secret}, **constraints)


# pydantic turns the ValueError of a validator into a fault, and does not show its text. It does
# not handle a TypeError. So ruff's TRY004 does not apply here.


def _of_type(*kinds: type) -> BeforeValidator:
    """Accept only values of exactly these types. pydantic would convert values of other types."""

    def check(value: Any) -> Any:
        """Return the value. Raises ValueError if it has another type."""
        if type(value) not in kinds:
            raise ValueError("of another type")
        return value

    return BeforeValidator(check)


def _strings(value: Any) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not strings:
        raise ValueError("not strings")
    if not all(isinstance(string, str) for string in strings):
        raise ValueError("not strings")
    return tuple(strings)


def _path(value: Any) -> str:
    if not isinstance(value, str) or "#" in value or not re.fullmatch(r"/[!-~]*", value):
        raise ValueError("not a path")
    return value


def _pointer(value: Any) -> str:
    """Accept a JSON pointer (RFC 6901, section 3)."""
    if not isinstance(value, str) or re.search(r"~(?![01])", value):
        raise ValueError("not a JSON pointer")
    if value and not value.startswith("/"):
        raise ValueError("not a JSON pointer")
    return value


def _statuses(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("not statuses")
    return tuple(dict.fromkeys(status for item in value for status in _expanded(item)))


def _expanded(item: Any) -> range:
    try:
        return expand(item)
    except ValueError:
        accepted = '200, "2xx" and "200-299", from 200 to 599'
        raise ExplainedError(f"{item!r:.60} does not fit; write {accepted}") from None


def _method(value: Any) -> str:
    if value not in METHODS:
        raise ValueError("not a method")
    return str(value)


def _body(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_REQUEST_BODY:
        raise ValueError("not a body")
    return value


def _needs(value: Any) -> tuple[str, ...]:
    names = () if value == [] else _strings(value)
    if len(names) > MAX_NEEDS or not all(re.fullmatch(NAME, name) for name in names):
        raise ValueError("not names")
    return tuple(dict.fromkeys(names))


def _hosts(value: Any) -> tuple[str, ...]:
    hosts = _strings(value)
    # A scheme, a port or a path is not a part of a host.
    if not all(is_host(host) and re.fullmatch(r"[^/@?#\[\]]+", host) for host in hosts):
        raise ValueError("not hosts")
    if any(re.fullmatch(r"[^:]*:[^:]*", host) for host in hosts):
        raise ValueError("a host with a port")
    return hosts


def _headers(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a table")  # noqa: TRY004
    for name, content in value.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in FRAMING:
            raise ValueError("not a header name")
        if not _is_header_content(content):
            raise ValueError("not a header value")
    return value


def _is_header_content(content: Any) -> bool:
    if not isinstance(content, dict):
        return isinstance(content, str)
    has_valid_keys = {"file"} <= content.keys() <= {"file", "prefix"}
    return has_valid_keys and all(isinstance(part, str) for part in content.values())


def _counters(value: Any) -> tuple[Counter, ...] | None:
    if value == "*":
        return None
    if not isinstance(value, list):
        raise ValueError("not counters")  # noqa: TRY004
    counters = tuple(_counter(item) for item in value)
    names = [counter.name for counter in counters]
    if len({*names}) < len(names):
        raise ValueError("a name twice")
    if not all(re.fullmatch(NAME, name) and name not in OWN_METRICS for name in names):
        raise ValueError("not names")
    return counters


def _counter(value: Any) -> Counter:
    if isinstance(value, str):
        return Counter(value)
    if not isinstance(value, dict) or not {"name"} < value.keys() <= {"name", "from", "gauge"}:
        raise ValueError("not a counter")
    name, gauge = value["name"], value.get("gauge", False)
    if not isinstance(name, str) or not isinstance(gauge, bool):
        raise ValueError("not a counter")  # noqa: TRY004
    keys = _strings(value["from"]) if "from" in value else ()
    return Counter(name, keys, gauge)


def _condition(value: Any) -> Condition:
    """Accept a relation and the part of the answer that it is about, by default the body."""
    relations = [key for key in value if key in RELATIONS] if isinstance(value, dict) else []
    if not relations:
        raise ValueError("not a condition")
    if len(relations) > 1:
        raise ExplainedError(f"{' and '.join(relations)}: write each of them as its own condition")
    relation = relations[0]
    parts = value.keys() - {relation}
    if not RELATIONS[relation].accepts(value[relation]):
        raise ExplainedError(f"{relation} must be {wanted_value(relation)}")
    if not parts <= {"pointer", "header"} or len(parts) > 1:
        raise ExplainedError(f"beside {relation} there must be pointer, header, or no other key")
    expected = value[relation]
    if isinstance(expected, list):
        expected = tuple(expected)
    if parts == {"pointer"}:
        return Condition(_condition_pointer(value["pointer"]), relation, expected)
    if parts == {"header"}:
        return Condition(None, relation, expected, _header_name(value["header"]))
    return Condition(None, relation, expected)


def _condition_pointer(value: Any) -> str:
    try:
        return _pointer(value)
    except ValueError:
        problem = 'pointer must be a JSON pointer: "/a/b", or "" for the whole body'
        raise ExplainedError(problem) from None


def _header_name(value: Any) -> str:
    if not isinstance(value, str) or not _HEADER_NAME.fullmatch(value):
        raise ExplainedError("header must be the name of a response header")
    return value.lower()


def _tags(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("not a table")  # noqa: TRY004
    for name, content in value.items():
        # PostgreSQL cannot store NUL.
        if not isinstance(content, str) or "\0" in name + content:
            raise ValueError("not tags")
    return value


def _reading(value: Any) -> str:
    """Accept a statement whose first word is one of READS, after comments and parentheses."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not a statement")
    words = _COMMENT_OR_SPACE.sub(" ", value).split()
    if not words or words[0].lower() not in READS:
        raise ValueError("not a statement that reads")
    return value.strip().rstrip(";").rstrip()


def _tables(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("not a list")  # noqa: TRY004
    return _strings(value) if value else ()


Number = Annotated[float, _of_type(int, float)]
Whole = Annotated[int, _of_type(int)]
Flag = Annotated[bool, _of_type(bool)]
Name = Annotated[str, StringConstraints(pattern=NAME)]
TAGS = "a table of strings"
PASSES = "a whole number of passes, 1 to 32767"


class Entry(BaseModel):
    """The base of all entries: an unknown key is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ServiceEntry(Entry):
    """A service in the catalogue. References to variables are not resolved."""

    url: Annotated[tuple[str, ...], PlainValidator(_strings)] = field(
        wants="an http:// or https:// base URL, tcp://HOST:PORT, tls://HOST:PORT, or a list of "
        "them: the first one whose ${VARIABLES} are all set is used; empty: not monitored"
    )
    """Base URL. A probe of `tcp://` or `tls://` only [connects](#connections)."""
    path: Annotated[str, PlainValidator(_path)] = field(
        "/health", wants="a path that begins with /, of printable ASCII characters, without #"
    )
    """Path that is appended to the base URL."""
    series: Name = field("", wants=NAME_WANTS)
    """Name of the service in `system_metrics`. By default it is the name of the service."""
    expect: Annotated[tuple[int, ...], PlainValidator(_statuses)] = field(
        (200,),
        wants='a list of HTTP status codes, 200 to 599, of classes such as "2xx" '
        'and of ranges such as "200-299"',
    )
    """HTTP statuses of a healthy answer."""
    json_body: Flag = field(default=True, alias="json", wants="true or false")
    """The body of a healthy answer must be a JSON object. If false, any body is accepted."""
    method: Annotated[str, PlainValidator(_method)] = field(
        "GET", wants=f"one of {', '.join(METHODS)}"
    )
    """Method of the request. The answer to HEAD has no body, so that it needs `json = false`."""
    body: Annotated[str, PlainValidator(_body)] = field(
        "", secret=True, wants=f"a string of at most {MAX_REQUEST_BODY >> 10} Ki characters"
    )
    """Content of the request, for POST, PUT, PATCH and DELETE. No command shows it. But a reason
    may quote a part of it that a service sends back, so put secrets into variables. The header
    `Content-Type` names its type."""
    deadline: Number = field(
        PROBE_DEADLINE_S, wants="a number of seconds, 0.1 to 60", ge=0.1, le=60
    )
    """Longest duration of a probe in seconds."""
    headers: Annotated[dict[str, Any], PlainValidator(_headers)] = field(
        {},
        secret=True,
        wants="a table of header names and values; a value is a string, for example "
        '"Bearer ${TOKEN}", or { file = "PATH", prefix = "Bearer " }',
    )
    """Request headers. Their values are never shown."""
    redirects: Whole = field(
        0, wants=f"a whole number, 0 to {MAX_REDIRECTS}", ge=0, le=MAX_REDIRECTS
    )
    """Number of redirects that a probe follows, to the host of the URL only."""
    redirect_hosts: Annotated[tuple[str, ...], PlainValidator(_hosts)] = field(
        (), wants="a list of host names and addresses, without port"
    )
    """Further hosts to which a probe follows redirects."""
    ca: Annotated[str, _of_type(str)] = field("", wants="the path of a PEM file")
    """Certificate authorities to trust instead of the default ones."""
    certificate: Annotated[str, _of_type(str)] = field("", wants="the path of a PEM file")
    """Client certificate."""
    key: Annotated[str, _of_type(str)] = field(
        "", wants="the path of a PEM file, without a password"
    )
    """Private key of the client certificate, if it is in a separate file."""
    skip_verify: Flag = field(default=False, wants="true or false")
    """Accept any certificate. `ops-worker check` warns about it."""
    conditions: tuple[Annotated[Condition, PlainValidator(_condition)], ...] = field(
        (),
        wants='a list of tables, for example { pointer = "/a/b", equals = "ok" }, '
        '{ header = "content-type", contains = "json" } or, for the text of the body, '
        f'{{ contains = "ok" }}; instead of equals: {", ".join(list(RELATIONS)[1:])}',
    )
    """[Conditions](#conditions) on the JSON body, on a header or on the text of the body. If one is
    broken, the service is degraded."""
    max_latency_ms: Annotated[int | None, _of_type(int)] = field(
        None, wants="a whole number of milliseconds, 1 to 60000", ge=1, le=60_000
    )
    """Longest latency in milliseconds. If the latency is longer, the service is degraded."""
    certificate_days: Annotated[int | None, _of_type(int)] = field(
        None, wants="a whole number of days, 0 to 3650", ge=0, le=3650
    )
    """Days for which the certificate of an https or tls server must still be valid. If fewer are
    left, the service is degraded. The days are recorded as `certificate_days_left`; 0 records them,
    and degrades the service only after the end."""
    counters: Annotated[tuple[Counter, ...] | None, PlainValidator(_counters)] = field(
        (),
        wants='"*" for every finite number, or a list of unique names '
        f"(not {', '.join(sorted(OWN_METRICS))}) and of tables "
        '{ name = "depth", from = ["queue_depth", "older_key"], gauge = true }',
    )
    """Counters to record."""
    counters_at: Annotated[str, PlainValidator(_pointer)] = field(
        "/counters", wants='a JSON pointer: "/a/b", or "" for the whole body'
    )
    """Place of the counters in the JSON body."""
    tags: Annotated[dict[str, str], PlainValidator(_tags)] = field({}, wants=TAGS)
    """Tags of the service's rows in `system_metrics`."""
    alert_after: Annotated[int | None, _of_type(int)] = field(None, wants=PASSES, ge=1, le=32767)
    """ALERT_AFTER_FAILURES of this service."""
    resolve_after: Annotated[int | None, _of_type(int)] = field(None, wants=PASSES, ge=1, le=32767)
    """RESOLVE_AFTER_SUCCESSES of this service."""
    needs: Annotated[tuple[str, ...], PlainValidator(_needs)] = field(
        (), wants=f"the name of a service of the catalogue, or a list of at most {MAX_NEEDS} names"
    )
    """Services that this one needs. While one of them is unhealthy, no alert opens for this one."""
    slo: Annotated[float | None, _of_type(int, float)] = field(
        None, wants="a percentage, more than 0 and less than 100, for example 99.9", gt=0, lt=100
    )
    """Service level objective: the percentage of the time in which the service is to be healthy.
    `status` and `report` show the rest of its error budget."""
    slo_window: Whole = field(30, wants="a whole number of days, 1 to 365", ge=1, le=365)
    """Days up to now over which the objective is measured."""


class FigureEntry(Entry):
    """A figure in the catalogue."""

    sql: Annotated[str, PlainValidator(_reading)] = field(
        wants="one statement that reads (SELECT, WITH, VALUES or TABLE) and returns `value`, or "
        "rows of `service`, `value` and `tags`"
    )
    """SQL statement. The value that it returns is recorded under the name of the figure."""
    tables: Annotated[tuple[str, ...], PlainValidator(_tables)] = field(
        (), wants="a list of table names"
    )
    """Tables that the statement needs. If one does not exist, the figure is absent, without a
    warning."""
    timeout: Number = field(2.0, wants="a number of seconds, 0.01 to 60", ge=0.01, le=60)
    """Longest duration of the statement in seconds."""
    every: Number = field(
        0.0, wants="a number of seconds, 1 to 86400, or 0: in every pass", ge=0, le=86400
    )
    """Interval of the figure in seconds. The first pass in each interval measures it."""
    tags: Annotated[dict[str, str], PlainValidator(_tags)] = field({}, wants=TAGS)
    """Tags of the figure's rows. Tags that a row returns are added, and win."""


class Entries(Entry):
    """A whole catalogue file."""

    builtin: Flag = field(default=True, wants="true, or false to use only the entries of this file")
    """The built-in entries are in force as well."""
    services: dict[Name, ServiceEntry] = field({}, wants="a table of services, [services.NAME]")
    """The services by name."""
    figures: dict[Name, dict[Name, FigureEntry]] = field(
        {}, wants="a table of figures, [figures.SERVICE.NAME]"
    )
    """The figures by service and name."""


def wants(location: tuple[int | str, ...]) -> tuple[str, bool]:
    """Return the accepted values of the key at a location, and whether its value is secret."""
    if "[key]" in location:
        return NAME_WANTS, False
    model, key = _model_at(location)
    for name, key_field in model.model_fields.items():
        if key in {name, key_field.alias}:
            extra: Any = key_field.json_schema_extra
            return extra["wants"], extra["secret"]
    return "", False


def keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are valid at the location of an unknown key."""
    model, _ = _model_at(location)
    return [key_field.alias or name for name, key_field in model.model_fields.items()]


def _model_at(location: tuple[int | str, ...]) -> tuple[type[Entry], str]:
    """Return the entry at a location of a catalogue, and the key in that entry."""
    match location:
        case ("services", _, key, *_):
            return ServiceEntry, str(key)
        case ("figures", _, _, key, *_):
            return FigureEntry, str(key)
    return Entries, str(location[0])
