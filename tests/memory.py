"""A database in memory for tests of passes. It stands in for the store, without a server."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from ops_worker import settings
from ops_worker.adapters.postgres.transaction import Transaction
from ops_worker.core.sightings import Sightings
from ops_worker.errors import StillRecordingError
from ops_worker.passes import Context, function_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pytest

    from ops_worker.core.model import Observation, Outcome, Target

R = TypeVar("R")

NOW = datetime(2026, 3, 10, 15, 20, tzinfo=UTC)
"""The clock of the database when a test begins."""
BEGUN_S = 1000.0
"""The monotonic clock of a pass when a test begins, in seconds."""


class Rows(list[Any]):
    """The rows of a statement, as a cursor returns them."""

    def fetchone(self) -> Any:
        """Return the first row; None if there is none."""
        return self[0] if self else None

    def fetchall(self) -> list[Any]:
        """Return all rows."""
        return self


class MemoryTransaction(Transaction):
    """A transaction whose statements a database in memory answers."""

    def __init__(self, memory: Memory, installation: str) -> None:
        """Begin at the clock of the database."""
        survey = {
            "read_at": memory.moment,
            "now": NOW + timedelta(seconds=memory.moment - BEGUN_S),
            "present": memory.tables,
            "hidden": (),
        }
        connection: Any = SimpleNamespace(pipeline=contextlib.nullcontext)
        super().__init__(connection, survey, installation)
        self._memory = memory

    def execute(self, name: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a statement by its name."""
        parameters = parameters or {}
        self._memory.statements.append((name, parameters))
        return Rows(self._memory.answer(name, parameters))

    def query(
        self, row_type: type[R], name: str, parameters: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the answer to a statement by its name. Its rows have their type already."""
        rows = self.execute(name, parameters)
        assert all(isinstance(row, row_type) for row in rows)
        return rows

    @contextlib.contextmanager
    def _savepoint(self) -> Iterator[None]:
        """Run optional work as if it were required: there is no connection."""
        yield


class Memory:
    """A database in memory. A test says in ``answer`` what the statements of its pass return.

    - ``moment``: the monotonic clock of the pass, in seconds. It advances as a test says.
    - ``tables``: the tables that exist.
    - ``statements``: the name and the parameters of every statement, in order.
    - ``sightings``: where passes wait for the ledger, as in a loop.
    - ``locked_after``: the number of transactions after which another process has the lock.
    """

    def __init__(self) -> None:
        """Create a database without tables."""
        self.moment = BEGUN_S
        self.tables: set[str] = set()
        self.statements: list[tuple[str, Mapping[str, Any]]] = []
        self.sightings = Sightings()
        self.locked_after = 1000
        self.lock_holder: Any = None
        self.installation = ""
        self._transactions = 0

    def answer(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Return the rows of a statement."""
        raise NotImplementedError(name)

    def write(self, _spec: object, work: Callable[[Transaction], Any], **_: object) -> Any:
        """Do the work unless another process has the lock."""
        self._transactions += 1
        if self._transactions > self.locked_after:
            return None
        return work(MemoryTransaction(self, self.installation))

    def dry_run(self, _spec: object, work: Callable[[Transaction], Any], **_: object) -> Any:
        """Do the work without a lock."""
        return work(MemoryTransaction(self, self.installation))

    def run(
        self,
        name: str,
        observe: Callable[[Sequence[Target]], list[Observation]],
        *,
        dry_run: bool = False,
        waits: bool = False,
        period_s: float = 60.0,
    ) -> Outcome:
        """Run a pass. If it ``waits``, an earlier pass of its loop is still being recorded."""
        loaded = settings.load()
        self.installation = loaded.installation
        store: Any = self
        context = Context(
            settings=loaded,
            observe=observe,
            store=store,
            clock=lambda: self.moment,
            dry_run=dry_run,
            period_s=period_s,
            sightings=self.sightings,
            recording=_still_recording if waits else contextlib.nullcontext,
        )
        return function_of(name)(context)

    def named(self, prefix: str) -> list[str]:
        """Return the names of the statements that begin with a prefix, in order."""
        return [name for name, _ in self.statements if name.startswith(prefix)]

    def parameters(self, name: str) -> list[Mapping[str, Any]]:
        """Return the parameters of each statement of this name."""
        return [parameters for statement, parameters in self.statements if statement == name]


@contextlib.contextmanager
def _still_recording() -> Iterator[None]:
    raise StillRecordingError("an earlier pass")
    yield


def without_builtin_services(env: pytest.MonkeyPatch) -> None:
    """Leave out the services of the platform. Set a password: the settings require one."""
    env.setenv("PG_PASS", "x")
    for name in ("INGEST_URL", "EVALUATOR_URL", "DISPATCHER_URL", "DELIVERY_URL"):
        env.setenv(name, "")
