"""The catalogue: what a file may contain, what it means, and the faults of a bad file."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.catalogue import Catalogue, Source, Surroundings, load
from ops_worker.cli import main
from ops_worker.core import expressions
from ops_worker.core.model import Condition, Counter, Figure, Target, Tls

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

ALONE = "builtin = false\n"


def read(text: str, *, known: bool = True, **variables: str) -> tuple[Catalogue, list[str]]:
    """Load a catalogue with this text and these environment variables."""
    return load(Source("c.toml", text), Surroundings(variables, known))


def test_builtin() -> None:
    """Without a file, the built-in services and figures are in force. They have no faults."""
    catalogue, faults = load(
        None, Surroundings({"INGEST_URL": "", "EVALUATOR_URL": "http://e:1/base/"})
    )
    assert not faults
    assert [(target.name, target.series) for target in catalogue.targets] == [
        ("evaluator", "evaluator"),
        ("dispatcher", "dispatcher"),
        ("delivery_worker", "delivery"),
    ]
    assert catalogue.targets[0].url == "http://e:1/base/health"
    assert catalogue.unmonitored == ("ingest",)
    assert [figure.name for figure in catalogue.figures] == [
        "postgres.connections",
        "postgres.db_size_bytes",
        "platform.devices_online",
        "platform.devices_stale",
        "platform.alerts_open",
        "platform.deliveries_pending",
    ]


EVERYTHING = """
builtin = false
[services."shop.eu"]
url = ["${NOT_SET}", "https://${HOST}:8443/shop/"]
path = "/status?full=1"
series = "shop"
expect = [203, "200", "304-306", 203]
json = true
method = "PUT"
body = '{"key": "${TOKEN}", "n": "${TOKEN}"}'
redirects = 2
redirect_hosts = ["login.example", "::1"]
skip_verify = true
needs = ["db", "off", "db"]
deadline = 2
headers = { Authorization = "Bearer ${TOKEN}", X-Key = { file = "FOLDER/key", prefix = "k=" } }
ca = "${DIR}/ca.pem"
certificate = "FOLDER/ca.pem"
key = "FOLDER/key"
conditions = [
    { pointer = "/db/state", one_of = ["up", "ok"] },
    { pointer = "/queue", at_most = 100 },
]
max_latency_ms = 300
counters = ["a", { name = "depth", from = ["queue", "backlog"] }, { name = "b", from = "B" }]
counters_at = "/stats"
tags = { team = "shop" }
slo = 99.5
slo_window = 7
alert_after = 3
[services.db]
url = "http://db"
needs = "off"
[services.off]
url = ""
[figures.orders.open]
sql = "SELECT count(*) AS value FROM orders; "
tables = ["orders"]
timeout = 0.5
every = 60
tags = { kind = "x" }
"""


def test_everything(tmp_path: Path) -> None:
    """Every key of a service and of a figure sets its field."""
    (tmp_path / "key").write_text("s3cret\n")
    (tmp_path / "ca.pem").write_text("x")
    catalogue, faults = read(
        EVERYTHING.replace("FOLDER", str(tmp_path)),
        HOST="shop.example",
        TOKEN="t0ken",
        DIR=str(tmp_path),
    )
    assert not faults
    assert catalogue.targets == (
        Target(
            "shop.eu",
            "https://shop.example:8443/shop/status?full=1",
            "shop",
            (Counter("a"), Counter("depth", ("queue", "backlog")), Counter("b", ("B",))),
            "/stats",
            (203, 200, 304, 305, 306),
            2.0,
            json=True,
            method="PUT",
            body=b'{"key": "t0ken", "n": "t0ken"}',
            body_secrets=("t0ken",),
            redirects=2,
            redirect_hosts=("login.example", "::1"),
            headers=(("Authorization", "Bearer t0ken"), ("X-Key", "k=s3cret")),
            tls=Tls(
                f"{tmp_path}/ca.pem", f"{tmp_path}/ca.pem", f"{tmp_path}/key", skip_verify=True
            ),
            conditions=(
                Condition("/db/state", "one_of", ("up", "ok")),
                Condition("/queue", "at_most", 100),
            ),
            max_latency_ms=300,
            tags={"team": "shop"},
            alert_after=3,
            needs=("db", "off"),
            slo=99.5,
            slo_window_days=7,
            url_template="https://${HOST}:8443/shop/status?full=1",
        ),
        Target("db", "http://db/health", "db", (), needs=("off",)),
    )
    assert catalogue.figures == (
        Figure(
            "orders",
            "open",
            "SELECT count(*) AS value FROM orders",
            ("orders",),
            0.5,
            60.0,
            {"kind": "x"},
        ),
    )
    assert catalogue.user_entries == {
        "services.shop.eu",
        "services.db",
        "services.off",
        "figures.orders.open",
    }


def test_added_and_replaced() -> None:
    """A file adds entries to the built-in catalogue. An entry with the same name is replaced."""
    catalogue, faults = read(
        '[services.evaluator]\nurl = "http://mine"\n'
        '[services.shop]\nurl = "http://s"\ncounters = "*"\n'
        '[figures.platform.alerts_open]\nsql = "SELECT 1 AS value"\nevery = 30\n'
    )
    assert not faults
    assert [
        (target.name, target.url, target.counters)
        for target in catalogue.targets[1:2] + catalogue.targets[4:]
    ] == [
        ("evaluator", "http://mine/health", ()),
        ("shop", "http://s/health", None),
    ]
    assert [figure.every_s for figure in catalogue.figures] == [0, 0, 0, 0, 30, 0]


URL = (
    "an http:// or https:// base URL, tcp://HOST:PORT, tls://HOST:PORT, or a list of them: "
    "the first one whose ${VARIABLES} are all set is used; empty: not monitored"
)
STATEMENT = (
    "one statement that reads (SELECT, WITH, VALUES or TABLE) and returns `value`, "
    "or rows of `service`, `value` and `tags`"
)
NAMES = "the name of a service of the catalogue, or a list of at most 50 names"
RESERVED = "the name is reserved for the worker; choose another name"
S = "c.toml: services.a"
F = "c.toml: figures.a.b"


def service(keys: str) -> str:
    """Return a service with one more key, as TOML."""
    return f'[services.a]\nurl = "http://a"\n{keys}\n'


def figure(keys: str) -> str:
    """Return a figure with one more key, as TOML."""
    return f'[figures.a.b]\nsql = "SELECT 1 AS value"\n{keys}\n'


BAD = [
    ("a = ?", "c.toml: not valid TOML: Invalid value (at line 1, column 5)"),
    ("[services.a]\n[services.a]\n",
     "c.toml: not valid TOML: Cannot declare ('services', 'a') twice (at line 2, column 12)"),
    ("a = " + "[" * 5000, "c.toml: not valid TOML: "),
    ("service = 1", "c.toml: service: unknown key; valid keys are builtin, services, figures"),
    ("builtin = 1",
     "c.toml: builtin is 1; expected true, or false to use only the entries of this file"),
    ("services = 1", "c.toml: services is 1; expected a table of services, [services.NAME]"),
    ("[services]\na = 1", f"{S} is 1; expected a table"),
    ("[figures]\na = 1", "c.toml: figures.a is 1; expected a table"),
    ("[figures.a]\nb = 1", f"{F} is 1; expected a table"),
    ('[services."a b"]\nurl = "http://a"',
     ("c.toml: services.a b is not a valid name; "
      "expected a name of at most 128 letters, digits and")),
    ("[services.a]", f"{S}.url is missing; expected {URL}"),
    ("[services.a]\nurl = 5", f"{S}.url is 5; expected {URL}"),
    ("[services.a]\nurl = []", f"{S}.url is []; expected {URL}"),
    ('[services.a]\nurl = "ftp://u:pw@h"',
     f"{S}.url is not a valid base URL: it must begin with http://, https://, tcp:// or tls://"),
    ('[services.a]\nurl = "http://[::1"',
     f"{S}.url is not a valid base URL: its host is not a valid name or address"),
    ('[services.a]\nurl = "http://256.1.1.1"',
     f"{S}.url is not a valid base URL: its host is not a valid name or address"),
    ('[services.a]\nurl = "http://h?token=hush"',
     f"{S}.url is not a valid base URL: it must not have a query or a fragment"),
    ('[services.a]\nurl = "http://u:hu sh@h"',
     f"{S}.url is not a valid base URL: it contains a space or a control character"),
    ('[services.a]\nurl = ["http://u:hu sh@h", 5]', f"{S}.url is ['http://***@h', 5]; expected"),
    ('[services.a]\nurl = "${HOST}"', f"{S}.url: HOST is not set in the environment or .env"),
    ('[services.a]\nurl = ["${A}", "http://${HOST}:${PORT}"]',
     f"{S}.url: HOST and PORT are not set in the environment or .env"),
    (service("deadlin = 5"),
     (f"{S}.deadlin: unknown key; valid keys are url, path, series, expect, json, method, body, "
      "deadline, headers, redirects, redirect_hosts, ca, certificate, key, ")),
    (service("deadline = 900"), f"{S}.deadline is 900; expected a number of seconds, 0.1 to 60"),
    (service('deadline = "5"'), f"{S}.deadline is '5'; expected a number"),
    (service("deadline = nan"), f"{S}.deadline is nan; expected a number"),
    (service("deadline = true"), f"{S}.deadline is true; expected a number"),
    (service("deadline = 1" + "0" * 400),
     f"{S}.deadline is an integer of 1329 bits; expected a number"),
    (service('path = "status"'), f"{S}.path is 'status'; expected a path that begins with /"),
    (service('path = "/a b"'), f"{S}.path is '/a b'; expected a path"),
    (service('series = "a b"'), f"{S}.series is 'a b'; expected a name"),
    (service("expect = 200"),
     f"{S}.expect is 200; expected a list of HTTP status codes, 200 to 599"),
    (service("expect = [99]"), f"{S}.expect is [99]; 99 does not fit; write 200, "),
    (service('expect = "2xx"'),
     (f"{S}.expect is '2xx'; expected a list of HTTP status codes, 200 to 599, "
      'of classes such as "2xx" and of ranges such as "200-299"')),
    (service('expect = ["1xx"]'), f"{S}.expect is ['1xx']; '1xx' does not fit"),
    (service('expect = ["299-200"]'), f"{S}.expect is ['299-200']; '299-200' does not fit"),
    (service("expect = [true]"), f"{S}.expect is [True]; True does not fit"),
    (service('method = "get"'),
     f"{S}.method is 'get'; expected one of GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"),
    (service("method = ['GET']"), f"{S}.method is ['GET']; expected one of"),
    (service('method = "HEAD"'), f"{S}.method: the answer to HEAD has no body; set `json = false`"),
    (service('method = "POST"\nbody = ["hush"]'),
     f"{S}.body has an invalid value (not shown); expected a string of at most 64 Ki characters"),
    (service(f'method = "POST"\nbody = "hush{"x" * (64 << 10)}"'),
     f"{S}.body has an invalid value (not shown); expected"),
    (service('body = "hush"'), f"{S}.body needs one of the methods POST, PUT, PATCH, DELETE"),
    (service('method = "HEAD"\njson = false\nbody = "hush"'), f"{S}.body needs one of the methods"),
    (service('method = "POST"\nbody = "${NONE}"'),
     f"{S}.body: NONE is not set in the environment or .env"),
    (service("redirects = 11"), f"{S}.redirects is 11; expected a whole number, 0 to 10"),
    (service("redirects = true"), f"{S}.redirects is true; expected a whole number"),
    (service('redirect_hosts = ["h"]'), f"{S}.redirect_hosts needs `redirects` as well"),
    *[(service(f"redirects = 1\nredirect_hosts = ['{host}']"), f"{S}.redirect_hosts is ")
      for host in ("http://h", "h/a", "h:80", "a b", "[::1]", "u@h", "", "256.1.1.1")],
    (service('needs = "nobody"'), f"{S}: needs nobody, which is not a service of the catalogue"),
    (service('needs = ["ingest", "ingst"]'),
     f"{S}: needs ingst, which is not a service of the catalogue; did you mean ingest?"),
    (service('needs = "a"'), f"{S}: needs itself: a needs a"),
    (service('needs = "b"') + '[services.b]\nurl = ""\nneeds = "a"',
     f"{S}: needs itself: a needs b needs a"),
    *[(service(f"needs = {bad}"), f"{S}.needs is {shown}; expected {NAMES}") for bad, shown in (
        ("1", "1"), ("false", "false"), ('""', "''"),
        ('["a b"]', "['a b']"), ("[1]", "[1]"), ('"b\\n"', "'b\\n'"),
    )],
    (service(f"needs = {[f's{number}' for number in range(51)]}"), f"{S}.needs is ['s0', 's1', "),
    (service("skip_verify = 1"), f"{S}.skip_verify is 1; expected true or false"),
    (service('json = "no"'), f"{S}.json is 'no'; expected true or false"),
    (service('headers = "x"'),
     f"{S}.headers has an invalid value (not shown); expected a table of header names"),
    (service('headers = { "a b" = "hush" }'),
     f"{S}.headers has an invalid value (not shown); expected"),
    (service('headers = { Content-Length = "hush" }'),
     f"{S}.headers has an invalid value (not shown); expected"),
    (service('headers = { a = { path = "hush" } }'),
     f"{S}.headers has an invalid value (not shown); expected"),
    (service('headers = { a = "hush\\r\\nX: y" }'),
     (f"{S}.headers.a contains a character that a header value cannot have: "
      "a line end, a control character or a non-ASCII character")),
    (service('headers = { a = "${TOKEN}" }'),
     f"{S}.headers.a: TOKEN is not set in the environment or .env"),
    (service('headers = { a = "hush\u00e9" }'),
     f"{S}.headers.a contains a character that a header value cannot have"),
    (service('headers = { a = " " }'), f"{S}.headers.a is empty"),
    (service('headers = { a = { file = "hush" } }'),
     f"{S}.headers.a: its file cannot be read: No such file or directory"),
    (service('headers = { a = { file = "/dev/null", prefix = "Bearer " } }'),
     f"{S}.headers.a: /dev/null is empty"),
    (service('headers = { a = { file = "/" } }'),
     f"{S}.headers.a: / cannot be read: Is a directory"),
    (service('certificate = "-----BEGIN PRIVATE KEY-----\\nhush"'),
     f"{S}.certificate: its file cannot be read: No such file"),
    (service(f'ca = "{"hush" * 2000}"'), f"{S}.ca: its file cannot be read: File name too long"),
    (service('ca = "/hush\\u0000"'), f"{S}.ca: its file cannot be read: it is not a path"),
    (service('ca = "/dev/null"'), f"{S}.ca: /dev/null is empty"),
    (service('headers = { a = { file = "/no/such/file" } }'),
     f"{S}.headers.a: /no/such/file cannot be read: No such file or directory"),
    (service('headers = { a = { file = "/dev/zero" } }'),
     f"{S}.headers.a: /dev/zero cannot be read: larger than 16 KiB"),
    (service('ca = "/no/such/file"'),
     f"{S}.ca: /no/such/file cannot be read: No such file or directory"),
    (service(f'key = "{__file__}"'), f"{S}.key needs `certificate` as well"),
    (service("conditions = [{ pointer = '/a' }]"),
     f"{S}.conditions.0 is {{'pointer': '/a'}}; expected a list of tables"),
    (service("conditions = [{ pointer = 'a', equals = 1 }]"),
     f"{S}.conditions.0 is {{'pointer': 'a', 'equals': 1}}; pointer must be a JSON pointer"),
    (service("conditions = [{ pointer = '/~2', equals = 1 }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ pointer = '/a', equals = 1, at_most = 2 }]"),
     (f"{S}.conditions.0 is {{'pointer': '/a', 'equals': 1, 'at_most': 2}}; "
      "equals and at_most: write each of them")),
    (service("conditions = [{ pointer = '/a', at_most = '2' }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ pointer = '/a', one_of = [] }]"),
     f"{S}.conditions.0 is {{'pointer': '/a', 'one_of': []}}; one_of must be a list of strings"),
    (service("conditions = [{ pointer = '/a', equals = 1979-05-27 }]"), f"{S}.conditions.0 is"),
    (service("conditions = [5]"), f"{S}.conditions.0 is 5; expected"),
    (service("conditions = [{ header = 'a b', equals = 'x' }]"),
     f"{S}.conditions.0 is {{'header': 'a b', 'equals': 'x'}}; header must be the name"),
    (service("conditions = [{ header = 5, equals = 'x' }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ header = 'a', pointer = '/a', equals = 'x' }]"),
     (f"{S}.conditions.0 is {{'header': 'a', 'pointer': '/a', 'equals': 'x'}}; "
      "beside equals there must be")),
    (service("conditions = [{ body = 'a', equals = 'x' }]"),
     f"{S}.conditions.0 is {{'body': 'a', 'equals': 'x'}}; beside equals there must be"),
    (service("conditions = [{ contains = '' }]"),
     f"{S}.conditions.0 is {{'contains': ''}}; contains must be a string that is not empty"),
    (service("conditions = [{ absent = 1 }]"),
     f"{S}.conditions.0 is {{'absent': 1}}; absent must be true or false"),
    (service("conditions = [{ length_at_least = -1 }]"),
     f"{S}.conditions.0 is {{'length_at_least': -1}}; length_at_least must be a whole number"),
    (service("conditions = [{ matches = '" + "x" * 1001 + "' }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ contains = 'a' }, { matches = '(' }]"),
     f"{S}.conditions.1.matches: not an RE2 expression: missing ): ("),
    (service("conditions = [{ not_matches = 'a(?=b)' }]"),
     f"{S}.conditions.0.not_matches: not an RE2 expression: invalid perl operator: (?="),
    (service("certificate_days = -1"),
     f"{S}.certificate_days is -1; expected a whole number of days, 0 to 3650"),
    (service("certificate_days = 1.5"), f"{S}.certificate_days is 1.5; expected a whole number"),
    (service("certificate_days = 14"), f"{S}.certificate_days is for https:// and tls:// only"),
    *[(f'[services.a]\nurl = "{url}"', f"{S}.url is not a valid base URL: {problem}")
      for url, problem in (
        ("tcp://h", "it must have a host and a port from 1 to 65535"),
        ("tcp://:80", "it must have a host and a port from 1 to 65535"),
        ("tcp://h:0", "it must have a host and a port from 1 to 65535"),
        ("tcp://h:65536", "it must have a host and a port from 1 to 65535"),
        ("tcp://[::1:80", "it must have a host and a port from 1 to 65535"),
        ("tcp://h:8 0", "it contains a space or a control character"),
        ("tcp://h:80/", "it must end with the port, and have no user or password"),
        ("tls://h:80?hush", "it must end with the port, and have no user or password"),
        ("tls://user:hush@h:80", "it must end with the port, and have no user or password"),
        ("tls://256.1.1.1:80", "its host is not a valid name or address"),
    )],
    *[(f'[services.a]\nurl = "TCP://h:1"\n{key} = {value}',
       f"{S}.{key} is for http:// and https:// only")
      for key, value in (
        ("path", '"/health"'), ("expect", "[200]"), ("json", "false"),
        ("headers", '{ a = "hush" }'), ("counters", "[]"),
        ("conditions", '[{ contains = "x" }]'), ("counters_at", '""'),
    )],
    ('[services.a]\nurl = "tls://h:1"\njson = true', f"{S}.json is for http:// and https:// only"),
    *[(f'[services.a]\nurl = "tcp://h:1"\n{key} = {value}',
       f"{S}.{key} is for https:// and tls:// only")
      for key, value in (
        ("ca", f'"{__file__}"'), ("certificate", f'"{__file__}"'), ("certificate_days", "14"),
    )],
    (service("max_latency_ms = 0"),
     f"{S}.max_latency_ms is 0; expected a whole number of milliseconds, 1 to 60000"),
    (service('counters = "all"'),
     f"{S}.counters is 'all'; expected \"*\" for every finite number, or a list"),
    (service('counters = ["healthy"]'), f"{S}.counters is"),
    (service('counters = ["a", "a"]'), f"{S}.counters is"),
    (service("counters = [1]"), f"{S}.counters is [1]; expected"),
    (service('counters = [{ name = "a" }]'), f"{S}.counters is"),
    (service('counters = [{ name = "a", from = [] }]'), f"{S}.counters is"),
    (service("counters_at = 5"), f"{S}.counters_at is 5; expected a JSON pointer"),
    (service("tags = { a = 1 }"), f"{S}.tags is {{'a': 1}}; expected a table of strings"),
    (service("tags = 1"), f"{S}.tags is 1; expected a table of strings"),
    (service("alert_after = 0"),
     f"{S}.alert_after is 0; expected a whole number of passes, 1 to 32767"),
    (service("resolve_after = 1.5"),
     f"{S}.resolve_after is 1.5; expected a whole number of passes, 1 to 32767"),
    ("[figures.a.b]", f"{F}.sql is missing; expected {STATEMENT}"),
    ('[figures.a.b]\nsql = "DELETE FROM x"', f"{F}.sql is 'DELETE FROM x'; expected {STATEMENT}"),
    ('[figures.a.b]\nsql = "/* SELECT */ -- a\\n insert into x"', f"{F}.sql is"),
    ('[figures.a.b]\nsql = ""', f"{F}.sql is ''; expected {STATEMENT}"),
    ('[figures.a.b]\nsql = "SELECT \'\\u0000\'"', f"{F}.sql is"),
    (service("slo = 100"),
     f"{S}.slo is 100; expected a percentage, more than 0 and less than 100, for example 99.9"),
    (service("slo = '99.9'"), f"{S}.slo is '99.9'; expected a percentage"),
    (service("slo = true"), f"{S}.slo is true; expected a percentage"),
    (service("slo_window = 0"), f"{S}.slo_window is 0; expected a whole number of days, 1 to 365"),
    (service("slo_window = 1.5"), f"{S}.slo_window is 1.5; expected a whole number of days"),
    ("[figures.a.b]\nsql = 1", f"{F}.sql is 1; expected {STATEMENT}"),
    (figure("tables = 'x'"), f"{F}.tables is 'x'; expected a list of table names"),
    (figure("timeout = 0"), f"{F}.timeout is 0; expected a number of seconds, 0.01 to 60"),
    (figure("every = -1"),
     f"{F}.every is -1; expected a number of seconds, 1 to 86400, or 0: in every pass"),
    (figure("size = 1"),
     f"{F}.size: unknown key; valid keys are sql, tables, timeout, every, tags"),
    (figure("every = 9") + figure("").replace("a.b", "c.b"),
     f"{F}: a figure with `every` needs a unique name, but 2 figures have the name b"),
    ('[services.delivery]\nurl = "http://a"',
     ("c.toml: services.delivery: series delivery is already used by services.delivery_worker; "
      "choose another `series`")),
    ('[services.postgres]\nurl = "http://a"', f"c.toml: services.postgres: {RESERVED}"),
    *[(f'[services.{name}]\nurl = "http://a"\nseries = "mine"',
       f"c.toml: services.{name}: {RESERVED}")
      for name in ("ops_worker", "postgres", "platform")],
    ('[services.ops_worker]\nurl = ""', f"c.toml: services.ops_worker: {RESERVED}"),
    (service('series = "platform"'),
     f"{S}: series platform is reserved for the worker; choose another `series`"),
    ('[services.delivery]\nurl = "http://a"\nseries = "mine"',
     ("c.toml: services.delivery: the name is already the series of services.delivery_worker; "
      "choose another name")),
    (service('counters = ["probe_latency_ms"]'), f"{S}.counters is ['probe_latency_ms']; expected"),
    ('[figures.delivery.probe_latency_ms]\nsql = "SELECT 1 AS value"',
     ("c.toml: figures.delivery.probe_latency_ms: "
      "the worker already records this metric of the service; choose another name")),
    ('[figures.ops_worker.pass_success]\nsql = "SELECT 1 AS value"',
     ("c.toml: figures.ops_worker.pass_success: service ops_worker is reserved for the worker; "
      "choose another service")),
    ('[figures.ingest.messages_received]\nsql = "SELECT 1 AS value"',
     ("c.toml: figures.ingest.messages_received: "
      "services.ingest already has a counter with this name; choose another name")),
    ('[services."a\\n"]\nurl = "http://a"', "c.toml: services.a\n is not a valid name; expected"),
    ('[figures.ingest.healthy]\nsql = "SELECT 1 AS value"',
     ("c.toml: figures.ingest.healthy: the worker already records this metric of the service; "
      "choose another name")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), BAD)
def test_bad(text: str, fault: str) -> None:
    """A fault names the file, the entry, the key and the expected value.

    It never shows the value of a header or a body.
    """
    catalogue, faults = read(text)
    faults += catalogue.faults
    assert len(faults) == 1
    assert faults[0].startswith(fault)
    assert "hush" not in faults[0] and len(faults[0]) < 600


CONDITIONS = """json = false
conditions = [
    { equals = "OK" },
    { header = "Content-Type", contains = "json" },
    { pointer = "", length_at_least = 1 },
    { pointer = "/error", absent = true },
    { matches = "^v[0-9]+" },
]
"""


def test_conditions() -> None:
    """A condition checks the value at a pointer, a header or the text of the body.

    The name of a header becomes lower case.
    """
    catalogue, faults = read(service(CONDITIONS))
    assert not faults + catalogue.faults
    assert catalogue.targets[4].conditions == (
        Condition(None, "equals", "OK"),
        Condition(None, "contains", "json", "content-type"),
        Condition("", "length_at_least", 1),
        Condition("/error", "absent", value=True),
        Condition(None, "matches", "^v[0-9]+"),
    )


def test_without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `re2`, the service has a fault that names the extra.

    The other services have none. A check for another machine reports no fault, because that machine
    may have the extra.
    """
    expressions._refusal.cache_clear()
    monkeypatch.setitem(sys.modules, "re2", None)
    catalogue, faults = read(service(CONDITIONS) + '[services.b]\nurl = "http://b"')
    assert not faults
    assert catalogue.faults == [f"{S}.conditions.4.matches: {expressions.NO_EXTRA}"]
    catalogue, faults = read(service(CONDITIONS), known=False)
    assert not faults + catalogue.faults


@pytest.mark.parametrize("scheme", ["tcp", "tls", "TLS"])
def test_connections(scheme: str) -> None:
    """A service that is only connected to has a URL without a path, also if a variable sets it."""
    text = service("certificate_days = 14" if scheme != "tcp" else "").replace("http://a", "${A}")
    catalogue, faults = read(text, A=f"{scheme}://[::1]:5432")
    assert not faults + catalogue.faults
    target = catalogue.targets[4]
    assert (target.url, target.only_connects) == (f"{scheme}://[::1]:5432", True)
    assert target.shown_url == target.url
    catalogue, _ = read(text.replace("${A}", "tls://${A}:1"), A="a.example")
    assert catalogue.targets[4].shown_url == "tls://${A}:1"


def test_faults_all_at_once() -> None:
    """All faults of a file are reported, not only the first."""
    faults = read(service("deadline = 0\npath = 5\nnope = 1") + figure("timeout = 0"))[1]
    assert [fault.split()[1].rstrip(":") for fault in faults] == [
        "services.a.path",
        "services.a.deadline",
        "services.a.nope",
        "figures.a.b.timeout",
    ]


def test_too_many() -> None:
    """Too many services or figures are a fault that names the limit."""
    many = ALONE + "".join(f'[services.s{n}]\nurl = "http://h"\n' for n in range(10_001))
    assert read(many)[1] == [
        "c.toml: services: 10001 services, but the limit is 10000; "
        "divide them among several installations"
    ]
    many = ALONE + "".join(f'[figures.f.x{n}]\nsql = "SELECT 1 AS value"\n' for n in range(201))
    assert read(many)[1] == ["c.toml: figures: 201 figures, but the limit is 200"]


def test_elsewhere() -> None:
    """A catalogue for another machine is checked without its variables and files."""
    text = (
        service('ca = "/x"\nheaders = { a = "${T}", b = { file = "/x" } }')
        + '[services.b]\nurl = "http://${HOST}"\n'
    )
    catalogue, faults = read(text, known=False)
    assert not faults
    assert not catalogue.faults
    assert [target.url for target in catalogue.targets[4:]] == [
        "http://a/health",
        "http://${HOST}/health",
    ]
    catalogue, faults = read(
        service('headers = { a = "hush\\r\\nX: y" }'), known=False, INGEST_URL="ftp://hush"
    )
    assert not faults
    assert [fault.split(" ", 2)[:2] for fault in catalogue.faults] == [
        ["built-in", "catalogue:"],
        ["c.toml:", "services.a.headers.a"],
    ]
    assert "hush" not in str(catalogue.faults)


def test_names_are_case_sensitive() -> None:
    """Two names that differ only in case are two services.

    In the database they are also two rows, series and alerts.
    """
    catalogue, faults = read(
        '[services.A]\nurl = "http://a"\n'
        '[services.a]\nurl = "http://a"\n'
        '[services."a."]\nurl = "http://a"\n'
    )
    assert not faults
    assert [target.series for target in catalogue.targets[4:]] == ["A", "a", "a."]


@pytest.mark.parametrize("content", ["s3cret", " s3cret\r\n", "\ufeffs3cret\n\n"])
def test_what_is_around_a_secret(tmp_path: Path, content: str) -> None:
    """Spaces, line ends and a byte order mark around a secret are removed, whatever its source."""
    (tmp_path / "key").write_text(content)
    text = (
        'headers = { A = "${V}", B = "Bearer ${V}", '
        f'C = {{ file = "{tmp_path}/key", prefix = "Bearer " }}, D = " s3cret " }}'
    )
    catalogue, faults = read(service(text), V=content.strip("\ufeff"))
    assert not faults + catalogue.faults
    assert [value for _, value in catalogue.targets[4].headers] == [
        "s3cret",
        "Bearer s3cret",
        "Bearer s3cret",
        "s3cret",
    ]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """If a file is a pipe without a writer, loading does not wait for it."""
    os.mkfifo(tmp_path / "pipe")
    catalogue, _ = read(
        service(f'ca = "{tmp_path}/pipe"\nheaders = {{ A = {{ file = "{tmp_path}/pipe" }} }}')
    )
    assert len(catalogue.targets[4].faults) == 2


KEYS = [
    "services", "figures", "a", "url", "headers", "counters", "conditions", "pointer", "header",
    "equals", "contains", "matches", "absent", "length_at_least", "certificate_days", "sql", "tags",
    "name", "from", "expect",
]  # fmt: skip


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(KEYS), x),
    )
)
def test_load_is_total(value: object) -> None:
    """A file of any content gives a catalogue or faults, never an exception."""
    text = (
        "\n".join(f"{key} = {_toml(item)}" for key, item in value.items())
        if isinstance(value, dict)
        else f"builtin = {_toml(value)}"
    )
    assert all(fault.startswith("c.toml: ") for fault in read(text)[1])


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        # TOML and Python write nan, inf and exponents in the same way.
        return repr(value)
    if isinstance(value, str):
        return json.dumps(re.sub("[\ud800-\udfff\x7f]", "", value))
    return '""' if value is None else str(value).lower()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a file with a service and a figure, and return its path."""
    file = tmp_path / "c.toml"
    file.write_text(
        service('headers = { Authorization = "Bearer ${TOKEN}" }') + figure("every = 60")
    )
    return file


def test_check(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``check`` needs no database. It prints each fault on a line.

    It exits with 4 if there is a fault, else with 0.
    """
    assert main(["catalogue", "check", str(path)]) == 4
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: services.a.headers.Authorization: TOKEN is not set in the environment or .env",
        "catalogue: 5 services monitored, 7 figures, 1 fault",
    ]
    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(path))
    assert main(["catalogue", "check"]) == 0
    assert capsys.readouterr().out == "catalogue: 5 services monitored, 7 figures, 0 faults\n"
    assert main(["catalogue", "check", "/no/such.toml"]) == 4
    assert capsys.readouterr().out.startswith(
        "catalogue /no/such.toml cannot be read: No such file or directory\n"
    )
    path.write_bytes(b"\xff")
    assert main(["catalogue", "check"]) == 4
    assert "codec can't decode" in capsys.readouterr().out


def test_objective(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An objective that passes every PASS_PERIOD cannot measure is a fault.

    The fault shows the error budget.
    """
    path.write_text(service("slo = 99.99"))
    assert main(["catalogue", "check", str(path)]) == 4
    assert capsys.readouterr().out.startswith(
        f"{path}: services.a.slo: 99.99 over 30 days allows 259 s "
    )
    monkeypatch.setenv("PASS_PERIOD", "5")
    assert main(["catalogue", "check", str(path)]) == 0
    monkeypatch.setenv("PASS_PERIOD", "often")
    assert main(["catalogue", "check", str(path)]) == 4
    path.write_text(service("slo = 99.9"))
    assert main(["catalogue", "check", str(path)]) == 0


def test_show(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``show`` prints the entries in force and their sources, and no secret."""
    assert main(["catalogue", "show", str(path)]) == 0
    assert re.search(
        r"^a +a +not probed: headers.Authorization: TOKEN is not set in the environment or .env",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.setenv("INGEST_URL", "")
    monkeypatch.setenv("EVALUATOR_URL", "http://u:hush@e")
    assert main(["catalogue", "show", str(path)]) == 0
    table = capsys.readouterr().out
    assert re.search(rf"^a +a +http://a/health +{path}$", table, re.MULTILINE)
    assert re.search(r"^ingest +- +not monitored: its URL is empty +built-in$", table, re.MULTILINE)
    assert re.search(rf"^a.b +60 s +2 s +{path}$", table, re.MULTILINE)
    assert main(["catalogue", "show", str(path), "--output", "json"]) == 0
    document = capsys.readouterr().out
    assert "hush" not in table + document
    (mine,) = [entry for entry in json.loads(document)["services"] if entry["from"] == str(path)]
    assert (mine["name"], mine["headers"], mine["body"]) == ("a", ["Authorization"], False)


def test_shown_request(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``show`` says whether a request has a body, and does not print the body.

    ``check`` prints a note if a certificate is not verified.
    """
    path.write_text(service('method = "POST"\nbody = "hush"\nskip_verify = true\nexpect = ["2xx"]'))
    assert main(["catalogue", "show", str(path), "--output", "json"]) == 0
    out = capsys.readouterr().out
    assert "hush" not in out
    (mine,) = [entry for entry in json.loads(out)["services"] if entry["from"] == str(path)]
    assert (mine["method"], mine["body"], mine["expect"][-1]) == ("POST", True, 299)
    assert main(["catalogue", "check", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        f"note: {path}: services.a.skip_verify: its certificate is not verified: "
        "anybody on the network path can answer in its place"
    )
