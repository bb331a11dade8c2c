"""The reasons that an operator sees for a probe without an answer.

Texts of libraries are not shown, because they may contain the state of a parser or a secret. A
reason is a fixed phrase, or the text of the system (``strerror``) or of OpenSSL for the error. An
operator can search for these texts.
"""

from __future__ import annotations

import os
import ssl
import traceback
from pathlib import Path
from typing import NamedTuple

import h11
import httpx

from ops_worker.adapters.http.limits import own_limit
from ops_worker.core.model import Failure


class NoAnswerError(Exception):
    """The service gave no answer that can be judged. The message is the reason that is shown.

    ``reason_class`` groups reasons (docs/contract.md, "Reason classes"). ``cut_off`` is as in the
    observation.
    """

    def __init__(
        self, reason: str, reason_class: str = "protocol", *, cut_off: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason_class = reason_class
        self.cut_off = cut_off


class UnreachableError(NoAnswerError):
    """No connection could be made: refused, unknown name, no route, TLS."""


class Cause(NamedTuple):
    """Why a probe has no answer. ``reason_class`` is empty for a limit of this process.

    ``cut_off`` is as in the observation.
    """

    failure: Failure
    reason: str
    reason_class: str = ""
    cut_off: bool = False


CLOSED = "closed the connection without an answer"
CLOSED_IN_HEAD = "closed the connection before the end of its headers"
CLOSED_IN_BODY = "closed the connection before the end of the body"
SWITCHED = "protocol error: switched protocols (http 101) without being asked to"
SPEAKS_TLS = "speaks TLS on this port: use https://"

_FOREIGN = (
    (b"\x15\x03", SPEAKS_TLS),  # a TLS record: an alert
    (b"\x16\x03", SPEAKS_TLS),  # a TLS record: a handshake
    (b"SSH-", "speaks SSH, not HTTP, on this port"),
)
"""The first bytes of answers in other protocols, and the reason that is shown for each."""
_HTTP2_SETTINGS = 4
"""The type of the first frame of an HTTP/2 server (RFC 9113, section 6.5).

The type is in the fourth byte of the frame.
"""

_NO_TLS = "speaks no TLS on this port: use http://, or another port"
NO_TLS_TO_CONNECT = "TLS: speaks no TLS on this port: use tcp://, or another port"
"""The reason that is shown for a ``tls`` URL if the server speaks no TLS."""
_NO_CERTIFICATE = "the server requires a client certificate (tlsv13 alert certificate required)"
_NO_AGREEMENT = (
    "the server refused the handshake (sslv3 alert handshake failure): "
    "it requires a client certificate, or there is no common cipher"
)
_NO_TRUST = "the server does not trust the client certificate's CA (tlsv1 alert unknown ca)"
_TLS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,  # the same error in OpenSSL 3.2 and newer
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _NO_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NO_AGREEMENT,
    "TLSV1_ALERT_UNKNOWN_CA": _NO_TRUST,
    "TLSV1_ALERT_PROTOCOL_VERSION": "no common TLS version (tlsv1 alert protocol version)",
    "UNSUPPORTED_PROTOCOL": "no common TLS version (unsupported protocol)",
}
"""The reason that is shown for each error, by OpenSSL's name of the error.

For other errors, the reason is the name in lower case, which is OpenSSL's own text.
"""

_PROTOCOL = (
    ("complete message body", CLOSED_IN_BODY),
    ("closed connection", CLOSED_IN_BODY),
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
"""A part of the parser's message, and the reason that is shown for it. The first match counts."""

_URL = (("port", "invalid port"), ("address", "invalid address"), ("IDNA", "invalid host name"))
"""A part of the message of httpx about a URL, and the reason that is shown for it."""


def cause_of(error: Exception, deadline_s: float) -> Cause:
    """Return why an error ended a probe. ``deadline_s`` is the deadline of the probe in seconds."""
    if limit := own_limit(error):
        return Cause(Failure.NOT_PROBED, limit)
    cut_off = _is_cut_off(error)
    if isinstance(error, UnreachableError):
        return Cause(Failure.NO_CONNECTION, str(error), error.reason_class, cut_off)
    if isinstance(error, ssl.SSLError):
        return Cause(Failure.NO_CONNECTION, _tls_reason(error), "tls", cut_off)
    reason_class = _class_without_answer(error)
    return Cause(Failure.NO_ANSWER, _reason(error, deadline_s), reason_class, cut_off)


def foreign(start: bytes) -> str:
    """Return the reason for an answer that starts with these bytes; empty if it may be HTTP/1."""
    if start[:5] == b"HTTP/"[: len(start)]:
        return ""
    for prefix, reason in _FOREIGN:
        if start.startswith(prefix):
            return reason
    if start[:1] == b"\0" and start[3:4] == bytes([_HTTP2_SETTINGS]):
        return "speaks HTTP/2, not HTTP/1.1, on this port"
    return "speaks no HTTP on this port"


def speaks_no_tls(error: ssl.SSLError) -> bool:
    """Return whether an error of a handshake means that the server speaks no TLS on this port."""
    return _TLS.get(getattr(error, "reason", "") or "") == _NO_TLS


def wants_tls(body: bytes) -> bool:
    """Return whether a 400 means plain HTTP on a TLS port, as nginx, Apache and Go report it."""
    text = body.lower()
    return b"plain http" in text or b"http request to an https server" in text


def system_text(error: OSError) -> str:
    """Return the system's text for an error."""
    return os.strerror(error.errno) if error.errno else "the connection failed"


def _reason(error: Exception, deadline_s: float) -> str:
    if isinstance(error, NoAnswerError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"timeout after {deadline_s:g} s"
    if isinstance(error, OSError):
        return system_text(error)
    if isinstance(error, h11.RemoteProtocolError):
        return _first_match(_PROTOCOL, str(error), "protocol error: the answer violates HTTP/1.1")
    if isinstance(error, httpx.InvalidURL):
        return f"bad URL: {_first_match(_URL, str(error), 'it cannot be parsed')}"
    return f"internal error of ops-worker{_place(error)}"


def _class_without_answer(error: Exception) -> str:
    if isinstance(error, NoAnswerError):
        return error.reason_class
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        return "reset"
    return "protocol"


def _is_cut_off(error: Exception) -> bool:
    """Return whether the server ended the connection during the handshake or its answer."""
    if isinstance(error, NoAnswerError):
        return error.cut_off
    if isinstance(error, h11.RemoteProtocolError):
        return _first_match(_PROTOCOL, str(error), "") == CLOSED_IN_BODY
    return isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError))


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {error.verify_message}"
    name = getattr(error, "reason", "") or ""
    if name in _TLS:
        return f"TLS: {_TLS[name]}"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "TLS: the server closed the connection during the handshake"
    return f"TLS: {name.lower().replace('_', ' ') or 'the handshake failed'}"


def _first_match(table: tuple[tuple[str, str], ...], text: str, default: str) -> str:
    return next((reason for part, reason in table if part in text), default)


def _place(error: Exception) -> str:
    """Return the file and line of an unexpected error. Its own text may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
