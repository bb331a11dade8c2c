"""Many exchanges at once in one thread: what waits for a socket, for a name or for its turn, each under its own deadline.

An exchange is a generator. It yields what it waits for: a ``Wait`` for its socket, a ``Lookup`` of a name, or None to let
the others go first. One thread with a selector costs a fifth of a thread a probe, and sees the bytes when they come: a
turn of the loop begins or goes on with one exchange only, then looks at the sockets again, so that no answer waits
long to be timed behind the work of others.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import selectors
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
RESOLVERS = 256
"""Threads for names, at most: those that hang in the system's resolver are left behind, and must not use up all."""


class Wait(NamedTuple):
    """Until the socket can be read or written (it is sent True then), or until a moment of the monotonic clock (False)."""

    fd: int
    events: int
    until: float = math.inf


class Lookup(NamedTuple):
    """Until the name is resolved: it is sent what ``socket.getaddrinfo`` gives, or its error is thrown."""

    host: bytes
    port: int


if TYPE_CHECKING:
    Exchange = Generator[Wait | Lookup | None, Any, bytes]


class Task:
    """An exchange under way. ``result`` is what it returned, or the exception that ended it; TimeoutError at its deadline."""

    def __init__(self, key: int, exchange: Generator[Wait | Lookup | None, Any, Any], deadline: float) -> None:
        self.key = key
        self.exchange = exchange
        self.deadline = deadline
        self.waiting: Wait | None = None
        self.done = False
        self.result: Any = None

    def forget(self) -> None:
        """Let go of what it held: it still stands in the queue of deadlines."""
        self.result = None
        self.exchange.close()
        del self.exchange


class Reactor:
    """Runs exchanges, at most ``concurrency`` at once."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Task]] = []
        self._turn: deque[tuple[Task, Any]] = deque()
        self._names = _Names()
        self._pushed = 0

    def run(self, begin: Iterator[tuple[int, Callable[[float], Exchange], float]], last_start: float) -> Iterator[Task]:
        """Give each exchange's task as it ends. ``begin`` gives a key, what makes the exchange, and its seconds.

        The first ones begin at once; of the others only those that can still end before ``last_start``.
        """
        self._selector.register(self._names.wake, READ, self._names)
        waiting, active, begun = next(begin, None), 0, 0
        try:
            while waiting is not None or active:
                if waiting is not None and begun >= self._concurrency and time.monotonic() + waiting[2] > last_start:
                    waiting = None
                    continue
                ended: list[Task] = []
                if waiting is not None and active < self._concurrency:
                    key, make, seconds = waiting
                    deadline = time.monotonic() + seconds
                    task = Task(key, make(deadline), deadline)
                    self._push(deadline, task)
                    active, begun = active + 1, begun + 1
                    waiting = next(begin, None)
                    self._go_on(task, None, ended)
                elif self._turn:
                    self._go_on(*self._turn.popleft(), ended)
                ready = active < self._concurrency and waiting is not None
                self._look(ended, at_once=bool(ready or self._turn or ended))
                active -= len(ended)
                for task in ended:
                    yield task
                    task.forget()
        finally:
            self._selector.close()
            self._names.close()

    def _look(self, ended: list[Task], *, at_once: bool) -> None:
        timeout = 0.0 if at_once else max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Task):
                self._selector.unregister(key.fd)
                key.data.waiting = None
                self._go_on(key.data, True, ended)  # noqa: FBT003 - what a Wait is answered with
            else:
                self._turn.extend(self._names.found())
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, task = heapq.heappop(self._due)
            if not task.done:
                self._overdue(task, due, ended)

    def _overdue(self, task: Task, due: float, ended: list[Task]) -> None:
        wait = task.waiting
        if due < task.deadline and (wait is None or wait.until != due):
            return  # what it waited for until then came in time
        if wait is not None:
            self._selector.unregister(wait.fd)
            task.waiting = None
        if due < task.deadline:
            self._go_on(task, False, ended)  # noqa: FBT003 - what a Wait is answered with
        else:
            task.exchange.close()
            self._end(task, TimeoutError(), ended)

    def _go_on(self, task: Task, answer: Any, ended: list[Task]) -> None:
        if task.done:
            return
        try:
            wait = task.exchange.throw(answer) if isinstance(answer, Exception) else task.exchange.send(answer)
        except StopIteration as stop:
            self._end(task, stop.value, ended)
        except Exception as error:  # noqa: BLE001 - not even a fault of ours in one exchange may cost the others theirs
            self._end(task, error, ended)
        else:
            if wait is None:
                self._turn.append((task, None))
            elif isinstance(wait, Lookup):
                self._names.ask(wait, task)
            else:
                task.waiting = wait
                self._selector.register(wait.fd, wait.events, task)
                if wait.until < task.deadline:
                    self._push(wait.until, task)

    def _push(self, due: float, task: Task) -> None:
        self._pushed += 1
        heapq.heappush(self._due, (due, self._pushed, task))

    @staticmethod
    def _end(task: Task, result: Any, ended: list[Task]) -> None:
        task.done, task.result = True, result
        ended.append(task)


class _Names:
    """The system's resolver, which knows no deadline: asked in threads, each name once, and never waited for at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[Lookup, list[Task]] = {}
        self._known: dict[Lookup, Any] = {}
        self._queue: deque[Lookup] = deque()
        self._running = 0
        self._found: deque[tuple[Lookup, Any]] = deque()
        self.wake, self._bell = socket.socketpair()

    def ask(self, name: Lookup, task: Task) -> None:
        if name in self._asked:
            self._asked[name].append(task)
            if name in self._known:
                self._found.append((name, self._known[name]))
                self._ring()
            return
        self._asked[name] = [task]
        with self._lock:
            self._queue.append(name)
            if self._running >= RESOLVERS:
                return
            self._running += 1
        threading.Thread(target=self._resolve, name="resolver", daemon=True).start()

    def found(self) -> Iterator[tuple[Task, Any]]:
        self.wake.recv(4096)
        while self._found:
            name, answer = self._found.popleft()
            self._known[name] = answer
            for task in self._asked[name]:
                yield task, answer
            self._asked[name] = []

    def close(self) -> None:
        self.wake.close()
        self._bell.close()

    def _resolve(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                name = self._queue.popleft()
            try:
                answer: Any = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
            except Exception as error:  # noqa: BLE001 - whatever the resolver says of a name is that name's alone
                answer = error
            self._found.append((name, answer))
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # nobody waits any more
            self._bell.send(b".")
