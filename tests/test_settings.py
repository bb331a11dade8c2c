"""Tests of the settings: accepted values, faults, files and secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ops_worker import settings
from ops_worker.core.model import Thresholds
from ops_worker.errors import SettingsError
from ops_worker.text import without_password

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit


def load(monkeypatch: pytest.MonkeyPatch, **env: str) -> settings.Settings:
    """Load the settings of these variables. PG_PASS has a value by default."""
    for name, value in ({"PG_PASS": "secret"} | env).items():
        monkeypatch.setenv(name, value)
    return settings.load()


URL = "postgres://u:p@h/d"
URLS = (
    "postgresql://u:p@h/d?application_name=a@b",
    "postgresql://u:p@h?application_name=a@b",
    "postgresql://h/d?user=a%40b&application_name=a@b",
    "postgresql://u%40v:p@h/d",
    "postgresql:///d?host=/run&application_name=a@b",
    "postgresql://u:a#b@h/d",
    "postgresql://u@h1,h2:2/d",
    "postgresql://u@%2Frun%2Fpg/d",
    "postgresql://u@[::1]:5432/d",
    "postgresql://u@10.0.0.1/d",
    "postgresql://u@b%C3%BCcher/d",
)
ON = ("1", "true", "YES", "On", " on ")
OFF = ("0", "false", "", "2", "enabled", "y")
ACCEPTED = [
    ({}, "log_level", "INFO"),
    ({"LOG_LEVEL": "debug"}, "log_level", "DEBUG"),
    ({"LOG_LEVEL": "loud"}, "log_level", "INFO"),
    *[({"SYSTEM_ALERT_ENABLED": word}, "system_alert_enabled", True) for word in ON],
    *[({"SYSTEM_ALERT_ENABLED": word}, "system_alert_enabled", False) for word in OFF],
    ({"HEALTH_CHECK_INTERVAL": "5"}, "health_check_interval", 5.0),
    ({"METRICS_COLLECTION_INTERVAL": ""}, "metrics_collection_interval", 5.0),
    ({"PG_PORT": ""}, "pg_port", 5432),
    ({"PG_HOST": ""}, "pg_host", "iot-postgres"),
    ({"ALERT_AFTER_FAILURES": "3", "RESOLVE_AFTER_SUCCESSES": "2"}, "thresholds", Thresholds(3, 2)),
    (
        {"DATABASE_URL": "", "PG_USER": "u", "PG_DB": "d", "PG_HOST": "h", "PG_PORT": "1"},
        "connection",
        {"host": "h", "port": 1, "dbname": "d", "user": "u", "password": "secret"},
    ),
    ({"DATABASE_URL": URL, "PG_PORT": "tcp://10.0.0.1:5432"}, "connection", {"conninfo": URL}),
    *[({"DATABASE_URL": url}, "connection", {"conninfo": url}) for url in URLS],
    ({"DATABASE_URL": URL, "PG_PASS": ""}, "connection", {"conninfo": URL}),
    ({}, "alertmanager_urls", ()),
    ({"ALERTMANAGER_URL": ""}, "alertmanager_urls", ()),
    ({"ALERTMANAGER_URL": " , "}, "alertmanager_urls", ()),
    ({"ALERTMANAGER_URL": "http://a:9093\n"}, "alertmanager_urls", ("http://a:9093",)),
    (
        {"ALERTMANAGER_URL": "http://b, https://u:p%2C@a/x/,http://b"},
        "alertmanager_urls",
        ("http://b", "https://u:p%2C@a/x/"),
    ),
    ({"ALERT_LABELS": ""}, "alert_labels", ""),
    ({"ALERT_LABELS": "env=prod, team=iot"}, "alert_labels", "env=prod, team=iot"),
    ({"ALERT_RUNBOOK_URL": " https://wiki/x?a=1#b "}, "alert_runbook_url", "https://wiki/x?a=1#b"),
    ({"ALERT_RUNBOOK_URL": ""}, "alert_runbook_url", ""),
    ({}, "installation", "ops-worker"),
    *[({"INSTALLATION": text}, "installation", "ops-worker") for text in ("", " \n")],
    *[
        ({"INSTALLATION": text}, "installation", text.strip())
        for text in (" prod-b\n", "a", "A.1_b", "x" * 63)
    ],
]


@pytest.mark.parametrize(("env", "name", "expected"), ACCEPTED)
def test_load(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], name: str, expected: object
) -> None:
    """Each setting is read as documented, and an empty value counts as unset."""
    assert expected == getattr(load(monkeypatch, **env), name)


NOT_SHOWN = (
    "has an invalid value (not shown); expected a connection URI, "
    "postgresql://user:password@host:port/database, "
    "with any of @/?#% in the password percent-encoded"
)
BAD_DATABASE_URLS = (
    "postgresql://iot:hunter/2secret@h/d",
    "postgresql://iot:a@b@h/d",
    "postgresql://iot:a/b@h@h/d",
    "postgresql://iot:hun?ter@h/d",
    "postgresql://h?application_name=a@b",
    "iot:a@h",
    "postgresql://u@256.1.1.1/d",
    "postgresql://u@a%20b/d",
    "postgresql://u@h,10.0.0.999/d",
    f"postgresql://u@{'x' * 64}.example/d",
    "postgresql://u@h:port/d",
)
BAD_ALERTMANAGER_URLS = (
    "x",
    "ftp://a",
    "http://a,b",
    "http://a http://b",
    "http://a?x=1",
    "http://u:hush/x@h",
    "http://256.1.1.1",
)
REFUSED = [
    ({"PG_PASS": ""}, "PG_PASS is not set; it is required if DATABASE_URL is empty"),
    ({"PG_PORT": "65536"}, "PG_PORT is '65536'; expected a port number, 1 to 65535"),
    ({"PG_PORT": "x"}, "PG_PORT is 'x'; expected a port number, 1 to 65535"),
    *[
        (
            {"INSTALLATION": text},
            f"INSTALLATION is {text!r}; expected 1 to 63 letters, digits, dots, - and _; "
            "the first and last one is a letter or digit",
        )
        for text in ("a b", "-a", "a-", "x" * 64, "a/b", "a\nb", "<b>", "é", "a#b")
    ],
    (
        {"HEALTH_CHECK_INTERVAL": "4.9"},
        "HEALTH_CHECK_INTERVAL is '4.9'; expected a number of seconds, 5 to 86400",
    ),
    (
        {"METRICS_COLLECTION_INTERVAL": "nan"},
        "METRICS_COLLECTION_INTERVAL is 'nan'; expected a number of seconds, 1 to 86400",
    ),
    ({"PASS_DEADLINE": "inf"}, "PASS_DEADLINE is 'inf'; expected a number of seconds, 6 to 86400"),
    (
        {"ALERT_AFTER_FAILURES": "0"},
        "ALERT_AFTER_FAILURES is '0'; expected a whole number of passes, 1 to 32767",
    ),
    (
        {"RESOLVE_AFTER_SUCCESSES": "1.5"},
        "RESOLVE_AFTER_SUCCESSES is '1.5'; expected a whole number of passes, 1 to 32767",
    ),
    ({"DATABASE_URL": "host=secret"}, f"DATABASE_URL {NOT_SHOWN}"),
    *[({"DATABASE_URL": url}, f"DATABASE_URL {NOT_SHOWN}") for url in BAD_DATABASE_URLS],
    *[
        (
            {"ALERTMANAGER_URL": url},
            "ALERTMANAGER_URL has an invalid value (not shown); "
            "expected http:// or https:// URLs without a query, separated by commas",
        )
        for url in BAD_ALERTMANAGER_URLS
    ],
    *[
        (
            {"ALERT_LABELS": text},
            f"ALERT_LABELS is {text!r}; expected name=value,name=value; a name has letters, digits "
            "and _, and is none of alertname, service, severity and source",
        )
        for text in ("env", "env=", "severity=low", "a=b,a=c", "a-b=c")
    ],
    (
        {"ALERT_RUNBOOK_URL": "wiki"},
        "ALERT_RUNBOOK_URL is 'wiki'; expected an http:// or https:// URL",
    ),
    *[
        ({"PG_HOST": host}, f"PG_HOST is {host!r}; expected a host name or address")
        for host in ("256.1.1.1", "a b", "x" * 64)
    ],
]
SCHEME, PORT, HOST = (
    "it must begin with http://, https://, tcp:// or tls://",
    "its port must be 1 to 65535",
    "its host is not a valid name or address",
)
BAD_URLS = [
    ("x", SCHEME),
    ("ftp://u:hush@h", SCHEME),
    ("http://", "it has no host"),
    ("http://h:0", PORT),
    ("http://h:65536", PORT),
    ("http://h:x", PORT),
    ("http://h h", "it contains a space or a control character"),
    ("http://[::1", HOST),
    ("http://256.1.1.1", HOST),
    ("http://exa\u2100mple..", HOST),
    ("http://h/?q=hush", "it must not have a query or a fragment"),
    ("http://h#f", "it must not have a query or a fragment"),
]


@pytest.mark.parametrize(("env", "fault"), REFUSED)
def test_load_bad(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], fault: str) -> None:
    """Each fault names the variable, its value and the expected form."""
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **env)
    assert caught.value.faults == (fault,)


def test_load_lists_all_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """All faults are listed at once, and none shows a password."""
    with pytest.raises(SettingsError) as caught:
        load(
            monkeypatch,
            PG_PORT="x",
            PG_PASS="",
            PASS_DEADLINE="1",
            HEARTBEAT_URL="ftp://user:secret@h",
            MAINTENANCE_UNTIL="then",
        )
    assert [fault.split()[0] for fault in caught.value.faults] == [
        "PG_PORT",
        "PG_PASS",
        "MAINTENANCE_UNTIL",
        "HEARTBEAT_URL",
        "PASS_DEADLINE",
    ]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("url", "problem"), BAD_URLS)
def test_bad_url_is_a_fault_of_its_service(
    monkeypatch: pytest.MonkeyPatch, url: str, problem: str
) -> None:
    """An invalid URL is a fault of its service alone.

    The message names the variable, and shows no part of the value.
    """
    first, *others = load(monkeypatch, INGEST_URL=url).targets
    assert (first.name, first.url, first.faults) == (
        "ingest",
        "",
        (f"url: INGEST_URL is not a valid base URL: {problem}",),
    )
    assert first.shown_url == "${INGEST_URL}/health"
    assert [target.faults for target in others] == [()] * 3


def test_blanks_around_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line ends and blanks around a value are removed; a password keeps its blanks."""
    loaded = load(
        monkeypatch, INGEST_URL=" http://h\n", PG_PASS=" a b \r\n", HEARTBEAT_URL="http://h/ping \n"
    )
    assert (loaded.targets[0].url, loaded.targets[0].faults) == ("http://h/health", ())
    assert loaded.pg_pass.get_secret_value() == " a b "
    assert loaded.heartbeat_url is not None
    assert loaded.heartbeat_url.get_secret_value() == "http://h/ping"
    loaded = load(monkeypatch, DATABASE_URL="postgresql://u:p@h/d\n")
    assert loaded.connection == {"conninfo": "postgresql://u:p@h/d"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "http://iot-ingest:8080/health"),
        ({"INGEST_URL": "http://b"}, "http://b/health"),
        (
            {"INGEST_URL": "http://b", "INGEST_HEALTH_URL": "https://a:1/base//"},
            "https://a:1/base/health",
        ),
        ({"INGEST_URL": "http://b", "INGEST_HEALTH_URL": ""}, None),
        ({"INGEST_URL": ""}, None),
        ({"INGEST_URL": "http://[::1]:8080/"}, "http://[::1]:8080/health"),
    ],
)
def test_targets(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str | None
) -> None:
    """The first variable that is set counts. If it is empty, the service is not monitored.

    /health is added with exactly one slash.
    """
    assert expected == {target.name: target.url for target in load(monkeypatch, **env).targets}.get(
        "ingest"
    )


def test_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable of the environment overrides the file.

    The file must exist and be readable.
    """
    path = tmp_path / "x.env"
    path.write_text("PG_PASS=a\nPG_DB='quoted'\n")
    monkeypatch.setenv("PG_PASS", "b")
    assert (settings.load(path).pg_pass.get_secret_value(), settings.load(path).pg_db) == (
        "b",
        "quoted",
    )
    path.write_bytes(b"\xff\xfe")
    for broken in (path, tmp_path / "none.env"):
        with pytest.raises(SettingsError, match=broken.name):
            settings.load(broken)


@pytest.mark.parametrize(
    "url", ["ftp://u:se/cret@h", "u:secret@h:8080", "ftp://u:s@ecret@h", "//u:secret@h"]
)
def test_without_password(url: str) -> None:
    """Before the last @ of a malformed URL, only the scheme is shown."""
    assert "cret" not in without_password(url)
    assert without_password(url).endswith("***@" + url.rpartition("@")[2])


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printing the settings prints no secret."""
    text = repr(
        load(
            monkeypatch,
            DATABASE_URL="postgresql://u:hush@h/d",
            PG_PASS="hush",
            ALERTMANAGER_URL="http://u:hush@a,http://b",
        )
    )
    assert "hush" not in text


def test_password_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file overrides PG_PASS, and is read again for each connection.

    Blanks belong to the password.
    """
    file = tmp_path / "password"
    file.write_text(" first \n")
    loaded = load(monkeypatch, PG_PASS="", PG_PASS_FILE=str(file))
    assert loaded.connection["password"] == " first "
    file.write_text("second\r\n")
    assert loaded.changing_connection is not None
    assert loaded.changing_connection()["password"] == "second"
    assert load(monkeypatch, PG_PASS="other").connection["password"] == "second"
    loaded = load(monkeypatch, DATABASE_URL="postgresql://u:p@h/d")
    assert (loaded.connection, loaded.changing_connection) == (
        {"conninfo": "postgresql://u:p@h/d"},
        None,
    )


def test_url_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file overrides DATABASE_URL. With a URL, the PG_ variables are ignored."""
    file = tmp_path / "url"
    file.write_text(" postgresql://u:p@h/one\n")
    env = {"PG_PASS": "", "PG_PORT": "tcp://10.0.0.1:5432", "DATABASE_URL_FILE": str(file)}
    loaded = load(monkeypatch, **env)
    assert loaded.connection == {"conninfo": "postgresql://u:p@h/one"}
    file.write_text("postgresql://u:p@h/two")
    assert load(monkeypatch, DATABASE_URL="postgresql://x:y@z/d").connection == {
        "conninfo": "postgresql://u:p@h/two"
    }
    assert loaded.changing_connection is not None
    assert loaded.changing_connection() == {"conninfo": "postgresql://u:p@h/two"}


@pytest.mark.parametrize("name", ["PG_PASS_FILE", "DATABASE_URL_FILE"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "the file cannot be read: No such file or directory"),
        (b"", "the file is empty"),
        (b"\r\n\n", "the file is empty"),
        (b"\xff", "the file is not UTF-8"),
        (b"hun\0ter", "the file is not a secret of at most 64 KiB of text"),
        (b"hunter2!" * 8193, "the file is not a secret of at most 64 KiB of text"),
    ],
)
def test_unusable_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes | None, fault: str
) -> None:
    """A file that cannot be used is a fault of the settings.

    The message shows neither its path nor its content.
    """
    file = tmp_path / "hunter2"
    if content is not None:
        file.write_bytes(content)
    loaded = load(monkeypatch, **{name: str(file)})
    with pytest.raises(SettingsError) as caught:
        _ = loaded.connection
    assert caught.value.faults == (f"{name}: {fault}",)


@pytest.mark.parametrize("name", ["PG_PASS_FILE", "DATABASE_URL_FILE"])
def test_no_regular_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Only a regular file is read, so that nothing waits for the writer of a pipe."""
    pipe, link, target = tmp_path / "hunter2", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        loaded = load(monkeypatch, **{name: str(path)})
        with pytest.raises(SettingsError) as caught:
            _ = loaded.connection
        assert caught.value.faults == (f"{name}: it does not name a regular file",)
    target.write_text("postgresql://u:p@h/d")
    link.symlink_to(target)  # as Kubernetes mounts the keys of a Secret
    assert "postgresql://u:p@h/d" in load(monkeypatch, **{name: str(link)}).connection.values()


@pytest.mark.parametrize("name", ["PG_PASS_FILE", "DATABASE_URL_FILE"])
def test_invalid_path(tmp_path: Path, name: str) -> None:
    """An invalid path is a fault of the setting, and is not shown."""
    env_file = tmp_path / "x.env"
    env_file.write_text(f"{name}=hun\0ter2\n")
    with pytest.raises(SettingsError) as caught:
        _ = settings.load(env_file).connection
    assert caught.value.faults == (f"{name}: it is not a valid path",)


@pytest.mark.parametrize(
    "url", ["hunter2", "postgresql://u:a@b@h/d", "postgresql://u:hunter2@256.1.1.1/d"]
)
def test_unusable_url_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    """The URI in a file is checked like DATABASE_URL, and is not shown."""
    file = tmp_path / "url"
    file.write_text(url)
    loaded = load(monkeypatch, DATABASE_URL_FILE=str(file))
    with pytest.raises(SettingsError) as caught:
        _ = loaded.connection
    assert caught.value.faults == (f"DATABASE_URL_FILE: the file {NOT_SHOWN}",)
