"""Many exchanges at once in one thread: what waits for a socket, for a name or for its turn, each under its own deadline.

An exchange is a generator. It yields what it waits for: a ``Wait`` for its sockets, a ``Lookup`` of
a name, or None to let the others go first. One thread with a selector costs a fifth of a thread a
probe, and sees the bytes when they come: a turn of the loop begins or goes on with one exchange
only, then looks at the sockets again, so that no answer waits long to be timed behind the work of
others.
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

from ops_worker.adapters.http.limits import OwnLimitError, no_descriptor, own_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MIN_RESOLVERS, MAX_RESOLVERS = 16, 256
"""Threads for names: twice as many as probes at once, within these bounds. Those that hang in the
system's resolver are left behind, and must not use up all.
"""


class Wait(NamedTuple):
    """Until a socket can be read or written, whose number is sent, or a moment comes: None is sent.

    The moment is one of the monotonic clock.
    """

    fds: tuple[int, ...]
    events: int
    until: float = math.inf


class Lookup(NamedTuple):
    """Until the name is resolved: it is sent what ``socket.getaddrinfo`` gives, or its error is thrown."""

    host: bytes
    port: int


if TYPE_CHECKING:
    Exchange = Generator[Wait | Lookup | None, Any, Any]
    Beginning = tuple[int, Callable[[], Exchange], float]


class Job(NamedTuple):
    """An exchange to begin: its key, its maker, its seconds, and the limit of ours that it met."""

    key: int
    make: Callable[[], Exchange]
    seconds: float
    limit: Exception | None = None


class Task:
    """An exchange under way.

    ``result`` is what it returned, or the exception that ended it; TimeoutError at its deadline.
    """

    def __init__(self, job: Job, exchange: Exchange, deadline: float) -> None:
        self.job = job
        self.exchange = exchange
        self.deadline = deadline
        self.waiting: Wait | Lookup | None = None
        self.done = False
        self.result: Any = None

    @property
    def key(self) -> int:
        """The key of its job."""
        return self.job.key

    def forget(self) -> None:
        """Let go of what it held: it still stands in the queue of deadlines."""
        self.result = None
        self.exchange.close()
        del self.exchange


class Reactor:
    """Runs exchanges, at most ``concurrency`` at once.

    Raises OSError where not even the selector can be made.
    """

    def __init__(self, concurrency: int) -> None:
        self._most = self._concurrency = concurrency
        self._names = _Names(min(max(MIN_RESOLVERS, 2 * concurrency), MAX_RESOLVERS))
        try:
            self._selector = selectors.DefaultSelector()
        except BaseException:
            self._names.close()
            raise
        self._due: list[tuple[float, int, Task]] = []
        self._turn: deque[tuple[Task, Any]] = deque()
        self._pushed = 0

    def run(self, begin: Iterable[Beginning], last_start: float) -> Iterator[Task]:
        """Give each exchange's task as it ends.

        ``begin`` gives a key, what makes the exchange, and its seconds.

        The first ones begin at once; of the others only those that can still end before
        ``last_start``. One that ends because of a limit of this process begins again, when others
        have ended and given back what they held: until then no more are begun, and then one more
        for each that ends without it.
        """
        self._selector.register(self._names.wake, READ, self._names)
        queue = deque(Job(*one) for one in begin)
        first = min(self._concurrency, len(queue))
        active = begun = 0
        try:
            while queue or active:
                if queue and begun >= first and time.monotonic() + queue[0].seconds > last_start:
                    yield from self._given_up(queue)
                    queue.clear()
                    continue
                ended: list[Task] = []
                if queue and active < self._concurrency:
                    active, begun = active + 1, begun + 1
                    self._begin(queue.popleft(), ended)
                elif self._turn:
                    self._go_on(*self._turn.popleft(), ended)
                ready = active < self._concurrency and queue
                self._look(ended, at_once=bool(ready or self._turn or ended))
                active -= len(ended)
                for task in ended:
                    if active and own_limit(task.result):
                        self._concurrency = active
                        queue.append(task.job._replace(limit=task.result.with_traceback(None)))
                    else:
                        self._concurrency = min(self._concurrency + 1, self._most)
                        yield task
                    task.forget()
        finally:
            self._selector.close()
            self._names.close()

    def _begin(self, job: Job, ended: list[Task]) -> None:
        deadline = time.monotonic() + job.seconds
        task = Task(job, job.make(), deadline)
        self._push(deadline, task)
        self._go_on(task, None, ended)

    @staticmethod
    def _given_up(queue: Iterable[Job]) -> Iterator[Task]:
        """Give as ended, without another attempt, what met a limit of this process before."""
        for job in queue:
            if job.limit is not None:
                task = Task(job, job.make(), 0.0)
                task.result = job.limit
                yield task
                task.forget()

    def _look(self, ended: list[Task], *, at_once: bool) -> None:
        timeout = (
            0.0 if at_once else max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
        )
        for key, _ in self._selector.select(timeout):
            if key.data is self._names:
                self._turn.extend(self._names.found())
                continue
            task, wait = key.data
            if task.waiting is wait:  # else another of its sockets was ready as well
                self._release(task)
                self._go_on(task, key.fd, ended)
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, task = heapq.heappop(self._due)
            if not task.done:
                self._overdue(task, due, ended)

    def _overdue(self, task: Task, due: float, ended: list[Task]) -> None:
        wait = task.waiting
        if due < task.deadline:
            if isinstance(wait, Wait) and wait.until == due:  # else what it waited for came in time
                self._release(task)
                self._go_on(task, None, ended)
            return
        self._release(task)
        if isinstance(wait, Lookup) and self._names.is_queued(wait):
            words = "no thread was free to resolve its name: those of other names hang"
            self._stop(task, OwnLimitError(words), ended)
        else:
            self._stop(task, TimeoutError(), ended)

    def _go_on(self, task: Task, answer: Any, ended: list[Task]) -> None:
        if task.done:
            return
        task.waiting = None
        try:
            wait = (
                task.exchange.throw(answer)
                if isinstance(answer, Exception)
                else task.exchange.send(answer)
            )
        except StopIteration as stop:
            self._end(task, stop.value, ended)
        except Exception as error:  # noqa: BLE001 - not even a fault of ours in one exchange may cost the others theirs
            self._end(task, error, ended)
        else:
            try:
                self._await(task, wait)
            except Exception as error:  # noqa: BLE001 - no memory, thread or watch is left for it
                self._release(task)
                self._stop(task, error, ended)

    def _await(self, task: Task, wait: Wait | Lookup | None) -> None:
        task.waiting = wait
        if wait is None:
            self._turn.append((task, None))
        elif isinstance(wait, Lookup):
            self._names.ask(wait, task)
        else:
            for fd in wait.fds:
                self._selector.register(fd, wait.events, (task, wait))
            if wait.until < task.deadline:
                self._push(wait.until, task)

    def _release(self, task: Task) -> None:
        """Look no longer at the sockets that a task waits for."""
        if isinstance(task.waiting, Wait):
            for fd in task.waiting.fds:
                with contextlib.suppress(KeyError):  # its registration had failed
                    self._selector.unregister(fd)
        task.waiting = None

    def _stop(self, task: Task, error: Exception, ended: list[Task]) -> None:
        """End an exchange by an error, for which it may have better words."""
        try:
            task.exchange.throw(error)
        except Exception as last:  # noqa: BLE001 - whatever it ends with
            self._end(task, last, ended)
        else:
            task.exchange.close()
            self._end(task, error, ended)
        finally:
            # An error that its own frame holds is a cycle, and a pass runs without their collector.
            del error

    def _push(self, due: float, task: Task) -> None:
        self._pushed += 1
        heapq.heappush(self._due, (due, self._pushed, task))

    @staticmethod
    def _end(task: Task, result: Any, ended: list[Task]) -> None:
        task.done, task.result = True, result
        ended.append(task)


class _Names:
    """The system's resolver, which knows no deadline: asked in threads, each name once.

    Nobody waits for them at the end.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._asked: dict[Lookup, list[Task]] = {}
        self._known: dict[Lookup, Any] = {}
        self._queue: deque[Lookup] = deque()
        self._running = 0
        self._found: deque[tuple[Lookup, Any]] = deque()
        self.wake, self._bell = socket.socketpair()

    def ask(self, name: Lookup, task: Task) -> None:
        """Ask for a name, of which the task is told later.

        Raises OwnLimitError where there is no thread to do it.
        """
        if name in self._asked:
            self._asked[name].append(task)
            if name in self._known:
                self._found.append((name, self._known[name]))
                self._ring()
            return
        with self._lock:
            self._queue.append(name)
            start = self._running < self._threads
            self._running += start
        if start and not self._started():
            words = "this process can start no thread to resolve its name (can't start new thread)"
            raise OwnLimitError(words)
        self._asked[name] = [task]

    def is_queued(self, name: Lookup) -> bool:
        """Tell whether no thread has taken up a name yet."""
        with self._lock:
            return name in self._queue

    def found(self) -> Iterator[tuple[Task, Any]]:
        self.wake.recv(4096)
        while self._found:
            name, answer = self._found.popleft()
            tasks = self._asked[name]
            if own_limit(answer):  # it says nothing about the name, which may be asked again
                del self._asked[name]
            else:
                self._known[name] = answer
                self._asked[name] = []
            for task in tasks:
                yield task, answer

    def close(self) -> None:
        self.wake.close()
        self._bell.close()

    def _started(self) -> bool:
        """Start a thread for the queue.

        Where that fails others may be running, which see to it; else it is emptied.
        """
        try:
            threading.Thread(target=self._resolve, name="resolver", daemon=True).start()
        except (RuntimeError, MemoryError):
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._queue.clear()
                return self._running > 0
        return True

    def _resolve(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                name = self._queue.popleft()
            try:
                answer: Any = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
            except socket.gaierror as error:
                answer = no_descriptor() or error
            except Exception as error:  # noqa: BLE001 - whatever the resolver says of a name is that name's alone
                answer = error
            self._found.append((name, answer))
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # nobody waits any more
            self._bell.send(b".")
