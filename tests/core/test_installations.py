"""Installations: names, rows of other installations, and rows that nobody must remove."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from ops_worker.catalogue.entries import NAME
from ops_worker.core.installations import (
    DEFAULT,
    MAX_NAMES,
    NAME_PATTERN,
    RECENT_AGE,
    Claim,
    InstallationRecord,
    contested,
    installation_of,
    is_own_service,
    keeper_warnings,
    other_keepers,
    own_service,
    protected_services,
    recent_installations,
    service_list,
    tags_of,
    without_installation,
)
from ops_worker.core.model import KnownState

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def known(installation: str, age_s: float | None) -> KnownState:
    """Return the state of a service that an installation recorded at this age."""
    checked_at = None if age_s is None else NOW - timedelta(seconds=age_s)
    return KnownState(healthy=True, checked_at=checked_at, installation=installation)


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [
        (DEFAULT, True),
        ("a", True),
        ("prod-b.eu_1", True),
        ("A" * 63, True),
        ("A" * 64, False),
        ("", False),
        ("-a", False),
        ("a-", False),
        ("a b", False),
        ("a\nb", False),
        ("a\n", False),
        ("é", False),
        ("a/b", False),
        ("<b>", False),
    ],
)
def test_names(name: str, is_valid: bool) -> None:
    """A name is one word. No lock, tag or page has to escape its characters."""
    assert bool(re.fullmatch(NAME_PATTERN, name)) is is_valid


def test_the_default_installation_is_not_named() -> None:
    """Rows of the default installation have no name, as in releases before names existed."""
    assert (tags_of(DEFAULT), own_service(DEFAULT)) == ({}, "ops_worker")
    assert (tags_of("b"), own_service("b")) == ({"installation": "b"}, "ops_worker#b")


def test_the_own_alert_is_no_service() -> None:
    """The name of an installation's own alert is not valid as the name of a service."""
    assert re.fullmatch(NAME, own_service("b")) is None
    assert (
        without_installation("ops_worker#b") == without_installation("ops_worker") == "ops_worker"
    )
    assert without_installation("ops_workers") == "ops_workers"
    assert is_own_service("ops_worker#b") and is_own_service("ops_worker")
    assert not is_own_service("b") and not is_own_service("b#b")
    assert (installation_of("ops_worker#b"), installation_of("b#b")) == ("b", "")
    assert installation_of("ops_worker") == installation_of("b") == ""


@pytest.mark.parametrize(
    ("installation", "age_s", "period_s", "is_kept"),
    [
        ("b", 0, 60, True),
        ("b", 180, 60, True),
        ("b", 180.5, 60, False),
        ("b", 90, 5, True),
        ("b", 91, 5, False),
        ("b", 10_800, 3600, True),
        # A row from the future counts only within one period.
        ("b", -60, 60, True),
        ("b", -61, 60, False),
        ("a", 0, 60, False),
        ("", None, 60, False),
    ],
)
def test_other_keepers(
    installation: str, age_s: float | None, period_s: float, is_kept: bool
) -> None:
    """Another installation keeps a row that it has written lately."""
    owners = other_keepers({"x": known(installation, age_s)}, "a", NOW, period_s)
    assert owners == ({"x": installation} if is_kept else {})


def test_keeper_warnings() -> None:
    """Each installation has one warning, on one line, with a limited number of names."""
    assert keeper_warnings({}) == []
    first, second = keeper_warnings({"x": "b", "y\n": "c\x1b", "a": "b"})
    assert first.startswith("installation b watches the same services")
    assert ": a, x: remove each of them" in first
    assert "\n" not in second and "\x1b" not in second
    many = [f"s{number:02}" for number in range(MAX_NAMES + 2)]
    assert service_list(many).endswith("s09 and 2 more")
    assert service_list(many[:MAX_NAMES]).endswith("s09")


def claim(
    service: str, age: timedelta, installation: str = "b", period_s: float | None = 60
) -> Claim:
    """Return a claim of this age."""
    return Claim(service, installation, NOW - age, period_s)


def test_contested() -> None:
    """A service is contested while another installation watches it.

    The period of that installation decides how long a row counts.
    """
    minute = timedelta(minutes=1)
    claims = [
        claim("x", 3 * minute),
        claim("w", minute, "c"),
        claim("w", minute),
        claim("y", 4 * minute),
        claim("z", 4 * minute, period_s=3600),
        claim("v", 4 * minute, period_s=None),
        claim("not monitored", minute),
    ]
    assert contested(claims, {"v", "w", "x", "y", "z"}, NOW) == {
        "b": ["w", "x", "z"],
        "c": ["w"],
    }


def test_protected_services() -> None:
    """Services that another installation watched in the last week stay.

    The alerts of the installations about themselves stay, too.
    """
    week = timedelta(days=7)
    assert week == RECENT_AGE
    moment = timedelta(microseconds=1)
    claims = [claim("x", week), claim("y", week + moment, "c"), claim("z", -week, DEFAULT)]
    assert protected_services(claims, [InstallationRecord("d", NOW)], NOW) == {
        "ops_worker#d": "d",
        "x": "b",
        "ops_worker#b": "b",
        "z": DEFAULT,
        "ops_worker": DEFAULT,
    }


def test_protected_services_that_were_taken_over() -> None:
    """Another installation keeps a row of this one only while it watches the service."""
    minute = timedelta(minutes=1)
    claims = [claim("x", 4 * minute), claim("y", 2 * minute), claim("z", 4 * minute)]
    assert protected_services(claims, [], NOW, {"x", "y"}) == {
        "ops_worker#b": "b",
        "y": "b",
        "z": "b",
    }


def test_recent_installations() -> None:
    """Every other installation with a row of the last week is returned, with its newest row."""
    hour = timedelta(hours=1)
    rows = [
        InstallationRecord("c", NOW - 2 * hour),
        InstallationRecord("b", NOW - RECENT_AGE - hour),
        InstallationRecord("a", NOW),
        InstallationRecord("c", NOW - hour),
        InstallationRecord("c", NOW - 3 * hour),
        InstallationRecord(DEFAULT, NOW - RECENT_AGE),
    ]
    assert recent_installations(rows, "a", NOW) == [
        InstallationRecord("c", NOW - hour),
        InstallationRecord(DEFAULT, NOW - RECENT_AGE),
    ]
