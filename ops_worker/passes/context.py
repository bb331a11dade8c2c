"""What a pass is given: everything it may use of the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ops_worker import __version__
from ops_worker.core.model import Recorded
from ops_worker.core.series import latency_samples, own_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ops_worker.core.backlog import Backlog
    from ops_worker.core.model import Observation, Sample, Target, Verdict
    from ops_worker.edges.store import Store, Transaction
    from ops_worker.settings import Settings


class Context(NamedTuple):
    """The settings, the two edges, the monotonic clock in seconds, and whether nothing may be written.

    ``period_s`` is the time from one pass to the next: a loop's interval, else PASS_PERIOD. A loop also gives the metrics pass a
    backlog, where samples wait while the database is away.
    """

    settings: Settings
    observe: Callable[[Sequence[Target]], list[Observation]]
    store: Store
    clock: Callable[[], float]
    dry_run: bool = False
    backlog: Backlog | None = None
    period_s: float = 60.0

    @property
    def origin(self) -> dict[str, str]:
        """What names this pass to a person who asks later: its job and pod, where it has them, and the version."""
        names = {"job": self.settings.job_name, "pod": self.settings.hostname, "version": __version__}
        return {key: name for key, name in names.items() if name}

    def watch(self, transaction: Transaction, name: str, other: str, begun: float, until: datetime | None) -> Recorded:
        """Look after the other pass, by the worker's own figures, where both are wanted.

        In a maintenance none opens. A dry run gives what would be opened or closed.
        """
        if not (self.settings.record_own_metrics and self.settings.system_alert_enabled):
            return Recorded((), (), ())
        switches = {"may_open": until is None, "dry_run": self.dry_run}
        return transaction.watch(name, other, begun, self.origin, **switches)

    def own(self, name: str, verdicts: Sequence[Verdict], begun: float, *, maintenance: bool | None = None) -> list[Sample]:
        """Give the worker's own figures of a pass that began at that moment, unless they are not wanted."""
        if not self.settings.record_own_metrics:
            return []
        tags = {"period_s": f"{self.period_s:g}"}
        if self.settings.shard_count > 1:
            tags["shard"] = f"{self.settings.job_completion_index}/{self.settings.shard_count}"
        return own_samples(name, verdicts, self.clock() - begun, tags, maintenance=maintenance)

    def latencies(self, verdicts: Sequence[Verdict]) -> list[Sample]:
        """Give the latencies of the services that answered, unless they are not wanted."""
        return latency_samples(verdicts) if self.settings.record_own_metrics else []
