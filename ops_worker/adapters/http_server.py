"""The sidecar's own face: /health, /ready and /metrics. The only importer of http.server and prometheus_client.

/health is for the liveness probe: 200 while every loop completes its ticks, whatever they find. A database that is
away does not make it 503, for a restart would not bring it back but would lose the samples that wait for it.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.model import Result, State
from ops_worker.core.passes import HEALTH
from ops_worker.errors import OpsWorkerError, SettingsError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
except ImportError as error:
    raise SettingsError(
        [
            f"the sidecar's /metrics needs {error.name}: install ops-worker[sidecar], or set SIDECAR_PORT=0"
        ]
    ) from None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ops_worker.core.model import Tick

ALLOWED_INTERVALS = 1.5
REQUEST_TIMEOUT_S = 5
DURATIONS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class _Seen(NamedTuple):
    """What is known of a loop: when it last completed a tick (monotonic seconds), whether the database answered it, its last error."""

    completed: float
    answered: bool = False
    error: str = ""


class Telemetry:
    """Keeps what the loops tell, and serves it. ``tell`` may be called from any thread."""

    def __init__(
        self,
        intervals_s: Mapping[str, float],
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take each loop's interval and the time that a pass may take."""
        self._allowed = {
            name: ALLOWED_INTERVALS * interval + budget_s for name, interval in intervals_s.items()
        }
        self._clock = clock
        self._seen = {name: _Seen(clock()) for name in intervals_s}
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry, "namespace": "ops_worker"}
        self._passes = Counter("passes", "Passes by result.", ["loop", "result"], **make)
        self._duration = Histogram(
            "pass_duration_seconds", "Duration of a pass.", ["loop"], buckets=DURATIONS_S, **make
        )
        self._success = Gauge(
            "last_success_timestamp_seconds", "When a pass last did its work.", ["loop"], **make
        )
        self._skipped = Counter(
            "ticks_skipped", "Slots of the cadence that were passed over.", ["loop"], **make
        )
        self._buffered = Gauge(
            "buffered_samples", "Passes whose samples wait for the database.", ["loop"], **make
        )
        self._dropped = Counter(
            "samples_dropped",
            "Passes whose samples were lost because the buffer was full.",
            ["loop"],
            **make,
        )
        self._apart = Gauge(
            "set_apart_samples", "Passes whose samples the database refuses.", ["loop"], **make
        )
        self._alerts = Gauge(
            "alerts_open", "Services of the last health pass that have an alert.", **make
        )
        self._state = Gauge(
            "service_state", "1 for the state that the service is in.", ["service", "state"], **make
        )
        self._latency = Gauge(
            "service_latency_seconds",
            "Latency of the last answer; NaN without one.",
            ["service"],
            **make,
        )
        for name in intervals_s:
            self._skipped.labels(name)
            self._buffered.labels(name)
            self._apart.labels(name)
            self._dropped.labels(name)

    def tell(self, tick: Tick) -> None:
        """Take note of a tick."""
        outcome = tick.outcome
        with self._lock:
            before = self._seen[tick.loop]
            completed = outcome is not None or isinstance(tick.error, OpsWorkerError)
            self._seen[tick.loop] = _Seen(
                self._clock() if completed else before.completed,
                before.answered or (outcome is not None and outcome.result is not Result.WAITING),
                tick.problem,
            )
        self._passes.labels(tick.loop, tick.result).inc()
        self._duration.labels(tick.loop).observe(tick.duration_s)
        self._skipped.labels(tick.loop).inc(tick.skipped)
        self._buffered.labels(tick.loop).set(tick.buffered)
        self._dropped.labels(tick.loop).inc(tick.dropped)
        self._apart.labels(tick.loop).set(tick.set_apart)
        if outcome is None:
            return
        if outcome.result is not Result.WAITING:
            self._success.labels(tick.loop).set_to_current_time()
        if outcome.name == HEALTH.name and outcome.result is Result.RECORDED:
            self._alerts.set(len(outcome.alerted))
        for verdict in outcome.verdicts:
            for state in State:
                self._state.labels(verdict.target.name, state.value).set(verdict.state is state)
            latency_ms = verdict.latency_ms
            self._latency.labels(verdict.target.name).set(
                float("nan") if latency_ms is None else latency_ms / 1000
            )

    def health(self) -> tuple[int, dict[str, Any]]:
        """Say whether every loop completes its ticks in time: 200 or 503, and what is known of each loop."""
        now = self._clock()
        with self._lock:
            loops = {
                name: {
                    "ok": now - seen.completed <= self._allowed[name],
                    "last_tick_age_s": round(now - seen.completed, 3),
                    "error": seen.error,
                }
                for name, seen in self._seen.items()
            }
        ok = all(loop["ok"] for loop in loops.values())
        return 200 if ok else 503, {"status": "healthy" if ok else "unhealthy", "loops": loops}

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Say whether the first pass of each loop is done and the database answered it."""
        with self._lock:
            waiting = [name for name, seen in self._seen.items() if not seen.answered]
        return 503 if waiting else 200, {"ready": not waiting, "waiting_for": waiting}

    def serve(self, host: str, port: int) -> ThreadingHTTPServer:
        """Serve in threads of their own; port 0 takes a free one. Raises SettingsError where the port cannot be had."""
        telemetry = self

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S
            server_version = "ops-worker"
            sys_version = ""

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(telemetry.registry))
                    return
                views = {"/health": telemetry.health, "/ready": telemetry.ready}
                status, body = (
                    views[path]()
                    if path in views
                    else (404, {"error": "there are /health, /ready and /metrics"})
                )
                self._answer(status, "application/json", json.dumps(body).encode())

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: a probe every few seconds is no news."""

        try:
            server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise SettingsError(
                [f"SIDECAR_HOST {host}, SIDECAR_PORT {port}: {error.strerror or error}"]
            ) from None
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
        return server
