"""The nouns of the program, in the order in which a datum passes through them.

They are named tuples: immutable and without a ``__dict__``, as frozen slotted dataclasses are, at a seventh of the
cost to define (0.09 against 0.62 ms a class), and a process that lives for one pass pays that at every start.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.errors import DONE, OpsWorkerError

if TYPE_CHECKING:
    from datetime import datetime


class Counter(NamedTuple):
    """A number that a service reports about itself, to be recorded under ``name``.

    ``fallback`` is the key that newer releases of the service use instead; it counts only where ``name`` is absent.
    """

    name: str
    fallback: str = ""


class Service(NamedTuple):
    """A row of the catalogue: a service of the platform, and how it is watched.

    ``variables`` are the environment variables that may hold its base URL, the first one set wins; ``url`` is the
    default. ``series`` is the service's name in ``system_metrics``, which for one of them is not its ``name``.
    """

    name: str
    series: str
    variables: tuple[str, ...]
    url: str
    counters: tuple[Counter, ...]


class Figure(NamedTuple):
    """A row of the catalogue: a number that the database knows, to be recorded as ``metric`` of ``series``.

    ``sql`` returns one row with one column. ``tables`` are those it needs: where one of them is not there, the figure
    is absent. ``timeout_ms`` is the most the database may spend on it.
    """

    series: str
    metric: str
    sql: str
    tables: tuple[str, ...] = ()
    timeout_ms: int = 2_000


class Target(NamedTuple):
    """A service that is watched, with the full URL that is asked."""

    name: str
    url: str
    series: str
    counters: tuple[Counter, ...]


class Failure(enum.Enum):
    """Why a probe has no answer to show."""

    NO_CONNECTION = "no connection"  # refused, name not resolved, no route, TLS
    NO_ANSWER = "no answer"  # timeout, reset, protocol, bad URL, body too large


class Observation(NamedTuple):
    """What one probe saw: facts only.

    ``taken_at`` is the moment of the result in seconds of the process's monotonic clock, so that an age can be told.
    Either ``http_status`` and ``latency_ms`` are set, and ``body`` too when the status is 200; or ``failure`` and
    ``error`` are. ``attempts`` is how many probes were made: more than one where an earlier one had no HTTP answer.
    """

    target: Target
    taken_at: float
    http_status: int | None = None
    latency_ms: int | None = None
    body: bytes = b""
    failure: Failure | None = None
    error: str = ""
    attempts: int = 1


class State(enum.StrEnum):
    """What a service is found to be; the words of ``service_health.details.status``."""

    HEALTHY = "healthy"  # 200 with a JSON object
    DEGRADED = "degraded"  # any other HTTP status
    DOWN = "down"  # no connection
    UNKNOWN = "unknown"  # everything else


class Verdict(NamedTuple):
    """An observation, judged. ``reason`` is empty exactly when the state is healthy.

    ``counters`` is what the service reported under that key, made harmless for ``jsonb``: usually an object, but any
    JSON value may stand there. ``attempts`` is the observation's.
    """

    target: Target
    taken_at: float
    state: State
    reason: str = ""
    latency_ms: int | None = None
    http_status: int | None = None
    counters: Any = None
    attempts: int = 1

    @property
    def healthy(self) -> bool:
        """Whether the service counts as healthy; everything that is not is unhealthy."""
        return self.state is State.HEALTHY


class Damping(NamedTuple):
    """How many consecutive passes it takes to open an alert, and to close it."""

    alert_after: int = 1
    resolve_after: int = 1


class Remembered(NamedTuple):
    """What the database knows of a service from earlier passes.

    ``healthy`` is None where no pass has recorded the service yet; ``streak`` counts the consecutive passes that found
    it so; ``alerted`` tells whether its alert is open, acknowledged or not.
    """

    healthy: bool | None = None
    streak: int = 0
    since: datetime | None = None
    checked_at: datetime | None = None
    alerted: bool = False


class Update(NamedTuple):
    """What a verdict changes: the service's new row, and whether its alert opens or closes with it."""

    verdict: Verdict
    streak: int
    since: datetime
    checked_at: datetime
    opens: bool = False
    closes: bool = False


class Recorded(NamedTuple):
    """What a health pass wrote: the rows, and the services whose alerts it opened and closed."""

    updates: tuple[Update, ...]
    opened: tuple[str, ...]
    closed: tuple[str, ...]


class Sample(NamedTuple):
    """One row of ``system_metrics``, less its time, which is one for all rows of a pass."""

    service: str
    metric: str
    value: float


class Reading(NamedTuple):
    """A figure as the database answered it: a value, or the problem that kept it from one.

    A figure whose table does not exist is ``absent``: that is how newer platforms are, and nothing to warn of.
    """

    figure: Figure
    value: float | None = None
    problem: str = ""
    absent: bool = False


class Tick(NamedTuple):
    """One tick of a loop: its outcome, or the error that kept it from one.

    ``skipped`` counts the slots that were passed over before it, ``late_s`` is how long after the beginning of its
    slot it began. ``buffered`` counts the passes whose samples wait for the database, ``dropped`` those that this tick lost.
    """

    loop: str
    duration_s: float
    late_s: float = 0.0
    skipped: int = 0
    outcome: Outcome | None = None
    error: Exception | None = None
    buffered: int = 0
    dropped: int = 0

    @property
    def result(self) -> str:
        """How it ended, in a word: that of the outcome, ``failed`` for a foreseen error, ``crashed`` for any other."""
        if self.outcome is not None:
            return self.outcome.result.value
        return "failed" if isinstance(self.error, OpsWorkerError) else "crashed"

    @property
    def exit_code(self) -> int:
        """The exit code that a process of this one pass would have ended with."""
        return (
            self.error.exit_code
            if isinstance(self.error, OpsWorkerError)
            else DONE
            if self.outcome is not None
            else OpsWorkerError.exit_code
        )


class Result(enum.StrEnum):
    """How a pass ended."""

    RECORDED = "recorded"
    DRY_RUN = "dry run"
    SKIPPED = "skipped"  # another pass held the lock
    OFF = "off"  # SYSTEM_ALERT_ENABLED is off


class Outcome(NamedTuple):
    """What a pass did, for people and programs to read. ``duration_s`` is the pass's wall time."""

    name: str
    result: Result
    verdicts: tuple[Verdict, ...] = ()
    updates: tuple[Update, ...] = ()
    stale: tuple[str, ...] = ()  # services of which the database knew a newer observation
    opened: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    alerted: tuple[str, ...] = ()  # services that have an alert now, acknowledged or not
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()
    duration_s: float = 0.0

    @property
    def unhealthy(self) -> tuple[str, ...]:
        """The names of the services that this pass found unhealthy."""
        return tuple(verdict.target.name for verdict in self.verdicts if not verdict.healthy)
