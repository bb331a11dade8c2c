"""The last line of defence: stars for known secrets in tracebacks, libraries' logs and answers.

The messages of the worker itself quote no secret. What a library says in an exception or in its own
log is beyond its control, and a traceback shows it; so is what a service sends back. Only whole
values are found, as they stand: a part of one, or one that was escaped, is not.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ops_worker.core.model import Target

SHORTEST = 8
"""Characters of a secret that is starred. A shorter one would star ordinary words, and so tell it."""

_known: set[str] = set()


def of_url(url: str) -> Iterator[str]:
    """Yield what is secret in a URL's user information.

    As it is written, as it is meant, and as Basic authentication has it.
    """
    login = url.partition("://")[2].rpartition("@")[0]
    if login:
        meant = unquote(login)
        yield from (login, meant, base64.b64encode(meant.encode(errors="replace")).decode())
        yield from (login.partition(":")[2], meant.partition(":")[2])


def of_target(target: Target) -> Iterator[str]:
    """Yield a service's secrets: its headers' values, whole and word by word, and its URL's."""
    for _, value in target.headers:
        yield from {value, *value.split()}
    yield from of_url(target.url)


def known_of(target: Target) -> list[str]:
    """List the secrets of a service that are long enough to be starred, the longest first."""
    found = {secret for secret in of_target(target) if len(secret) >= SHORTEST}
    return sorted(found, key=len, reverse=True)


def know(secrets: Iterable[str]) -> None:
    """Remember secrets. May be called again: those that were known stay known."""
    _known.update(secret for secret in secrets if len(secret) >= SHORTEST)


def starred(text: str) -> str:
    """Return a text with stars in place of every secret that is known, the longest first."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
