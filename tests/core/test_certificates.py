from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.core.certificates import days_left, end_in_words, end_of, recorded_days

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def der(not_after: datetime) -> bytes:
    """Return a certificate with this end."""
    leaf = trustme.CA().issue_cert("a.example", not_before=NOW - 900 * DAY, not_after=not_after)
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


CERTIFICATE = der(NOW + 14 * DAY)


@pytest.mark.parametrize(
    "end",
    [
        NOW + 14 * DAY,
        NOW - 400 * DAY,
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_end(end: datetime) -> None:
    """The end is read in both forms of a time. Years up to 2049 have two digits."""
    assert end_of(der(end)) == end


def element(tag: int, content: bytes) -> bytes:
    """Return an element of DER. A length of 128 or more has an additional byte before it."""
    size = (len(content).bit_length() + 7) // 8
    long_form = [0x80 + size, *len(content).to_bytes(size, "big")]
    length = [len(content)] if len(content) < 128 else long_form
    return bytes([tag, *length]) + content


EMPTY = element(0x30, b"")


def certificate(
    end: bytes,
    *,
    version: bytes = b"",
    tag: int = 0x17,
    algorithm: bytes = EMPTY,
    issuer: bytes = EMPTY,
) -> bytes:
    """Return the first fields of a certificate.

    They are the version, the serial number, the algorithm, the issuer and the validity.
    """
    validity = element(0x30, element(0x17, b"200101000000Z") + element(tag, end))
    fields = version + element(2, b"\1") + algorithm + issuer + validity
    return element(0x30, element(0x30, fields))


END = b"990101000000Z"


@pytest.mark.parametrize("size", [127, 128, 255, 256, 65_535, 65_536])
def test_lengths(size: int) -> None:
    """A length has one byte up to 127, and else up to four bytes."""
    issuer = element(0x30, b"\0" * size)
    assert end_of(certificate(END, issuer=issuer)).year == 1999
    with_zeros = b"\x30\x84" + size.to_bytes(4, "big") + b"\0" * size
    assert end_of(certificate(END, issuer=with_zeros)).year == 1999


def test_versions() -> None:
    """A certificate of version 1 has no version field. The year 50 means 1950, 49 means 2049."""
    for version in (b"", element(0xA0, element(2, b"\2"))):
        assert end_of(certificate(b"990101000000Z", version=version)).year == 1999
        assert end_of(certificate(b"490101000000Z", version=version)).year == 2049


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x31\x00",
        b"\x30\x05\x30\x00",
        b"\x30\x80\x00\x00",
        b"\x30\x85\x00\x00\x00\x00\x01\x00",
        b"\x30\x84\xff\xff\xff\xff\x00",
        certificate(b"not a time"),
        certificate(b"201301000000Z"),
        certificate(b"200101000000+0100"),
        certificate(b"\xff" * 13),
        certificate(b"200101000000Z", tag=0x02),
        certificate(b""),
        certificate(b"2001010000Z"),  # without seconds
        certificate(b"20-W01000000Z"),  # a week
        certificate(END, algorithm=b"\x30\x80"),  # without a length
        b"\x30\x80" + certificate(END)[2:].ljust(128, b"\0"),
        b"\x30\x7f" + certificate(END)[2:],  # longer than the data
    ],
)
def test_not_a_certificate(data: bytes) -> None:
    """Bytes that are no certificate are refused."""
    with pytest.raises(ValueError, match=r".*"):
        end_of(data)


@given(st.integers(0, len(CERTIFICATE) - 1), st.integers(0, 255), st.booleans())
def test_damaged(place: int, byte: int, cut: bool) -> None:
    """A damaged certificate is read or refused. It raises no other exception."""
    damaged = CERTIFICATE[:place] + (b"" if cut else bytes([byte]) + CERTIFICATE[place + 1 :])
    with contextlib.suppress(ValueError):
        assert end_of(damaged).tzinfo is UTC


@pytest.mark.parametrize(
    ("remaining", "days", "words"),
    [
        (14 * DAY, 14, "expires in 14 days"),
        (14 * DAY - timedelta(seconds=1), 13, "expires in 13 days"),
        (DAY, 1, "expires in 1 day"),
        (timedelta(hours=23), 0, "expires in less than a day"),
        (timedelta(seconds=-1), -1, "expired"),
        (-DAY, -1, "expired"),
        (-DAY - timedelta(seconds=1), -2, "expired 1 day ago"),
        (-3 * DAY, -3, "expired 2 days ago"),
    ],
)
def test_days(remaining: timedelta, days: int, words: str) -> None:
    """Days are rounded down to whole days, so 13.9 days are fewer than 14."""
    assert days_left(NOW + remaining, NOW) == days
    assert end_in_words(days) == words


@pytest.mark.parametrize(
    ("value", "days"),
    [
        (13, 13),
        (-2, -2),
        (3_660_000, 3_660_000),
        (3_660_001, None),
        (None, None),
        (True, None),
        ("13", None),
        (1.5, None),
        (10**9, None),
    ],
)
def test_recorded(value: Any, days: int | None) -> None:
    """A value that another program wrote into the row is not used as days."""
    assert recorded_days(value) == days
