"""The nouns of the program, in the order in which a datum passes through them.

They are named tuples: immutable and without a ``__dict__``, as frozen slotted dataclasses are, at a seventh of the
cost to define (0.09 against 0.62 ms a class), and a process that lives for one pass pays that at every start.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.errors import DONE, OpsWorkerError, shown
from ops_worker.text import without_password

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


NO_TAGS: Mapping[str, Any] = MappingProxyType({})
PROBE_DEADLINE_S = 5.0
"""Seconds for one probe in all, unless its service has a deadline of its own (docs/contract.md, "Probe")."""


class Counter(NamedTuple):
    """A number that a service reports about itself, to be recorded under ``name``.

    ``keys`` are those under which it may stand, of which the first that is there counts; none: its name. A ``gauge`` goes
    up and down and has no rate.
    """

    name: str
    keys: tuple[str, ...] = ()
    gauge: bool = False


class Figure(NamedTuple):
    """A number that the database knows, to be recorded as ``metric`` of ``series``; or several, each with its own service.

    ``sql`` is one statement that reads. It returns a column ``value`` and, if it likes, ``service`` and ``tags``; where it
    returns no ``service`` it returns one row. ``tables`` are those it needs: where one of them is not there, the figure
    is absent. ``timeout_s`` is the most the database may spend on it. With ``every_s`` it is taken once in each slot of
    so many seconds, else in each pass.
    """

    series: str
    metric: str
    sql: str
    tables: tuple[str, ...] = ()
    timeout_s: float = 2.0
    every_s: float = 0.0
    tags: Mapping[str, Any] = NO_TAGS

    @property
    def name(self) -> str:
        """How it is told of."""
        return f"{self.series}.{self.metric}"


class Thresholds(NamedTuple):
    """How many consecutive passes it takes to open an alert, and to close it."""

    alert_after: int = 1
    resolve_after: int = 1


class Tls(NamedTuple):
    """Paths of PEM files for https: the authorities to trust (empty: the system's), a client's certificate and its key."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


class Condition(NamedTuple):
    """What has to hold of the answer's JSON: the value that ``pointer`` (RFC 6901) names, compared with ``value``."""

    pointer: str
    relation: str  # a key of core.conditions.RELATIONS
    value: Any


class Target(NamedTuple):
    """A service that is watched: its name, the full URL that is asked, its name in ``system_metrics``, and how it is judged.

    ``counters`` are those to record, or None for every finite number of its answer; ``counters_at`` is the pointer to where
    they stand. ``expect`` are the HTTP statuses of a healthy answer, whose body is JSON unless ``json`` is false. The
    latency limit is in ms. ``alert_after`` and ``resolve_after`` are its own thresholds, or None for that of the settings.
    Header values are secrets. ``written`` is the URL as the catalogue has it, where variables are parts of it: what may be shown.
    ``faults`` say why the service cannot be probed: each names a key, and the variable or file, but
    never a value.
    """

    name: str
    url: str
    series: str
    counters: tuple[Counter, ...] | None
    counters_at: str = "/counters"
    expect: tuple[int, ...] = (200,)
    deadline_s: float = PROBE_DEADLINE_S
    json: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    tls: Tls = Tls()
    conditions: tuple[Condition, ...] = ()
    max_latency_ms: int | None = None
    tags: Mapping[str, Any] = NO_TAGS
    alert_after: int | None = None
    resolve_after: int | None = None
    written: str = ""
    faults: tuple[str, ...] = ()

    @property
    def shown_url(self) -> str:
        """The URL as the catalogue has it, without a password."""
        return without_password(self.written or self.url)


class Failure(enum.Enum):
    """Why a probe has no answer to show."""

    NO_CONNECTION = "no connection"  # refused, name not resolved, no route, TLS
    NO_ANSWER = "no answer"  # timeout, reset, protocol, bad URL, body too large
    NOT_PROBED = "not probed"  # a limit of this process: that says nothing about the service


class Observation(NamedTuple):
    """What one probe saw: facts only.

    ``taken_at`` is the moment of the result in seconds of the process's monotonic clock, so that an age can be told.
    Either ``http_status`` and ``latency_ms`` are set, and ``body`` too when the status is 200; or ``failure`` and
    ``error`` are. With another status than an expected one, ``error`` may be a hint at the cause, made
    of fixed words. ``attempts`` is how many probes were made: more than one where an earlier one had
    no HTTP answer.
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
    JSON value may stand there; None where there was no answer of an expected status. ``attempts`` is the observation's.
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


class KnownState(NamedTuple):
    """What the database knows of a service from earlier passes.

    ``healthy`` is None where no pass has recorded the service yet; ``streak`` counts the consecutive passes that found
    it so; ``alerted`` tells whether its alert is open, acknowledged or not.
    """

    healthy: bool | None = None
    streak: int = 0
    since: datetime | None = None
    checked_at: datetime | None = None
    alerted: bool = False


class StateChange(NamedTuple):
    """What a verdict changes: the service's new row, and whether its alert opens or closes with it."""

    verdict: Verdict
    streak: int
    since: datetime
    checked_at: datetime
    opens: bool = False
    closes: bool = False


class LockHolder(NamedTuple):
    """The process that holds a pass's lock: its backend, its name, and what it waits for.

    ``held_s`` is the age of its transaction in seconds, or None where this role may not see it.
    """

    pid: int | None
    application: str | None
    wait_event: str | None
    held_s: float | None


class Recorded(NamedTuple):
    """What a health pass wrote: the rows, and the services whose alerts it opened and closed."""

    updates: tuple[StateChange, ...]
    opened: tuple[str, ...]
    closed: tuple[str, ...]


class Sample(NamedTuple):
    """One row of ``system_metrics``, less its time, which is one for all rows of a pass."""

    service: str
    metric: str
    value: float
    tags: Mapping[str, Any] = NO_TAGS


class Reading(NamedTuple):
    """A figure as the database answered it: its samples, or the problem that kept it from any.

    A figure whose table does not exist is ``absent``: that is how newer platforms are, and nothing to warn of.
    ``took_s`` is how long the database took. ``faults`` names each bad row and what is wrong.
    """

    figure: Figure
    samples: tuple[Sample, ...] = ()
    problem: str = ""
    absent: bool = False
    took_s: float = 0.0
    faults: tuple[str, ...] = ()


class Tick(NamedTuple):
    """One tick of a loop: its outcome, or the error that kept it from one.

    ``skipped`` counts the slots that were passed over before it, ``late_s`` is how long after the beginning of its
    slot it began. ``buffered`` counts the passes whose samples wait for the database, ``dropped`` those that this tick lost,
    ``set_apart`` those whose samples the database refuses.
    """

    loop: str
    duration_s: float
    late_s: float = 0.0
    skipped: int = 0
    outcome: Outcome | None = None
    error: Exception | None = None
    buffered: int = 0
    dropped: int = 0
    set_apart: int = 0

    @property
    def result(self) -> str:
        """How it ended, in a word: that of the outcome, ``failed`` for a foreseen error, ``crashed`` for any other."""
        if self.outcome is not None:
            return self.outcome.result.value
        return "failed" if isinstance(self.error, OpsWorkerError) else "crashed"

    @property
    def problem(self) -> str:
        """What may be shown of the error; nothing where there is none."""
        return "" if self.error is None else shown(self.error)

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
    WAITING = "waiting"  # in a loop: an earlier pass is still being recorded
    OFF = "off"  # SYSTEM_ALERT_ENABLED is off


class Outcome(NamedTuple):
    """What a pass did, for people and programs to read. ``duration_s`` is the pass's wall time."""

    name: str
    result: Result
    verdicts: tuple[Verdict, ...] = ()
    updates: tuple[StateChange, ...] = ()
    stale: tuple[str, ...] = ()  # services of which the database knew a newer observation
    opened: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    alerted: tuple[str, ...] = ()  # services that have an alert now, acknowledged or not
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()
    duration_s: float = 0.0
    unprobed: tuple[str, ...] = ()  # services that nobody looked at
    unprobed_because: tuple[str, ...] = ()  # why: the pass's time was up, or limits of this process
    maintenance_until: datetime | None = None  # no alert opens until then

    @property
    def unhealthy(self) -> tuple[str, ...]:
        """The names of the services that this pass found unhealthy."""
        return tuple(verdict.target.name for verdict in self.verdicts if not verdict.healthy)
