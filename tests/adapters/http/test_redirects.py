"""Methods, bodies and redirects: the requests of a probe, and their secrets."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from ops_worker.adapters.http import faults, observe, redirects
from ops_worker.adapters.http.redirects import Hop, NotFollowedError, first_hop, next_hop
from ops_worker.core.health import judge
from ops_worker.core.model import Failure, Observation, State, Target, Tls, Verdict
from tests.stubs import Behaviour, Stub, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "s3cret-value"
METADATA = "169.254.169.254"


def target(url: str = "http://shop.example/health", **more: Any) -> Target:
    """Return a target that follows three redirects."""
    fields: dict[str, Any] = {"redirects": 3} | more
    return Target(name="shop", url=url, series="shop", counters=(), **fields)


def look(stub: Stub, **more: Any) -> Observation:
    """Probe a stub once."""
    return observe([target(f"{stub.url}/health", **more)])[0]


def verdict(stub: Stub, **more: Any) -> Verdict:
    """Return the verdict on one probe of a stub."""
    return judge(look(stub, **more))


def moved(location: str, status: int = 302) -> Behaviour:
    """Redirect to this location."""
    return reply("", status=f"{status} Moved", headers={"Location": location})


def sent_body(request: bytes, connection: socket.socket) -> bytes:
    """Return the body of a request. A part of it may have come with the head."""
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        body += connection.recv(65536)
    return body


def echo(stub: Stub, connection: socket.socket) -> None:
    """Answer with the method and body of the request."""
    request = stub.requests[-1]
    body = sent_body(request, connection).decode("latin-1")
    answer = {"counters": {}, "method": request.split()[0].decode(), "body": body}
    reply(json.dumps(answer))(stub, connection)


@pytest.fixture
def other() -> Iterator[Stub]:
    """Yield a second service on another host of this machine."""
    running = Stub("other", host="127.0.0.2")
    running.mode = reply("{}")
    yield running
    running.close()


@pytest.mark.integration
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_method(stub: Stub, method: str) -> None:
    """The request has the method of the catalogue."""
    stub.mode = echo
    assert json.loads(look(stub, method=method).body)["method"] == method


@pytest.mark.integration
def test_head(stub: Stub) -> None:
    """The answer to HEAD has no body, even if it states a length."""
    stub.mode = lambda _, connection: connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    )
    assert verdict(stub, method="HEAD", json=False).state is State.HEALTHY
    assert stub.requests[0].startswith(b"HEAD /health HTTP/1.1\r\n")
    assert verdict(stub, method="GET", json=False).state is State.UNKNOWN


@pytest.mark.integration
@pytest.mark.parametrize("body", [b"{}", b'{"a": "\xc3\xa4"}', b"\xff", b"x" * (64 << 10)])
def test_body(stub: Stub, body: bytes) -> None:
    """The body is sent unchanged, with its length and the type that a header states."""
    stub.mode = echo
    content_type = (("Content-Type", "application/json"),)
    answer = json.loads(look(stub, method="POST", body=body, headers=content_type).body)
    assert answer["body"].encode("latin-1") == body
    assert f"\r\ncontent-length: {len(body)}\r\n".encode() in stub.requests[0].lower()
    assert b"\r\ncontent-type: application/json\r\n" in stub.requests[0].lower()


@pytest.mark.integration
def test_secrets_of_a_body(stub: Stub) -> None:
    """The value of a variable that a service sends back is replaced by stars."""
    stub.mode = echo
    body = f'{{"token": "{SECRET}", "name": "probe"}}'.encode()
    answer = json.loads(look(stub, method="POST", body=body, body_secrets=(SECRET,)).body)
    assert answer["body"] == '{"token": "***", "name": "probe"}'


FOLLOWED = [
    ("GET", 301, "GET"),
    ("GET", 307, "GET"),
    ("HEAD", 302, "HEAD"),
    ("HEAD", 303, "HEAD"),
    ("POST", 301, "GET"),
    ("POST", 302, "GET"),
    ("PUT", 301, "PUT"),
    ("DELETE", 302, "DELETE"),
    ("OPTIONS", 302, "OPTIONS"),
    ("OPTIONS", 303, "GET"),
    ("PUT", 303, "GET"),
    ("POST", 307, "POST"),
    ("DELETE", 308, "DELETE"),
]


@pytest.mark.integration
@pytest.mark.parametrize(("method", "status", "then"), FOLLOWED)
def test_followed(stub: Stub, method: str, status: int, then: str) -> None:
    """A redirect within the origin keeps headers, and body and method as in RFC 9110."""

    def behave(stub: Stub, connection: socket.socket) -> None:
        body = sent_body(stub.requests[-1], connection)
        bodies.append(body)
        if len(bodies) == 1:
            moved("../new?a=1#part", status)(stub, connection)
        else:
            reply("{}")(stub, connection)

    bodies: list[bytes] = []
    stub.mode = behave
    body = b"payload" if method in {"POST", "PUT", "DELETE"} else b""
    headers = (("X-Key", SECRET), ("Content-Type", "text/plain"))
    more = {"method": method, "body": body, "headers": headers, "json": False}
    assert verdict(stub, **more).state is State.HEALTHY
    assert stub.requests[1].startswith(f"{then} /new?a=1 HTTP/1.1\r\n".encode())
    assert SECRET.encode() in stub.requests[1]
    assert (b"text/plain" in stub.requests[1]) == (then == method)
    assert bodies == [body, body if then == method else b""]


@pytest.mark.integration
def test_off_by_default(stub: Stub) -> None:
    """Without `redirects`, a redirect is judged as any other answer."""
    stub.mode = moved("/elsewhere")
    assert verdict(stub, redirects=0).reason == "http 302"
    assert len(stub.requests) == 1
    assert verdict(stub, redirects=0, expect=(302,), json=False).healthy


@pytest.mark.integration
def test_number(stub: Stub) -> None:
    """The probe follows at most as many redirects as the catalogue says, so that a loop ends."""
    stub.mode = moved("/again")
    judged = verdict(stub, redirects=3)
    assert (judged.state, judged.reason) == (State.DEGRADED, "http 302: more than 3 redirects")
    assert judged.reason_class == "http_302"
    assert len(stub.requests) == 4


@pytest.mark.integration
def test_expected_redirect(stub: Stub) -> None:
    """A redirect that is not followed is judged by its status."""
    stub.mode = moved("https://login.example/")
    assert verdict(stub, expect=(200, 302), json=False).state is State.HEALTHY
    assert verdict(stub).reason == (
        "http 302: redirects to https://login.example, which is not in redirect_hosts"
    )


@pytest.mark.integration
def test_other_host(stub: Stub, other: Stub) -> None:
    """A probe goes to another host only if it is named, without headers, login or body."""
    stub.mode = moved(f"{other.url}/health")
    url = f"{stub.url}/health".replace("//", "//user:pass-word@")
    probed = target(url, headers=(("X-Key", SECRET),))
    assert judge(observe([probed])[0]).reason == (
        f"http 302: redirects to {other.url}, which is not in redirect_hosts"
    )
    assert not other.requests
    permitted = probed._replace(redirect_hosts=("127.0.0.2",))
    assert judge(observe([permitted])[0]).healthy
    assert b"authorization: basic" in stub.requests[0].lower()
    (request,) = other.requests
    assert SECRET.encode() not in request
    assert b"authorization" not in request.lower()


@pytest.mark.integration
def test_no_credentials_after_a_detour(stub: Stub, other: Stub) -> None:
    """A redirect back from another host to the origin gets no credentials."""
    stub.mode = lambda running, connection: (
        moved(f"{other.url}/") if len(running.requests) == 1 else reply("{}")
    )(running, connection)
    other.mode = moved(f"{stub.url}/delete-all")
    headers = (("X-Key", SECRET),)
    assert verdict(stub, headers=headers, redirect_hosts=("127.0.0.2",)).healthy
    assert [SECRET.encode() in request for request in stub.requests] == [True, False]


@pytest.mark.integration
def test_body_stays(stub: Stub, other: Stub) -> None:
    """A body is not sent to another origin. The request is not sent without its body."""
    stub.mode = moved(f"{other.url}/", 307)
    more: dict[str, Any] = {"method": "POST", "body": b"x", "redirect_hosts": ("127.0.0.2",)}
    assert verdict(stub, **more).reason == (
        f"http 307: redirects the body to {other.url}, but it is sent only to the origin of url"
    )
    stub.mode = moved(f"{other.url}/", 303)
    assert verdict(stub, **more).healthy
    assert [request.split()[0] for request in other.requests] == [b"GET"]


@pytest.mark.integration
def test_refused_after_a_redirect(stub: Stub, other: Stub) -> None:
    """The reason names the last redirect of a failed probe without its path."""
    other.mode = "down"
    stub.mode = moved(f"{other.url}/?token={SECRET}")
    judged = verdict(stub, redirect_hosts=("127.0.0.2",))
    assert (judged.state, judged.reason, judged.reason_class) == (
        State.DOWN,
        f"Connection refused, after a redirect to {other.url}",
        "refused",
    )


@pytest.mark.integration
def test_one_deadline(stub: Stub, other: Stub) -> None:
    """All requests of a probe share one deadline."""
    other.mode = "hang"
    stub.mode = moved(other.url)
    observation = look(stub, deadline_s=0.5, redirect_hosts=("127.0.0.2",))
    assert (observation.failure, observation.error) == (
        Failure.NO_ANSWER,
        f"timeout after 0.5 s, after a redirect to {other.url}",
    )


@pytest.mark.integration
def test_latency(stub: Stub) -> None:
    """The latency covers all requests of a probe."""

    def slow_first(stub: Stub, connection: socket.socket) -> None:
        if len(stub.requests) > 1:
            reply("{}")(stub, connection)
            return
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        moved("/b")(stub, connection)

    stub.mode = slow_first
    observation = look(stub)
    assert observation.http_status == 200
    assert (observation.latency_ms or 0) >= 300


@pytest.mark.integration
@pytest.mark.parametrize(
    "location",
    [
        "",
        "ftp://h/",
        "http://[::1",
        "\xff",
        "//h:0/",
        "http://256.1.1.1/",
        "http://a b/",
        "http://\x7f/",
    ],
)
def test_bad_location(stub: Stub, location: str) -> None:
    """A redirect to an invalid URL is not followed, with its own reason."""
    stub.mode = moved(location)
    reason = verdict(stub).reason
    assert reason in {
        "http 302: redirects to an invalid URL",
        "http 302: it has no Location header",
    }
    stub.mode = reply("", status="302 Found")
    assert verdict(stub).reason == "http 302: it has no Location header"


@pytest.mark.integration
def test_resolved_to_metadata(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe does not connect to a named host that resolves to the metadata service."""
    resolve = socket.getaddrinfo

    def rebound(host: Any, port: int, *more: Any, **options: Any) -> Any:
        return resolve(METADATA if host == b"rebound.example" else host, port, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    stub.mode = moved("http://rebound.example:1/latest")
    assert verdict(stub, redirect_hosts=("rebound.example",)).reason == (
        "http 302: redirects to http://rebound.example:1, whose address 169.254.169.254 is "
        "link-local or of a metadata service; it is not in redirect_hosts"
    )


@pytest.mark.integration
def test_skip_verify(stub: Stub) -> None:
    """With `skip_verify` any certificate is accepted, also after a redirect from http."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("elsewhere.example").configure_cert(context)
    private = Stub("private", tls=context)
    private.mode = reply("{}")
    assert verdict(private).reason.startswith("TLS: certificate verify failed")
    assert verdict(private, tls=Tls(skip_verify=True)).healthy
    stub.mode = moved(f"{private.url}/")
    assert verdict(stub).reason.startswith("TLS: certificate verify failed")
    assert verdict(stub, tls=Tls(skip_verify=True)).healthy
    private.close()


@pytest.mark.integration
def test_client_certificate_stays(stub: Stub, tmp_path: Any) -> None:
    """The client certificate is not sent to another origin. Its files are checked in any case."""
    authority = trustme.CA()
    client = authority.issue_cert("client.example")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    has_certificate: list[bool] = []

    def behave(stub: Stub, connection: Any) -> None:
        has_certificate.append(bool(connection.getpeercert()))
        reply("{}")(stub, connection)

    private = Stub("private", tls=context)
    private.mode = behave
    tls = Tls(certificate=str(tmp_path / "client.pem"), skip_verify=True)
    assert verdict(private, tls=tls).healthy
    stub.mode = moved(f"{private.url}/")
    assert verdict(stub, tls=tls).healthy
    assert has_certificate == [True, False]
    broken = target(f"{stub.url}/health", tls=Tls(ca="/no/such.pem"))
    assert [fault for _, fault in faults([broken])] == [
        "ca: /no/such.pem cannot be loaded: No such file or directory"
    ]
    private.close()


HOSTS = [
    ("http://SHOP.example./x", (), True),
    ("https://shop.example:8443/x", (), True),
    ("//shop.example", (), True),
    ("/x", (), True),
    ("http://shop.example.evil/", (), False),
    ("http://shop.example@evil/", (), False),
    ("http://evil#@shop.example/", (), False),
    ("http://sub.shop.example/", (), False),
    ("http://login.example/", ("LOGIN.example.",), True),
    ("http://xn--mnchen-3ya.example/", ("münchen.example",), True),
    ("http://[::1]:8080/", ("::1",), True),
    ("http://[::1]:8080/", ("::2",), False),
    ("http://10.0.0.1/", ("10.0.0.1",), True),
    ("http://[v1.a]/", ("☃.example",), False),  # httpx does not accept these two hosts
]


@pytest.mark.unit
@pytest.mark.parametrize(("location", "hosts", "is_followed"), HOSTS)
def test_hosts(location: str, hosts: tuple[str, ...], is_followed: bool) -> None:
    """Hosts are compared as in DNS: case-insensitive, without the final dot, in ASCII."""
    probed = target(redirect_hosts=hosts)
    if is_followed:
        assert next_hop(probed, first_hop(probed), 302, location.encode()).number == 1
    else:
        with pytest.raises(NotFollowedError, match="which is not in redirect_hosts"):
            next_hop(probed, first_hop(probed), 302, location.encode())


ORIGINS = [
    ("http://shop.example/", "http://shop.example:80/", True),
    ("https://shop.example:443/", "/x", True),
    ("http://shop.example/", "https://shop.example/", False),
    ("http://shop.example/", "http://shop.example:8080/", False),
    ("http://user:pw@shop.example/", "http://other:pw@shop.example/", True),
]


@pytest.mark.unit
@pytest.mark.parametrize(("url", "location", "is_same"), ORIGINS)
def test_origin(url: str, location: str, is_same: bool) -> None:
    """An origin is scheme, host and port. The login of a Location is never used."""
    probed = target(url, headers=(("X-Key", SECRET),))
    hop = next_hop(probed, first_hop(probed), 302, location.encode())
    assert (hop.same_origin, "@" in hop.url) == (is_same, False)
    assert redirects.headers(probed, hop) == ([("X-Key", SECRET)] if is_same else [])
    assert redirects.origin(f"http://user:{SECRET}@h:1/{SECRET}?{SECRET}") == "http://h:1"


PROTECTED = [
    METADATA,
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::169.254.169.254",
    # The layouts of RFC 6052, section 2.2, for prefixes of 48, 56, 64 and 96 bits.
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:a9:fe:a9fe::",
    "64:ff9b:1:0:a9:fea9:fe00:0",
    "64:ff9b:1::a9fe:a9fe",
]
OPEN = [
    "127.0.0.1",
    "10.0.0.1",
    "192.0.2.1",
    "::1",
    "::10.0.0.1",
    "fd00::1",
    "2001:db8::a9fe:a9fe",
    "64:ff9b::a00:1",
    "64:ff9b:1:a00:0:100::",
    "64:ff9b:1:a:0:1::",
    "64:ff9b:1:0:a:0:100:0",
    "64:ff9b:1::a00:1",
    "2002:a00:1::1",
]


def addresses(*hosts: str) -> list[tuple[Any, ...]]:
    """Return addresses in the form of the resolver."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 80)) for host in hosts]


@pytest.mark.unit
@pytest.mark.parametrize("address", PROTECTED)
def test_protected(address: str) -> None:
    """A redirect may not lead to such an address unless it is named. The URL itself may."""
    hop = Hop("http://named.example:80/x", "GET", 1, same_origin=False)
    probed = target(redirect_hosts=("named.example",))
    with pytest.raises(NotFollowedError, match="is link-local or of a metadata service"):
        redirects.require_permitted(probed, hop, addresses("10.0.0.1", address))
    redirects.require_permitted(probed, first_hop(probed), addresses(address))
    permitted = probed._replace(redirect_hosts=("named.example", address.partition("%")[0]))
    redirects.require_permitted(permitted, hop, addresses("10.0.0.1", address))
    host = f"[{address}]" if ":" in address else address
    redirects.require_permitted(probed._replace(url=f"http://{host}/"), hop, addresses(address))


@pytest.mark.unit
@pytest.mark.parametrize("address", OPEN)
def test_not_protected(address: str) -> None:
    """Private and local addresses are permitted, because services have them."""
    hop = Hop("http://named.example:80/x", "GET", 1, same_origin=False)
    redirects.require_permitted(target(), hop, addresses(address))


@pytest.mark.unit
@given(
    st.binary(max_size=60), st.sampled_from([b"", b"http://", b"//", b"/", b"https://shop.example"])
)
def test_any_location(data: bytes, begin: bytes) -> None:
    """Any Location leads to a permitted host without a login, or is refused."""
    probed = target()
    try:
        hop = next_hop(probed, first_hop(probed), 302, begin + data)
    except NotFollowedError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert redirects.origin(hop.url).lower().split("/")[2].partition(":")[0].rstrip(".") == (
            "shop.example"
        )
        assert "@" not in redirects.origin(hop.url)
