"""The last line of defence: the secrets that this process knows are starred in tracebacks and in what other libraries say.

The messages of the worker itself quote no secret. What a library says in an exception or in its own log is beyond its control, and a
traceback shows it. Only whole values are found, as they stand: a part of one, or one that was escaped, is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORTEST = 8
"""Characters of a secret that is starred: a shorter one would star parts of ordinary words, and so tell what it is."""

_known: set[str] = set()


def know(secrets: Iterable[str]) -> None:
    """Remember secrets. May be called again: those that were known stay known."""
    _known.update(secret for secret in secrets if len(secret) >= SHORTEST)


def starred(text: str) -> str:
    """Return a text with stars in place of every secret that is known, the longest first."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
