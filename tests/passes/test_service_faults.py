"""A fault in the settings of one service affects only that service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ops_worker.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database
    from tests.stubs import Stubs

pytestmark = pytest.mark.integration

SECURE = "https://127.0.0.1:9"
SERVICES: list[tuple[str, str]] = [
    ('url = "http://${HOST_OF_SHOP}"', "url: HOST_OF_SHOP is not set in the environment or .env"),
    (
        'url = "${BAD}"',
        "url: BAD is not a valid base URL: it must begin with http://, https://, tcp:// or tls://",
    ),
    (
        'url = "http://127.0.0.1:9"\nheaders = { A = "${TOKEN}" }',
        "headers.A: TOKEN is not set in the environment or .env",
    ),
    (
        'url = "http://127.0.0.1:9"\nheaders = { A = "Bearer ${EMPTY}" }',
        "headers.A: EMPTY is empty",
    ),
    (
        'url = "http://127.0.0.1:9"\nheaders = { A = "Bearer ${ODD}" }',
        "headers.A: ODD contains a character that a header value cannot have: "
        "a line end, a control character or a non-ASCII character",
    ),
    (
        'url = "http://127.0.0.1:9"\nheaders = { A = { file = "{folder}/none" } }',
        "headers.A: {folder}/none cannot be read: No such file or directory",
    ),
    (
        'url = "http://127.0.0.1:9"\nheaders = { A = { file = "{folder}/empty" } }',
        "headers.A: {folder}/empty is empty",
    ),
    (
        f'url = "{SECURE}"\nca = "{{folder}}/none"',
        "ca: {folder}/none cannot be read: No such file or directory",
    ),
    (f'url = "{SECURE}"\nca = "{{folder}}/empty"', "ca: {folder}/empty is empty"),
    (
        f'url = "{SECURE}"\nca = "{{folder}}/junk"',
        "ca: {folder}/junk cannot be loaded: it holds no PEM certificate",
    ),
    (
        f'url = "{SECURE}"\ncertificate = "{{folder}}/cert"\nkey = "{{folder}}/none"',
        "key: {folder}/none cannot be read: No such file or directory",
    ),
    (
        f'url = "{SECURE}"\ncertificate = "{{folder}}/cert"\nkey = "{{folder}}/other"',
        "certificate: {folder}/cert and key: {folder}/other cannot be loaded: "
        "the key does not belong to the certificate",
    ),
    (f'url = "{SECURE}"\nkey = "{{folder}}/other"', "key needs `certificate` as well"),
]
"""The keys of each service, and its reason. ``{folder}`` stands for the test's folder."""
VARIABLES = {
    "INGEST_HEALTH_URL": (
        "ftp://u:hush@h",
        "url: INGEST_HEALTH_URL is not a valid base URL: "
        "it must begin with http://, https://, tcp:// or tls://",
    ),
    "EVALUATOR_HEALTH_URL": (
        "http://256.1.1.1",
        "url: EVALUATOR_HEALTH_URL is not a valid base URL: "
        "its host is not a valid name or address",
    ),
    "DISPATCHER_HEALTH_URL": (
        "http://x:99999",
        "url: DISPATCHER_HEALTH_URL is not a valid base URL: its port must be 1 to 65535",
    ),
}
"""The variables of built-in services: the value of each, and its reason."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with empty, broken and mismatched files."""
    authority = trustme.CA()
    contents = {
        "empty": b"",
        "junk": b"junk\n",
        "cert": authority.issue_cert("a.example").cert_chain_pems[0].bytes(),
        "other": authority.issue_cert("b.example").private_key_pem.bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def reasons(
    folder: Path, database: Database, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Set up services with one fault each, and one healthy service. Return the reasons."""
    names = ("ingest", "evaluator", "dispatcher")
    variables = stubs.env | {name: value for name, (value, _) in VARIABLES.items()}
    variables |= {
        "DATABASE_URL": database.url,
        "BAD": "ftp://hush",
        "EMPTY": " ",
        "ODD": "hush\u00e9",
        "CONFIRM_FAILURES": "5",
    }
    variables |= {"CONFIRM_DELAY": "30", "OPS_WORKER_CATALOGUE": str(folder / "c.toml")}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    text = "".join(f"[services.s{number}]\n{keys}\n" for number, (keys, _) in enumerate(SERVICES))
    (folder / "c.toml").write_text(text.replace("{folder}", str(folder)))
    of_entries = {
        f"s{number}": reason.replace("{folder}", str(folder))
        for number, (_, reason) in enumerate(SERVICES)
    }
    return of_entries | dict(zip(names, (reason for _, reason in VARIABLES.values()), strict=True))


def test_health(
    reasons: dict[str, str], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each faulty service is unknown, has an alert with its reason, and is not probed again."""
    # A second probe would come after a pause of 30 s, and the pass would miss its deadline.
    assert main(["health", "--output", "json"]) == 0
    services = {
        service["service"]: service for service in json.loads(capsys.readouterr().out)["services"]
    }
    assert {name: service["reason"] for name, service in services.items()} == reasons | {
        "delivery_worker": ""
    }
    assert {service["attempts"] for service in services.values()} == {1}
    rows = database.health()
    assert rows.pop("delivery_worker")["status"] == "healthy"
    assert {
        name: (row["details"]["status"], row["details"]["error"]) for name, row in rows.items()
    } == {name: ("unknown", reason) for name, reason in reasons.items()}
    opened = {alert["details"]["service"]: alert["summary"] for alert in database.alerts()}
    assert opened == {
        name: f"Service unhealthy: {name} ({reason})" for name, reason in reasons.items()
    }


def test_metrics(
    reasons: dict[str, str], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each faulty service is recorded as not healthy, the others are recorded as usual."""
    assert main(["metrics"]) == 0
    assert "hush" not in capsys.readouterr().out
    samples = database.samples()
    assert {samples[name, "healthy"] for name in reasons} == {0.0}
    assert samples["delivery", "healthy"] == 1.0
    assert ("platform", "devices_online") in samples


def test_checks(reasons: dict[str, str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``check`` and ``catalogue check`` report each fault. ``catalogue show`` explains it."""
    assert main(["check", "--output", "json"]) == 2
    findings = json.loads(capsys.readouterr().out)["findings"]
    faults = {
        finding["subject"]: finding["found"] for finding in findings if finding["state"] == "fault"
    }
    assert faults == {f"service {name}": reason for name, reason in reasons.items()}
    assert not [
        finding
        for finding in findings
        if finding["subject"].startswith("service ") and finding["state"] == "warning"
    ]
    assert main(["catalogue", "check"]) == 4
    *lines, last = capsys.readouterr().out.splitlines()
    files = {
        name: str(folder / "c.toml") if name.startswith("s") else "built-in catalogue"
        for name in reasons
    }
    assert sorted(lines) == sorted(
        f"{files[name]}: services.{name}.{reason}" for name, reason in reasons.items()
    )
    assert last == "catalogue: 17 services monitored, 6 figures, 16 faults"
    assert main(["catalogue", "show", "--output", "json"]) == 0
    services: dict[str, Any] = {
        service["name"]: service for service in json.loads(capsys.readouterr().out)["services"]
    }
    # The files of s9 and s11 are read later.
    assert set(reasons) == {name for name, service in services.items() if service["faults"]} | {
        "s9",
        "s11",
    }
    assert main(["health"]) == main(["explain", "ingest"]) == 0
    assert "ingest is unknown, unhealthy since" in capsys.readouterr().out


def test_explained(
    reasons: dict[str, str], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """``explain`` shows the reason, and an invalid URL as the name of its variable."""
    assert main(["health"]) == 0
    capsys.readouterr()
    assert database.url
    assert main(["explain", "ingest", "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["reason"] == reasons["ingest"]
    assert document["rule"]["asked"] == "${INGEST_HEALTH_URL}/health"


def test_figures_of_a_service(
    database: Database, stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A figure's rows never replace the metrics of a service or of the worker."""
    path = tmp_path / "c.toml"
    sql = (
        "SELECT * FROM (VALUES ('ingest', 0.5), ('ops_worker', 0.5), ('mine', 0.5)) "
        "AS x (service, value)"
    )
    path.write_text(
        "".join(
            f'[figures.mine.{name}]\nsql = "{sql}"\n'
            for name in ("healthy", "queue_depth", "pass_success")
        )
    )
    for name, value in (
        stubs.env | {"DATABASE_URL": database.url, "OPS_WORKER_CATALOGUE": str(path)}
    ).items():
        monkeypatch.setenv(name, value)
    assert main(["metrics"]) == 0
    samples = database.samples()
    assert samples["ingest", "healthy"] == 1.0 and samples["ingest", "queue_depth"] != 0.5
    assert {samples["mine", name] for name in ("healthy", "queue_depth", "pass_success")} == {0.5}
    assert (
        database.value(
            "SELECT count(*) FROM system_metrics WHERE service = 'ops_worker' AND value = 0.5"
        )
        == 0
    )


def test_reserved_names(
    database: Database, stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service named ops_worker is a fault: its alert would be the worker's own."""
    path = tmp_path / "c.toml"
    path.write_text(f'[services.ops_worker]\nurl = "{stubs["ingest"].url}"\n')
    for name, value in (
        stubs.env | {"DATABASE_URL": database.url, "OPS_WORKER_CATALOGUE": str(path)}
    ).items():
        monkeypatch.setenv(name, value)
    assert main(["health"]) == 2
    assert database.alerts() == []
