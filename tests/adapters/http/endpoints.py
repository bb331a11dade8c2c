"""The endpoints of eight public Gatus configurations, A to H, and our entries for them.

Names, addresses and texts are ours. Only the kind of a check and its conditions are copied.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tests.stubs import Behaviour, Stub, reply

if TYPE_CHECKING:
    import socket


class Endpoint(NamedTuple):
    """Equal endpoints of one configuration.

    - ``asks``: the kind of the check and its conditions, in the syntax of Gatus.
    - ``entry``: keys of our catalogue besides ``url``, or None if the catalogue has none for it.
    - ``scheme``: the scheme of ``url``. An ``untrusted`` server has an untrusted certificate.
    - ``well``: answers of a healthy service.
    - ``ill``: answers of an unhealthy service, and the reasons.
    """

    source: str
    asks: str
    number: int
    entry: str | None = None
    scheme: str = "http"
    untrusted: bool = False
    well: tuple[Behaviour | str, ...] = (reply("hello"),)
    ill: tuple[tuple[Behaviour | str, str], ...] = ()


def posted(content: str, answer: str) -> Behaviour:
    """Answer a POST of JSON with this content. Answer any other request with 400."""

    def behave(stub: Stub, connection: socket.socket) -> None:
        head, _, body = stub.requests[-1].partition(b"\r\n\r\n")
        while len(body) < len(content) and (part := connection.recv(65536)):
            body += part
        is_json = re.search(
            rb"\r\ncontent-type: application/json\r\n", head + b"\r\n", re.IGNORECASE
        )
        if head.startswith(b"POST ") and is_json and body == content.encode():
            reply(answer)(stub, connection)
        else:
            reply(answer, status="400 Bad Request")(stub, connection)

    return behave


def with_key(key: str, answer: str, *, status: str = "200 OK") -> Behaviour:
    """Answer a request with this value of the header X-Key. Answer any other one with 401."""

    def behave(stub: Stub, connection: socket.socket) -> None:
        if re.search(rb"\r\nx-key: " + key.encode() + rb"\r\n", stub.requests[-1], re.IGNORECASE):
            reply(answer, status=status)(stub, connection)
        else:
            reply("who are you?", status="401 Unauthorized")(stub, connection)

    return behave


FOUND = reply("", status="302 Found", headers={"Location": "/login"})
MISSING = (reply("", status="404 Not Found"), "http 404")
BROKEN = (reply("", status="500 Internal Server Error"), "http 500")
DOWN = ("down", "Connection refused")
SLOW = ("slow:0.6", "latency is ")
"""A service that is slower than each of the limits."""
ANY_ANSWER = 'json = false\nexpect = ["2xx", "3xx"]'
POST = 'method = "POST"\nheaders = { Content-Type = "application/json" }\n'

ENDPOINTS = (
    Endpoint(
        "A", "GET; [STATUS] >= 200; [STATUS] < 400", 11, ANY_ANSWER,
        well=(reply("hello"), FOUND), ill=(MISSING, BROKEN, DOWN),
    ),
    Endpoint(
        "A", "GET, insecure; [STATUS] >= 200; [STATUS] < 400", 1,
        f"{ANY_ANSWER}\nskip_verify = true", scheme="https", untrusted=True, ill=(MISSING, DOWN),
    ),
    Endpoint(
        "A", "POST; [STATUS] == 200; [BODY].status == Ok", 1,
        f"{POST}body = '{{\"ping\": 1}}'\n"
        'conditions = [{ pointer = "/status", equals = "Ok" }]',
        well=(posted('{"ping": 1}', '{"status": "Ok"}'),),
        ill=(
            (posted('{"ping": 1}', '{"status": "No"}'), '/status is "No", wants "Ok"'),
            (posted('{"ping": 2}', '{"status": "Ok"}'), "http 400"),
            (reply("Ok"), "the body is text, not JSON (set json = false)"),
        ),
    ),
    Endpoint("A", "push", 3),
    Endpoint(
        "B", "GET; [STATUS] == 200; [BODY] == OK", 1,
        'json = false\nconditions = [{ equals = "OK" }]',
        well=(reply("OK"), reply("OK\n")),
        ill=(
            (reply("KO"), 'body is "KO", wants "OK"'),
            (reply("OK", status="503 Busy"), "http 503"),
        ),
    ),
    Endpoint(
        "B", "GET; [STATUS] == 200; [BODY] == a longer text", 1,
        'json = false\nconditions = [{ equals = "The service is up." }]',
        well=(reply("The service is up."),),
        ill=((reply(""), 'body is "", wants "The service is up."'),),
    ),
    Endpoint("B", "GET; [STATUS] == 200", 11, "json = false", ill=(MISSING, (FOUND, "http 302"))),
    Endpoint("B", "dns; [DNS_RCODE] == NOERROR", 1),
    Endpoint("B", "icmp; [CONNECTED] == true", 1, "", scheme="tcp", ill=(DOWN,)),
    Endpoint("B", "tcp; [CONNECTED] == true", 4, "", scheme="tcp", ill=(DOWN,)),
    Endpoint("C", "tcp; [CONNECTED] == true", 3, "", scheme="tcp", ill=(DOWN,)),
    Endpoint("C", "GET; [STATUS] == 200", 12, "json = false", ill=(MISSING, DOWN)),
    Endpoint(
        "C", "GET; [STATUS] < 500", 1, 'json = false\nexpect = ["2xx", "3xx", "4xx"]',
        well=(reply(""), FOUND, reply("", status="401 Unauthorized")), ill=(BROKEN,),
    ),
    Endpoint(
        "C", "POST; [STATUS] == 200", 2, f"{POST}body = '{{}}'\njson = false",
        well=(posted("{}", "done"),), ill=(MISSING, (posted("[]", "done"), "http 400")),
    ),
    Endpoint(
        "C", "POST; [STATUS] == 200; [BODY].a.status == UP", 1,
        f"""{POST}body = '{{}}'\nconditions = [{{ pointer = "/a/status", equals = "UP" }}]""",
        well=(posted("{}", '{"a": {"status": "UP"}}'),),
        ill=((posted("{}", '{"a": []}'), '/a/status is absent, wants "UP"'),),
    ),
    Endpoint("D", "GET; [STATUS] == 200", 1, "json = false", ill=(BROKEN,)),
    Endpoint(
        "D", "GET; [STATUS] < 500", 1, 'json = false\nexpect = ["200-499"]',
        well=(reply(""), reply("", status="403 Forbidden")), ill=(BROKEN,),
    ),
    Endpoint(
        "E", "GET with a header; [STATUS] == 200", 1,
        'json = false\nheaders = { X-Key = "${KEY}" }',
        well=(with_key("sesame-open-up", "hello"),), ill=((with_key("no", "hello"), "http 401"),),
    ),
    Endpoint("E", "dns; [DNS_RCODE] == NOERROR", 3),
    Endpoint("F", "GET; [STATUS] == 200", 1, "json = false", ill=(MISSING,)),
    Endpoint(
        "F", "GET; [STATUS] == any(200, 304)", 1, "json = false\nexpect = [200, 304]",
        well=(reply(""), reply("", status="304 Not Modified")),
        ill=((reply("", status="204 No Content"), "http 204"),),
    ),
    Endpoint("G", "tcp; [CONNECTED] == true", 2, "", scheme="tcp", ill=(DOWN,)),
    Endpoint("G", "GET; [STATUS] == 200", 4, "json = false", ill=(MISSING,)),
    Endpoint(
        "G", "tls; [CERTIFICATE_EXPIRATION] > 336h", 1, "certificate_days = 14", scheme="tls",
        ill=(DOWN,),
    ),
    Endpoint("G", "push", 3),
    Endpoint(
        "H", "GET; [STATUS] < 400; [RESPONSE_TIME] < 500", 3, f"{ANY_ANSWER}\nmax_latency_ms = 499",
        ill=(MISSING, SLOW),
    ),
    Endpoint(
        "H", "GET; [STATUS] < 400; [RESPONSE_TIME] < 500; [CERTIFICATE_EXPIRATION] > 336h", 2,
        f"{ANY_ANSWER}\nmax_latency_ms = 499\ncertificate_days = 14", scheme="https",
        ill=(MISSING, SLOW),
    ),
    Endpoint(
        "H", "GET with a header; [STATUS] < 400; [RESPONSE_TIME] < 500; [BODY] == pat(*welcome*)",
        5,
        f"{ANY_ANSWER}\nmax_latency_ms = 499\n"
        'headers = { X-Key = "${KEY}" }\nconditions = [{ contains = "welcome" }]',
        well=(with_key("sesame-open-up", "<h1>welcome</h1>"),),
        ill=(
            (
                with_key("sesame-open-up", "<h1>sorry</h1>"),
                'body is "<h1>sorry</h1>", wants a text that contains "welcome"',
            ),
            (with_key("no", "welcome"), "http 401"),
        ),
    ),
    Endpoint(
        "H", "GET; [STATUS] == 200; [RESPONSE_TIME] < 500", 2, "json = false\nmax_latency_ms = 499",
        ill=((FOUND, "http 302"), SLOW),
    ),
    Endpoint(
        "H", "tls; [CERTIFICATE_EXPIRATION] > 336h", 2, "certificate_days = 14", scheme="tls",
        ill=(DOWN,),
    ),
)  # fmt: skip
"""All endpoints."""
