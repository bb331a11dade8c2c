"""Whether a pass believes what it saw: signs of life, stalls, and blind passes in a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from ops_worker.core.doubt import (
    Assessment,
    DoubtRow,
    Evidence,
    assess,
    belief_warning,
    blind_rows,
    blind_to,
    host_of,
    settle,
)
from ops_worker.core.model import Failure, Observation, Target
from ops_worker.core.shards import shard_of

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STALL_S = 3.0
CUT_OFF = {"stalled reset", "stalled handshake", "stalled body"}
"""Kinds of observations in which the server gave up during the stall."""
SERVICES_OWN = {"stalled refused", "stalled certificate"}
"""Kinds of observations that no stall explains."""


def target(name: str, host: str = "", faults: tuple[str, ...] = ()) -> Target:
    """Return a service on a host of its own."""
    return Target(name, f"http://{host or name}.example:8080/health", name, (), faults=faults)


def observed(name: str, kind: str, host: str = "") -> Observation:
    """Return what a probe saw."""
    service = target(name, host)
    unhealthy = {
        "timeout": (Failure.NO_ANSWER, "timeout after 5 s", "timeout"),
        "connected": (Failure.NO_ANSWER, "timeout after 5 s", "timeout"),
        "stalled": (Failure.NO_ANSWER, "timeout after 5 s", "timeout"),
        "stalled connected": (Failure.NO_ANSWER, "timeout after 5 s", "timeout"),
        "stalled name": (Failure.NO_CONNECTION, "name resolution failed: …", "name"),
        "stalled reset": (Failure.NO_ANSWER, "closed the connection", "reset"),
        "stalled handshake": (Failure.NO_CONNECTION, "TLS: closed", "tls"),
        "stalled body": (Failure.NO_ANSWER, "closed the connection", "protocol"),
        "stalled certificate": (Failure.NO_CONNECTION, "TLS: certificate has expired", "tls"),
        "stalled refused": (Failure.NO_CONNECTION, "Connection refused", "refused"),
        "briefly stalled": (Failure.NO_ANSWER, "timeout after 5 s", "timeout"),
        "no route": (Failure.NO_CONNECTION, "No route to host", "unreachable"),
        "name": (Failure.NO_CONNECTION, "name resolution failed: …", "name"),
        "refused": (Failure.NO_CONNECTION, "Connection refused", "refused"),
        "limit": (Failure.NOT_PROBED, "out of file descriptors", ""),
        "setting": (Failure.NO_ANSWER, "TOKEN is not set", "setting"),
    }
    if kind not in unhealthy:
        return Observation(service, 1.0, int(kind), 5)
    failure, error, reason_class = unhealthy[kind]
    stalled_s = 2.5 if kind == "briefly stalled" else 0.0
    if kind.startswith("stalled"):
        stalled_s = STALL_S
    if kind == "setting":
        service = target(name, host, faults=(error,))
    return Observation(
        service,
        1.0,
        failure=failure,
        error=error,
        reason_class=reason_class,
        sign=kind in {*SERVICES_OWN, *CUT_OFF} or kind.endswith(("connected", "refused", "reset")),
        stalled_s=stalled_s,
        cut_off=kind in CUT_OFF,
    )


class Case(NamedTuple):
    """Observations of services, and what the pass suspects."""

    kinds: tuple[str, ...]
    suspects: tuple[str, ...] = ()
    is_probed: bool = True
    one_host: bool = False


NOT_RUN = "this process was not run for 3.0 s"
CASES = {
    "no service": Case(()),
    "all answer": Case(("200", "200")),
    "an answer is a sign, whatever its status": Case(("503", "timeout", "name")),
    "a refusal is a sign": Case(("timeout", "refused")),
    "a completed connection is a sign": Case(("connected", "timeout")),
    "nothing came back": Case(("timeout", "timeout"), ("no packet came back from 2 hosts",)),
    "no route is no sign": Case(("no route", "timeout"), ("no packet came back from 2 hosts",)),
    "no name": Case(("name",) * 4, ("no name could be resolved: 4 of 4",)),
    "names and addresses": Case(
        ("name", "name", "timeout"),
        ("no name could be resolved: 2 of 3", "no packet came back from 1 host"),
    ),
    "one host may well be gone": Case(("timeout", "timeout"), one_host=True),
    "one service": Case(("name",)),
    "a service that cannot be asked is no host": Case(("setting", "timeout")),
    "only services that cannot be asked": Case(("setting", "setting")),
    "and says nothing about the network": Case(
        ("setting", "timeout", "timeout"), ("no packet came back from 2 hosts",)
    ),
    "a limit": Case(("limit",) * 3, ("out of file descriptors: 3 of 3",), is_probed=False),
    "a limit, on one host": Case(
        ("limit",) * 3, ("out of file descriptors: 3 of 3",), is_probed=False, one_host=True
    ),
    "a limit of some": Case(("limit", "200")),
    "a limit, and silence": Case(
        ("limit", "timeout"), ("out of file descriptors: 1 of 2", "no packet came back from 1 host")
    ),
    "a stall": Case(("stalled", "stalled"), (f"{NOT_RUN}: 2 of 2",), is_probed=False),
    "a stall of a resolver, and of a service that did not wait": Case(
        ("stalled name", "stalled reset"), (f"{NOT_RUN}: 2 of 2",), is_probed=False
    ),
    "a stall of a handshake, and of a body": Case(
        ("stalled handshake", "stalled body"), (f"{NOT_RUN}: 2 of 2",), is_probed=False
    ),
    "a bad certificate after a stall counts": Case(("stalled", "stalled certificate")),
    "an answer after a stall counts": Case(("stalled", "200")),
    "so does a refusal": Case(("stalled", "stalled refused")),
    "so does a connection that was completed before a stall": Case(
        ("stalled connected", "stalled", "name")
    ),
    "but who probed nothing has nothing to believe": Case(
        ("stalled connected", "stalled"), (f"{NOT_RUN}: 2 of 2",), is_probed=False
    ),
    "a stall of half of the deadline is not long enough": Case(
        ("briefly stalled", "briefly stalled"), ("no packet came back from 2 hosts",)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_assess(name: str) -> None:
    """A pass is doubted if nothing came back from more than one host, or if nothing was probed."""
    case = CASES[name]
    observations = [
        observed(f"s{number}", kind, "same" if case.one_host else "")
        for number, kind in enumerate(case.kinds)
    ]
    targets = [observation.target for observation in observations]
    assessment = assess(observations, targets)
    assert (assessment.suspects, assessment.is_probed) == (case.suspects, case.is_probed)
    void = [kind.startswith("stalled") and kind not in SERVICES_OWN for kind in case.kinds]
    for before, after, is_void in zip(observations, assessment.observations, void, strict=True):
        if is_void:
            assert (after.failure, after.error) == (Failure.NOT_PROBED, NOT_RUN)
        else:
            assert after == before


@pytest.mark.parametrize(
    ("latency_ms", "stalled_s", "expected"),
    [(8008, 8.0, 8), (2100, 2.0, 100), (1900, 2.0, 0), (30, 0.0, 30), (None, 8.0, None)],
)
def test_latency_of_a_stall(latency_ms: int | None, stalled_s: float, expected: int | None) -> None:
    """A stall of this process, however short, makes no service slow."""
    observation = observed("a", "200")._replace(latency_ms=latency_ms, stalled_s=stalled_s)
    (after,) = assess([observation], [observation.target]).observations
    assert after == observation._replace(latency_ms=expected)


def test_a_host_without_an_observation_counts() -> None:
    """A service that was not probed for lack of time is still monitored."""
    observations = [observed("a", "timeout")]
    assert assess(observations, [target("a")]).suspects == ()
    assert assess(observations, [target("a"), target("b")]).suspects == (
        "no packet came back from 1 host",
    )


def test_evidence() -> None:
    """The suspects include what this machine reports: CPU throttling and its name servers."""
    evidence = Evidence(throttled_s=2.9, nameservers=("10.0.0.2", "fe80::1", "::1", "10.0.0.3"))
    stalled = assess([observed("a", "stalled")], [target("a")], evidence)
    assert stalled.suspects == (
        "this process was not run for 3.0 s (throttled by its CPU limit for 2.9 s): 1 of 1",
    )
    observations = [observed("a", "name"), observed("b", "name")]
    (suspect,) = assess(observations, [target("a"), target("b")], evidence).suspects
    assert suspect == ("no name could be resolved: 2 of 2 (name server 10.0.0.2, fe80::1, ::1)")
    not_throttled = assess([observed("a", "stalled")], [target("a")], Evidence(0.0))
    assert not_throttled.suspects == (f"{NOT_RUN}: 1 of 1",)


def test_names_that_fail_while_others_answer() -> None:
    """Such observations are recorded, and one warning names the resolver."""
    observations = [observed("a", "200"), observed("b", "name"), observed("c", "name")]
    targets = [observation.target for observation in observations]
    assessment = assess(observations, targets, Evidence(nameservers=("10.0.0.2",)))
    assert (assessment.observations, assessment.suspects) == (tuple(observations), ())
    assert assessment.warnings == (
        "names could not be resolved, although other services gave a sign of life: b, c "
        "(name server 10.0.0.2): check the resolver and these names",
    )
    many = [observed("a", "200"), *(observed(f"n{number}", "name") for number in range(12))]
    (warning,) = assess(many, [observation.target for observation in many]).warnings
    assert warning.endswith("n8, n9 and 2 more: check the resolver and these names")
    (warning,) = assess(many[:-2], [observation.target for observation in many]).warnings
    assert warning.endswith("n8, n9: check the resolver and these names")


SIGHTED = Assessment(())
SILENT = Assessment((), suspects=("no packet came back from 2 hosts",))
UNPROBED = Assessment((), suspects=("out of file descriptors: 2 of 2",), is_probed=False)
TWO_SUSPECTS = Assessment((), suspects=("no name could be resolved: 1 of 2", "no packet"))


@pytest.mark.parametrize(
    ("assessments", "expected"),
    [
        ([SIGHTED, SIGHTED], "SS"),
        ([SILENT, SILENT, SILENT, SILENT], "bbSS"),
        ([SILENT, SIGHTED, SILENT, SILENT, SILENT], "bSbbS"),
        # A pass without a probe has nothing to believe, and does not count.
        ([UNPROBED] * 5, "bbbbb"),
        ([UNPROBED, UNPROBED, SILENT, SILENT, SILENT], "bbbbS"),
        ([SILENT, UNPROBED, SILENT, SILENT, UNPROBED, SILENT, SIGHTED, SILENT], "bbbSbSSb"),
        ([TWO_SUSPECTS], "b"),
    ],
)
def test_settle(assessments: list[Assessment], expected: str) -> None:
    """After two blind passes in a row, a pass believes what it saw. A sign of life ends that."""
    row = DoubtRow("health", "0/1")
    is_blind = ""
    for number, assessment in enumerate(assessments):
        now = NOW + timedelta(minutes=number)
        before, row = row, settle(assessment, row, 2, now, 30.0)
        is_blind += "b" if row.is_blind else "S"
        assert (row.last_at, row.period_s) == (now, 30.0)
        assert row.suspects == "; ".join(assessment.suspects)
        if row.is_blind:
            assert row.since == (before.since or now)
    assert is_blind == expected


@pytest.mark.parametrize(
    ("assessments", "expected"),
    [
        ([SIGHTED], ""),
        ([SILENT, SILENT], ""),
        (
            [SILENT, SILENT, SILENT],
            "no packet came back from 2 hosts; after 2 blind passes in a row, this pass believes "
            "what it sees: check the services, and the network and resolver of this machine",
        ),
        ([SILENT, SILENT, SILENT, SIGHTED], ""),
    ],
)
def test_believed(assessments: list[Assessment], expected: str) -> None:
    """A pass warns only if it believes what it saw although there was no sign of life."""
    row = DoubtRow("health", "0/1")
    for assessment in assessments:
        row = settle(assessment, row, 2, NOW, 30.0)
    assert belief_warning(row) == expected


@pytest.mark.parametrize(
    ("age", "period_s", "is_blind"),
    [
        (timedelta(hours=24), 60.0, False),
        (timedelta(hours=25), 60.0, True),
        (timedelta(days=90), 60.0, True),
        # The patience of a daily pass is three days.
        (timedelta(days=3), 86_400.0, False),
        (timedelta(days=4), 86_400.0, True),
        (timedelta(days=-1), 60.0, False),
    ],
)
def test_an_old_count(age: timedelta, period_s: float, is_blind: bool) -> None:
    """After a long time without a pass, the count of blind passes and the blindness begin again."""
    before = DoubtRow("health", "0/1", 2, NOW - age, NOW - age, period_s)
    row = settle(SILENT, before, 2, NOW, period_s)
    assert row.is_blind == is_blind
    if is_blind:
        assert (row.blind_passes, row.since) == (1, NOW)


def test_blind_rows() -> None:
    """A row that its pass no longer writes is ignored. The longest blindness comes first."""

    def row(
        name: str, blind_s: float | None, age_s: float | None, period_s: float = 60
    ) -> DoubtRow:
        """Return the row of a pass that has been blind for so long."""
        return DoubtRow(
            name,
            "0/1",
            since=None if blind_s is None else NOW - timedelta(seconds=blind_s),
            last_at=None if age_s is None else NOW - timedelta(seconds=age_s),
            period_s=period_s,
        )

    rows = [
        row("sees", None, 1),
        row("never written", 5, None),
        row("blind", 60, 1),
        row("longer", 120, 180),
        row("stopped", 300, 181),
        row("from the future", 10, -61),
        row("no period", 10, 1, float("nan")),
    ]
    assert [doubt_row.name for doubt_row in blind_rows(rows, NOW)] == ["longer", "blind"]


def test_reason() -> None:
    """The reason names the pass, and its shard if there are several."""
    row = DoubtRow("health", "0/1", suspects="no name could be resolved: 2 of 2")
    assert row.reason == "the health pass is blind: no name could be resolved: 2 of 2"
    divided = row._replace(shard="1/2", suspects="odd\x1b[31m\ntext")
    assert divided.reason == "the health 1/2 pass is blind: odd [31m text"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Ingest:8080/health", "ingest"),
        ("https://[::1]:8443", "::1"),
        ("tcp://db:5432", "db"),
        ("http://user:pass@10.0.0.1", "10.0.0.1"),
        ("nothing", ""),
        ("http://[bad", ""),
    ],
)
def test_host_of(url: str, host: str) -> None:
    """The host of a URL is in lower case, without user and port. It is empty without a host."""
    assert host_of(Target("a", url, "a", ())) == host


@pytest.mark.parametrize(
    ("name", "shard", "expected"),
    [
        ("health", "0/1", True),
        ("metrics", "0/1", False),
        ("health", "0/2", True),
        ("health", "1/2", False),
        ("health", "1/0", False),
        ("health", "0/0", False),
        ("health", "x", False),
        ("health", "x/2", False),
        ("health", "0/x", False),
        ("health", f"{shard_of('a', 1000)}/1000", True),
        ("health", "0/99999999", False),
    ],
)
def test_blind_to(name: str, shard: str, expected: bool) -> None:
    """Only the health pass of the service's shard knows its state. "a" is in shard 0 of 2."""
    row = DoubtRow(name, shard, since=NOW)
    assert blind_to("a", [row]) == (row if expected else None)


def test_blind_to_installation() -> None:
    """A blind pass of another installation says nothing about this one's services."""
    west, east = (DoubtRow("health", "0/1", since=NOW, installation=name) for name in ("w", "e"))
    assert blind_to("a", [west, east], "e") == east
    assert blind_to("a", [west, east], "s") is None
