"""Run many exchanges in one thread, each with its own deadline.

An exchange is a generator. It yields what it waits for: a ``Wait`` for its sockets, a ``Lookup`` of
a name, or None to let other exchanges run first. It yields SIGN when a packet came back.

One thread with a selector costs a fifth of the CPU time of one thread per probe. It also sees bytes
as soon as they arrive: one turn of the loop starts or resumes only one exchange, then polls the
sockets again. So the work of other exchanges adds little to a measured latency.
See docs/decisions/0002-probe-reactor.md.
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
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MIN_RESOLVERS, MAX_RESOLVERS = 16, 256
"""Bounds of the number of threads that resolve names.

Within the bounds, it is twice the number of concurrent probes. A thread that hangs in the system's
resolver cannot be stopped, so a few hanging threads must not use up all threads.
"""

TICK_S = 0.25
"""The longest wait for sockets, in seconds. A longer turn shows that this process was not run."""
GAP_S = 0.05
"""A turn counts as a stall if it is longer than its wait by more than this, in seconds.

A turn works for a few milliseconds at most. A cgroup that throttles a process stops it for nearly
a whole period of its quota, by default 100 ms.
"""
DRAIN_S = 1.0
"""Seconds after a stall in which answers waiting in sockets are read before deadlines count."""

_NO_FREE_THREAD = "no thread was free to resolve its name: all of them hang on other names"
_NO_THREAD = "this process cannot start a thread to resolve its name (can't start new thread)"


class Wait(NamedTuple):
    """Wait until one of the sockets is ready, or until a moment of the monotonic clock (seconds).

    The exchange receives the file descriptor of the ready socket, or None at that moment.
    """

    fds: tuple[int, ...]
    events: int
    until: float = math.inf


class Lookup(NamedTuple):
    """Wait until a name is resolved.

    The exchange receives the result of ``socket.getaddrinfo``. An error is thrown into it.
    """

    host: bytes
    port: int


class Sign:
    """A sign of life: a packet came back from the network. The exchange continues at once."""


SIGN = Sign()

if TYPE_CHECKING:
    Step = Wait | Lookup | Sign | None
    Exchange = Generator[Step, Any, Any]
    Entry = tuple[int, Callable[[], Exchange], float]


class Job(NamedTuple):
    """An exchange to start: its key, the function that creates it, and its deadline in seconds.

    ``limit`` is the error of an earlier attempt that failed by a limit of this process.
    """

    key: int
    make: Callable[[], Exchange]
    deadline_s: float
    limit: Exception | None = None


class Task:
    """An exchange that has started.

    ``result`` is its return value or the exception that ended it: TimeoutError at its deadline.
    ``sign`` is whether a packet came back. ``stalled_s`` is the time in seconds since its start in
    which this process was not run. While the exchange runs, ``stalled_s`` is instead the total of
    the reactor at its start.
    """

    def __init__(
        self, job: Job, exchange: Exchange, deadline: float, stalled_s: float = 0.0
    ) -> None:
        self.job = job
        self.exchange = exchange
        self.deadline = deadline
        self.waiting: Wait | Lookup | None = None
        self.done = False
        self.result: Any = None
        self.sign = False
        self.stalled_s = 0.0
        self._stalled_before_s = stalled_s

    @property
    def key(self) -> int:
        """The key of its job."""
        return self.job.key

    def end(self, result: Any, stalled_s: float) -> None:
        """Store the result, and the time since its start in which this process was not run.

        ``stalled_s`` is the total of the reactor, in seconds.
        """
        self.done = True
        self.result = result
        self.stalled_s = stalled_s - self._stalled_before_s

    def release(self) -> None:
        """Release the generator and its result.

        The task itself stays in the deadline heap until it expires.
        """
        self.result = None
        self.exchange.close()
        del self.exchange


class Reactor:
    """Runs exchanges, at most ``concurrency`` at the same time.

    Raises OSError if the process has no file descriptors for its selector and sockets.
    """

    def __init__(self, concurrency: int) -> None:
        self._max_concurrency = self._concurrency = concurrency
        self._resolver = _Resolver(min(max(MIN_RESOLVERS, 2 * concurrency), MAX_RESOLVERS))
        try:
            self._selector = selectors.DefaultSelector()
        except BaseException:
            # No file descriptor is free for the selector. Close the sockets of the resolver.
            self._resolver.close()
            raise
        # Moment, sequence number (so that tasks are never compared), task.
        self._deadlines: list[tuple[float, int, Task]] = []
        self._sequence = 0
        # Tasks to resume, each with what its exchange receives.
        self._ready: deque[tuple[Task, Any]] = deque()
        self._stalls = _Stalls()

    def run(self, entries: Iterable[Entry], last_end: float) -> Iterator[Task]:
        """Run exchanges; yield the task of each exchange when it ends. Can be called once.

        An entry is a key, a function that creates the exchange, and its deadline in seconds. The
        first ``concurrency`` exchanges start at once. A further exchange starts only if its
        deadline ends before ``last_end``, a moment of the monotonic clock.

        An exchange that ends because of a limit of this process is repeated after other exchanges
        have ended and released their resources. Until then, no exchange starts. Afterwards, each
        exchange that ends without reaching a limit raises the concurrency by one.
        """
        self._selector.register(self._resolver.receiver, READ, self._resolver)
        queue = deque(Job(*entry) for entry in entries)
        first = min(self._concurrency, len(queue))
        active = started = 0
        self._stalls.begin(time.monotonic())
        try:
            while queue or active:
                if started >= first and self._is_late(queue, last_end):
                    yield from self._abandon(queue)
                    queue.clear()
                    continue
                ended: list[Task] = []
                if queue and active < self._concurrency:
                    active += 1
                    started += 1
                    self._start(queue.popleft(), ended)
                elif self._ready:
                    self._resume(*self._ready.popleft(), ended)
                can_start = queue and active < self._concurrency
                self._poll(ended, at_once=bool(can_start or self._ready or ended))
                active -= len(ended)
                for task in ended:
                    if not self._is_to_repeat(task, active, queue):
                        yield task
                    task.release()
        finally:
            self._selector.close()
            self._resolver.close()

    def _is_to_repeat(self, task: Task, active: int, queue: deque[Job]) -> bool:
        """Return whether a task is to be repeated because of a limit of this process.

        If so, queue its job again, and set the concurrency to the number of ``active`` tasks. If no
        other task is active, a repetition would not help.
        """
        if active and own_limit(task.result):
            self._concurrency = active
            # Without the traceback, which would keep the exchange and its sockets alive.
            queue.append(task.job._replace(limit=task.result.with_traceback(None)))
            return True
        self._concurrency = min(self._concurrency + 1, self._max_concurrency)
        return False

    def _start(self, job: Job, ended: list[Task]) -> None:
        deadline = time.monotonic() + job.deadline_s
        task = Task(job, job.make(), deadline, self._stalls.total_s)
        self._push_deadline(deadline, task)
        self._resume(task, None, ended)

    @staticmethod
    def _is_late(queue: Sequence[Job], last_end: float) -> bool:
        """Return whether the next job would end too late."""
        return bool(queue) and time.monotonic() + queue[0].deadline_s > last_end

    @staticmethod
    def _abandon(queue: Iterable[Job]) -> Iterator[Task]:
        """Yield a task for each job that failed by a limit before, with this limit as its result.

        Jobs that were never started yield nothing.
        """
        for job in queue:
            if job.limit is not None:
                task = Task(job, job.make(), 0.0)
                task.result = job.limit
                yield task
                task.release()

    def _poll(self, ended: list[Task], *, at_once: bool) -> None:
        """Wait until a socket is ready or a deadline is reached; resume the tasks that waited."""
        timeout = TICK_S
        if at_once:
            timeout = 0.0
        elif self._deadlines:
            timeout = min(TICK_S, max(0.0, self._deadlines[0][0] - time.monotonic()))
        events = self._selector.select(timeout)
        is_stalled = self._stalls.turn(time.monotonic(), timeout)
        if is_stalled and not events:
            # A process that was stopped continues by a signal. Python may then end the wait without
            # polling the sockets.
            events = self._selector.select(0.0)
        for key, _ in events:
            if key.data is self._resolver:
                self._ready.extend(self._resolver.answers())
                continue
            task, wait = key.data
            if task.waiting is wait:  # else another socket of the same wait has resumed the task
                self._unregister(task)
                self._resume(task, key.fd, ended)
        now = time.monotonic()
        # The process may also be stopped while tasks are resumed.
        is_stalled = self._stalls.turn(now, 0.0)
        # Answers that arrived while this process was not run still count.
        if self._stalls.drains(now, busy=bool(is_stalled or events or self._ready)):
            return
        while self._deadlines and self._deadlines[0][0] <= now:
            moment, _, task = heapq.heappop(self._deadlines)
            if not task.done:
                self._expire(task, moment, ended)

    def _expire(self, task: Task, moment: float, ended: list[Task]) -> None:
        """Resume a task whose wait ends now, or stop it at its deadline."""
        wait = task.waiting
        if moment < task.deadline:
            if isinstance(wait, Wait) and wait.until == moment:  # else that wait has ended
                self._unregister(task)
                self._resume(task, None, ended)
            return
        self._unregister(task)
        # No thread was free to resolve the name, so nothing is known about the service.
        if isinstance(wait, Lookup) and self._resolver.is_queued(wait):
            self._stop(task, OwnLimitError(_NO_FREE_THREAD), ended)
        else:
            self._stop(task, TimeoutError(), ended)

    def _resume(self, task: Task, answer: Any, ended: list[Task]) -> None:
        """Run an exchange until it waits again or ends.

        If the answer is an exception, throw it into the exchange.
        """
        # The deadline may have passed while the answer was in the queue.
        if task.done:
            return
        task.waiting = None
        try:
            wait = self._step(task, answer)
        except StopIteration as stop:
            self._finish(task, stop.value, ended)
        except Exception as error:  # noqa: BLE001 - a bug in one exchange must not end the others
            self._finish(task, error, ended)
        else:
            try:
                self._await(task, wait)
            except Exception as error:  # noqa: BLE001 - no memory, thread or epoll watch is left
                self._unregister(task)
                self._stop(task, error, ended)

    @staticmethod
    def _step(task: Task, answer: Any) -> Wait | Lookup | None:
        """Run an exchange until it yields what it waits for; note its signs of life."""
        step: Step
        if isinstance(answer, Exception):
            step = task.exchange.throw(answer)
        else:
            step = task.exchange.send(answer)
        while isinstance(step, Sign):
            task.sign = True
            step = task.exchange.send(None)
        return step

    def _await(self, task: Task, wait: Wait | Lookup | None) -> None:
        """Register what an exchange waits for."""
        task.waiting = wait
        if wait is None:
            self._ready.append((task, None))
        elif isinstance(wait, Lookup):
            self._resolver.ask(wait, task)
        else:
            for fd in wait.fds:
                self._selector.register(fd, wait.events, (task, wait))
            if wait.until < task.deadline:
                self._push_deadline(wait.until, task)

    def _unregister(self, task: Task) -> None:
        """Stop polling the sockets that a task waits for."""
        if isinstance(task.waiting, Wait):
            for fd in task.waiting.fds:
                with contextlib.suppress(KeyError):  # the registration of the socket had failed
                    self._selector.unregister(fd)
        task.waiting = None

    def _stop(self, task: Task, error: Exception, ended: list[Task]) -> None:
        """End an exchange with an error. The exchange may raise a more specific error instead."""
        try:
            task.exchange.throw(error)
        except Exception as final_error:  # noqa: BLE001 - any error is a result
            self._finish(task, final_error, ended)
        else:
            task.exchange.close()
            self._finish(task, error, ended)
        finally:
            # Break a reference cycle: the error refers to this frame, which refers to the error. A
            # pass runs without the cycle collector.
            del error

    def _push_deadline(self, moment: float, task: Task) -> None:
        self._sequence += 1
        heapq.heappush(self._deadlines, (moment, self._sequence, task))

    def _finish(self, task: Task, result: Any, ended: list[Task]) -> None:
        task.end(result, self._stalls.total_s)
        ended.append(task)


class _Stalls:
    """Measures the time in which this process was not run while the reactor was running.

    The process may be stopped, its cgroup may throttle it, or the machine may have no time for it.
    Moments are seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._turned = 0.0
        self._drains_until = 0.0

    def begin(self, now: float) -> None:
        """Start the measurement."""
        self._turned = now

    def turn(self, now: float, timeout: float) -> bool:
        """Record the end of a part of a turn; return whether it contained a stall.

        ``timeout`` is the timeout of its wait for sockets, in seconds.
        """
        gap_s = now - self._turned - timeout
        self._turned = now
        if gap_s <= GAP_S:
            return False
        self.total_s += gap_s
        # Do not extend the time: repeated stops must not postpone deadlines for ever.
        if not self._drains_until:
            self._drains_until = now + DRAIN_S
        return True

    def drains(self, now: float, *, busy: bool) -> bool:
        """Return whether answers that arrived during a stall are still being read."""
        if busy and now < self._drains_until:
            return True
        self._drains_until = 0.0
        return False


class _Resolver:
    """Resolves names in threads, each name once, because ``getaddrinfo`` has no timeout.

    The threads are daemon threads, so the process does not wait for them at its end. They wake the
    reactor through a pair of sockets.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._tasks: dict[Lookup, list[Task]] = {}
        self._known: dict[Lookup, Any] = {}
        # Threads append and the reactor pops. Both are atomic, so this needs no lock.
        self._answered: deque[tuple[Lookup, Any]] = deque()
        self._lock = threading.Lock()  # guards the queue and the number of threads
        self._queue: deque[Lookup] = deque()
        self._threads = 0
        self.receiver, self._sender = socket.socketpair()

    def ask(self, name: Lookup, task: Task) -> None:
        """Resolve a name for a task. ``answers`` yields the task later.

        Raises OwnLimitError if no thread can be started.
        """
        if name in self._tasks:
            self._tasks[name].append(task)
            if name in self._known:
                self._answered.append((name, self._known[name]))
                self._wake()
            return
        with self._lock:
            self._queue.append(name)
            needs_thread = self._threads < self._max_threads
            # Count the thread under the lock, before it starts: it subtracts itself at its end.
            self._threads += needs_thread
        if needs_thread and not self._start_thread():
            raise OwnLimitError(_NO_THREAD)
        # This is not too late, because only this thread calls ``answers``.
        self._tasks[name] = [task]

    def is_queued(self, name: Lookup) -> bool:
        """Return whether a name still waits for a thread."""
        with self._lock:
            return name in self._queue

    def answers(self) -> Iterator[tuple[Task, Any]]:
        """Yield every task whose name is resolved, with the addresses or the error."""
        # The bytes only wake the selector. The results are in the deque.
        self.receiver.recv(4096)
        while self._answered:
            name, answer = self._answered.popleft()
            tasks = self._tasks[name]
            if own_limit(answer):  # says nothing about the name, so it may be asked again
                del self._tasks[name]
            else:
                self._known[name] = answer
                self._tasks[name] = []
            for task in tasks:
                yield task, answer

    def close(self) -> None:
        """Close the sockets. Threads that still resolve a name are left alone."""
        self.receiver.close()
        self._sender.close()

    def _start_thread(self) -> bool:
        """Start a thread for the queue; return whether any thread works on the queue.

        If no thread does, empty the queue.
        """
        try:
            threading.Thread(target=self._work, name="resolver", daemon=True).start()
        except (RuntimeError, MemoryError):
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    self._queue.clear()
                return self._threads > 0
        return True

    def _work(self) -> None:
        """Resolve names until the queue is empty. Runs in a thread."""
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                name = self._queue.popleft()
            try:
                answer: Any = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
            except socket.gaierror as error:
                # The system's resolver reports an unknown name if it gets no file descriptor.
                answer = no_descriptor() or error
            except Exception as error:  # noqa: BLE001 - any error is the answer for this name
                answer = error
            self._answered.append((name, answer))
            self._wake()

    def _wake(self) -> None:
        """Wake the reactor: its selector polls the receiving socket."""
        with contextlib.suppress(OSError):  # the reactor has ended
            self._sender.send(b".")
