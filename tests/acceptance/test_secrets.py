"""No output contains a secret.

The tests put a marker into every secret, run every command and provoke every failure they can.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import redact
from ops_worker.adapters import http, kubernetes
from ops_worker.cli import main
from tests.stubs import Stub, raw, reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.conftest import Database, Worker
    from tests.stubs import Behaviour, Stubs

pytestmark = pytest.mark.acceptance

MARKER = "Zq7hunter9"
LOGIN = f"user:{MARKER}"
ENCODED = base64.b64encode(LOGIN.encode()).decode()
HEADER_VALUES = {
    "blank": f"{MARKER} ",
    "letter": f"{MARKER}\u00e9",
    "wide": f"{MARKER}\u4e2d",
    "line": f"{MARKER}\r\nX-Other: {MARKER}",
    "control": f"{MARKER}\x0b{MARKER}",
    "delete": f"{MARKER}\x7f",
    "mark": f"\ufeff{MARKER}\n",
}
"""Values that an HTTP library refuses, or that have white space around them to be trimmed."""

LOOKING = [
    ["status"],
    ["status", "--output", "json"],
    ["explain", "ingest"],
    ["explain", "ingest", "--output", "json"],
    ["explain", "s-token", "--output", "json"],
    ["history"],
    ["history", "ingest", "--output", "json"],
    ["history", "--output", "csv"],
    ["report", "-o", "page.html"],
    ["alerts", "list", "--all", "--output", "json"],
    ["alerts", "prune", "--dry-run"],
    ["maintenance", "start", "--reason", "r", "--by", "b"],
    ["maintenance", "status"],
    ["maintenance", "start", "--service", "ingest", "--every", "Sunday 02:00"],
    ["maintenance", "list"],
    ["maintenance", "end"],
]
PASSES = [
    ["health", "--dry-run", "--output", "json"],
    ["health", "--output", "json"],
    ["health", "--output", "table"],
    ["metrics", "--output", "json"],
    ["metrics", "--every", "0.1", "--for", "0.1"],
]
CHECKING = [
    ["check"],
    ["check", "--output", "json"],
    ["catalogue", "check"],
    ["catalogue", "check", "--prepare"],
    ["catalogue", "show"],
    ["catalogue", "show", "--output", "json"],
]
EVERYTHING = [["init-db"], *PASSES, *CHECKING, *LOOKING]
DATABASE = [
    ["health"],
    ["metrics", "--output", "json"],
    ["check"],
    ["status"],
    ["init-db"],
    ["catalogue", "check", "--prepare"],
]


class Program:
    """Runs commands in this process and keeps their output and the files that they write."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.texts: list[str] = []
        self._capsys = capsys

    def __call__(self, *arguments: str) -> int:
        """Run one command. Return its exit code."""
        code = main([*arguments])
        output = self._capsys.readouterr()
        texts = [output.out, output.err]
        texts += [
            path.read_text(encoding="utf-8")
            for path in (self.folder / "termination", self.folder / "page.html")
            if path.is_file()
        ]
        for text in texts:
            assert not leaks(text), f"ops-worker {' '.join(arguments)}"
        self.texts += texts
        return code


def leaks(text: str) -> list[str]:
    """Return the parts of a text that hold the marker, in plain text or as Basic credentials."""
    return [
        match.group()
        for match in re.finditer(f".{{0,100}}({re.escape(MARKER)}|{re.escape(ENCODED)})", text)
    ]


def assert_nothing_kept(database: Database) -> None:
    """Assert that no row of any table holds the marker."""
    for table in database.rows(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE relkind IN ('r', 'p', 'v') "
        "AND relnamespace = 'public'::regnamespace"
    ):
        for row in database.rows(f"SELECT t::text AS row FROM {table['name']} t"):
            assert not leaks(row["row"]), table["name"]


@pytest.fixture
def program(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    stubs: Stubs,
) -> Program:
    """Return a program that uses the test's database and logs at level DEBUG."""
    variables = stubs.env | {
        "DATABASE_URL": database.url,
        "PG_PASS": MARKER,
        "LOG_LEVEL": "DEBUG",
        "TERMINATION_MESSAGE_PATH": str(tmp_path / "termination"),
        "PROBE_CONCURRENCY": "20",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Program(tmp_path, capsys)


def written(folder: Path, name: str, content: str | bytes) -> str:
    """Write a file. Return its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def service(name: str, **keys: Any) -> str:
    """Return a service of a catalogue. TOML writes strings, lists and numbers as JSON does."""
    lines = [f"[services.{name}]"]
    return "\n".join([*lines, *(f"{key} = {toml(value)}" for key, value in keys.items()), ""])


def toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value).replace("\x7f", "\\u007f")


def services_with_secrets(folder: Path, url: str) -> tuple[str, dict[str, str]]:
    """Return a catalogue with the marker in every secret, and the variables it refers to."""
    text = ""
    variables: dict[str, str] = {}
    places: dict[str, dict[str, Any]]
    for name, value in HEADER_VALUES.items():
        variable = f"TOKEN_{name.upper()}"
        variables[variable] = value
        file = written(folder, f"token-{name}", value)
        text += service(f"literal-{name}", url=url, headers={"X-Key": value})
        text += service(
            f"variable-{name}", url=url, headers={"Authorization": f"Bearer ${{{variable}}}"}
        )
        text += service(f"file-{name}", url=url, headers={"Authorization": {"file": file}})
        text += service(
            f"prefix-{name}",
            url=url,
            headers={"Authorization": {"file": file, "prefix": f"{MARKER} "}},
        )
    variables |= {
        "TOKEN": MARKER,
        "EMPTY": "",
        "SHOP_URL": f"http://{LOGIN}@h?key={MARKER}",
        "PART": f"h/{MARKER} x",
    }
    key = written(
        folder, "key", f"-----BEGIN PRIVATE KEY-----\n{MARKER}\n-----END PRIVATE KEY-----\n"
    )
    pem = written(
        folder, "pem", f"-----BEGIN CERTIFICATE-----\n{MARKER}\n-----END CERTIFICATE-----\n"
    )
    secure = "https://127.0.0.1:9"
    places = {
        "s-token": {"headers": {"Authorization": "Bearer ${TOKEN}"}},
        "s-empty": {"headers": {"Authorization": "Bearer ${EMPTY}", "X-Key": "${EMPTY}"}},
        "s-unset": {"headers": {"Authorization": f"{MARKER} ${{NOT_SET}}"}},
        "s-swapped": {
            "headers": {"Authorization": {"file": "${TOKEN}"}, "X-Key": {"file": MARKER}}
        },
        "s-long": {"headers": {"Authorization": {"file": written(folder, "long", MARKER * 5000)}}},
        "s-wide": {
            "headers": {
                "Authorization": {"file": written(folder, "utf16", MARKER.encode("utf-16"))}
            }
        },
        "s-login": {"url": f"http://{LOGIN}@127.0.0.1:9"},
        "s-login-unescaped": {"url": f"http://user:{MARKER} {MARKER}@127.0.0.1:9"},
        "s-login-port": {"url": f"http://user:{MARKER}"},
        "s-scheme": {"url": f"ftp://{LOGIN}@h"},
        "s-query": {"url": f"http://h?key={MARKER}"},
        "s-variable": {"url": "${SHOP_URL}"},
        "s-part": {"url": "http://${PART}/x"},
        "s-number": {"url": f"http://{LOGIN}@256.1.1.1"},
        "s-name": {"url": f"http://{LOGIN}@exa\u2100mple.."},
        "s-key": {"url": secure, "certificate": pem, "key": key},
        "s-authority": {"url": secure, "ca": pem},
        "s-inline": {
            "url": secure,
            "ca": f"-----BEGIN CERTIFICATE-----\n{MARKER}",
            "certificate": MARKER,
            "key": MARKER * 500,
        },
        "s-body": {"method": "POST", "body": f"{MARKER} ${{TOKEN}}"},
        "s-body-unset": {"method": "POST", "body": f"{MARKER} ${{NOT_SET}}"},
        "s-body-get": {"body": f"{MARKER} ${{TOKEN}}"},
        "s-path": {"url": secure, "certificate": "${TOKEN}", "key": "/${TOKEN}"},
    }
    for name, keys in places.items():
        text += service(name, **{"url": url} | keys)
    return text, variables


@pytest.mark.parametrize("confirm", ["0", "1"])
def test_services(
    program: Program,
    database: Database,
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
    confirm: str,
) -> None:
    """A service with a bad secret is unknown, the others are recorded, no output has a secret."""
    text, variables = services_with_secrets(program.folder, stubs["ingest"].url)
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", written(program.folder, "c.toml", text))
    monkeypatch.setenv("EVALUATOR_HEALTH_URL", f"http://{LOGIN}@127.0.0.1:9/?key={MARKER}")
    monkeypatch.setenv("DELIVERY_HEALTH_URL", f"https://{LOGIN}@127.0.0.1:9")
    monkeypatch.setenv("DISPATCHER_URL", f"http://user:{MARKER}")
    monkeypatch.delenv("DISPATCHER_HEALTH_URL")
    monkeypatch.setenv("CONFIRM_FAILURES", confirm)
    monkeypatch.setenv("CONFIRM_DELAY", "0")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    codes = {
        " ".join(arguments): program(*arguments)
        for arguments in (EVERYTHING if confirm == "0" else PASSES)
    }
    assert {code for command, code in codes.items() if "check" not in command} == {0}
    assert {code for command, code in codes.items() if command.startswith("check")} <= {2}
    assert {code for command, code in codes.items() if command.startswith("catalogue check")} <= {4}
    assert_nothing_kept(database)
    rows = database.health()
    assert len(rows) == 4 + text.count("[services.")
    trimmed = {
        f"{how}-{name}"
        for how in ("literal", "variable", "file", "prefix")
        for name in ("blank", "mark")
    }
    trimmed -= {"literal-mark", "variable-mark"}  # a byte order mark belongs to a file
    assert {name for name, row in rows.items() if row["status"] == "healthy"} == {
        "ingest",
        "s-token",
        "s-body",
        *trimmed,
    }
    assert {
        row["details"]["status"]
        for name, row in rows.items()
        if name.startswith(("literal", "variable", "file", "prefix"))
    } == {
        "healthy",
        "unknown",
    }
    assert (
        f"authorization: bearer {MARKER}\r".encode().lower()
        in b"".join(stubs["ingest"].requests).lower()
    )


ANSWERS: dict[str, str | Behaviour] = {
    "echo": raw(f"HTTP/1.1 200 OK\r\nAuthorization Bearer {MARKER}\r\n\r\n".encode()),
    "status line": raw(f"GET /health Bearer {MARKER}\r\n\r\n".encode()),
    "reason": reply("{}", status=f"401 {MARKER}"),
    "redirect": reply("", status="302 Found", headers={"Location": f"http://{LOGIN}@h/"}),
    "encoding": reply("{}", headers={"Content-Encoding": f"x-{MARKER}"}),
    "text": reply(f"Bearer {MARKER}"),
    "counters": reply(
        json.dumps({"counters": {"said": f"Bearer {MARKER}", MARKER: 1}, "state": MARKER})
    ),
    "header": reply("{}", headers={"X-Echo": f"Bearer {MARKER}"}),
    "down": "down",
    "reset": "reset",
    "500": "500",
}
"""Answers to a request with secrets in it. Some of them send a secret back."""


def test_answers(
    program: Program, database: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer of a service brings a secret of its request into an output."""
    running = {name: Stub("ingest") for name in ANSWERS}
    text = ""
    for name, stub in running.items():
        stub.mode = ANSWERS[name]
        url = stub.url.replace("://", f"://{LOGIN}@")
        state = [
            {"pointer": "/state", "equals": "up"},
            {"equals": "up"},
            {"header": "X-Echo", "equals": "up"},
        ]
        text += service(
            f"s-{name.replace(' ', '-')}",
            url=url,
            headers={"X-Key": MARKER},
            method="POST",
            body="${TOKEN}",
            redirects=2,
            counters="*",
            conditions=state,
        )
        texts = {"json": False, "headers": {"X-Key": MARKER}, "conditions": state}
        text += service(f"t-{name.replace(' ', '-')}", url=url, **texts)
    monkeypatch.setenv("TOKEN", MARKER)
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", written(program.folder, "c.toml", text))
    for arguments in (
        *PASSES,
        ["check"],
        ["status"],
        ["explain", "s-echo"],
        ["alerts", "list", "--output", "json"],
    ):
        assert program(*arguments) == 0
    assert_nothing_kept(database)
    assert len(database.health()) == len(stubs) + 2 * len(ANSWERS)
    for stub in running.values():
        stub.close()


NOWHERE = "127.0.0.1:9"
URIS = {
    "refused": f"postgresql://{LOGIN}@{NOWHERE}/d",
    "unescaped slash": f"postgresql://user:{MARKER}/{MARKER}@{NOWHERE}/d",
    "unescaped at": f"postgresql://user:{MARKER}@{MARKER}@{NOWHERE}/d",
    "unescaped question": f"postgresql://user:{MARKER}?{MARKER}@{NOWHERE}/d",
    "unescaped hash": f"postgresql://user:{MARKER}#{MARKER}@{NOWHERE}/d",
    "unescaped percent": f"postgresql://user:{MARKER}%zz{MARKER}@{NOWHERE}/d",
    "unescaped bracket": f"postgresql://user:[{MARKER}@{NOWHERE}/d",
    "no host": f"postgresql://user:{MARKER}",
    "no host but a database": f"postgresql://user:{MARKER}/d",
    "no scheme": f"{LOGIN}@{NOWHERE}/d",
    "other scheme": f"mysql://{LOGIN}@{NOWHERE}/d",
    "keywords": f"host=127.0.0.1 port=9 password={MARKER}",
    "in the query": f"postgresql://{NOWHERE}/d?user=user&password={MARKER}",
    "in the query, misspelt": f"postgresql://{NOWHERE}/d?pasword={MARKER}",
    "bad option": f"postgresql://{LOGIN}@{NOWHERE}/d?sslmode={'x'}",
    "several hosts": f"postgresql://{LOGIN}@{NOWHERE},127.0.0.2:9/d",
    "no name": f"postgresql://{LOGIN}@no-such-host.invalid/d",
    "line end": f"postgresql://{LOGIN}@{NOWHERE}/d\n",
    "blank": f"postgresql://user:{MARKER} {MARKER}@{NOWHERE}/d",
    "key file": f"postgresql://user@{NOWHERE}/d?sslpassword={MARKER}&sslkey=/nowhere",
    "not UTF-8": f"postgresql://user:{MARKER}\udcff@{NOWHERE}/d",
}


@pytest.mark.parametrize("uri", URIS.values(), ids=URIS)
def test_database_url(program: Program, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """No message about a wrong database URI shows its password."""
    monkeypatch.setenv("DATABASE_URL", uri)
    for arguments in DATABASE:
        assert program(*arguments) in {1, 2, 3}
    assert "this is a bug" not in "".join(program.texts)


def test_wrong_password(
    program: Program, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused or malformed password is not shown, whether in DATABASE_URL or in PG_PASS."""
    host, port = database.url.rpartition("@")[2].partition("/")[0].split(":")
    monkeypatch.setenv("DATABASE_URL", database.as_user("postgres", MARKER))
    for arguments in DATABASE:
        assert program(*arguments) in {1, 3}
    monkeypatch.setenv("DATABASE_URL", "")
    for name, value in {
        "PG_HOST": host,
        "PG_PORT": port,
        "PG_DB": "d",
        "PG_USER": "postgres",
    }.items():
        monkeypatch.setenv(name, value)
    for password in (MARKER, f"{MARKER}\n", f"{MARKER}'\\ x", f"{MARKER}\udcff"):
        monkeypatch.setenv("PG_PASS", password)
        for arguments in DATABASE:
            assert program(*arguments) in {1, 2, 3}
    assert "this is a bug" not in "".join(program.texts)


HEARTBEATS = [
    f"http://{NOWHERE}/{MARKER}",
    f"http://{LOGIN}@{NOWHERE}/{MARKER}?create=1&key={MARKER}",
    f"http://{NOWHERE}/{MARKER}#x",
    f"http://{MARKER}:{MARKER}/",
    f"http://256.1.1.1/{MARKER}",
    f"http://exa\u2100mple../{MARKER}",
    f"http://no-such-host.invalid/{MARKER}",
    f"http://h/{MARKER} {MARKER}",
    f"ftp://h/{MARKER}",
    MARKER,
]


@pytest.mark.parametrize("url", HEARTBEATS)
def test_heartbeat(program: Program, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """No message about a wrong heartbeat URL shows any part of the URL."""
    monkeypatch.setenv("HEARTBEAT_URL", url)
    for arguments in (["health"], ["check"], ["metrics", "--output", "json"]):
        assert program(*arguments) in {0, 2}


ALERTMANAGERS = [
    f"http://{LOGIN}@{NOWHERE}",
    f"http://{NOWHERE},http://{LOGIN}@{NOWHERE}/prefix, https://{LOGIN}@{NOWHERE}",
    f"http://{LOGIN}@{NOWHERE}/#x",
    f"http://{LOGIN}@{NOWHERE}/?key={MARKER}",
    f"http://{LOGIN}@256.1.1.1",
    f"http://{LOGIN}@no-such-host.invalid",
    f"http://user:{MARKER},{MARKER}@{NOWHERE}",
    f"http://h/{MARKER} {MARKER}",
    f"ftp://{LOGIN}@h",
    MARKER,
]


@pytest.mark.parametrize("url", ALERTMANAGERS)
def test_alertmanagers(
    program: Program, monkeypatch: pytest.MonkeyPatch, stubs: Stubs, url: str
) -> None:
    """No message about a wrong Alertmanager URL shows the login in the URL."""
    stubs["ingest"].mode = "503"
    monkeypatch.setenv("ALERTMANAGER_URL", url)
    for arguments in (
        ["health"],
        ["check"],
        ["check", "--output", "json"],
        ["health", "--dry-run"],
    ):
        assert program(*arguments) in {0, 2}


@pytest.mark.parametrize("value", HEADER_VALUES.values(), ids=HEADER_VALUES)
def test_token_of_alertmanagers(
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    stubs: Stubs,
    tmp_path: Path,
    value: str,
) -> None:
    """A token is not shown, even if an Alertmanager sends it back or it is given as a file name."""
    stubs["ingest"].mode = "503"
    stubs["evaluator"].mode = reply(value.encode(), status=f"401 {MARKER}")
    (tmp_path / "token").write_text(value, newline="")
    monkeypatch.setenv("ALERTMANAGER_URL", stubs["evaluator"].url)
    monkeypatch.setenv("ALERTMANAGER_TOKEN_FILE", str(tmp_path / "token"))
    for arguments in (["health"], ["check"]):
        assert program(*arguments) == 0
    monkeypatch.setenv("ALERTMANAGER_TOKEN_FILE", MARKER)
    for arguments in (["health"], ["check"]):
        assert program(*arguments) == 0


SHAPES = [
    service("a", url="http://h", headers=f"Bearer {MARKER}"),
    service("a", url="http://h", headers={"Authorization": 5, "X-Key": MARKER}),
    service("a", url="http://h", headers={"Content-Length": MARKER}),
    service(
        "a", url="http://h", headers={"X-Key": {"file": "/x", "prefix": MARKER, "more": MARKER}}
    ),
    service("a", url="http://h", header={"Authorization": MARKER}),
    service("a", url=[f"http://user:{MARKER} {MARKER}@h", 5]),
    service("a", url={"login": f"http://{LOGIN}@h"}),
    f'[services.a]\nurl = "http://h"\nheaders = {{ Authorization = Bearer {MARKER} }}\n',
    f'[services.a]\nurl = "http://h"\n'
    f'headers = {{ Authorization = "{MARKER}", Authorization = "{MARKER}" }}\n',
    f'[services.a]\nheaders = {{ Authorization = "{MARKER}\n',
    f'[services.a]\nurl = "http://h"\nheaders.Authorization = "\\{MARKER}"\n',
]


@pytest.mark.parametrize("text", SHAPES)
def test_shape_of_a_catalogue(program: Program, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """No message about a malformed catalogue shows a secret in it."""
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", written(program.folder, "c.toml", text))
    for arguments in (["health", "--output", "json"], ["status"], *CHECKING):
        assert program(*arguments) in {2, 4}


@pytest.mark.parametrize(
    "text",
    [
        f"DATABASE_URL {MARKER}\nPG_PASS='{MARKER}\nA={MARKER}",
        b"PG_PASS=" + MARKER.encode() + b"\xff",
    ],
)
def test_env_file(program: Program, monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    """No message about a malformed file of settings shows its content."""
    monkeypatch.delenv("DATABASE_URL")
    path = written(program.folder, "x.env", text)
    for arguments in (
        ["health", "--env-file", path],
        ["check", "--env-file", path],
        ["catalogue", "--env-file", path, "check"],
    ):
        program(*arguments)


def test_settings(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message about a wrong setting shows no secret of another setting."""
    monkeypatch.setenv("HEARTBEAT_URL", f"http://h/{MARKER}")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{LOGIN}@{NOWHERE}/d")
    monkeypatch.setenv("PG_PORT", "x")
    monkeypatch.setenv("PASS_DEADLINE", "1")
    for arguments in (*PASSES, ["check"], ["status", "--output", "json"], ["init-db"]):
        assert program(*arguments) == 2


@pytest.mark.parametrize(
    "arguments",
    [["health", "--output", "json"], ["metrics", "--every", "0.1", "--for", "0.1"]],
    ids=["once", "loop"],
)
def test_bugs(program: Program, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """A bug is reported without the text of its exception. The traceback has stars for secrets."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{LOGIN}@{NOWHERE}/d")
    catalogue = service("a", url=f"http://{LOGIN}@h", headers={"Authorization": "Bearer ${TOKEN}"})
    monkeypatch.setenv("TOKEN", f"{MARKER}-token")
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", written(program.folder, "c.toml", catalogue))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"refused: {MARKER}-token") from ValueError(
            f"{LOGIN} for postgresql://{LOGIN}@{NOWHERE}/d"
        )

    monkeypatch.setattr(http, "confirm", broken)
    assert program(*arguments) == 1
    output = "".join(program.texts)
    assert "a bug in ops-worker: RuntimeError; the log has the traceback" in output
    assert "RuntimeError: refused: ***" in output


def manifests() -> Iterator[str]:
    """Yield manifests with secrets in the wrong places. Some of them are not valid YAML."""
    env = [
        {"name": "PG_PASS", "value": MARKER},
        {"name": "DATABASE_URL", "value": f"postgresql://{LOGIN}@h/d"},
        {"name": "HEARTBEAT_URL", "value": f"ftp://h/{MARKER}"},
        {"name": "INGEST_HEALTH_URL", "value": f"ftp://{LOGIN}@h?key={MARKER}"},
        {"name": "EVALUATOR_HEALTH_URL", "value": f"http://{LOGIN}@h"},
    ]
    for arguments in (["health"], ["health", f"--env-file={MARKER}", f"--token={MARKER}"]):
        containers = [
            {"name": "ops-worker", "image": "ops-worker:1", "args": arguments, "env": env}
        ]
        pod = {
            "metadata": {"labels": {"app.kubernetes.io/name": "ops-worker"}},
            "spec": {"containers": containers},
        }
        cronjob = {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "ops-worker-health"},
        }
        yield json.dumps(
            cronjob
            | {"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": pod}}}}
        )
    yield json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s"},
            "stringData": {"PG_PASS": MARKER},
        }
    )
    for broken in (
        f"PG_PASS: [{MARKER}",
        f"PG_PASS: !{MARKER}",
        f"PG_PASS: *{MARKER}",
        f"PG_PASS: %{MARKER}",
        f"a: b: {MARKER}",
        f'PG_PASS: "\\{MARKER}"',
        f"PG_PASS: 0b{MARKER}",
        f"? {{{MARKER}: 1}}\n: - {MARKER}\n -",
    ):
        yield f"kind: Secret\n{broken}\n"


def test_manifests(program: Program) -> None:
    """No message about checked or unreadable manifests shows a secret in them."""
    for number, text in enumerate(manifests()):
        # 0: an odd Secret of another application does not concern the worker.
        assert program("manifests", "check", written(program.folder, f"{number}.yaml", text)) in {
            0,
            2,
            4,
        }


KUBE_USERS: dict[str, Mapping[str, Any]] = {
    "token": {"token": MARKER},
    "line end": {"token": f"{MARKER}\n"},
    "line": {"token": f"{MARKER}\nx"},
    "letter": {"token": f"{MARKER}\u4e2d"},
    "login": {"username": "user", "password": MARKER},
    "certificate": {
        "client-certificate-data": base64.b64encode(MARKER.encode()).decode(),
        "client-key-data": "!",
    },
    "plugin": {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", f"echo {MARKER} >&2; exit 1"],
        }
    },
    "plugin's answer": {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "echo",
            "args": [MARKER],
        }
    },
}
CLUSTER: Sequence[list[str]] = [
    ["cluster"],
    ["cluster", "--output", "json"],
    ["trigger", "health"],
    ["check"],
]


@pytest.mark.parametrize("user", KUBE_USERS.values(), ids=KUBE_USERS)
def test_kubeconfig(
    program: Program, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, user: Mapping[str, Any]
) -> None:
    """Wrong credentials in a kubeconfig are not shown, whatever the API server answers."""
    stubs["ingest"].mode = reply(json.dumps({"message": "no"}), status="500 No")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    for server in (stubs["ingest"].url, f"http://{LOGIN}@{NOWHERE}", f"http://{LOGIN}@h:99999"):
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [
                {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "ops"}}
            ],
            "current-context": "test",
        }
        monkeypatch.setenv("KUBECONFIG", written(program.folder, "kubeconfig", json.dumps(config)))
        for arguments in CLUSTER:
            program(*arguments)
    assert "this is a bug" not in "".join(program.texts)


def test_what_libraries_log(worker: Worker) -> None:
    """A separate process does not print what the libraries log."""
    user = json.dumps(KUBE_USERS["plugin"])
    config = f"""{{
        "clusters": [{{"name": "c", "cluster": {{"server": "http://{NOWHERE}"}}}}],
        "users": [{{"name": "u", "user": {user}}}],
        "contexts": [{{"name": "t", "context": {{"cluster": "c", "user": "u"}}}}],
        "current-context": "t"
    }}"""
    done = worker("cluster", KUBECONFIG=written(worker.folder, "kubeconfig", config))
    assert done.returncode == 1
    assert not leaks(done.stdout + done.stderr)


@pytest.mark.parametrize(
    "text",
    [f"users: [{{token: {MARKER}", f"token: !{MARKER} x", f"users: {MARKER}\n  a: b", "", "a: b"],
)
def test_unreadable_kubeconfig(
    program: Program, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The message about an unreadable kubeconfig does not show the line with the error."""
    monkeypatch.setenv("KUBECONFIG", written(program.folder, "kubeconfig", text))
    for arguments in CLUSTER[:3]:
        assert program(*arguments) == 2


def test_service_account(program: Program, monkeypatch: pytest.MonkeyPatch, stubs: Stubs) -> None:
    """A service account token that no header can hold is not shown when Events are written."""
    monkeypatch.setattr(
        kubernetes, "TOKEN", Path(written(program.folder, "token", f"{MARKER}\n{MARKER}"))
    )
    written(program.folder, "namespace", "ops")
    monkeypatch.setenv("KUBERNETES_EVENTS", "true")
    monkeypatch.setenv("JOB_NAME", "ops-worker-health-1")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")
    stubs["ingest"].mode = "down"
    with contextlib.suppress(ImportError):
        from kubernetes.config import incluster_config

        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(kubernetes.TOKEN))
        monkeypatch.setattr(
            incluster_config, "SERVICE_CERT_FILENAME", written(program.folder, "ca", MARKER)
        )
    assert program("health") == 0
    assert program("check") == 0
    assert "no Kubernetes Event" in "".join(program.texts)


def test_starred() -> None:
    """Known secrets become stars, the longest first. Short ones stay: they may be plain words."""
    redact.remember([f"{MARKER}-long", MARKER, "short"])
    assert redact.starred(f"{MARKER}-long {MARKER} short") == "*** *** short"
