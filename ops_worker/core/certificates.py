"""The end of a server's certificate, read from its DER encoding.

Python decodes a certificate only if it was verified. The certificate of a service with
``skip_verify`` is not verified, but it ends, too. So this module reads the few bytes up to the end
of the validity (RFC 5280, section 4.1; DER: ITU-T X.690).
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, NamedTuple

DAY_S = 86_400
MAX_DAYS = 3_660_000
"""The most days to or since the end of a certificate: a year has at most four digits."""

_SEQUENCE = 0x30
_VERSION = 0xA0
"""The tag of the version, which is absent in certificates of version 1."""
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_LONG = 0x80
"""A first length byte of at least this value is this value plus the number of length bytes."""
_MAX_LENGTH_BYTES = 4
_TIME_DIGITS = 14
_FIELDS_BEFORE_VALIDITY = 3
"""Serial number, signature algorithm and issuer."""


class _Element(NamedTuple):
    """An element of DER: its tag, its content, and the bytes that follow it."""

    tag: int
    content: bytes
    rest: bytes


def end_of(certificate: bytes) -> datetime:
    """Return the end of a certificate's validity (notAfter). ``certificate`` is its DER encoding.

    Raises ValueError if the bytes are not a certificate.
    """
    fields = _content(_content(certificate))
    first = _element(fields)
    if first.tag == _VERSION:
        fields = first.rest
    for _ in range(_FIELDS_BEFORE_VALIDITY):
        fields = _element(fields).rest
    begin = _element(_content(fields))
    return _time(_element(begin.rest))


def days_left(end: datetime, now: datetime) -> int:
    """Return the number of whole days from now to the end. It is negative after the end."""
    return math.floor((end - now).total_seconds() / DAY_S)


def recorded_days(value: Any) -> int | None:
    """Return the days left in ``service_health.details``; None for any other value."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_DAYS:
        return value
    return None


def end_in_words(days: int) -> str:
    """Return when a certificate ends, in whole days that are rounded down."""
    if days < 0:
        # -1 is the first day after the end.
        return f"expired {format_days(-1 - days)} ago" if days < -1 else "expired"
    return f"expires in {format_days(days)}" if days else "expires in less than a day"


def format_days(number: int) -> str:
    """Return a number of days in words."""
    return "1 day" if number == 1 else f"{number} days"


def _content(data: bytes) -> bytes:
    """Return the content of a sequence."""
    element = _element(data)
    if element.tag != _SEQUENCE:
        raise ValueError("not a sequence")
    return element.content


def _element(data: bytes) -> _Element:
    """Return the first element. Raises ValueError if its length is invalid or bytes are missing."""
    if len(data) < 2:  # noqa: PLR2004 - a tag and a length
        raise ValueError("cut off")
    length, start = data[1], 2
    if length >= _LONG:
        start += length - _LONG
        if not 0 < length - _LONG <= _MAX_LENGTH_BYTES:
            raise ValueError("not a length")
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("cut off")
    return _Element(data[0], data[start : start + length], data[start + length :])


def _time(element: _Element) -> datetime:
    """Return a time. Years of two digits are 1950 to 2049 (RFC 5280, section 4.1.2.5.1).

    ``datetime.strptime`` is not used: its first call imports the module of locales. This takes
    15 ms, in which no socket is read.
    """
    digits = element.content.removesuffix(b"Z")
    if element.tag == _UTC_TIME:
        century = b"19" if digits >= b"50" else b"20"
        digits = century + digits
    elif element.tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    if len(digits) != _TIME_DIGITS or not digits.isdigit():
        raise ValueError("not a time")
    text = digits.decode("ascii")
    return datetime.fromisoformat(f"{text[:8]}T{text[8:]}Z")
