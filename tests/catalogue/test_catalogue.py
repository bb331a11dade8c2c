"""The catalogue: what a file may say, what comes of it, and what is said of a bad one."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.catalogue import Catalogue, Source, Surroundings, load
from ops_worker.cli import main
from ops_worker.core.model import Condition, Counter, Figure, Target, Tls

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

pytestmark = pytest.mark.unit

ALONE = "builtin = false\n"


def read(text: str, *, known: bool = True, **variables: str) -> tuple[Catalogue, list[str]]:
    """Load a catalogue of this text, with these variables."""
    return load(Source("c.toml", text), Surroundings(variables, known))


def test_builtin() -> None:
    """Without a file, the platform's services and figures are in force, and nothing is wrong with them."""
    found, faults = load(
        None, Surroundings({"INGEST_URL": "", "EVALUATOR_URL": "http://e:1/base/"})
    )
    assert not faults
    assert [(target.name, target.series) for target in found.targets] == [
        ("evaluator", "evaluator"),
        ("dispatcher", "dispatcher"),
        ("delivery_worker", "delivery"),
    ]
    assert found.targets[0].url == "http://e:1/base/health"
    assert found.unwatched == ("ingest",)
    assert [figure.name for figure in found.figures] == [
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
expect = [200, 203]
json = true
deadline = 2
headers = { Authorization = "Bearer ${TOKEN}", X-Key = { file = "FOLDER/key", prefix = "k=" } }
ca = "${DIR}/ca.pem"
certificate = "FOLDER/ca.pem"
key = "FOLDER/key"
conditions = [{ pointer = "/db/state", one_of = ["up", "ok"] }, { pointer = "/queue", at_most = 100 }]
max_latency_ms = 300
counters = ["a", { name = "depth", from = ["queue", "backlog"] }, { name = "b", from = "B" }]
counters_at = "/stats"
tags = { team = "shop" }
alert_after = 3
[figures.orders.open]
sql = "SELECT count(*) AS value FROM orders; "
tables = ["orders"]
timeout = 0.5
every = 60
tags = { kind = "x" }
"""


def test_everything(tmp_path: Path) -> None:
    """Every key of a service and of a figure comes to what it says."""
    (tmp_path / "key").write_text("s3cret\n")
    (tmp_path / "ca.pem").write_text("x")
    found, faults = read(
        EVERYTHING.replace("FOLDER", str(tmp_path)),
        HOST="shop.example",
        TOKEN="t0ken",
        DIR=str(tmp_path),
    )
    assert not faults
    assert found.targets == (
        Target(
            "shop.eu",
            "https://shop.example:8443/shop/status?full=1",
            "shop",
            (Counter("a"), Counter("depth", ("queue", "backlog")), Counter("b", ("B",))),
            "/stats",
            (200, 203),
            2.0,
            json=True,
            headers=(("Authorization", "Bearer t0ken"), ("X-Key", "k=s3cret")),
            tls=Tls(f"{tmp_path}/ca.pem", f"{tmp_path}/ca.pem", f"{tmp_path}/key"),
            conditions=(
                Condition("/db/state", "one_of", ("up", "ok")),
                Condition("/queue", "at_most", 100),
            ),
            max_latency_ms=300,
            tags={"team": "shop"},
            alert_after=3,
            url_template="https://${HOST}:8443/shop/status?full=1",
        ),
    )
    assert found.figures == (
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
    assert found.own == {"services.shop.eu", "figures.orders.open"}


def test_added_and_replaced() -> None:
    """A file adds to the built-in catalogue and replaces entries by name, in their place."""
    found, faults = read('[services.evaluator]\nurl = "http://mine"\n[services.shop]\nurl = "http://s"\ncounters = "*"\n'
                         '[figures.platform.alerts_open]\nsql = "SELECT 1 AS value"\nevery = 30\n')  # fmt: skip
    assert not faults
    assert [
        (target.name, target.url, target.counters)
        for target in found.targets[1:2] + found.targets[4:]
    ] == [
        ("evaluator", "http://mine/health", ()),
        ("shop", "http://s/health", None),
    ]
    assert [figure.every_s for figure in found.figures] == [0, 0, 0, 0, 30, 0]


URL = "an http:// or https:// base URL, or a list of which the first counts whose ${VARIABLES} are all set; empty: not watched"
STATEMENT = "one statement that reads (SELECT, WITH, VALUES or TABLE) and returns `value`, or rows of `service`, `value`, `tags`"
S = "c.toml: services.a"
F = "c.toml: figures.a.b"


def service(rest: str) -> str:
    """Write a service with one more key."""
    return f'[services.a]\nurl = "http://a"\n{rest}\n'


def figure(rest: str) -> str:
    """Write a figure with one more key."""
    return f'[figures.a.b]\nsql = "SELECT 1 AS value"\n{rest}\n'


BAD = [
    ("a = ?", "c.toml: no TOML: Invalid value (at line 1, column 5)"),
    ("[services.a]\n[services.a]\n", "c.toml: no TOML: Cannot declare ('services', 'a') twice (at line 2, column 12)"),
    ("a = " + "[" * 5000, "c.toml: no TOML: "),
    ("service = 1", "c.toml: service: unknown key; there are builtin, services, figures"),
    ("builtin = 1", "c.toml: builtin is 1, but wants true, or false: this file stands alone"),
    ("services = 1", "c.toml: services is 1, but wants a table of services, [services.NAME]"),
    ("[services]\na = 1", f"{S} is 1, but wants a table"),
    ("[figures]\na = 1", "c.toml: figures.a is 1, but wants a table"),
    ("[figures.a]\nb = 1", f"{F} is 1, but wants a table"),
    ('[services."a b"]\nurl = "http://a"', "c.toml: services.a b is no name; it wants a name of at most 128 letters, digits and"),
    ("[services.a]", f"{S}.url is missing; it wants {URL}"),
    ("[services.a]\nurl = 5", f"{S}.url is 5, but wants {URL}"),
    ("[services.a]\nurl = []", f"{S}.url is [], but wants {URL}"),
    ('[services.a]\nurl = "ftp://u:pw@h"', f"{S}.url is no base URL: it has to begin with http:// or https://"),
    ('[services.a]\nurl = "http://[::1"', f"{S}.url is no base URL: its host is no name or address"),
    ('[services.a]\nurl = "http://256.1.1.1"', f"{S}.url is no base URL: its host is no name or address"),
    ('[services.a]\nurl = "http://h?token=hush"', f"{S}.url is no base URL: it has a query or a fragment"),
    ('[services.a]\nurl = "http://u:hu sh@h"', f"{S}.url is no base URL: it holds a blank or a control character"),
    ('[services.a]\nurl = ["http://u:hu sh@h", 5]', f"{S}.url is ['http://***@h', 5], but wants"),
    ('[services.a]\nurl = "${HOST}"', f"{S}.url: HOST is not set, in the environment or .env"),
    ('[services.a]\nurl = ["${A}", "http://${HOST}:${PORT}"]', f"{S}.url: HOST and PORT are not set, in the environment or .env"),
    (service("deadlin = 5"), f"{S}.deadlin: unknown key; there are url, path, series, expect, json, deadline, headers, ca, certificate, key, "),
    (service("deadline = 900"), f"{S}.deadline is 900, but wants a number of seconds, 0.1 to 60"),
    (service('deadline = "5"'), f"{S}.deadline is '5', but wants a number"),
    (service("deadline = nan"), f"{S}.deadline is nan, but wants a number"),
    (service("deadline = true"), f"{S}.deadline is true, but wants a number"),
    (service("deadline = 1" + "0" * 400), f"{S}.deadline is an integer of 1329 bits, but wants a number"),
    (service('path = "status"'), f"{S}.path is 'status', but wants a path that begins with /"),
    (service('path = "/a b"'), f"{S}.path is '/a b', but wants a path"),
    (service('series = "a b"'), f"{S}.series is 'a b', but wants a name"),
    (service("expect = 200"), f"{S}.expect is 200, but wants a list of HTTP status codes, 200 to 599"),
    (service("expect = [99]"), f"{S}.expect is [99], but wants"),
    (service('json = "no"'), f"{S}.json is 'no', but wants true or false"),
    (service('headers = "x"'), f"{S}.headers is set to something (not shown), but wants a table of header names"),
    (service('headers = { "a b" = "hush" }'), f"{S}.headers is set to something (not shown), but wants"),
    (service('headers = { Content-Length = "hush" }'), f"{S}.headers is set to something (not shown), but wants"),
    (service('headers = { a = { path = "hush" } }'), f"{S}.headers is set to something (not shown), but wants"),
    (service('headers = { a = "hush\\r\\nX: y" }'), f"{S}.headers.a holds a character that no header can: a line end, a control character, or one beyond ASCII"),
    (service('headers = { a = "${TOKEN}" }'), f"{S}.headers.a: TOKEN is not set, in the environment or .env"),
    (service('headers = { a = "hush\u00e9" }'), f"{S}.headers.a holds a character that no header can"),
    (service('headers = { a = " " }'), f"{S}.headers.a is empty"),
    (service('headers = { a = { file = "hush" } }'), f"{S}.headers.a: its file cannot be read: No such file or directory"),
    (service('headers = { a = { file = "/dev/null", prefix = "Bearer " } }'), f"{S}.headers.a: /dev/null is empty"),
    (service('headers = { a = { file = "/" } }'), f"{S}.headers.a: / cannot be read: Is a directory"),
    (service('certificate = "-----BEGIN PRIVATE KEY-----\\nhush"'), f"{S}.certificate: its file cannot be read: No such file"),
    (service(f'ca = "{"hush" * 2000}"'), f"{S}.ca: its file cannot be read: File name too long"),
    (service('ca = "/hush\\u0000"'), f"{S}.ca: its file cannot be read: it is no path"),
    (service('ca = "/dev/null"'), f"{S}.ca: /dev/null is empty"),
    (service('headers = { a = { file = "/no/such/file" } }'), f"{S}.headers.a: /no/such/file cannot be read: No such file or directory"),
    (service('headers = { a = { file = "/dev/zero" } }'), f"{S}.headers.a: /dev/zero cannot be read: larger than 16 KiB"),
    (service('ca = "/no/such/file"'), f"{S}.ca: /no/such/file cannot be read: No such file or directory"),
    (service(f'key = "{__file__}"'), f"{S}.key wants a certificate beside it"),
    (service("conditions = [{ pointer = '/a' }]"), f"{S}.conditions.0 is {{'pointer': '/a'}}, but wants a list of tables"),
    (service("conditions = [{ pointer = 'a', equals = 1 }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ pointer = '/~2', equals = 1 }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ pointer = '/a', equals = 1, at_most = 2 }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ pointer = '/a', at_most = '2' }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ pointer = '/a', one_of = [] }]"), f"{S}.conditions.0 is"),
    (service("conditions = [{ pointer = '/a', equals = 1979-05-27 }]"), f"{S}.conditions.0 is"),
    (service("conditions = [5]"), f"{S}.conditions.0 is 5, but wants"),
    (service("max_latency_ms = 0"), f"{S}.max_latency_ms is 0, but wants a whole number of milliseconds, 1 to 60000"),
    (service('counters = "all"'), f"{S}.counters is 'all', but wants \"*\" for every finite number, or a list"),
    (service('counters = ["healthy"]'), f"{S}.counters is"),
    (service('counters = ["a", "a"]'), f"{S}.counters is"),
    (service("counters = [1]"), f"{S}.counters is [1], but wants"),
    (service('counters = [{ name = "a" }]'), f"{S}.counters is"),
    (service('counters = [{ name = "a", from = [] }]'), f"{S}.counters is"),
    (service("counters_at = 5"), f"{S}.counters_at is 5, but wants a JSON pointer"),
    (service("tags = { a = 1 }"), f"{S}.tags is {{'a': 1}}, but wants a table of strings"),
    (service("tags = 1"), f"{S}.tags is 1, but wants a table of strings"),
    (service("alert_after = 0"), f"{S}.alert_after is 0, but wants a whole number of passes, at least 1"),
    (service("resolve_after = 1.5"), f"{S}.resolve_after is 1.5, but wants a whole number of passes, at least 1"),
    ("[figures.a.b]", f"{F}.sql is missing; it wants {STATEMENT}"),
    ('[figures.a.b]\nsql = "DELETE FROM x"', f"{F}.sql is 'DELETE FROM x', but wants {STATEMENT}"),
    ('[figures.a.b]\nsql = "/* SELECT */ -- a\\n insert into x"', f"{F}.sql is"),
    ('[figures.a.b]\nsql = ""', f"{F}.sql is '', but wants {STATEMENT}"),
    ('[figures.a.b]\nsql = "SELECT \'\\u0000\'"', f"{F}.sql is"),
    ("[figures.a.b]\nsql = 1", f"{F}.sql is 1, but wants {STATEMENT}"),
    (figure("tables = 'x'"), f"{F}.tables is 'x', but wants a list of table names"),
    (figure("timeout = 0"), f"{F}.timeout is 0, but wants a number of seconds, 0.01 to 60"),
    (figure("every = -1"), f"{F}.every is -1, but wants a number of seconds, 1 to 86400, or 0: in each pass"),
    (figure("size = 1"), f"{F}.size: unknown key; there are sql, tables, timeout, every, tags"),
    (figure("every = 9") + figure("").replace("a.b", "c.b"), f"{F}: with `every` its name has to be its own; 2 figures are called b"),
    ('[services.delivery]\nurl = "http://a"', "c.toml: services.delivery: series delivery is that of services.delivery_worker as well; give it another `series`"),
    ('[services.postgres]\nurl = "http://a"', "c.toml: services.postgres: the name is the worker's own; give it another"),
    *[(f'[services.{name}]\nurl = "http://a"\nseries = "mine"', f"c.toml: services.{name}: the name is the worker's own; give it another") for name in ("ops_worker", "postgres", "platform")],
    ('[services.ops_worker]\nurl = ""', "c.toml: services.ops_worker: the name is the worker's own; give it another"),
    (service('series = "platform"'), f"{S}: series platform is the worker's own; give it another `series`"),
    ('[services.delivery]\nurl = "http://a"\nseries = "mine"', "c.toml: services.delivery: the name is the series of services.delivery_worker; give it another"),
    (service('counters = ["probe_latency_ms"]'), f"{S}.counters is ['probe_latency_ms'], but wants"),
    ('[figures.delivery.probe_latency_ms]\nsql = "SELECT 1 AS value"', "c.toml: figures.delivery.probe_latency_ms: is recorded already, of the service"),
    ('[figures.ops_worker.pass_success]\nsql = "SELECT 1 AS value"', "c.toml: figures.ops_worker.pass_success: the service ops_worker is the worker itself; give it another"),
    ('[figures.ingest.messages_received]\nsql = "SELECT 1 AS value"', "c.toml: figures.ingest.messages_received: is recorded already, as a counter of services.ingest"),
    ('[services."a\\n"]\nurl = "http://a"', "c.toml: services.a\n is no name; it wants"),
    ('[figures.ingest.healthy]\nsql = "SELECT 1 AS value"', "c.toml: figures.ingest.healthy: is recorded already, of the service"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), BAD)
def test_bad(text: str, fault: str) -> None:
    """Whatever is wrong is told with the file, the entry, the key and what it wants; a header's value is never shown."""
    found, faults = read(text)
    faults += found.faults
    assert len(faults) == 1
    assert faults[0].startswith(fault)
    assert "hush" not in faults[0] and len(faults[0]) < 600


def test_faults_all_at_once() -> None:
    """Every fault of a file is told, not only the first."""
    faults = read(service("deadline = 0\npath = 5\nnope = 1") + figure("timeout = 0"))[1]
    assert [fault.split()[1].rstrip(":") for fault in faults] == [
        "services.a.path",
        "services.a.deadline",
        "services.a.nope",
        "figures.a.b.timeout",
    ]


def test_too_many() -> None:
    """There are limits, which are told."""
    many = ALONE + "".join(f'[services.s{n}]\nurl = "http://h"\n' for n in range(10_001))
    assert read(many)[1] == [
        "c.toml: services: 10001 services, but at most 10000; divide them among several installations"
    ]
    many = ALONE + "".join(f'[figures.f.x{n}]\nsql = "SELECT 1 AS value"\n' for n in range(201))
    assert read(many)[1] == ["c.toml: figures: 201 figures, but at most 200"]


def test_elsewhere() -> None:
    """A catalogue for another machine is checked without its variables and files."""
    text = (
        service('ca = "/x"\nheaders = { a = "${T}", b = { file = "/x" } }')
        + '[services.b]\nurl = "http://${HOST}"\n'
    )
    found, faults = read(text, known=False)
    assert not faults
    assert not found.faults
    assert [target.url for target in found.targets[4:]] == [
        "http://a/health",
        "http://${HOST}/health",
    ]
    found, faults = read(
        service('headers = { a = "hush\\r\\nX: y" }'), known=False, INGEST_URL="ftp://hush"
    )
    assert not faults
    assert [fault.split(" ", 2)[:2] for fault in found.faults] == [
        ["built-in", "catalogue:"],
        ["c.toml:", "services.a.headers.a"],
    ]
    assert "hush" not in str(found.faults)


def test_names_are_told_apart() -> None:
    """Names that differ only by case are two services, as they are two rows, series and alerts to the database."""
    found, faults = read(
        '[services.A]\nurl = "http://a"\n[services.a]\nurl = "http://a"\n[services."a."]\nurl = "http://a"\n'
    )
    assert not faults
    assert [target.series for target in found.targets[4:]] == ["A", "a", "a."]


@pytest.mark.parametrize("content", ["s3cret", " s3cret\r\n", "\ufeffs3cret\n\n"])
def test_what_is_around_a_secret(tmp_path: Path, content: str) -> None:
    """Blanks, line ends and a byte order mark around a secret are not part of it, wherever it comes from."""
    (tmp_path / "key").write_text(content)
    text = f'headers = {{ A = "${{V}}", B = "Bearer ${{V}}", C = {{ file = "{tmp_path}/key", prefix = "Bearer " }}, D = " s3cret " }}'
    found, faults = read(service(text), V=content.strip("\ufeff"))
    assert not faults + found.faults
    assert [value for _, value in found.targets[4].headers] == [
        "s3cret",
        "Bearer s3cret",
        "Bearer s3cret",
        "s3cret",
    ]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A file that is a pipe into which nobody writes does not hold up everything."""
    os.mkfifo(tmp_path / "pipe")
    found, _ = read(
        service(f'ca = "{tmp_path}/pipe"\nheaders = {{ A = {{ file = "{tmp_path}/pipe" }} }}')
    )
    assert len(found.targets[4].faults) == 2


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(
        ["services", "figures", "a", "url", "headers", "counters", "conditions", "pointer", "equals", "sql", "tags", "name", "from", "expect"]), x)
))  # fmt: skip
def test_load_is_total(value: object) -> None:
    """Nothing that a file may hold makes anything but faults."""
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
        return repr(
            value
        )  # TOML's own words for nan and inf; an exponent without a point is one of its integers, or bad TOML
    if isinstance(value, str):
        return json.dumps(re.sub("[\ud800-\udfff\x7f]", "", value))
    return '""' if value is None else str(value).lower()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a service and a figure."""
    file = tmp_path / "c.toml"
    file.write_text(
        service('headers = { Authorization = "Bearer ${TOKEN}" }') + figure("every = 60")
    )
    return file


def test_check(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``check`` needs no database and no password; 4 says that there are faults, and each is a line."""
    assert main(["catalogue", "check", str(path)]) == 4
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: services.a.headers.Authorization: TOKEN is not set, in the environment or .env",
        "catalogue: 5 services watched, 7 figures, 1 fault",
    ]
    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(path))
    assert main(["catalogue", "check"]) == 0
    assert capsys.readouterr().out == "catalogue: 5 services watched, 7 figures, 0 faults\n"
    assert main(["catalogue", "check", "/no/such.toml"]) == 4
    assert capsys.readouterr().out.startswith(
        "catalogue /no/such.toml cannot be read: No such file or directory\n"
    )
    path.write_bytes(b"\xff")
    assert main(["catalogue", "check"]) == 4
    assert "codec can't decode" in capsys.readouterr().out


def test_show(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``show`` tells what is in force and from where, and no secret."""
    assert main(["catalogue", "show", str(path)]) == 0
    assert re.search(
        r"^a +a +not probed: headers.Authorization: TOKEN is not set, in the environment or .env",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.setenv("INGEST_URL", "")
    monkeypatch.setenv("EVALUATOR_URL", "http://u:hush@e")
    assert main(["catalogue", "show", str(path)]) == 0
    table = capsys.readouterr().out
    assert re.search(rf"^a +a +http://a/health +{path}$", table, re.MULTILINE)
    assert re.search(r"^ingest +- +not watched: its URL is empty +built-in$", table, re.MULTILINE)
    assert re.search(rf"^a.b +60 s +2 s +{path}$", table, re.MULTILINE)
    assert main(["catalogue", "show", str(path), "--output", "json"]) == 0
    document = capsys.readouterr().out
    assert "hush" not in table + document
    (mine,) = [one for one in json.loads(document)["services"] if one["from"] == str(path)]
    assert (mine["name"], mine["headers"]) == ("a", ["Authorization"])


@pytest.mark.integration
def test_prepare(
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --prepare each statement is put to the database, which runs none of them; a table that is not there is a note."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    file = tmp_path / "c.toml"
    sqls = {
        "fine": "SELECT service, 1.5 AS value FROM system_metrics",
        "endless": "SELECT 1 AS value FROM pg_sleep(3600)",
        "nothing": "SELECT 1 AS value FROM nowhere",
        "columns": "SELECT 1 AS number",
        "syntax": "SELECT 1 AS value FROM (",
        "writes": "WITH x AS (DELETE FROM tenants RETURNING 1) SELECT count(*) AS value FROM x",
    }
    file.write_text(
        "".join(f'[figures.x.{name}]\nsql = "{sql}"\n' for name, sql in sqls.items())
        + '[figures.x.gone]\nsql = "SELECT 1"\ntables = ["gone"]\n'
    )
    assert main(["catalogue", "check", str(file), "--prepare"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "note: figures.x.gone is absent: no table gone",
        f'{file}: figures.x.nothing.sql: relation "nowhere" does not exist',
    ]
    assert lines[2].startswith(
        f"{file}: figures.x.columns.sql: returns number; it must return `value`"
    )
    assert lines[3].startswith(f"{file}: figures.x.syntax.sql: syntax error at")
    assert lines[4].startswith(f"{file}: figures.x.writes.sql: ")
    assert lines[5:] == ["catalogue: 4 services watched, 13 figures, 4 faults"]
    assert main(["catalogue", "check", "--prepare"]) == 0
