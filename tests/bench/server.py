"""A fast server for probes: one thread, ``select.epoll``, and one prepared answer.

It listens on one port of all loopback addresses, so that 127.0.0.1, 127.0.0.2, ... are different
targets. Its argument is the time in milliseconds after which it answers a request. If a client
records a longer latency, the difference comes from the client and the kernel.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from collections import deque

BODY = json.dumps(
    {"status": "healthy", "service": "x", "counters": {"a": 1, "b": 2.5, "queue_depth": 17}}
).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY
)


class Server:
    """The listening socket, the connections, and the queue of answers.

    ``due`` has the moment and the descriptor of each answer, in order.
    """

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.listener = socket.create_server(("0.0.0.0", 0), backlog=4096)
        self.listener.setblocking(False)
        self.connections: dict[int, socket.socket] = {}
        self.due: deque[tuple[float, int]] = deque()
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.poll.register(sys.stdin, select.EPOLLIN)

    def serve(self) -> None:
        """Answer until standard input ends."""
        while True:
            timeout = max(0.0, self.due[0][0] - time.monotonic()) if self.due else None
            for fd, _ in self.poll.poll(timeout):
                if fd == sys.stdin.fileno():
                    return
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.read(fd)
            while self.due and self.due[0][0] <= time.monotonic():
                self.answer(self.due.popleft()[1])

    def accept(self) -> None:
        """Accept all waiting connections."""
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self.listener.accept()
                connection.setblocking(False)
                self.connections[connection.fileno()] = connection
                self.poll.register(connection, select.EPOLLIN)

    def read(self, fd: int) -> None:
        """Read a request, which arrives in one piece, and answer it now or after the wait."""
        with contextlib.suppress(OSError):
            self.connections[fd].recv(4096)
        self.poll.unregister(fd)
        if self.wait_s:
            self.due.append((time.monotonic() + self.wait_s, fd))
        else:
            self.answer(fd)

    def answer(self, fd: int) -> None:
        """Send the answer and close the connection."""
        with contextlib.suppress(OSError), self.connections.pop(fd) as connection:
            connection.send(ANSWER)


if __name__ == "__main__":
    server = Server(float(sys.argv[1]) / 1000)
    print(server.listener.getsockname()[1], flush=True)
    server.serve()
