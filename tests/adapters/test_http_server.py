"""The HTTP endpoints of the sidecar."""

from __future__ import annotations

import importlib
import json
import logging
import socket
import struct
import sys
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops_worker.adapters.http_server import Telemetry
from ops_worker.core.model import Outcome, Result, State, Target, Tick, Verdict
from ops_worker.errors import DatabaseError, SettingsError

pytestmark = pytest.mark.integration

UP = Verdict(Target("ingest", "", "ingest", ()), 0.0, State.HEALTHY, "", 12)
DOWN = Verdict(Target("evaluator", "", "evaluator", ()), 0.0, State.DOWN, "Connection refused")
HEALTH = Outcome("health", Result.RECORDED, (UP, DOWN), alerted=("evaluator",))


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def get(url: str) -> tuple[int, str]:
    """Send a request. Return status and body."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_and_ready() -> None:
    """A loop is healthy while its ticks complete, and ready once the database has answered."""
    clock = Clock()
    telemetry = Telemetry({"health": 60.0, "metrics": 4.0}, 10.0, clock)
    assert (telemetry.health()[0], telemetry.ready()[0]) == (200, 503)
    telemetry.record(Tick("health", 0.1, outcome=HEALTH))
    assert telemetry.ready() == (503, {"ready": False, "waiting_for": ["metrics"], "errors": {}})
    telemetry.record(Tick("metrics", 0.1, outcome=Outcome("metrics", Result.SKIPPED)))
    assert telemetry.ready()[0] == 200
    clock.now = 15.0
    telemetry.record(Tick("metrics", 0.1, error=DatabaseError("away")))
    clock.now = 30.0
    telemetry.record(Tick("metrics", 0.1, error=RuntimeError("boom")))
    assert telemetry.health()[0] == 200, "15 s without a completed tick are within 1.5 x 4 + 10"
    clock.now = 31.5
    status, body = telemetry.health()
    assert (status, body["status"]) == (503, "unhealthy")
    assert body["loops"]["metrics"] == {
        "ok": False,
        "last_tick_age_s": 16.5,
        "error": "a bug in ops-worker: RuntimeError; the log has the traceback",
    }
    assert body["loops"]["health"]["ok"]
    telemetry.record(Tick("metrics", 0.1, outcome=Outcome("metrics", Result.RECORDED)))
    assert telemetry.health()[0] == 200


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without prometheus_client only /metrics is off, and a single warning names the extra."""
    # An entry of None makes every import of a module fail, as if it were not installed.
    for name in [*sys.modules]:
        if name.partition(".")[0] == "prometheus_client":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "ops_worker.adapters.http_server")
    without = importlib.import_module("ops_worker.adapters.http_server")
    # A later import of the module gets the complete one again.
    monkeypatch.setattr(sys.modules["ops_worker.adapters"], "http_server", without)
    clock = Clock()
    telemetry = without.Telemetry({"health": 60.0}, 10.0, clock)
    server = telemetry.serve("127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.server_port}"
    for tick in (
        Tick("health", 0.1, error=DatabaseError("away")),
        Tick("health", 0.1, outcome=HEALTH),
    ):
        telemetry.record(tick)
    assert get(f"{address}/health")[0] == 200
    assert get(f"{address}/ready")[0] == 200
    status, body = get(f"{address}/metrics")
    assert status == 501
    assert "EXTRAS=sidecar" in json.loads(body)["error"]
    clock.now = 101.0
    assert get(f"{address}/health")[0] == 503, "a loop that hangs is seen without metrics, too"
    server.shutdown()
    server.server_close()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "EXTRAS=sidecar" in warning.__dict__["remedy"]


def test_blind() -> None:
    """The metric is 1 while the last pass of a loop was blind. States of services do not change."""
    telemetry = Telemetry({"health": 60.0}, 10.0)
    server = telemetry.serve("127.0.0.1", 0)
    blind = Outcome("health", Result.RECORDED, blind_because=("no packet came back from 2 hosts",))
    telemetry.record(Tick("health", 0.3, outcome=HEALTH))
    before = get(f"http://127.0.0.1:{server.server_port}/metrics")[1]
    telemetry.record(Tick("health", 0.3, outcome=blind))
    after = get(f"http://127.0.0.1:{server.server_port}/metrics")[1]
    server.shutdown()
    server.server_close()
    assert 'ops_worker_blind{loop="health"} 0.0' in before
    assert 'ops_worker_blind{loop="health"} 1.0' in after
    states = [line for line in before.splitlines() if line.startswith("ops_worker_service_state")]
    assert states and set(states) <= {*after.splitlines()}


def test_metrics() -> None:
    """/metrics is Prometheus text with all numbers of a tick."""
    telemetry = Telemetry({"health": 60.0, "metrics": 5.0}, 10.0)
    server = telemetry.serve("127.0.0.1", 0)
    telemetry.record(Tick("health", 0.3, outcome=HEALTH))
    telemetry.record(
        Tick(
            "metrics",
            0.2,
            skipped=3,
            error=DatabaseError("away"),
            buffered=7,
            dropped=2,
            set_apart=4,
        )
    )
    telemetry.record(Tick("metrics", 0.2, error=RuntimeError("boom")))
    base = f"http://127.0.0.1:{server.server_address[1]}"
    status, text = get(f"{base}/metrics")
    samples = {
        (sample.name.removeprefix("ops_worker_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert status == 200
    expected = {
        ("passes_total", "health", "recorded"): 1,
        ("passes_total", "failed", "metrics"): 1,
        ("passes_total", "crashed", "metrics"): 1,
        ("pass_duration_seconds_count", "metrics"): 2,
        ("ticks_skipped_total", "metrics"): 3,
        ("ticks_skipped_total", "health"): 0,
        ("buffered_samples", "metrics"): 0,
        ("samples_dropped_total", "metrics"): 2,
        ("alerts_open",): 1,
        ("service_state", "healthy", "ingest"): 1,
        ("service_state", "evaluator", "healthy"): 0,
        ("service_state", "down", "evaluator"): 1,
        ("service_latency_seconds", "ingest"): 0.012,
    }
    assert expected.items() <= samples.items()
    assert samples["last_success_timestamp_seconds", "health"] > 1e9
    assert ("last_success_timestamp_seconds", "metrics") not in samples
    assert get(f"{base}/health?x=1")[0] == 200
    assert json.loads(get(f"{base}/ready")[1]) == {
        "ready": False,
        "waiting_for": ["metrics"],
        "errors": {"metrics": "a bug in ops-worker: RuntimeError; the log has the traceback"},
    }
    assert get(f"{base}/else")[0] == 404
    with pytest.raises(SettingsError, match="SIDECAR_PORT"):
        telemetry.serve("127.0.0.1", server.server_address[1])
    server.shutdown()
    server.server_close()


def answer_late(raises: type[Exception] | None, *, client_leaves: bool) -> None:
    """Request /health of an endpoint that answers or raises, before or after the client leaves."""
    requested, client_left = threading.Event(), threading.Event()

    class Late(Telemetry):
        def health(self) -> tuple[int, dict[str, object]]:
            requested.set()
            client_left.wait(30)
            if raises is not None:
                raise raises
            return 200, {"filler": "x" * 10_000_000}

    server = Late({}, 10.0).serve("127.0.0.1", 0)
    server.daemon_threads = False  # so that server_close() waits for the request's thread
    client = socket.create_connection(("127.0.0.1", server.server_port), timeout=30)
    try:
        client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert requested.wait(30)
        if client_leaves:  # with a reset, like a killed process
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        client_left.set()
    finally:
        server.shutdown()
        server.server_close()
        client.close()


def test_client_that_leaves(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """If a client leaves before its answer is written, nothing is printed or logged."""
    answer_late(None, client_leaves=True)
    assert (capsys.readouterr().err, caplog.records) == ("", [])


def test_request_that_fails(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the endpoint is one line of the log, with its traceback, and no other output."""
    answer_late(LookupError, client_leaves=False)
    assert capsys.readouterr().err == ""
    (record,) = caplog.records
    assert (record.levelno, record.__dict__["client"]) == (logging.ERROR, "127.0.0.1")
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
