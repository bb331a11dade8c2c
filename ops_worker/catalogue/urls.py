"""Check URLs and host names. No message quotes a URL, because an invalid URL may be a secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from urllib.parse import SplitResult

MAX_LABEL = 63
"""Maximum number of characters between two dots of a host name (RFC 1035, section 2.3.4)."""
BAD_HOST = "its host is not a valid name or address"

_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")
_FOUR_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_BYTE = re.compile(r"25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9]")


def url_problem(url: str, *, query: bool = False, others: Iterable[str] = ()) -> str:
    """Return why a path cannot be appended to this http or https URL; empty if it can.

    With ``query``, the URL may have a query. ``others`` has further schemes that are possible, for
    the message.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return BAD_HOST
    *first, last = (f"{scheme}://" for scheme in ("http", "https", *sorted(others)))
    has_suffix = "#" in url or ("?" in url and not query)
    checks = (
        (_BLANK_OR_CONTROL.search(url), "it contains a space or a control character"),
        (parts.scheme not in {"http", "https"}, f"it must begin with {', '.join(first)} or {last}"),
        (not host, "it has no host"),
        (not _has_valid_port(parts), "its port must be 1 to 65535"),
        (has_suffix, "it must not have a query or a fragment"),
        (not is_host(host), BAD_HOST),
    )
    return next((problem for failed, problem in checks if failed), "")


def connection_problem(url: str) -> str:
    """Return why a URL does not have the form ``SCHEME://HOST:PORT``; empty if it does."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    checks = (
        (_BLANK_OR_CONTROL.search(url), "it contains a space or a control character"),
        (not (host and port), "it must have a host and a port from 1 to 65535"),
        (not _ends_with_port(url), "it must end with the port, and have no user or password"),
        (not is_host(host), BAD_HOST),
    )
    return next((problem for failed, problem in checks if failed), "")


def _ends_with_port(url: str) -> bool:
    """Return whether a URL has only a host and a port after its scheme."""
    return re.fullmatch(r"[a-zA-Z]+://[^/?#@]*:[0-9]+", url) is not None


def _has_valid_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:  # above 65535, or not a number
        return False


def is_host(host: str) -> bool:
    """Return whether a text can be a host name or an address.

    Four numbers with dots must be a valid IPv4 address.
    """
    if _BLANK_OR_CONTROL.search(host):
        return False
    if any(len(label) > MAX_LABEL for label in host.split(".")):
        return False
    if _FOUR_NUMBERS.fullmatch(host):
        return all(_BYTE.fullmatch(part) for part in host.split("."))
    try:
        return host.isascii() or bool(host.encode("idna"))
    except UnicodeError:
        return False
