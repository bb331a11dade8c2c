"""The data types of the program, in the order in which a pass uses them.

All of them are named tuples. Like frozen dataclasses with slots, they are immutable and have no
``__dict__``. But a named tuple takes 0.09 ms to define and such a dataclass 0.62 ms, and a process
that runs one pass pays for every class at every start.
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
"""Seconds for one whole probe (docs/contract.md, "Probe"). A service can have its own deadline."""

BODY_METHODS = ("POST", "PUT", "PATCH", "DELETE")
"""Methods of requests that may have a body."""
METHODS = ("GET", "HEAD", "OPTIONS", *BODY_METHODS)
"""Methods of a probe. CONNECT and TRACE say nothing about a service."""


CONNECTION_SCHEMES = frozenset({"tcp", "tls"})
"""Schemes of URLs whose probes only connect, and for ``tls`` make the handshake."""
TLS_SCHEMES = frozenset({"https", "tls"})
"""Schemes of URLs whose servers have a certificate."""


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, in lower case; empty if it has none, or is not known."""
    scheme, mark, _ = url.partition("://")
    return scheme.lower() if mark else ""


class Counter(NamedTuple):
    """A number that a service reports about itself. It is recorded as metric ``name``.

    ``keys`` are the keys of the service's JSON that may hold it: the first one that exists is used.
    Without ``keys`` the key is ``name``. A ``gauge`` goes up and down, so that it has no rate.
    """

    name: str
    keys: tuple[str, ...] = ()
    gauge: bool = False


class Figure(NamedTuple):
    """A number that a SQL statement returns. It is recorded as ``metric`` of ``series``.

    ``sql`` is one read-only statement. It returns a column ``value`` and may return ``service`` and
    ``tags``. Without a column ``service`` it must return exactly one row. With it, every row is
    recorded under its own service.

    ``tables`` are the tables that the statement needs. If one does not exist, the figure is absent.
    ``timeout_s`` is the longest time in seconds that the database may spend on the statement. If
    ``every_s`` is not 0, the figure is measured once in every slot of that many seconds, otherwise
    in every pass.
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
    """How many consecutive passes it takes to open an alert, and to close it again."""

    alert_after: int = 1
    resolve_after: int = 1


class Tls(NamedTuple):
    """Paths of PEM files for https. An empty path means that the file is not used.

    ``ca`` holds the certificate authorities to trust instead of the default ones. ``certificate``
    and ``key`` identify the client. With ``skip_verify``, the certificate of the service is not
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
    """A condition on a part of an answer, which is compared with ``value``.

    The part is the value at the JSON pointer ``pointer`` (RFC 6901), or the response header
    ``header``, a name in lower case. Without both it is the text of the body. ``relation`` is the
    comparison: a key of ``core.conditions.RELATIONS``.
    """

    pointer: str | None
    relation: str
    value: Any
    header: str = ""

    @property
    def subject(self) -> str:
        """The part that it is about, as reason classes have it (docs/contract.md)."""
        if self.header:
            return f"header {self.header}"
        return "body" if self.pointer is None else self.pointer


class Target(NamedTuple):
    """A monitored service, with everything that its probe needs and how the answer is judged.

    - ``url`` is the full URL of the probe. If it cannot be used, ``faults`` has the reason.
    - ``series`` is the name of the service in ``system_metrics``.
    - ``counters`` are the counters to record. None means: every finite number of the answer.
    - ``counters_at`` is the JSON pointer to the object that holds the counters.
    - ``expect`` are the HTTP statuses of a healthy answer.
    - ``json`` tells whether the body of a healthy answer must be a JSON object.
    - ``method`` is the method of the request, and ``body`` its content. The body may hold secrets:
      ``body_secrets`` are the values of the variables in it.
    - ``certificate_days`` is the least number of days for which the server's certificate must still
      be valid. None: its end is neither read nor recorded.
    - ``headers`` are names and values of request headers. The values are secrets.
    - ``redirects`` is the number of redirects that are followed, to the host of the URL and to
      ``redirect_hosts`` only.
    - ``alert_after`` and ``resolve_after`` are thresholds in passes. None: the settings decide.
    - ``url_template`` is the URL as the catalogue has it, if variables are a part of it. It can be
      shown, because it does not contain the values of the variables.
    - ``needs`` are the services that it needs. While one of them is unhealthy, its alert does not
      open (``core.needs``).
    - ``slo`` is the percentage of the time in which the service is to be healthy, over
      ``slo_window_days``. None: it has no objective.
    - ``faults`` are the reasons why the service cannot be probed. They name a key and the variable
      or file, but never a value.
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
        """The URL as the catalogue has it, without a password."""
        return without_password(self.url_template or self.url)

    @property
    def scheme(self) -> str:
        """The scheme of the URL, in lower case; empty if it has none."""
        return scheme_of(self.url)

    @property
    def only_connects(self) -> bool:
        """Whether a probe only connects, without a request: ``tcp`` and ``tls``."""
        return self.scheme in CONNECTION_SCHEMES


class Failure(enum.Enum):
    """Why a probe did not get an HTTP answer."""

    NO_CONNECTION = "no connection"  # refused, name not resolved, no route, TLS
    NO_ANSWER = "no answer"  # timeout, reset, protocol, bad URL, body too large
    NOT_PROBED = "not probed"  # no time left, or a limit of this process


class Observation(NamedTuple):
    """What one probe saw: facts without judgement.

    ``taken_at`` is the time of the result in seconds of the monotonic clock of this process.
    ``attempts`` is the number of probes that were made. It is more than 1 if an earlier one did not
    get an HTTP answer.

    With an HTTP answer, ``http_status`` and ``latency_ms`` are set, and ``body`` and ``headers`` if
    the status is an expected one. ``headers`` has the headers that conditions name; the names are
    in lower case. With another status, ``error`` may name the likely cause. A target that only
    connects has ``latency_ms`` alone. Without an answer, ``failure``, ``error`` and
    ``reason_class`` are set. The class groups reasons (docs/contract.md, "Reason classes").

    ``certificate_days_left`` is the number of whole days for which the server's certificate is
    valid, negative if it is not any more. None: nobody asked, or there was no handshake.

    ``sign`` is a sign of life: a packet came back from the network. A completed connection, a
    refusal and a reset are such signs. ``stalled_s`` are the seconds during the probe in which this
    process was not run. ``cut_off`` is whether the server closed or reset the connection within the
    handshake, or before the end of its answer: it may have waited in vain.
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
    """The state of a service, with the words of ``service_health.details ->> 'status'``."""

    HEALTHY = "healthy"  # the answer is as expected
    DEGRADED = "degraded"  # another HTTP status, a broken condition, slow, certificate ends soon
    DOWN = "down"  # no connection
    UNKNOWN = "unknown"  # everything else


class Verdict(NamedTuple):
    """An observation, judged. ``reason`` is empty if and only if the state is healthy.

    So is ``reason_class``, which groups reasons (docs/contract.md, "Reason classes").

    ``counters`` is the JSON value at ``target.counters_at``, with everything removed that ``jsonb``
    cannot hold. It is usually an object, but may be any JSON value. It is None if there was no
    answer with an expected status. The other fields come from the observation.
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
    """What earlier passes recorded about a service.

    ``healthy`` is None if no pass has recorded the service yet. ``streak`` is the number of
    consecutive passes with this result, and ``since`` the time of the first of them. ``alerted`` is
    true if the service has an alert that is open or acknowledged. ``installation`` is the one that
    recorded it; empty if none has.
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
    """The process that holds the lock of a pass.

    ``pid`` is its backend in the database, ``application`` its ``application_name``, and
    ``wait_event`` what the backend waits for. ``held_s`` is the age of its transaction in seconds.
    Values are None if this role may not read them.
    """

    pid: int | None
    application: str | None
    wait_event: str | None
    held_s: float | None


class Recorded(NamedTuple):
    """What a health pass wrote: rows, and the services whose alerts it opened and closed.

    ``own_reason`` is why the worker's own alert opened, if it did.
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

    ``absent`` is true if a table of the figure does not exist. This is normal in newer releases of
    the platform and no reason for a warning. ``took_s`` is the time in seconds that the database
    took. ``faults`` describe the bad rows, one text per row.
    """

    figure: Figure
    samples: tuple[Sample, ...] = ()
    problem: str = ""
    absent: bool = False
    took_s: float = 0.0
    faults: tuple[str, ...] = ()


class Tick(NamedTuple):
    """One run of a pass in a loop: its outcome, or the error that ended it.

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

        The outcome has it. It is ``failed`` for an expected error, ``crashed`` for any other error.
        """
        if self.outcome is not None:
            return self.outcome.result.value
        return "failed" if isinstance(self.error, OpsWorkerError) else "crashed"

    @property
    def problem(self) -> str:
        """The text of the error, safe to show; empty if there was no error."""
        return "" if self.error is None else shown(self.error)

    @property
    def exit_code(self) -> int:
        """The exit code that a single pass with this result would have."""
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

    - ``hours``, ``days``: slices of which rows were written, or would be in a dry run.
    - ``rows``: rows of hours and days that were written.
    - ``removed``: rows that were removed, by table.
    - ``until``: the hours before this time are done.
    - ``behind_s``: seconds of complete hours or days that are not done yet.
    """

    hours: int = 0
    days: int = 0
    rows: int = 0
    removed: Mapping[str, int] = {}
    until: datetime | None = None
    behind_s: float = 0.0


class Outcome(NamedTuple):
    """What a pass did. The closing line and ``--output json`` are made from it.

    - ``own_reason``: why the worker's own alert opened, if it did.
    - ``superseded``: services of which the database already had a newer observation.
    - ``alerted``: services that have an alert now, open or acknowledged.
    - ``because_of``: the causes of each service that is unhealthy because of others. No alert opens
      for these services.
    - ``unprobed``: services that were not probed. ``unprobed_because`` has the reasons: no time
      left, or limits of this process.
    - ``blind_because``: why the pass did not believe what it saw; empty unless it was blind. A
      blind pass has no verdicts.
    - ``maintenance_until``: the end of the maintenance of all services, or None. No alert opens
      until then.
    - ``under_maintenance``: the end by service for which no alert opens: of all, or of a window.
    - ``duration_s``: the duration of the pass in seconds of wall time.
    - ``rolled``: what a rollup pass did; None for the other passes.
    - ``decided_by``: the installation that decides about a service, for each service that this pass
      probed and another installation keeps. These services have no verdict here.
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
