"""Replace known secrets by stars in tracebacks, in logs of libraries and in answers of services.

This is the last line of defence. The worker's own messages quote no secret. But the worker does not
control what a library writes into an exception or a log, or what a service sends back. Only whole,
unchanged values are replaced: a part of a value or an escaped value is not recognised.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ops_worker.core.model import Target

SHORTEST = 8
"""Length of the shortest secret that is replaced, in characters.

A shorter secret may be an ordinary word. Stars in place of this word would reveal the secret.
"""

_known: set[str] = set()


def of_url(url: str) -> Iterator[str]:
    """Yield the secrets in the user information of a URL.

    Yield each secret as it is written and as it is decoded, and the login in the form of Basic
    authentication.
    """
    login = url.partition("://")[2].rpartition("@")[0]
    if login:
        decoded = unquote(login)
        yield from (login, decoded, base64.b64encode(decoded.encode(errors="replace")).decode())
        yield from (login.partition(":")[2], decoded.partition(":")[2])


def of_target(target: Target) -> Iterator[str]:
    """Yield the secrets of a service.

    These are the values of its headers and their words, the values of variables in its body, and
    the secrets of its URL.
    """
    for _, value in target.headers:
        yield from {value, *value.split()}
    yield from target.body_secrets
    yield from of_url(target.url)


def secrets_of(target: Target) -> list[str]:
    """Return the secrets of a service that are long enough to be replaced, the longest first."""
    secrets = {secret for secret in of_target(target) if len(secret) >= SHORTEST}
    return sorted(secrets, key=len, reverse=True)


def remember(secrets: Iterable[str]) -> None:
    """Add secrets to the known ones, except those that are shorter than SHORTEST."""
    _known.update(secret for secret in secrets if len(secret) >= SHORTEST)


def starred(text: str) -> str:
    """Replace every known secret in a text by stars, the longest secret first."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
