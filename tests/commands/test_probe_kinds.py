"""Connections, certificates and conditions on texts, from the catalogue to the reports."""

from __future__ import annotations

import contextlib
import json
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ops_worker.cli import main
from tests.stubs import Stub, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database

pytestmark = pytest.mark.integration

CATALOGUE = """builtin = false
[services.shop]
url = "https://127.0.0.1:{tls}"
ca = "{folder}/ca.pem"
json = false
certificate_days = 14
conditions = [{{ contains = "welcome" }}, {{ header = "X-Version", matches = "^2" }}]
series = "shop.web"
tags = {{ team = "shop" }}

[services.mail]
url = "tls://127.0.0.1:{tls}"
ca = "{folder}/ca.pem"
certificate_days = 7

[services.port]
url = "tcp://127.0.0.1:{tls}"
"""
SHOP = "certificate expires in 13 days, wants at least 14 days left"


@pytest.fixture
def shop(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Return the shop, one of three services. Its certificate is valid for 13 more days."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    end = datetime.now(UTC) + timedelta(days=13, hours=12)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    begin = end - timedelta(days=90)
    authority.issue_cert("127.0.0.1", not_before=begin, not_after=end).configure_cert(context)
    stub = Stub("ingest", tls=context)
    stub.mode = reply("<h1>welcome</h1>", headers={"X-Version": "2.1"})
    text = CATALOGUE.format(tls=stub.port, folder=tmp_path)
    (tmp_path / "catalogue.toml").write_text(text)
    monkeypatch.setenv("OPS_WORKER_CATALOGUE", str(tmp_path / "catalogue.toml"))
    monkeypatch.setenv("DATABASE_URL", database.url)
    with contextlib.closing(stub):
        yield stub


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a command and return its document."""
    capsys.readouterr()
    assert main([*arguments, "--output", "json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("shop")
def test_pass(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A health pass records the days left in the row and as a metric, and opens the alert."""
    assert main(["init-db"]) == 0
    services = {item["service"]: item for item in document(capsys, "health")["services"]}
    assert {name: (item["state"], item["reason"]) for name, item in services.items()} == {
        "shop": ("degraded", SHOP),
        "mail": ("healthy", ""),
        "port": ("healthy", ""),
    }
    assert [services[name]["certificate_days_left"] for name in ("shop", "mail", "port")] == [
        13,
        13,
        None,
    ]
    details = {name: row["details"] for name, row in database.health().items()}
    assert {name: row.get("certificate_days_left") for name, row in details.items()} == {
        "shop": 13,
        "mail": 13,
        "port": None,
    }
    assert details["port"] | {"latency_ms": 0, "since": ""} == {
        "status": "healthy",
        "latency_ms": 0,
        "counters": {},
        "streak": 1,
        "since": "",
    }
    rows = database.rows(
        "SELECT service, value, tags FROM system_metrics"
        " WHERE metric_name = 'certificate_days_left' ORDER BY service"
    )
    assert [(row["service"], row["value"], row["tags"]) for row in rows] == [
        ("mail", 13, {}),
        ("shop.web", 13, {"team": "shop"}),
    ]
    (alert,) = database.alerts()
    assert alert["summary"] == f"Service unhealthy: shop ({SHOP})"
    assert alert["details"]["evidence"]["certificate_days_left"] == 13
    classes = database.rows("SELECT service, reason_class FROM ops_worker_span ORDER BY service")
    assert [(row["service"], row["reason_class"]) for row in classes] == [
        ("mail", ""),
        ("port", ""),
        ("shop", "certificate"),
    ]


@pytest.mark.usefixtures("shop")
def test_metrics_pass(database: Database) -> None:
    """The metrics pass only records whether each service is healthy."""
    assert main(["metrics"]) == 0
    samples = {key: value for key, value in database.samples().items() if key[0] != "postgres"}
    assert {key: value for key, value in samples.items() if key[0] != "platform"} == {
        ("shop.web", "healthy"): 0,
        ("mail", "healthy"): 1,
        ("port", "healthy"): 1,
    }


@pytest.mark.usefixtures("shop")
def test_without_self_metrics(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RECORD_OWN_METRICS off, only the row has the days left."""
    monkeypatch.setenv("RECORD_OWN_METRICS", "off")
    assert main(["health"]) == 0
    assert database.health()["shop"]["details"]["certificate_days_left"] == 13
    assert database.samples() == {}


@pytest.mark.usefixtures("shop")
def test_days_left_in_status(capsys: pytest.CaptureFixture[str]) -> None:
    """`status` shows the days left, in its document and on its screen."""
    assert main(["init-db"]) == main(["health"]) == 0
    services = {item["service"]: item for item in document(capsys, "status")["services"]}
    assert services["shop"]["certificate_days_left"] == 13
    assert services["port"]["certificate_days_left"] is None
    assert main(["status"]) == 0
    screen = capsys.readouterr().out
    assert " CERT " in screen and " 13 d " in screen
    assert "certificate_days_left" in screen


@pytest.mark.usefixtures("shop")
def test_days_left_in_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` shows the days left, and the conditions of the service."""
    assert main(["init-db"]) == main(["health"]) == 0
    answer = document(capsys, "explain", "shop")
    assert (answer["certificate_days_left"], answer["reason"]) == (13, SHOP)
    assert answer["rule"]["healthy when"] == (
        'http 200; body is a text that contains "welcome"; '
        'header x-version is a text that matches "^2"; '
        "certificate valid for at least 14 days"
    )
    assert main(["explain", "mail"]) == 0
    assert "its certificate expires in 13 days\n" in capsys.readouterr().out


@pytest.mark.usefixtures("shop")
def test_days_left_in_the_report(tmp_path: Path) -> None:
    """`report` shows the days left of each certificate."""
    assert main(["init-db"]) == main(["health"]) == 0
    assert main(["report", "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("Its certificate expires in 13 days.") == 2


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("value", "days_left"),
    [('"<b>"', None), ("[1]", None), ("true", None), ("1e300", None), ("-3", -3)],
)
def test_odd_days_left(
    database: Database,
    capsys: pytest.CaptureFixture[str],
    value: str,
    days_left: int | None,
) -> None:
    """Readers accept any value that another program wrote into the row."""
    assert main(["init-db"]) == main(["health"]) == 0
    database.rows(
        "UPDATE service_health "
        "SET details = details || jsonb_build_object('certificate_days_left', %s::jsonb)",
        value,
    )
    services = {item["service"]: item for item in document(capsys, "status")["services"]}
    assert services["shop"]["certificate_days_left"] == days_left
    assert document(capsys, "explain", "shop")["certificate_days_left"] == days_left


@pytest.mark.usefixtures("shop")
def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    """`check` shows when certificates expire, and a remedy if that is too soon."""
    assert main(["init-db"]) == 0
    capsys.readouterr()
    main(["check"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    index = next(index for index, line in enumerate(lines) if f"degraded: {SHOP}" in line)
    assert lines[index + 1] == "-> renew its certificate"
    assert any(line.endswith("; its certificate expires in 13 days") for line in lines)


def test_conditions(shop: Stub, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken condition on a text or header is the reason, on one line for any answer."""
    shop.mode = reply("<h1>\x1b[31msorry\n</h1>", headers={"X-Version": "1.9"})
    assert main(["health"]) == 0
    assert database.health()["shop"]["details"]["reason"].startswith(
        'body is "<h1>\\u001b[31msorry\\n</h1>", wants a text that contains "welcome"; '
        'header x-version is "1.9", wants a text that matches "^2"; certificate expires'
    )
    conditions = document(capsys, "catalogue", "show")["services"][0]["conditions"]
    assert conditions == [
        {"pointer": None, "relation": "contains", "value": "welcome", "header": ""},
        {"pointer": None, "relation": "matches", "value": "^2", "header": "x-version"},
    ]
