"""The format of a catalogue: what a service and a figure may say of themselves, and what each key wants."""

from __future__ import annotations

import math
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

from ops_worker.core.conditions import RELATIONS
from ops_worker.core.model import PROBE_DEADLINE_S, Condition, Counter
from ops_worker.core.samples import OWN_METRICS

MAX_SERVICES, MAX_FIGURES = 10_000, 200
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$"
NAME_WANTS = (
    "a name of at most 128 letters, digits and . _ : @ / -, of which the first is a letter or digit"
)
READS = frozenset({"select", "with", "values", "table"})
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
"""Headers that are the worker's own business."""


def field(default: Any = ..., *, wants: str, secret: bool = False, **constraints: Any) -> Any:
    """Declare a key: its default, what it wants in words (for the fault), and whether its value must not be shown."""
    return Field(default, json_schema_extra={"wants": wants, "secret": secret}, **constraints)


def _strictly(*kinds: type) -> BeforeValidator:
    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError("of another type")
        return value

    return BeforeValidator(check)


def _strings(value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if not (isinstance(found, list) and found and all(isinstance(one, str) for one in found)):
        raise ValueError("no strings")
    return tuple(found)


def _path(value: Any) -> str:
    if not (isinstance(value, str) and re.fullmatch(r"/[!-~]*", value) and "#" not in value):
        raise ValueError("no path")
    return value


def _pointer(value: Any) -> str:
    if not (
        isinstance(value, str)
        and (value == "" or value[0] == "/")
        and not re.search(r"~(?![01])", value)
    ):
        raise ValueError("no JSON pointer")
    return value


def _is_status(value: Any) -> bool:
    """Return whether a value is the status of a final answer (RFC 9110, section 15)."""
    return type(value) is int and 200 <= value <= 599  # noqa: PLR2004


def _statuses(value: Any) -> tuple[int, ...]:
    if not (isinstance(value, list) and value and all(map(_is_status, value))):
        raise ValueError("no statuses")
    return tuple(value)


def _headers(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no table")  # noqa: TRY004 - pydantic wants a ValueError
    for name, content in value.items():
        known = isinstance(content, dict) and {"file"} <= content.keys() <= {"file", "prefix"}
        parts = content.values() if known else [content]
        if (
            not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
            or name.lower() in FRAMING
            or not all(isinstance(one, str) for one in parts)
        ):
            raise ValueError("no header")
    return value


def _counters(value: Any) -> tuple[Counter, ...] | None:
    if value == "*":
        return None
    if not isinstance(value, list):
        raise ValueError("no counters")  # noqa: TRY004 - pydantic wants a ValueError
    found = [Counter(one) if isinstance(one, str) else _counter(one) for one in value]
    names = [counter.name for counter in found]
    if len({*names}) < len(names) or not all(
        re.fullmatch(NAME, name) and name not in OWN_METRICS for name in names
    ):
        raise ValueError("no names")
    return tuple(found)


def _counter(value: Any) -> Counter:
    if not (
        isinstance(value, dict)
        and {"name"} < value.keys() <= {"name", "from", "gauge"}
        and isinstance(value["name"], str)
    ):
        raise ValueError("no counter")
    gauge = value.get("gauge", False)
    if not isinstance(gauge, bool):
        raise ValueError("no counter")  # noqa: TRY004 - pydantic wants a ValueError
    return Counter(value["name"], _strings(value["from"]) if "from" in value else (), gauge)


def _condition(value: Any) -> Condition:
    relations = [one for one in value if one in RELATIONS] if isinstance(value, dict) else []
    if len(relations) != 1 or value.keys() != {"pointer", relations[0]}:
        raise ValueError("no condition")
    wanted = value[relations[0]]
    numeric = type(wanted) in {int, float} and math.isfinite(wanted)
    listed = (
        isinstance(wanted, list)
        and wanted
        and all(isinstance(one, (str, int, float, bool)) for one in wanted)
    )
    right = (
        numeric
        if RELATIONS[relations[0]].numeric
        else listed
        if relations[0] == "one_of"
        else isinstance(wanted, (str, int, float, bool))
    )
    if not right:
        raise ValueError("no value")
    return Condition(_pointer(value["pointer"]), relations[0], tuple(wanted) if listed else wanted)


def _tags(value: Any) -> dict[str, str]:
    if not (
        isinstance(value, dict)
        and all(isinstance(one, str) and "\0" not in one + name for name, one in value.items())
    ):
        raise ValueError("no tags")
    return value


def _reading(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no statement")
    bare = re.sub(r"--[^\n]*|/\*.*?\*/|[\s(]+", " ", value, flags=re.DOTALL).split()
    if not bare or bare[0].lower() not in READS:
        raise ValueError("no statement that reads")
    return value.strip().rstrip(";").rstrip()


def _tables(value: Any) -> tuple[str, ...]:
    return () if value == [] else _strings(value if isinstance(value, list) else None)


Number = Annotated[float, _strictly(int, float)]
Whole = Annotated[int, _strictly(int)]
Flag = Annotated[bool, _strictly(bool)]
Name = Annotated[str, StringConstraints(pattern=NAME)]
TAGS = "a table of strings"
PASSES = "a whole number of passes, at least 1"


class Entry(BaseModel):
    """What all entries have in common: an unknown key is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ServiceEntry(Entry):
    """A service. Where one is described by a key that names an environment variable as ``${NAME}``, its value stands there."""

    url: Annotated[tuple[str, ...], PlainValidator(_strings)] = field(
        wants="an http:// or https:// base URL, or a list of which the first counts whose ${VARIABLES} are all set; empty: not watched"
    )
    """Base URL."""
    path: Annotated[str, PlainValidator(_path)] = field(
        "/health", wants="a path that begins with /, of printable ASCII, without #"
    )
    """What is appended to the base URL."""
    series: Name = field("", wants=NAME_WANTS)
    """Its name in `system_metrics`; its own when there is none."""
    expect: Annotated[tuple[int, ...], PlainValidator(_statuses)] = field(
        (200,), wants="a list of HTTP status codes, 200 to 599"
    )
    """The statuses of a healthy answer."""
    json_body: Flag = field(default=True, alias="json", wants="true or false")
    """Whether a healthy answer has to be a JSON object; false: any body will do."""
    deadline: Number = field(
        PROBE_DEADLINE_S, wants="a number of seconds, 0.1 to 60", ge=0.1, le=60
    )
    """Seconds for a probe in all."""
    headers: Annotated[dict[str, Any], PlainValidator(_headers)] = field(
        {},
        secret=True,
        wants='a table of header names with a string each, "${TOKEN}" say, or { file = "PATH", prefix = "Bearer " }',
    )
    """Sent with the request; values are never shown."""
    ca: Annotated[str, _strictly(str)] = field("", wants="the path of a PEM file")
    """Authorities to trust instead of the usual ones."""
    certificate: Annotated[str, _strictly(str)] = field("", wants="the path of a PEM file")
    """The client's certificate."""
    key: Annotated[str, _strictly(str)] = field(
        "", wants="the path of a PEM file, without a password"
    )
    """The key of the client's certificate, where it is in a file of its own."""
    conditions: tuple[Annotated[Condition, PlainValidator(_condition)], ...] = field(
        (),
        wants='a list of tables, { pointer = "/a/b", equals = "ok" } say; instead of equals: '
        + ", ".join(list(RELATIONS)[1:]),
    )
    """What has to hold of the JSON body; else the service is degraded."""
    max_latency_ms: Annotated[int | None, _strictly(int)] = field(
        None, wants="a whole number of milliseconds, 1 to 60000", ge=1, le=60_000
    )
    """The longest latency; a longer one makes the service degraded."""
    counters: Annotated[tuple[Counter, ...] | None, PlainValidator(_counters)] = field(
        (),
        wants=f'"*" for every finite number, or a list of different names (none of them {" or ".join(sorted(OWN_METRICS))}) and of tables '
        '{ name = "depth", from = ["queue_depth", "older_key"], gauge = true }',
    )
    """The counters to record."""
    counters_at: Annotated[str, PlainValidator(_pointer)] = field(
        "/counters", wants='a JSON pointer: "/a/b", or "" for the whole body'
    )
    """Where in the body they stand."""
    tags: Annotated[dict[str, str], PlainValidator(_tags)] = field({}, wants=TAGS)
    """Tags of its rows in `system_metrics`."""
    alert_after: Annotated[int | None, _strictly(int)] = field(None, wants=PASSES, ge=1, le=32767)
    """Its own ALERT_AFTER_FAILURES."""
    resolve_after: Annotated[int | None, _strictly(int)] = field(None, wants=PASSES, ge=1, le=32767)
    """Its own RESOLVE_AFTER_SUCCESSES."""


class FigureEntry(Entry):
    """A figure."""

    sql: Annotated[str, PlainValidator(_reading)] = field(
        wants="one statement that reads (SELECT, WITH, VALUES or TABLE) and returns `value`, or rows of `service`, `value`, `tags`"
    )
    """The statement; what it returns is recorded under the figure's name."""
    tables: Annotated[tuple[str, ...], PlainValidator(_tables)] = field(
        (), wants="a list of table names"
    )
    """Tables that it needs; where one is not there, the figure is absent, without a warning."""
    timeout: Number = field(2.0, wants="a number of seconds, 0.01 to 60", ge=0.01, le=60)
    """Seconds that the database may spend on it."""
    every: Number = field(
        0.0, wants="a number of seconds, 1 to 86400, or 0: in each pass", ge=0, le=86400
    )
    """Its own interval in seconds: it is taken by the first pass of each slot of so many seconds."""
    tags: Annotated[dict[str, str], PlainValidator(_tags)] = field({}, wants=TAGS)
    """Tags of its rows; those that a row brings come on top."""


class Entries(Entry):
    """A catalogue as it is written."""

    builtin: Flag = field(default=True, wants="true, or false: this file stands alone")
    services: dict[Name, ServiceEntry] = field({}, wants="a table of services, [services.NAME]")
    figures: dict[Name, dict[Name, FigureEntry]] = field(
        {}, wants="a table of figures, [figures.SERVICE.NAME]"
    )


def wants(location: tuple[int | str, ...]) -> tuple[str, bool]:
    """Say what the key at a location wants, and whether its value is secret."""
    if "[key]" in location:
        return NAME_WANTS, False
    model: type[Entry] = Entries
    names = [str(one) for one in location]
    if names[0] == "services" and len(names) > 2:  # noqa: PLR2004 - services, its name, its key
        model, names = ServiceEntry, names[2:]
    elif names[0] == "figures" and len(names) > 3:  # noqa: PLR2004 - figures, its service, its name, its key
        model, names = FigureEntry, names[3:]
    for name, found in model.model_fields.items():
        if names[0] in {name, found.alias}:
            extra: Any = found.json_schema_extra
            return extra["wants"], extra.get("secret", False)
    return "", False


def keys(location: tuple[int | str, ...]) -> list[str]:
    """List the keys that may stand where an unknown one does."""
    models: dict[str, type[Entry]] = {"services": ServiceEntry, "figures": FigureEntry}
    model = models.get(str(location[0]), Entries) if len(location) > 1 else Entries
    return [found.alias or name for name, found in model.model_fields.items()]
