"""Redirects: where the next request of a probe goes, and what the request may contain.

A redirect is followed only to the host of the service's URL and to its ``redirect_hosts``. Headers
and body of the catalogue contain secrets, so they are sent only to the origin of the service's URL.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from ops_worker.catalogue import url_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops_worker.core.model import Target

    IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

STATUSES = frozenset({301, 302, 303, 307, 308})
"""Statuses of answers that redirect (RFC 9110, section 15.4)."""
METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)
"""Addresses of metadata services of clouds that are not link-local.

The IPv4 addresses belong to Alibaba, Azure and Oracle, the IPv6 addresses to Amazon and Google.
"""

_EMBEDDING = tuple(
    (ipaddress.IPv6Network(network), shifts)
    for network, shifts in (
        ("::/96", (0,)),  # IPv4-compatible: RFC 4291, section 2.5.5.1
        ("64:ff9b::/96", (0,)),  # NAT64: RFC 6052
        # NAT64 for local use (RFC 8215): its prefix may have 96, 64, 56 or 48 bits (RFC 6052).
        ("64:ff9b:1::/48", (0, 24, 32, 40)),
    )
)
"""IPv6 networks that embed IPv4 addresses, and by how many bits an address may be shifted.

Bits 64 to 71 are never a part of an embedded address (RFC 6052, section 2.2).
"""
_LOW_BITS = 64
"""Number of bits in the lower half of an IPv6 address, which begins with the gap."""
_GAP_BITS = 8
"""Number of bits in the gap: the bits 64 to 71, counted from the highest bit."""
_PORTS = {"http": 80, "https": 443}


class NotFollowedError(Exception):
    """A redirect is not followed. The message is part of the reason that is shown."""


class Hop(NamedTuple):
    """One request of a probe.

    ``number`` is 0 for the first request, and then the number of the redirect. ``same_origin`` is
    true if all requests so far went to the origin of the target's URL.
    """

    url: str
    method: str
    number: int = 0
    same_origin: bool = True


def first_hop(target: Target) -> Hop:
    """Return the first request of a probe."""
    return Hop(target.url, target.method)


def next_hop(target: Target, hop: Hop, status: int, location: bytes) -> Hop:
    """Return the request to which an answer redirects.

    ``status`` and ``location`` come from the answer to ``hop``. Raises NotFollowedError.
    """
    if hop.number >= target.redirects:
        raise NotFollowedError(f"more than {target.redirects} redirects")
    url = _joined(hop.url, location)
    if _host_key(url) not in _allowed_hosts(target):
        raise NotFollowedError(f"redirects to {origin(url)}, which is not in redirect_hosts")
    method = _method_after(status, hop.method)
    # Another origin must not choose the path to which the service's credentials are sent.
    same_origin = hop.same_origin and _origin_key(url) == _origin_key(target.url)
    if target.body and method == target.method and not same_origin:
        raise NotFollowedError(
            f"redirects the body to {origin(url)}, but it is sent only to the origin of url"
        )
    return Hop(url, method, hop.number + 1, same_origin)


def headers(target: Target, hop: Hop) -> list[tuple[str, str]]:
    """Return the headers of the catalogue that a request may contain."""
    if not hop.same_origin:
        return []
    if hop.method == target.method:
        return list(target.headers)
    # The other headers describe a body that is no longer sent (RFC 9110, section 15.4).
    return [
        (name, value) for name, value in target.headers if not name.lower().startswith("content-")
    ]


def body(target: Target, hop: Hop) -> bytes:
    """Return the body of a request."""
    return target.body if hop.method == target.method else b""


def require_permitted(target: Target, hop: Hop, addresses: Sequence[Any]) -> None:
    """Raise NotFollowedError if a redirect leads to a link-local or metadata address.

    ``addresses`` come from ``socket.getaddrinfo``. A link-local or metadata address is permitted
    only if the address itself is in ``redirect_hosts`` or is the host of the service's URL. The
    name of a host is not enough, because whoever controls the name chooses the address.
    """
    if not hop.number:
        return
    hosts = [urlsplit(target.url).hostname or "", *target.redirect_hosts]
    named = {_address(host) for host in hosts}
    for *_, socket_address in addresses:
        address = _address(str(socket_address[0]))
        if address is not None and _is_protected(address) and address not in named:
            raise NotFollowedError(
                f"redirects to {origin(hop.url)}, whose address {address} is link-local or of a "
                "metadata service; it is not in redirect_hosts"
            )


def origin(url: str) -> str:
    """Return the scheme, host and port of a URL, unchanged. Other parts may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _method_after(status: int, method: str) -> str:
    """Return the method of the request after a redirect (RFC 9110, sections 15.4.2 to 15.4.4).

    303 leads to another resource, which is read with GET or HEAD. After 301 and 302, only POST
    becomes GET, as in all clients.
    """
    if status == httpx.codes.SEE_OTHER:
        return method if method == "HEAD" else "GET"
    if status in {httpx.codes.MOVED_PERMANENTLY, httpx.codes.FOUND} and method == "POST":
        return "GET"
    return method


def _joined(base: str, location: bytes) -> str:
    """Return the URL of a Location header, without user information and fragment."""
    problem = NotFollowedError("redirects to an invalid URL")
    if not location:
        raise NotFollowedError("it has no Location header")
    try:
        parts = urlsplit(urljoin(base, location.decode("ascii").strip()))
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        url = parts.geturl()
    except ValueError:
        raise problem from None
    if url_problem(url, query=True):
        raise problem
    return url


def _allowed_hosts(target: Target) -> set[bytes]:
    allowed = {_host_key(target.url)}
    for host in target.redirect_hosts:
        bracketed = f"[{host}]" if ":" in host else host
        allowed.add(_host_key(f"http://{bracketed}"))
    # An empty key is no host, and must not allow another one.
    return allowed - {b""}


def _host_key(url: str) -> bytes:
    """Return the host of a URL in a form for comparison; empty if the URL has no valid host."""
    try:
        return httpx.URL(url).raw_host.removesuffix(b".")
    except httpx.InvalidURL:
        return b""


def _origin_key(url: str) -> tuple[str, bytes, int]:
    """Return scheme, host and port of a URL for comparison, with the default port of the scheme."""
    parts = urlsplit(url)
    return parts.scheme, _host_key(url), parts.port or _PORTS[parts.scheme]


def _address(host: str) -> IpAddress | None:
    """Return a host as an address without its zone; None if the host is a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_protected(address: IpAddress) -> bool:
    """Return whether an address is link-local or belongs to a metadata service.

    An IPv6 address is also protected if it embeds such an IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address) and any(map(_is_protected, _embedded(address))):
        return True
    return address.is_link_local or address in METADATA


def _embedded(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """Yield the IPv4 addresses that an IPv6 address may embed."""
    # RFC 4291, section 2.5.5.2, and RFC 3056.
    yield from filter(None, (address.ipv4_mapped, address.sixtofour))
    number = int(address)
    low = number & ((1 << _LOW_BITS - _GAP_BITS) - 1)
    without_gap = (number >> _LOW_BITS << _LOW_BITS - _GAP_BITS) | low
    for network, shifts in _EMBEDDING:
        if address in network:
            for shift in shifts:
                bits = (without_gap >> shift) & 0xFFFFFFFF
                yield ipaddress.IPv4Address(bits)
