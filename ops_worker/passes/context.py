"""What a pass is given: everything it may use of the world."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from ops_worker import __version__
from ops_worker.core.model import Recorded
from ops_worker.core.samples import latency_samples, self_metrics
from ops_worker.core.staleness import stale_after_s
from ops_worker.errors import DatabaseError
from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.core.backlog import Backlog
    from ops_worker.core.model import Observation, Sample, Target, Verdict
    from ops_worker.settings import Settings


class Context(NamedTuple):
    """The settings, the two edges, the monotonic clock in seconds, and whether nothing may be written.

    ``period_s`` is the time from one pass to the next: a loop's interval, else PASS_PERIOD. A loop also gives the metrics pass a
    backlog, where samples wait while the database is away.

    A pass enters ``recording()`` after the network is done and before it asks the database. In a
    loop this raises StillRecordingError while an earlier pass is still in there, so that the next
    probes start on time whatever the database does.
    """

    settings: Settings
    observe: Callable[[Sequence[Target]], list[Observation]]
    store: Store
    clock: Callable[[], float]
    dry_run: bool = False
    backlog: Backlog | None = None
    period_s: float = 60.0
    recording: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def origin(self) -> dict[str, str]:
        """What names this pass to a person who asks later: its job and pod, where it has them, and the version."""
        names = {
            "job": self.settings.job_name,
            "pod": self.settings.hostname,
            "version": __version__,
        }
        return {key: name for key, name in names.items() if name}

    def require_live_holder(self, name: str) -> None:
        """Raise DatabaseError where the process that holds the lock of this pass seems to hang.

        A pass that finds the lock held is skipped, because another process does its work. A
        transaction that is older than the patience with a pass (three periods, at least 90 s) does
        no work any more, and all later passes would be skipped.
        """
        holder = self.store.lock_holder
        if holder is None or holder.held_s is None or holder.held_s <= stale_after_s(self.period_s):
            return
        waits = f", which waits for {holder.wait_event}" if holder.wait_event else ""
        raise DatabaseError(
            f"the {name} pass was skipped for too long: database process {holder.pid} "
            f"({holder.application}{waits}) has held its lock for {format_age(holder.held_s)}; look at it in "
            f"pg_stat_activity, and end it with SELECT pg_terminate_backend({holder.pid})"
        )

    def watch(
        self, transaction: Transaction, name: str, other: str, begun: float, until: datetime | None
    ) -> Recorded:
        """Look after the other pass, by the worker's own figures, where both are wanted.

        In a maintenance none opens. A dry run gives what would be opened or closed.
        """
        if not (self.settings.record_own_metrics and self.settings.system_alert_enabled):
            return Recorded((), (), ())
        switches = {"may_open": until is None, "dry_run": self.dry_run}
        return transaction.watch(name, other, begun, self.origin, **switches)

    def own(
        self,
        name: str,
        verdicts: Sequence[Verdict],
        begun: float,
        *,
        maintenance: bool | None = None,
    ) -> list[Sample]:
        """Give the worker's own figures of a pass that began at that moment, unless they are not wanted."""
        if not self.settings.record_own_metrics:
            return []
        tags = {"period_s": f"{self.period_s:g}"}
        if self.settings.shard_count > 1:
            tags["shard"] = f"{self.settings.job_completion_index}/{self.settings.shard_count}"
        return self_metrics(name, verdicts, self.clock() - begun, tags, maintenance=maintenance)

    def latencies(self, verdicts: Sequence[Verdict]) -> list[Sample]:
        """Give the latencies of the services that answered, unless they are not wanted."""
        return latency_samples(verdicts) if self.settings.record_own_metrics else []
