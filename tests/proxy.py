"""TCP proxies in front of a database. A test can watch, redirect, silence or cut connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

Watch = Callable[[int, bytes], str]
"""A function that decides what happens to a piece of data from the client.

It gets the number of the piece, counted over all connections, and its bytes. It returns "" to pass
the piece on, "drop" to cut the connection instead, or "deaf" to pass the piece on and cut the
connection to the client, so that the answer is lost.
"""


class _Listener:
    """Listens on 127.0.0.1 and calls ``_connected`` for each connection, in a thread.

    ``own`` is its port; 0 for any free port.
    """

    def __init__(self, own: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", own))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connected(client)

    def _connected(self, client: socket.socket) -> None:
        raise NotImplementedError


class Proxy(_Listener):
    """Listens on 127.0.0.1 and passes connections on to ``port`` there.

    ``own`` is the port on which it listens; 0 for any free port.
    """

    def __init__(self, port: int, watch: Watch, *, own: int = 0) -> None:
        self._target = port
        self._watch = watch
        self._pieces = 0
        super().__init__(own)

    def _connected(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
        threading.Thread(target=self._bring_back, args=(server, client), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Send the data of the client to the server, as ``watch`` decides."""
        with contextlib.suppress(OSError):
            while piece := client.recv(1 << 20):
                self._pieces += 1
                verdict = self._watch(self._pieces, piece)
                if verdict == "deaf":
                    # Cut the connection first, so that the answer certainly does not arrive.
                    client.shutdown(socket.SHUT_RDWR)
                    server.sendall(piece)
                    break
                if verdict == "drop":
                    break
                server.sendall(piece)
        _end(client)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _bring_back(self, server: socket.socket, client: socket.socket) -> None:
        """Send the answers of the server to the client."""
        with contextlib.suppress(OSError):
            while piece := server.recv(1 << 20):
                client.sendall(piece)
        _end(client)
        server.close()


def _end(sock: socket.socket) -> None:
    """Close a socket on which another thread may wait."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class Switchboard(_Listener):
    """Listens on 127.0.0.1 and passes connections on to the port ``target`` there.

    ``target`` may change. A connection keeps the target that it had at its beginning.

    While ``silent`` is set, bytes are dropped in both directions and no connection is closed. This
    is like a server that accepts connections and does not answer, or like a network that fails
    without a reset. A connection that lost bytes remains silent. ``has_dropped`` is set as soon as
    bytes are dropped.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.silent = threading.Event()
        self.has_dropped = threading.Event()
        super().__init__()

    def _connected(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        """Send the data of one side to the other side, unless it is dropped."""
        is_dead = False
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 20):
                is_dead = is_dead or self.silent.is_set()
                if is_dead:
                    self.has_dropped.set()
                else:
                    sink.sendall(piece)
        _end(sink)
