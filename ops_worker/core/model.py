"""The data types of the program, in the order in which a pass uses them.

Except for the enumerations, they are named tuples. Frozen dataclasses with slots would also be
immutable and without ``__dict__``, but each takes 0.62 ms to define, a named tuple 0.09 ms. A
process that runs one pass defines every class at its start.
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
"""Tags of a row without tags."""
PROBE_DEADLINE_S = 5.0
"""The default probe deadline in seconds (docs/contract.md, "Probe")."""

BODY_METHODS = ("POST", "PUT", "PATCH", "DELETE")
"""Methods of requests that may have a body."""
METHODS = ("GET", "HEAD", "OPTIONS", *BODY_METHODS)
"""Methods of a probe. CONNECT and TRACE do not show the health of a service."""


CONNECTION_SCHEMES = frozenset({"tcp", "tls"})
"""Schemes of URLs whose probes only connect. With ``tls``, they also make the handshake."""
TLS_SCHEMES = frozenset({"https", "tls"})
"""Schemes of URLs whose servers have a certificate."""


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, in lower case; empty if the URL has no scheme."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


class Counter(NamedTuple):
    """A number that a service reports about itself. It is recorded as metric ``name``.

    ``keys`` are the possible keys of the number in the service's JSON: the first key that exists is
    used. Without ``keys``, the key is ``name``. A ``gauge`` goes up and down, so it has no rate.
    """

    name: str
    keys: tuple[str, ...] = ()
    gauge: bool = False


class Figure(NamedTuple):
    """A number that a SQL statement returns. It is recorded as ``metric`` of ``series``.

    - ``sql``: one read-only statement. It returns a column ``value``, and may return the columns
      ``service`` and ``tags``. Without a column ``service``, it must return exactly one row. With
      this column, each row is recorded for its service.
    - ``tables``: the tables that the statement needs. If one does not exist, the figure is absent.
    - ``timeout_s``: the longest time in seconds that the database may spend on the statement.
    - ``every_s``: the length in seconds of the slots in which the figure is measured once; 0: it is
      measured in every pass.
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
        """The name of the figure in messages and in the catalogue: ``series.metric``."""
        return f"{self.series}.{self.metric}"


class Thresholds(NamedTuple):
    """The consecutive passes that it takes to open an alert, and to close it again."""

    alert_after: int = 1
    resolve_after: int = 1


class Tls(NamedTuple):
    """The settings of TLS. The texts are paths of PEM files; an empty path means no file.

    ``ca`` has the certificate authorities to trust instead of the default ones. ``certificate`` and
    ``key`` identify the client. With ``skip_verify``, the certificate of the service is not
    verified.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    skip_verify: bool = False

    @property
    def without_client(self) -> Tls:
        """The same settings without the certificate of the client."""
        return self._replace(certificate="", key="")


class Condition(NamedTuple):
    """A requirement for a part of an answer.

    - ``pointer``: the JSON pointer to the part (RFC 6901), or None.
    - ``header``: the response header that is the part, in lower case, or empty. Without a pointer
      and a header, the part is the text of the body.
    - ``relation``: how the part is compared with ``value``: a key of ``core.conditions.RELATIONS``.
    """

    pointer: str | None
    relation: str
    value: Any
    header: str = ""

    @property
    def subject(self) -> str:
        """The part of the answer, as in reason classes (docs/contract.md, "Reason classes")."""
        if self.header:
            return f"header {self.header}"
        return "body" if self.pointer is None else self.pointer


class Target(NamedTuple):
    """A monitored service, with everything that its probe and the rules for its answer need.

    - ``url``: the full URL of the probe. If it cannot be used, ``faults`` has the reason.
    - ``series``: the name of the service in ``system_metrics``.
    - ``counters``: the counters to record; None: every finite number of the answer.
    - ``counters_at``: the JSON pointer to the object with the counters.
    - ``expect``: the HTTP statuses of a healthy answer.
    - ``deadline_s``: the probe deadline in seconds.
    - ``json``: whether the body of a healthy answer must be a JSON object.
    - ``method``, ``body``: the method and the body of the request. The body may contain secrets:
      ``body_secrets`` are the values of the variables in it.
    - ``headers``: names and values of request headers. The values are secrets.
    - ``redirects``: the number of redirects that are followed. They are followed only to the host
      of the URL and to ``redirect_hosts``.
    - ``max_latency_ms``: the largest latency of a healthy answer in milliseconds; None: no limit.
    - ``certificate_days``: the smallest number of days left of a healthy server's certificate;
      None: the end of the certificate is neither read nor recorded.
    - ``alert_after``, ``resolve_after``: thresholds in passes; None: those of the settings.
    - ``needs``: the services that this service needs (``core.needs``).
    - ``slo``: the objective in percent of the time, over ``slo_window_days`` days; None: there is
      no objective.
    - ``url_template``: the URL in the catalogue, if it contains variables. It can be shown, because
      it does not contain their values.
    - ``faults``: the reasons why the service cannot be probed. They name a key and the variable or
      file, but never a value.
    """

    name: str
    url: str
    series: str
    counters: tuple[Counter, ...] | None
    counters_at: str = "/counters"
    expect: tuple[int, ...] = (200,)
    deadline_s: float = PROBE_DEADLINE_S
    json: bool = True
    method: str = "GET"
    body: bytes = b""
    body_secrets: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    redirects: int = 0
    redirect_hosts: tuple[str, ...] = ()
    tls: Tls = Tls()
    conditions: tuple[Condition, ...] = ()
    max_latency_ms: int | None = None
    certificate_days: int | None = None
    tags: Mapping[str, Any] = NO_TAGS
    alert_after: int | None = None
    resolve_after: int | None = None
    needs: tuple[str, ...] = ()
    slo: float | None = None
    slo_window_days: int = 30
    url_template: str = ""
    faults: tuple[str, ...] = ()

    @property
    def shown_url(self) -> str:
        """The URL of the catalogue, without a password."""
        return without_password(self.url_template or self.url)

    @property
    def scheme(self) -> str:
        """The scheme of the URL, in lower case; empty if the URL has no scheme."""
        return scheme_of(self.url)

    @property
    def only_connects(self) -> bool:
        """Whether a probe makes only a connection: the scheme is ``tcp`` or ``tls``."""
        return self.scheme in CONNECTION_SCHEMES


class Failure(enum.Enum):
    """Why a probe did not get an HTTP answer."""

    NO_CONNECTION = "no connection"  # refused, name not resolved, no route, TLS
    NO_ANSWER = "no answer"  # timeout, reset, protocol, bad URL, body too large
    NOT_PROBED = "not probed"  # no time left, or a limit of this process


class Observation(NamedTuple):
    """The facts of one probe, without judgement.

    With an HTTP answer, ``http_status`` and ``latency_ms`` are set. If the status is expected,
    ``body`` and ``headers`` are set, too. With another status, ``error`` may have the likely cause.
    A connection to a target that only connects has only ``latency_ms``. Without an answer,
    ``failure``, ``error`` and ``reason_class`` are set.

    - ``taken_at``: the moment of the result, in seconds of the monotonic clock of this process.
    - ``headers``: the response headers that conditions name. The names are in lower case.
    - ``certificate_days_left``: the whole days for which the server's certificate is still valid,
      negative after its end. None: the target has no ``certificate_days``, or there was no
      handshake.
    - ``attempts``: the number of probes. Only a probe without an HTTP answer is repeated.
    - ``reason_class``: the reason class of the failure (docs/contract.md, "Reason classes").
    - ``sign``: a sign of life, such as a completed connection, a refusal or a reset.
    - ``stalled_s``: the seconds during the probe in which this process was not run.
    - ``cut_off``: whether the server closed or reset the connection within the handshake, or before
      the end of its answer. It may have done so because a stalled process did not answer in time.
    """

    target: Target
    taken_at: float
    http_status: int | None = None
    latency_ms: int | None = None
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    certificate_days_left: int | None = None
    failure: Failure | None = None
    error: str = ""
    attempts: int = 1
    reason_class: str = ""
    sign: bool = False
    stalled_s: float = 0.0
    cut_off: bool = False


class State(enum.StrEnum):
    """The state of a service. The values are those of ``service_health.details ->> 'status'``."""

    HEALTHY = "healthy"  # the answer is as expected
    DEGRADED = "degraded"  # another HTTP status, a broken condition, slow, certificate ends soon
    DOWN = "down"  # no connection
    UNKNOWN = "unknown"  # everything else


class Verdict(NamedTuple):
    """An observation, judged.

    - ``reason``, ``reason_class``: why the service is not healthy. They are empty if and only if
      the state is healthy.
    - ``counters``: the JSON value at ``target.counters_at``, without the parts that the type
      ``jsonb`` cannot store. It is usually an object, but may be any JSON value. None: there was no
      answer with an expected status.

    The other fields come from the observation.
    """

    target: Target
    taken_at: float
    state: State
    reason: str = ""
    latency_ms: int | None = None
    http_status: int | None = None
    counters: Any = None
    certificate_days_left: int | None = None
    attempts: int = 1
    reason_class: str = ""

    @property
    def healthy(self) -> bool:
        """True if the state is healthy. Every other state is unhealthy."""
        return self.state is State.HEALTHY


class KnownState(NamedTuple):
    """The state of a service that earlier passes recorded.

    - ``healthy``: None if no pass has recorded the service yet.
    - ``streak``: the number of consecutive passes with this health, and ``since`` the time of the
      first one.
    - ``checked_at``: the time of the last observation.
    - ``alerted``: whether the service has an alert that is open or acknowledged.
    - ``installation``: the installation that keeps the row; empty without a row.
    """

    healthy: bool | None = None
    streak: int = 0
    since: datetime | None = None
    checked_at: datetime | None = None
    alerted: bool = False
    installation: str = ""


class StateChange(NamedTuple):
    """The new row of a service, and whether its alert opens or closes."""

    verdict: Verdict
    streak: int
    since: datetime
    checked_at: datetime
    opens: bool = False
    closes: bool = False


class LockHolder(NamedTuple):
    """The process that holds the lock of a pass. A value is None if this role may not read it.

    - ``pid``: its backend process in the database.
    - ``application``: its ``application_name``.
    - ``wait_event``: the event for which the backend waits.
    - ``held_s``: the age of its transaction in seconds.
    """

    pid: int | None
    application: str | None
    wait_event: str | None
    held_s: float | None


class Recorded(NamedTuple):
    """The rows that a health pass wrote, and the services whose alerts it opened and closed.

    ``own_reason`` is why the worker's own alert opened; empty if it did not open.
    """

    updates: tuple[StateChange, ...]
    opened: tuple[str, ...]
    closed: tuple[str, ...]
    own_reason: str = ""


class Sample(NamedTuple):
    """One row of ``system_metrics`` without its time. All rows of a pass have the same time."""

    service: str
    metric: str
    value: float
    tags: Mapping[str, Any] = NO_TAGS


class Reading(NamedTuple):
    """The answer of the database to a figure: its samples, or the problem that prevented them.

    - ``absent``: whether a table of the figure does not exist. This is normal in newer releases of
      the platform, so there is no warning.
    - ``took_s``: the time in seconds that the database took.
    - ``faults``: the descriptions of the bad rows, one per row.
    """

    figure: Figure
    samples: tuple[Sample, ...] = ()
    problem: str = ""
    absent: bool = False
    took_s: float = 0.0
    faults: tuple[str, ...] = ()


class Tick(NamedTuple):
    """One run of a pass in a loop: its outcome, or the error that ended it.

    - ``duration_s``: the duration of the tick in seconds.
    - ``late_s``: seconds from the beginning of its slot to the start of the tick.
    - ``skipped``: number of slots that were skipped before this tick.
    - ``buffered``: number of passes whose samples wait for the database.
    - ``dropped``: number of passes whose samples were lost in this tick.
    - ``set_apart``: number of passes whose samples the database refuses.
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
        """The result in one word.

        This is the result of the outcome, ``failed`` for an OpsWorkerError, or ``crashed`` for any
        other error.
        """
        if self.outcome is not None:
            return self.outcome.result.value
        return "failed" if isinstance(self.error, OpsWorkerError) else "crashed"

    @property
    def problem(self) -> str:
        """The text of the error, without secrets; empty without an error."""
        return "" if self.error is None else shown(self.error)

    @property
    def exit_code(self) -> int:
        """The exit code of a single pass with this result."""
        if isinstance(self.error, OpsWorkerError):
            return self.error.exit_code
        return OpsWorkerError.exit_code if self.outcome is None else DONE


class Result(enum.StrEnum):
    """How a pass ended."""

    RECORDED = "recorded"
    DRY_RUN = "dry run"
    SKIPPED = "skipped"  # another pass held the lock
    WAITING = "waiting"  # in a loop: an earlier pass is still being recorded
    OFF = "off"  # SYSTEM_ALERT_ENABLED is off


class Rolled(NamedTuple):
    """What a rollup pass did.

    - ``hours``, ``days``: the number of slices of which rows were written. In a dry run, those of
      which rows would be written.
    - ``rows``: the number of rows that were written.
    - ``removed``: the number of rows that were removed, by table.
    - ``until``: the time up to which all hours are rolled up.
    - ``behind_s``: the seconds of complete slices that are not rolled up yet.
    """

    hours: int = 0
    days: int = 0
    rows: int = 0
    removed: Mapping[str, int] = {}
    until: datetime | None = None
    behind_s: float = 0.0


class Outcome(NamedTuple):
    """What a pass did. The closing line and ``--output json`` are made from it.

    - ``name``: the name of the pass.
    - ``updates``: the state changes that were written.
    - ``superseded``: the services of which the database already had a newer observation.
    - ``opened``, ``closed``: the services whose alerts were opened or closed.
    - ``alerted``: the services that have an open or acknowledged alert now.
    - ``because_of``: the causes of each service that is unhealthy because of others. No alert opens
      for these services.
    - ``duration_s``: the duration of the pass in seconds of wall time.
    - ``unprobed``: the services that were not probed. ``unprobed_because`` has the reasons: no time
      left, or limits of this process.
    - ``blind_because``: why the pass is blind; empty if it is not blind. A blind pass has no
      verdicts.
    - ``own_reason``: why the worker's own alert opened; empty if it did not open.
    - ``maintenance_until``: the end of the maintenance of all services, or None. No alert opens
      until then.
    - ``under_maintenance``: the end of the maintenance of each service under maintenance.
    - ``rolled``: what a rollup pass did; None for the other passes.
    - ``decided_by``: the services that this pass probed and another installation keeps, each with
      that installation. These services have no verdict in this outcome.
    """

    name: str
    result: Result
    verdicts: tuple[Verdict, ...] = ()
    updates: tuple[StateChange, ...] = ()
    superseded: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    alerted: tuple[str, ...] = ()
    because_of: Mapping[str, tuple[str, ...]] = {}
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()
    duration_s: float = 0.0
    unprobed: tuple[str, ...] = ()
    unprobed_because: tuple[str, ...] = ()
    blind_because: tuple[str, ...] = ()
    own_reason: str = ""
    maintenance_until: datetime | None = None
    under_maintenance: Mapping[str, datetime] = {}
    rolled: Rolled | None = None
    decided_by: Mapping[str, str] = {}

    @property
    def unhealthy(self) -> tuple[str, ...]:
        """The names of the unhealthy services."""
        return tuple(verdict.target.name for verdict in self.verdicts if not verdict.healthy)
