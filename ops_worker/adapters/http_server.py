"""The HTTP endpoint of the sidecar: /health, /ready and /metrics.

/health is for the liveness probe. It answers 200 while every loop completes its ticks, whatever the
ticks observe. It does not become 503 when the database is not available: a restart would not repair
the database, but would lose the samples that wait for it.

/metrics needs prometheus_client, which is an extra. Without it, the other paths work as usual: a
sidecar must not restart for ever because its image lacks the extra.

This is the only importer of http.server and prometheus_client.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.model import Result, State
from ops_worker.core.passes import HEALTH, PASSES
from ops_worker.errors import OpsWorkerError, SettingsError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
except ImportError:
    HAS_METRICS = False
else:
    HAS_METRICS = True

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ops_worker.core.model import Outcome, Tick

ALLOWED_INTERVALS = 1.5
"""How many intervals a loop may take for a tick, in addition to the deadline of a pass."""
REQUEST_TIMEOUT_S = 5
"""Seconds that a client may take to send its request."""
DURATIONS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""The buckets of the histogram of durations, in seconds."""
PATHS = "the paths are /health, /ready and /metrics"
NO_METRICS = "/metrics is off: prometheus_client is not installed"
"""The answer to GET /metrics, and the warning, if the extra is not installed."""
REMEDY = (
    "install ops-worker[sidecar], or build the image with EXTRAS=sidecar; "
    "/health and /ready work without it"
)
_log = logging.getLogger(__name__)


class _Server(ThreadingHTTPServer):
    """A server that logs errors as lines. A client that disconnects is not an error.

    The base class prints a traceback to standard error, for example when a kubelet or a Prometheus
    stops waiting. The traceback would appear between the JSON lines of the log.
    """

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log the exception that a request raised."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            extra = {"action": "request failed", "client": str(client_address[0])}
            _log.exception("a request to the endpoint failed", extra=extra)


class _LoopState(NamedTuple):
    """The state of a loop.

    ``completed`` is the moment of its last completed tick (seconds, monotonic clock). ``answered``
    is whether the database has ever answered this loop. ``error`` is the error of its last tick.
    """

    completed: float
    answered: bool = False
    error: str = ""


class _Metrics:
    """The metrics of /metrics, in their own registry. They need prometheus_client."""

    def __init__(self, loops: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry, "namespace": "ops_worker"}
        self.passes = Counter("passes", "Passes by result.", ["loop", "result"], **make)
        self.duration = Histogram(
            "pass_duration_seconds", "Duration of a pass.", ["loop"], buckets=DURATIONS_S, **make
        )
        self.success = Gauge(
            "last_success_timestamp_seconds",
            "Time of the last pass that succeeded.",
            ["loop"],
            **make,
        )
        self.skipped = Counter(
            "ticks_skipped", "Ticks that were skipped, because the loop was late.", ["loop"], **make
        )
        self.buffered = Gauge(
            "buffered_samples", "Passes whose samples wait for the database.", ["loop"], **make
        )
        self.dropped = Counter(
            "samples_dropped",
            "Passes whose samples were lost because the buffer was full.",
            ["loop"],
            **make,
        )
        self.apart = Gauge(
            "set_apart_samples", "Passes whose samples the database refuses.", ["loop"], **make
        )
        self.blind = Gauge(
            "blind", "1 if the last pass did not believe what it saw, else 0.", ["loop"], **make
        )
        self.alerts = Gauge(
            "alerts_open", "Services with an alert at the last health pass.", **make
        )
        self.state = Gauge(
            "service_state",
            "1 for the state of the service, 0 for the other states.",
            ["service", "state"],
            **make,
        )
        self.latency = Gauge(
            "service_latency_seconds",
            "Latency of the last answer; NaN if there was none.",
            ["service"],
            **make,
        )
        for name in loops:
            self.skipped.labels(name)
            self.buffered.labels(name)
            self.apart.labels(name)
            self.dropped.labels(name)

    def record(self, tick: Tick) -> None:
        """Record a tick."""
        self.passes.labels(tick.loop, tick.result).inc()
        self.duration.labels(tick.loop).observe(tick.duration_s)
        self.skipped.labels(tick.loop).inc(tick.skipped)
        self.buffered.labels(tick.loop).set(tick.buffered)
        self.dropped.labels(tick.loop).inc(tick.dropped)
        self.apart.labels(tick.loop).set(tick.set_apart)
        if tick.outcome is not None:
            self._record_outcome(tick.loop, tick.outcome)

    def _record_outcome(self, loop: str, outcome: Outcome) -> None:
        if outcome.result is not Result.WAITING:
            self.success.labels(loop).set_to_current_time()
        self.blind.labels(loop).set(bool(outcome.blind_because))
        if outcome.name == HEALTH.name and outcome.result is Result.RECORDED:
            self.alerts.set(len(outcome.alerted))
        for verdict in outcome.verdicts:
            service, latency_ms = verdict.target.name, verdict.latency_ms
            for state in State:
                self.state.labels(service, state.value).set(verdict.state is state)
            latency_s = math.nan if latency_ms is None else latency_ms / 1000
            self.latency.labels(service).set(latency_s)

    def text(self) -> bytes:
        """Return all metrics as Prometheus text."""
        return generate_latest(self.registry)


class Telemetry:
    """Record the ticks of the loops and serve them. Any thread may call ``record``."""

    def __init__(
        self,
        intervals_s: Mapping[str, float],
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the metrics of loops with these intervals, whose passes have this deadline.

        Without prometheus_client there are no metrics, and one warning names the extra.
        """
        self._allowed_s = {
            name: ALLOWED_INTERVALS * interval_s + deadline_s
            for name, interval_s in intervals_s.items()
        }
        self._clock = clock
        self._loops = {name: _LoopState(clock()) for name in intervals_s}
        self._lock = threading.Lock()
        self._metrics: _Metrics | None = None
        if HAS_METRICS:
            self._metrics = _Metrics(intervals_s)
        else:
            extra = {"action": "no metrics", "what": NO_METRICS, "remedy": REMEDY}
            _log.warning("the sidecar serves no metrics", extra=extra)

    def record(self, tick: Tick) -> None:
        """Record a tick."""
        self._update_state(tick)
        if self._metrics is not None:
            self._metrics.record(tick)

    def _update_state(self, tick: Tick) -> None:
        answered = tick.outcome is not None and tick.outcome.result is not Result.WAITING
        # Only an outcome or an expected error completes a tick. Any other error is a bug.
        completed = tick.outcome is not None or isinstance(tick.error, OpsWorkerError)
        with self._lock:
            before = self._loops[tick.loop]
            self._loops[tick.loop] = _LoopState(
                completed=self._clock() if completed else before.completed,
                answered=before.answered or answered,
                error=tick.problem,
            )

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return 200 if every loop completes its ticks in time, else 503, and a document."""
        now = self._clock()
        with self._lock:
            loops = {
                name: {
                    "ok": now - state.completed <= self._allowed_s[name],
                    "last_tick_age_s": round(now - state.completed, 3),
                    "error": state.error,
                }
                for name, state in self._loops.items()
            }
        if all(loop["ok"] for loop in loops.values()):
            return 200, {"status": "healthy", "loops": loops}
        return 503, {"status": "unhealthy", "loops": loops}

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Return 200 if the database has answered every required loop, else 503; and a document.

        Loops of optional passes do not count, because their tables may be missing. For each
        required loop that has no answer yet, the document has the error of its last tick.
        """
        with self._lock:
            waiting = {
                name: state.error
                for name, state in self._loops.items()
                if not state.answered and not PASSES[name].optional
            }
        document = {
            "ready": not waiting,
            "waiting_for": list(waiting),
            "errors": {name: error for name, error in waiting.items() if error},
        }
        return 503 if waiting else 200, document

    def serve(self, host: str, port: int) -> ThreadingHTTPServer:
        """Serve in threads. Port 0 means any free port.

        Raises SettingsError if the port is already in use.
        """
        telemetry, metrics = self, self._metrics

        class Handler(BaseHTTPRequestHandler):
            """Answers the requests of one connection."""

            timeout = REQUEST_TIMEOUT_S
            server_version = "ops-worker"
            sys_version = ""

            def do_GET(self) -> None:
                """Answer a request."""
                path = self.path.partition("?")[0]
                if path == "/metrics" and metrics is not None:
                    self._answer(200, CONTENT_TYPE_LATEST, metrics.text())
                elif path == "/metrics":
                    error = f"{NO_METRICS}: {REMEDY}"
                    self._answer_json(HTTPStatus.NOT_IMPLEMENTED, {"error": error})
                elif path == "/health":
                    self._answer_json(*telemetry.health())
                elif path == "/ready":
                    self._answer_json(*telemetry.ready())
                else:
                    self._answer_json(404, {"error": PATHS})

            def _answer_json(self, status: int, document: Mapping[str, Any]) -> None:
                self._answer(status, "application/json", json.dumps(document).encode())

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing: requests come every few seconds."""

        try:
            server = _Server((host, port), Handler)
        except OSError as error:
            raise SettingsError(
                [f"SIDECAR_HOST {host}, SIDECAR_PORT {port}: {error.strerror or error}"]
            ) from None
        threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
        return server
