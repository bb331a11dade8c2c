"""HTTP: targets to observations. The only importer of httpx and of sockets.

A probe is one connection that carries one request, under one deadline from the first packet to the last byte. httpx's
own transport keeps a pool for the next request and has a timeout for each read; here there is no next request, and a
body that trickles in one byte at a time must not outlive its deadline. So the transport below is httpx's interface
with a plain socket under it, h11 as the parser, and the clock read at the socket.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import h11
import httpx

from ops_worker import __version__
from ops_worker.core.health import OK
from ops_worker.core.model import Failure, Observation, Target
from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROBE_DEADLINE_S = 5.0
"""Seconds for one probe in all (README, "What is seen")."""
MAX_BODY = 1 << 20
"""Bytes of a body, decoded (README, "What is seen")."""
MAX_HEAD = 1 << 16
"""Bytes of a status line and headers."""
CONCURRENCY = 64
"""Probes under way at once; the platform's four all are."""
RESERVE_S = 5.0
"""Seconds of a pass that are kept for the database, where probes are made once more."""
GRACE_S = 0.2
"""How much later than its deadline a probe may say so itself, before it is given up for it."""

_RECEIVE = 1 << 16
_COMPRESSED_SLICE = 1 << 10  # deflate grows at most 1032-fold: no slice of a bomb can decode to much over MAX_BODY
_HEADERS = {"User-Agent": f"ops-worker/{__version__}", "Accept": "*/*", "Accept-Encoding": "gzip, deflate", "Connection": "close"}


class Unreachable(httpx.ConnectError):
    """No connection could be made, and a new one would meet the same: refused, unresolved, no route, TLS."""


def observe(targets: Sequence[Target], *, deadline_s: float = PROBE_DEADLINE_S, concurrency: int = CONCURRENCY) -> list[Observation]:
    """Probe all targets, at most ``concurrency`` at once, and give one observation each, in the order of the targets.

    Never raises for what a service does. A probe that hangs where no deadline reaches it (in the system's resolver)
    is given up: its thread is left behind and the target's observation is a timeout.
    """
    transport = OneShotTransport(_tls_context() if any(target.url.lower().startswith("https:") for target in targets) else None)
    waiting: SimpleQueue[int] = SimpleQueue()
    answered: SimpleQueue[tuple[int, Observation]] = SimpleQueue()
    for index in range(len(targets)):
        waiting.put(index)

    def work() -> None:
        with contextlib.suppress(Empty):
            while True:
                index = waiting.get_nowait()
                answered.put((index, probe(targets[index], transport, deadline_s)))

    threads = min(concurrency, len(targets))
    for _ in range(threads):
        threading.Thread(target=work, name="probe", daemon=True).start()
    rounds = -(-len(targets) // threads) if threads else 0
    return _collect(targets, answered, rounds * (deadline_s + GRACE_S), deadline_s)


def confirm(  # noqa: PLR0913 - what ``observe`` is told, and when to ask again
    targets: Sequence[Target],
    *,
    times: int,
    delay_s: float,
    budget_s: float,
    deadline_s: float = PROBE_DEADLINE_S,
    concurrency: int = CONCURRENCY,
) -> list[Observation]:
    """Probe all targets, and those without any HTTP answer up to ``times`` again, of which the last result counts.

    In the first second of a pod its network may not be there yet. A round is begun only while it and the
    database's ``RESERVE_S`` still fit into ``budget_s``, the seconds that the pass has left.
    """
    end = time.monotonic() + budget_s - RESERVE_S
    seen = observe(targets, deadline_s=deadline_s, concurrency=concurrency)
    for attempt in range(2, times + 2):
        again = [index for index, one in enumerate(seen) if one.failure is not None]
        rounds = -(-len(again) // concurrency)
        if not again or time.monotonic() + delay_s + rounds * (deadline_s + GRACE_S) > end:
            break
        time.sleep(delay_s)
        second = observe([targets[index] for index in again], deadline_s=deadline_s, concurrency=concurrency)
        for index, one in zip(again, second, strict=True):
            seen[index] = one._replace(attempts=attempt)
    return seen


def probe(target: Target, transport: httpx.BaseTransport, deadline_s: float) -> Observation:
    """Ask one target once. Never raises."""
    try:
        response = transport.handle_request(_request(target.url, time.monotonic() + deadline_s))
        try:
            body = _read(response) if response.status_code == OK else b""
            ended = time.monotonic()
        finally:
            response.close()
        latency_ms = round((ended - response.extensions["started"]) * 1000)
        return Observation(target, ended, response.status_code, latency_ms, body)
    except Unreachable as error:
        return _failed(target, Failure.NO_CONNECTION, str(error))
    except TimeoutError:
        return _failed(target, Failure.NO_ANSWER, _timeout(deadline_s))
    except Exception as error:  # noqa: BLE001 - not even a fault of ours in one probe may cost the others theirs
        return _failed(target, Failure.NO_ANSWER, _described(error))


class OneShotTransport(httpx.BaseTransport):
    """httpx's transport interface for one request on one connection with one deadline.

    The request carries the deadline in ``extensions["deadline"]``, in seconds of the monotonic clock. The response
    carries ``extensions["started"]``: when the connection was begun, after the name was resolved, on the same clock.
    Raises Unreachable, TimeoutError, OSError or h11.RemoteProtocolError; so does reading the response's stream.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        """Take the context for https; None where no target has that scheme."""
        self._tls = tls

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and read the answer's head; the body is read from the response's stream."""
        deadline: float = request.extensions["deadline"]
        addresses = _resolve(request.url)
        started = time.monotonic()
        connection = _Connection(_connect(addresses, deadline), deadline)
        try:
            if request.url.scheme == "https":
                connection.start_tls(self._tls, request.url.raw_host.decode("ascii"))
            head = connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        headers = httpx.Headers(list(head.headers))
        codings = [coding.strip().lower() for coding in headers.get_list("content-encoding", split_commas=True)]
        return httpx.Response(head.status_code, headers=headers, stream=_Body(connection, codings), extensions={"started": started})


class _Connection:
    """A socket and its parser, under a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    def start_tls(self, context: ssl.SSLContext | None, host: str) -> None:
        assert context is not None
        self._arm()
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"TLS: certificate verify failed: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise Unreachable(f"TLS: {error.reason or error}") from error

    def exchange(self, request: httpx.Request) -> h11.Response:
        http = self._http
        head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        self._arm()
        self._socket.sendall((http.send(head) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := self.next_event(), h11.Response):
            pass  # 100 Continue and its like: the answer is still to come
        return event

    def next_event(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._arm()
            self._http.receive_data(self._socket.recv(_RECEIVE))
        if event is h11.PAUSED:
            raise h11.RemoteProtocolError("the server switched protocols")
        return event  # type: ignore[return-value]  # what is no sentinel is an event

    def close(self) -> None:
        self._socket.close()

    def _arm(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


class _Body(httpx.SyncByteStream):
    """The body as it comes, in slices that cannot decode to much more than a body may have.

    One coding at the most, and of those that were asked for: two on top of each other, or brotli, grow a slice to
    gigabytes before anybody can count them.
    """

    def __init__(self, connection: _Connection, codings: list[str]) -> None:
        self._connection = connection
        self._codings = codings
        self._size = _COMPRESSED_SLICE if codings else _RECEIVE

    def __iter__(self) -> Iterator[bytes]:
        if self._codings not in ([], ["identity"], ["gzip"], ["deflate"]):
            raise httpx.DecodingError(f"{', '.join(self._codings)} was not asked for")
        while isinstance(event := self._connection.next_event(), h11.Data):
            data = bytes(event.data)
            for start in range(0, len(data), self._size):
                yield data[start : start + self._size]

    def close(self) -> None:
        self._connection.close()


def _request(url: str, deadline: float) -> httpx.Request:
    request = httpx.Request("GET", url, headers=_HEADERS, extensions={"deadline": deadline})
    if request.url.userinfo:
        return next(httpx.BasicAuth(request.url.username, request.url.password).auth_flow(request))
    return request


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_BODY:
            raise ValueError("body larger than 1 MiB")
    return bytes(body)


def _resolve(url: httpx.URL) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        # raw_host is bytes: a str would be encoded once more, by a codec whose import costs 2 ms
        found = socket.getaddrinfo(url.raw_host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise Unreachable(f"name resolution failed: {error.strerror}") from error
    return [(family, address) for family, _, _, _, address in found]


def _connect(addresses: Sequence[tuple[socket.AddressFamily, tuple[object, ...]]], deadline: float) -> socket.socket:
    """Try the addresses in turn; each may use its share of the time that is left, so that a dead one leaves some."""
    last: OSError = TimeoutError()
    for index, (family, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(left / (len(addresses) - index))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            if sock is not None:
                sock.close()
            # A refusal says most: a machine is there, and nothing listens.
            last = last if isinstance(last, ConnectionRefusedError) else error
        else:
            return sock
    if isinstance(last, (TimeoutError, ConnectionResetError, ConnectionAbortedError)):
        raise last
    raise Unreachable(_described(last))


def _collect(
    targets: Sequence[Target], answered: SimpleQueue[tuple[int, Observation]], seconds: float, deadline_s: float
) -> list[Observation]:
    end = time.monotonic() + seconds
    seen: dict[int, Observation] = {}
    with contextlib.suppress(Empty):
        while len(seen) < len(targets):
            index, observation = answered.get(timeout=max(0.0, end - time.monotonic()))
            seen[index] = observation
    return [seen.get(index) or _failed(target, Failure.NO_ANSWER, _timeout(deadline_s)) for index, target in enumerate(targets)]


def _failed(target: Target, failure: Failure, error: str) -> Observation:
    return Observation(target, time.monotonic(), failure=failure, error=error)


def _timeout(deadline_s: float) -> str:
    return f"timeout after {deadline_s:g} s"


def _tls_context() -> ssl.SSLContext:
    """Make the one context of the process: certifi's roots, or those of SSL_CERT_FILE or SSL_CERT_DIR."""
    try:
        return httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise SettingsError([f"SSL_CERT_FILE or SSL_CERT_DIR cannot be loaded: {error}"]) from None


_PREFIXES: tuple[tuple[type[Exception], str], ...] = (
    (h11.RemoteProtocolError, "protocol error: "),
    (httpx.DecodingError, "bad content encoding: "),
    (httpx.InvalidURL, "bad URL: "),
)


def _described(error: Exception) -> str:
    prefix = next((prefix for kind, prefix in _PREFIXES if isinstance(error, kind)), "")
    return prefix + ((error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__)
