"""Posts to Alertmanagers: requests, login, parallel posts, and failures."""

from __future__ import annotations

import base64
import json
import os
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import redact
from ops_worker.adapters.http.alertmanager import BATCH, Alertmanagers, post, presence
from ops_worker.core.self_check import Presence
from tests.alertmanager import Inbox
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

pytestmark = pytest.mark.integration

LONG_S = 60.0
"""Seconds that are longer than any test."""
ALERTS: list[dict[str, Any]] = [
    {"labels": {"alertname": "A", "service": "ä"}, "endsAt": "2026-03-01T12:00:00Z"}
]
AUTHORIZATION = "Basic " + base64.b64encode(b"us er:p@ss").decode()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """Yield a receiver that answers."""
    with Inbox() as running:
        yield running


def refused() -> str:
    """Return the URL of a port on which nothing listens."""
    with Inbox() as closed:
        return closed.url


@pytest.mark.parametrize("suffix", ["", "/", "/prefix", "/prefix/"])
def test_request(inbox: Inbox, suffix: str) -> None:
    """A post is a JSON list at the path of version 2, below the path of the base URL."""
    assert post(Alertmanagers((inbox.url + suffix,)), ALERTS, LONG_S) == []
    (received,) = inbox.requests
    assert received.method == "POST"
    assert received.path == suffix.rstrip("/") + "/api/v2/alerts"
    assert received.headers["content-type"] == "application/json"
    assert "authorization" not in received.headers
    assert received.document == ALERTS


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1, 2 * BATCH + 5])
def test_batches(inbox: Inbox, count: int) -> None:
    """Many alerts take several requests, one after the other, and keep their order."""
    alerts = [{"labels": {"service": str(number)}} for number in range(count)]
    assert post(Alertmanagers((inbox.url,)), alerts, LONG_S) == []
    assert [alert for batch in inbox.posts for alert in batch] == alerts
    assert max(map(len, inbox.posts)) <= BATCH


def test_refused_batch(inbox: Inbox) -> None:
    """A refused batch is a failure. The other batches are still sent."""
    alerts = [{"labels": {"service": str(number)}} for number in range(2 * BATCH + 1)]
    answers = iter([200, 400, 200])

    def answer(_: object) -> None:
        inbox.status = next(answers)

    inbox.before = answer
    assert post(Alertmanagers((inbox.url,)), alerts, LONG_S) == [f"{inbox.url}: http 400"]
    assert [len(batch) for batch in inbox.posts] == [BATCH, BATCH, 1]


def test_large_body(inbox: Inbox) -> None:
    """A body that does not fit into the buffers of a socket arrives whole."""
    alerts = [{"labels": {"service": "x" * 40_000}} for _ in range(BATCH)]
    assert post(Alertmanagers((inbox.url,)), alerts, LONG_S) == []
    assert inbox.posts == [alerts]


def test_basic_login(inbox: Inbox, tmp_path: Path) -> None:
    """A URL's login is sent only to that URL, in place of the token."""
    (tmp_path / "token").write_text("t0ken-of-the-others")
    with Inbox() as other:
        url = inbox.url.replace("://", "://us%20er:p%40ss@")
        receivers = Alertmanagers((url, other.url), token_file=str(tmp_path / "token"))
        assert post(receivers, ALERTS, LONG_S) == []
        assert inbox.requests[0].headers["authorization"] == AUTHORIZATION
        assert other.requests[0].headers["authorization"] == "Bearer t0ken-of-the-others"


def test_token_is_read_again(inbox: Inbox, tmp_path: Path) -> None:
    """Each post reads the token from the file again, without the line end. Logs star the token."""
    file = tmp_path / "token"
    receivers = Alertmanagers((inbox.url,), token_file=str(file))
    for token in ("first-token", "second-token"):
        file.write_text(f"{token}\n")
        assert post(receivers, ALERTS, LONG_S) == []
        assert inbox.requests[-1].headers["authorization"] == f"Bearer {token}"
        assert redact.starred(f"sent {token}") == "sent ***"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"x" * ((1 << 14) + 1), "cannot be read: larger than 16 KiB"),
        (b"s3cret\r\nX: y", "contains a character that a header value cannot have"),
        (b"s3cret\xff", "contains a character that a header value cannot have"),
    ],
)
def test_bad_token(inbox: Inbox, tmp_path: Path, content: bytes | None, problem: str) -> None:
    """Without a usable token, only Alertmanagers with their own login get the post."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with Inbox() as other:
        urls = (inbox.url, other.url.replace("://", "://u:p@"))
        (failure,) = post(Alertmanagers(urls, token_file=str(path)), ALERTS, LONG_S)
        assert failure.startswith(f"{inbox.url}: the file of ALERTMANAGER_TOKEN_FILE {problem}")
        assert "s3cret" not in failure
        assert (len(inbox.posts), len(other.posts)) == (0, 1)


def test_token_that_would_block(inbox: Inbox, tmp_path: Path) -> None:
    """A pipe without a writer does not block the post, and a path with NUL is no path."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)

    def problem(path: str) -> str:
        (failure,) = post(Alertmanagers((inbox.url,), token_file=path), ALERTS, LONG_S)
        return failure

    assert problem(pipe).endswith("is empty")
    writer = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    assert problem(pipe).endswith("is empty")
    os.close(writer)
    assert problem("a\0b").endswith("it is not a path")
    assert problem(str(tmp_path)).endswith("cannot be read: Is a directory")


def test_all_at_the_same_time(inbox: Inbox) -> None:
    """All Alertmanagers get a post at the same time: each one answers when all have it."""
    with Inbox() as second, Inbox() as third:
        barrier = threading.Barrier(3)
        for receiver in (inbox, second, third):
            receiver.before = lambda _: barrier.wait(LONG_S)
        receivers = Alertmanagers((inbox.url, second.url, third.url))
        assert post(receivers, ALERTS, LONG_S) == []


def test_one_hangs(inbox: Inbox) -> None:
    """An Alertmanager that hangs or refuses connections does not delay the others."""
    release = threading.Event()
    with Inbox() as other:
        inbox.before = lambda _: release.wait(LONG_S)
        closed_url = refused()
        failures = post(Alertmanagers((inbox.url, closed_url, other.url)), ALERTS, 0.5)
        release.set()
        assert failures == [
            f"{inbox.url}: timeout after 0.5 s",
            f"{closed_url}: Connection refused",
        ]
        assert other.posts == [ALERTS]


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 413, 500, 503])
def test_other_status(inbox: Inbox, status: int) -> None:
    """Any status but 2xx is a failure. No redirect is followed, so that no token leaks."""
    with Inbox() as elsewhere:
        inbox.status = status
        inbox.headers = {"Location": f"{elsewhere.url}/api/v2/alerts"}
        assert post(Alertmanagers((inbox.url,)), ALERTS, LONG_S) == [f"{inbox.url}: http {status}"]
        assert elsewhere.requests == []


@pytest.mark.parametrize("status", [200, 202])
def test_accepted(inbox: Inbox, status: int) -> None:
    """Any 2xx status is a success, with any body."""
    inbox.status = status
    inbox.body = b"\xff not json"
    assert post(Alertmanagers((inbox.url,)), ALERTS, LONG_S) == []


def test_endless_body(inbox: Inbox) -> None:
    """An answer larger than 1 MiB is not read to its end."""
    inbox.body = b"x" * (2 << 20)
    (failure,) = post(Alertmanagers((inbox.url,)), ALERTS, LONG_S)
    assert failure == f"{inbox.url}: body larger than 1 MiB"


def test_no_secret(inbox: Inbox, tmp_path: Path) -> None:
    """A failure names the Alertmanager without its login."""
    inbox.status = 500
    (tmp_path / "token").write_text("hunter2-token")
    url = inbox.url.replace("://", "://us%20er:hunter2-login@")
    receivers = Alertmanagers((url, inbox.url), token_file=str(tmp_path / "token"))
    failures = post(receivers, ALERTS, LONG_S)
    base = url.partition("us")[0]
    assert failures == [f"{base}***@{inbox.url[7:]}: http 500", f"{inbox.url}: http 500"]
    assert "hunter2" not in "".join(failures)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_connection_is_lost(inbox: Inbox, count: int) -> None:
    """A connection that is cut before or after the post is a failure, not an exception."""
    port = int(inbox.url.rpartition(":")[2])
    cuts = {1: "drop", 2: "deaf", 3: "deaf"}
    with Proxy(port, lambda number, _: cuts[count] if number == min(count, 1) else "") as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        (failure,) = post(Alertmanagers((url,)), ALERTS, LONG_S)
        assert failure.startswith(f"{url}: ") and "Error" not in failure


@pytest.fixture
def tls_inbox() -> Iterator[tuple[Inbox, trustme.CA]]:
    """Yield a receiver with TLS and its own authority."""
    import trustme as library

    authority = library.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Inbox(context) as running:
        yield running, authority


def test_tls(tls_inbox: tuple[Inbox, trustme.CA], tmp_path: Path) -> None:
    """Only the authorities of the file are trusted."""
    inbox, authority = tls_inbox
    path = tmp_path / "ca.pem"
    (untrusted,) = post(Alertmanagers((inbox.url,)), ALERTS, LONG_S)
    assert "TLS" in untrusted
    (unreadable,) = post(Alertmanagers((inbox.url,), ca=str(path)), ALERTS, LONG_S)
    assert f"{path} cannot be loaded: No such file or directory" in unreadable
    assert inbox.posts == []
    authority.cert_pem.write_to_path(path)
    assert post(Alertmanagers((inbox.url,), ca=str(path)), ALERTS, LONG_S) == []
    assert inbox.posts == [ALERTS]


def test_presence(inbox: Inbox) -> None:
    """An Alertmanager that answers has a version. If it does not answer, there is a reason."""
    closed_url = refused()
    url = inbox.url.replace("://", "://u:hunter2-login@")
    inbox.body = json.dumps({"versionInfo": {"version": "0.25.0"}}).encode()
    first, second = presence(Alertmanagers((url, closed_url)), LONG_S)
    assert first == Presence(inbox.url.replace("://", "://***@"), "0.25.0")
    assert second == Presence(closed_url, "", "Connection refused")
    assert (inbox.requests[0].method, inbox.requests[0].path) == ("GET", "/api/v2/status")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"versionInfo": {}}', ("", "")),
        (200, b'{"versionInfo": {"version": "a\\nb"}}', ("a b", "")),
        (200, b'{"versionInfo": []}', ("", "the answer is not that of an Alertmanager")),
        (200, b"{}", ("", "the answer is not that of an Alertmanager")),
        (200, b"OK", ("", "the answer is not that of an Alertmanager")),
        (200, b"[]", ("", "the answer is not that of an Alertmanager")),
        (404, b"{}", ("", "http 404")),
    ],
)
def test_odd_presence(inbox: Inbox, status: int, body: bytes, expected: tuple[str, str]) -> None:
    """An answer of another server is a problem. A missing version is left out."""
    inbox.status, inbox.body = status, body
    (answer,) = presence(Alertmanagers((inbox.url,)), LONG_S)
    assert (answer.version, answer.problem) == expected
