"""Tests of redaction: which values are secrets, and how stars replace them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from ops_worker import redact
from ops_worker.core.model import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Restore the secrets of other tests after each test."""
    before = set(redact._known)
    redact._known.clear()
    yield
    redact._known.clear()
    redact._known.update(before)


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("http://host/path", set()),
        ("http://host/a@b", {"host/a", base64.b64encode(b"host/a").decode(), ""}),
        (
            "http://user:pass%20word@host/",
            {
                "user:pass%20word",
                "user:pass word",
                base64.b64encode(b"user:pass word").decode(),
                "pass%20word",
                "pass word",
            },
        ),
        (
            "https://token-only@host/",
            {"token-only", base64.b64encode(b"token-only").decode(), ""},
        ),
    ],
)
def test_of_url(url: str, secrets: set[str]) -> None:
    """User information is a secret as written, decoded, and as in Basic authentication."""
    assert set(redact.of_url(url)) == secrets


def test_of_target() -> None:
    """The value of a header is a secret, and so is each of its words. Its name is not.

    In a body, only the values of variables are secrets.
    """
    target = Target("a", "http://host/", "a", (), headers=(("Authorization", "Bearer abcdefgh"),))
    assert set(redact.of_target(target)) == {"Bearer abcdefgh", "Bearer", "abcdefgh"}
    target = Target("a", "http://host/", "a", (), body=b"a=b c d", body_secrets=("b c",))
    assert set(redact.of_target(target)) == {"b c"}


def test_shortest() -> None:
    """A secret of fewer than 8 characters is not replaced: it may be an ordinary word."""
    redact.remember(["1234567", "12345678"])
    assert redact.starred("1234567, 12345678") == "1234567, ***"


def test_longest_first() -> None:
    """A secret that contains another one is replaced as a whole."""
    redact.remember(["abcdefgh", "abcdefghijkl"])
    assert redact.starred("x abcdefghijkl y") == "x *** y"
    target = Target("a", "http://h/", "a", (), headers=(("X", "longer-secret shorter-s"),))
    lengths = [len(secret) for secret in redact.secrets_of(target)]
    assert lengths == sorted(lengths, reverse=True)


def test_known_stay_known() -> None:
    """New secrets are added to the known ones."""
    redact.remember(["first-secret"])
    redact.remember(["second-secret"])
    assert redact.starred("first-secret second-secret first-secret") == "*** *** ***"
