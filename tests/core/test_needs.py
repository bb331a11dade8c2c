"""Dependencies: which alerts are held back, and by which causes. Only opening is held back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core import health
from ops_worker.core.model import KnownState, State, StateChange, Target, Thresholds, Verdict
from ops_worker.core.needs import (
    MAX_CAUSES,
    MAX_CYCLES,
    all_needed,
    because_of,
    causes_in_pass,
    causes_of,
    current_health,
    needs_of,
    problems,
    unprobed_needs,
    with_causes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Needs = Mapping[str, Sequence[str]]

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CHAIN = {"page": ("shop",), "shop": ("db", "mail"), "db": (), "mail": ("dns",), "dns": ()}


def target(name: str, *needs: str) -> Target:
    """Return a service that needs others."""
    return Target(name, "http://h/health", name, (), needs=needs)


def verdict(name: str, *, healthy: bool = False) -> Verdict:
    """Return the verdict on a service."""
    return Verdict(
        target=target(name),
        taken_at=0.0,
        state=State.HEALTHY if healthy else State.DOWN,
        reason="" if healthy else "Connection refused",
    )


def unhealthy(*names: str, known: Needs = CHAIN) -> dict[str, bool]:
    """Return the health of all services. Those with these names are unhealthy."""
    return {name: name not in names for name in known}


CAUSES: list[tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = [
    ((), {}),
    (("page",), {}),
    (("db",), {}),
    (("shop", "db"), {"shop": ("db",)}),
    (("page", "shop"), {"page": ("shop",)}),
    (("page", "shop", "db"), {"page": ("db",), "shop": ("db",)}),
    (("page", "shop", "db", "dns"), {"page": ("db", "dns"), "shop": ("db", "dns")}),
    (("page", "db"), {"page": ("db",)}),  # the needs of a healthy service count as well
    (("mail", "dns"), {"mail": ("dns",)}),
]


@pytest.mark.parametrize(("names", "causes"), CAUSES)
def test_causes(names: tuple[str, ...], causes: dict[str, tuple[str, ...]]) -> None:
    """A cause is unhealthy, and no service that it needs is unhealthy."""
    assert causes_of(CHAIN, unhealthy(*names)) == causes


def test_unknown_health_is_no_cause() -> None:
    """A service with unknown health is no cause. A service that is not monitored is no cause."""
    assert causes_of(CHAIN, {"shop": False}) == {}
    needs = needs_of([target("shop", "db", "off"), target("db")])
    assert needs == {"shop": ("db",), "db": ()}
    assert causes_of(needs, {"shop": False, "off": False, "db": True}) == {}


def test_without_needs_of_its_own() -> None:
    """A service that is needed, and whose own needs are not known, may be a cause."""
    assert causes_of({"shop": ("db",)}, {"shop": False, "db": False}) == {"shop": ("db",)}
    assert all_needed({"shop": ("db",)}, ["shop", "gone"]) == {"db"}


def test_many_causes() -> None:
    """The first causes by name are kept, also through services between."""
    roots = [f"r{number:02}" for number in range(30)]
    needs = {"a": ("b",), "b": tuple(roots[::-1])} | dict.fromkeys(roots, ())
    causes = causes_of(needs, dict.fromkeys(needs, False))
    assert causes == {name: tuple(roots[:MAX_CAUSES]) for name in ("a", "b")}


def test_long_chain() -> None:
    """All services of the largest catalogue may be one chain."""
    needs = {f"s{number}": (f"s{number + 1}",) for number in range(9_999)} | {"s9999": ()}
    causes = causes_of(needs, dict.fromkeys(needs, False))
    assert causes["s0"] == ("s9999",)
    assert len(all_needed(needs, ["s0"])) == 9_999
    assert list(problems(needs)) == []


def test_many_paths() -> None:
    """Each service is visited once, however many paths lead to it."""
    needs: dict[str, tuple[str, ...]] = {"s0": ()}
    for number in range(1, 60):
        needs[f"s{number}"] = tuple(f"s{below}" for below in range(number))
    assert len(all_needed(needs, ["s59"])) == 59
    assert causes_of(needs, dict.fromkeys(needs, False))["s59"] == ("s0",)


SENTENCES = [
    ((), "", ""),
    ((), "refused", "refused"),
    (("db",), "", "because of db"),
    (("db",), "refused", "because of db: refused"),
    (("db", "a"), "refused", "because of a and db: refused"),
    (("b", "c", "a"), "x", "because of a, b and c: x"),
    (("b", "c", "a", "d"), "x", "because of a, b, c and 1 more: x"),
    (("b", "c", "a", "d", "e"), "x", "because of a, b, c and 2 more: x"),
]


@pytest.mark.parametrize(("causes", "reason", "sentence"), SENTENCES)
def test_sentence(causes: tuple[str, ...], reason: str, sentence: str) -> None:
    """The causes come before the reason, because a narrow screen cuts the end."""
    assert with_causes(reason, causes) == sentence
    assert because_of(causes) == sentence.partition(":")[0] * bool(causes)


FAULTS: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    (CHAIN, []),
    ({"a": ("a",)}, [("a", "needs itself: a needs a")]),
    ({"b": ("a",), "a": ("b",)}, [("a", "needs itself: a needs b needs a")]),
    (
        {"c": ("a",), "a": ("b",), "b": ("c",), "d": ("a", "d")},
        [("d", "needs itself: d needs d"), ("a", "needs itself: a needs b needs c needs a")],
    ),
    (
        {"shop": ("databse", "x"), "database": ()},
        [
            (
                "shop",
                "needs databse, which is not a service of the catalogue; did you mean database?",
            ),
            ("shop", "needs x, which is not a service of the catalogue"),
        ],
    ),
]


@pytest.mark.parametrize(("needs", "faults"), FAULTS)
def test_problems(needs: dict[str, Any], faults: list[tuple[str, str]]) -> None:
    """Unknown names and cycles are faults that name their services."""
    assert sorted(problems(needs)) == sorted(faults)


def test_many_cycles() -> None:
    """The number of reported cycles is limited."""
    needs = {f"s{number:02}": (f"s{number:02}",) for number in range(50)}
    assert len(list(problems(needs))) == MAX_CYCLES


ROWS = [
    (KnownState(), None),
    (KnownState(healthy=False), None),
    (KnownState(healthy=False, checked_at=NOW), False),
    (KnownState(healthy=True, checked_at=NOW), True),
    (KnownState(healthy=False, checked_at=NOW - timedelta(seconds=180)), False),
    (KnownState(healthy=False, checked_at=NOW - timedelta(seconds=181)), None),
    (KnownState(healthy=False, checked_at=NOW + timedelta(seconds=61)), None),
]


@pytest.mark.parametrize(("row", "expected"), ROWS)
def test_current_health(row: KnownState, expected: bool | None) -> None:
    """The verdict of the pass counts, else the row, unless it is stale or from the future."""
    verdicts = [verdict("own"), verdict("well", healthy=True)]
    known = {"new": KnownState(), "row": row, "own": KnownState(True, 1, NOW, NOW)}
    current = current_health(verdicts, known, NOW, 60)
    assert current == {"own": False, "well": True} | ({} if expected is None else {"row": expected})


def test_unprobed_needs() -> None:
    """A pass also reads the rows of services that its unhealthy services need, in any shard."""
    verdicts = [verdict("shop"), verdict("mail", healthy=True)]
    assert unprobed_needs(CHAIN, verdicts) == ["db", "dns"]
    assert unprobed_needs(CHAIN, [verdict("shop", healthy=True)]) == []


# The three invariants: probing, recording and resolution are never suppressed; only opening is.

NAMES = [f"s{number}" for number in range(7)]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Draw a graph without a cycle: in some order, a service needs only services before it."""
    order = draw(st.permutations(NAMES))
    needs = {}
    for place, name in enumerate(order):
        direct = draw(st.lists(st.sampled_from(order[:place]), unique=True)) if place else []
        needs[name] = tuple(direct)
    return needs


HEALTH = st.dictionaries(st.sampled_from(NAMES), st.booleans())


def reachable(needs: Needs, name: str) -> set[str]:
    """Return all services that a service needs: add their needs until no name is new."""
    names = {*needs[name]}
    while True:
        more = names | {needed for service in names for needed in needs[service]}
        if more == names:
            return names
        names = more


@given(graphs(), HEALTH)
def test_causes_by_definition(
    needs: dict[str, tuple[str, ...]], health_of: dict[str, bool]
) -> None:
    """A service is held back if and only if it and something that it needs are unhealthy."""
    expected = {}
    for name in NAMES:
        bad = {needed for needed in reachable(needs, name) if health_of.get(needed) is False}
        roots = {root for root in bad if not bad & reachable(needs, root)}
        if health_of.get(name) is False and bad:
            assert roots
            expected[name] = tuple(sorted(roots))
    assert causes_of(needs, health_of) == expected
    assert all_needed(needs, NAMES[:1]) == reachable(needs, NAMES[0])


class World:
    """Services as passes record them, by the rules of the core alone."""

    def __init__(self, needs: Needs, thresholds: Thresholds) -> None:
        self.needs = needs
        self.thresholds = thresholds
        self.known = dict.fromkeys(NAMES, KnownState())

    def run(self, number: int, probed: Mapping[str, bool]) -> list[StateChange]:
        """Run a pass that probes these services, and write what it decides."""
        at = NOW + timedelta(seconds=60 * number)
        verdicts = [verdict(name, healthy=healthy) for name, healthy in probed.items()]
        unprobed = unprobed_needs(self.needs, verdicts)
        others = {name: self.known[name] for name in unprobed}
        causes = causes_in_pass(self.needs, verdicts, others, at, 60)
        assert causes.keys() <= probed.keys()
        changes = health.plan(verdicts, self.known, self.thresholds, lambda _: at, at)
        changes = health.suppress_alerts(changes, causes)
        for change in changes:
            name = change.verdict.target.name
            self.known[name] = KnownState(
                healthy=change.verdict.healthy,
                streak=change.streak,
                since=change.since,
                checked_at=change.checked_at,
                alerted=(self.known[name].alerted or change.opens) and not change.closes,
            )
        return changes

    def close(self, name: str) -> None:
        """Close the alert of a service, as a person does."""
        self.known[name] = self.known[name]._replace(alerted=False)

    @property
    def alerts(self) -> set[str]:
        """Return the services with an alert."""
        return {name for name, state in self.known.items() if state.alerted}


PASSES = st.lists(
    st.tuples(HEALTH, st.sets(st.sampled_from(NAMES), max_size=2)), min_size=1, max_size=20
)


@given(graphs(), PASSES, st.integers(1, 3), st.integers(1, 3))
def test_only_opening_is_suppressed(
    needs: dict[str, tuple[str, ...]],
    passes: list[tuple[dict[str, bool], set[str]]],
    alert_after: int,
    resolve_after: int,
) -> None:
    """Compared with a world without needs: the same rows and endings, and fewer beginnings.

    While a cause is unhealthy, an alert does not open, not even after a person closed it. In the
    first pass without a cause it opens, if the service is still unhealthy.
    """
    thresholds = Thresholds(alert_after, resolve_after)
    world = World(needs, thresholds)
    free = World(dict.fromkeys(NAMES, ()), thresholds)
    for number, (probed, closed) in enumerate(passes):
        for name in closed:
            world.close(name)
            free.close(name)
        before = world.alerts
        changes, all_changes = world.run(number, probed), free.run(number, probed)
        # Recording: every probed service has the same row, streak and begin.
        assert [change._replace(opens=False, closes=False) for change in changes] == [
            change._replace(opens=False, closes=False) for change in all_changes
        ]
        assert {change.verdict.target.name for change in changes} == probed.keys()
        for change in changes:
            name = change.verdict.target.name
            due = not probed[name] and name not in before and change.streak >= alert_after
            bad = {
                needed
                for needed in reachable(needs, name)
                if is_unhealthy(world, needed, number, probed)
            }
            # Only opening is suppressed, and only while something that it needs is unhealthy.
            assert change.opens == (due and not bad)
            # Resolution: an open alert closes as soon as the rule says so.
            assert change.closes == (
                probed[name] and name in before and change.streak >= resolve_after
            )
        assert world.alerts <= free.alerts


def is_unhealthy(world: World, name: str, number: int, probed: Mapping[str, bool]) -> bool:
    """Return whether a service is known to be unhealthy: by this pass, or by a row of 180 s."""
    if name in probed:
        return not probed[name]
    state = world.known[name]
    at = NOW + timedelta(seconds=60 * number)
    is_fresh = state.checked_at is not None and (at - state.checked_at).total_seconds() <= 180
    return is_fresh and state.healthy is False
