"""Causes to words: every reason of a probe without an answer that an operator can see.

No text of a library is passed on: it may hold a parser's state, or a secret. What is shown is a
fixed phrase, or the text that the system (``strerror``) or OpenSSL has for the error, by which a
user can search.
"""

from __future__ import annotations

import os
import ssl
import traceback
from pathlib import Path

import h11
import httpx

from ops_worker.adapters.http.limits import own_limit
from ops_worker.core.model import Failure


class NoAnswerError(Exception):
    """The service gave no answer that can be judged. The message is the reason that is shown."""


class UnreachableError(NoAnswerError):
    """No connection could be made: refused, unresolved, no route, TLS.

    A new one would meet the same.
    """


CLOSED = "closed the connection without an answer"
CLOSED_IN_HEAD = "closed the connection before the end of its headers"
SWITCHED = "protocol error: switched protocols (http 101) without being asked to"
SPEAKS_TLS = "speaks TLS on this port: use https://"

_FOREIGN = (
    (b"\x15\x03", SPEAKS_TLS),  # a TLS record: an alert
    (b"\x16\x03", SPEAKS_TLS),  # a TLS record: a handshake
    (b"SSH-", "speaks SSH, not HTTP, on this port"),
)
_HTTP2_SETTINGS = 4
"""Type of the frame that an HTTP/2 server begins with; it is the fourth byte."""

_NO_TLS = "speaks no TLS on this port: use http://, or another port"
_NO_CERTIFICATE = "the server requires a client certificate (tlsv13 alert certificate required)"
_NO_AGREEMENT = "the server refused the handshake (sslv3 alert handshake failure): it requires a client certificate, or no cipher is common"
_NO_TRUST = "the server does not trust the client certificate's CA (tlsv1 alert unknown ca)"
_TLS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,  # the same, as OpenSSL 3.2 and newer have it
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _NO_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NO_AGREEMENT,
    "TLSV1_ALERT_UNKNOWN_CA": _NO_TRUST,
    "TLSV1_ALERT_PROTOCOL_VERSION": "no common TLS version (tlsv1 alert protocol version)",
    "UNSUPPORTED_PROTOCOL": "no common TLS version (unsupported protocol)",
}
"""By OpenSSL's name of the error. What is not here is told in OpenSSL's own words, which are its
name in small letters.
"""

_PROTOCOL = (
    ("complete message body", "closed the connection before the end of the body"),
    ("closed connection", "closed the connection before the end of the body"),
    ("status line", "protocol error: bad status line"),
    ("status_code", "protocol error: bad status line"),
    ("response line", "protocol error: bad status line"),
    ("Content-Length", "protocol error: bad Content-Length header"),
    ("Transfer-Encoding", "protocol error: unsupported Transfer-Encoding header"),
    ("chunk", "protocol error: bad chunk"),
    ("too long", "protocol error: headers larger than 64 KiB"),
    ("SWITCH", SWITCHED),
    ("header", "protocol error: bad header line"),
)
"""What the parser's message contains, and what is said instead; the first that fits."""

_URL = (("port", "invalid port"), ("address", "invalid address"), ("IDNA", "invalid host name"))


def failure_of(error: Exception, deadline_s: float) -> tuple[Failure, str]:
    """Return what an error means for a probe of ``deadline_s`` seconds, and the reason."""
    if limit := own_limit(error):
        return Failure.NOT_PROBED, limit
    if isinstance(error, UnreachableError):
        return Failure.NO_CONNECTION, str(error)
    if isinstance(error, ssl.SSLError):
        return Failure.NO_CONNECTION, _tls(error)
    return Failure.NO_ANSWER, _words(error, deadline_s)


def foreign(begin: bytes) -> str:
    """Return what an answer that begins so speaks, in words; empty if it may be HTTP/1."""
    if begin[:5] == b"HTTP/"[: len(begin)]:
        return ""
    for start, words in _FOREIGN:
        if begin.startswith(start):
            return words
    if begin[:1] == b"\0" and begin[3:4] == bytes([_HTTP2_SETTINGS]):
        return "speaks HTTP/2, not HTTP/1.1, on this port"
    return "speaks no HTTP on this port"


def wants_tls(body: bytes) -> bool:
    """Tell whether the body of a 400 is that of nginx, Apache or Go to HTTP on a TLS port."""
    text = body.lower()
    return b"plain http" in text or b"http request to an https server" in text


def system_words(error: OSError) -> str:
    """Return the system's words for an error of its own."""
    return os.strerror(error.errno) if error.errno else "the connection failed"


def _words(error: Exception, deadline_s: float) -> str:
    if isinstance(error, NoAnswerError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"timeout after {deadline_s:g} s"
    if isinstance(error, OSError):
        return system_words(error)
    if isinstance(error, h11.RemoteProtocolError):
        return _first(_PROTOCOL, str(error), "protocol error: the answer breaks HTTP/1.1")
    if isinstance(error, httpx.InvalidURL):
        return f"bad URL: {_first(_URL, str(error), 'it cannot be parsed')}"
    return f"internal error of ops-worker{_place(error)}"


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {error.verify_message}"
    name = getattr(error, "reason", "") or ""
    if name in _TLS:
        return f"TLS: {_TLS[name]}"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "TLS: the server closed the connection during the handshake"
    return f"TLS: {name.lower().replace('_', ' ') or 'the handshake failed'}"


def _first(table: tuple[tuple[str, str], ...], text: str, otherwise: str) -> str:
    return next((words for part, words in table if part in text), otherwise)


def _place(error: Exception) -> str:
    """Tell where an unforeseen error was raised; its own text may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
