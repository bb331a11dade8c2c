"""The context of a pass: everything outside the pass that it may use."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ops_worker import __version__
from ops_worker.adapters import machine
from ops_worker.adapters.postgres import doubt_rows, own_alert, pass_writes
from ops_worker.core import health
from ops_worker.core.doubt import Assessment, DoubtRow, Evidence, assess, belief_warning
from ops_worker.core.installations import tags_of
from ops_worker.core.model import Outcome, Result
from ops_worker.core.samples import certificate_samples, latency_samples, self_metrics
from ops_worker.core.staleness import DEFAULT_PERIOD_S, stale_after_s
from ops_worker.errors import DatabaseError
from ops_worker.text import format_age

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from ops_worker.adapters.postgres import Store, Transaction
    from ops_worker.core.backlog import Backlog
    from ops_worker.core.model import Observation, Recorded, Sample, Target, Verdict
    from ops_worker.core.passes import PassSpec
    from ops_worker.core.sightings import Sightings
    from ops_worker.settings import Settings

T = TypeVar("T")


class Observed(NamedTuple):
    """What a pass observed before it uses the database.

    ``outcome`` is the outcome of a pass that has written nothing. If the pass may be blind, its
    outcome has no verdicts: ``verdicts`` counts only after the database has counted the pass.
    """

    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    assessment: Assessment

    @property
    def may_be_blind(self) -> bool:
        """Whether there is a reason not to believe what the pass saw."""
        return bool(self.assessment.suspects)


class Context(NamedTuple):
    """Settings, probes, database, clock, and whether this is a dry run.

    - ``observe``: probes the targets and returns one observation for each.
    - ``clock``: the monotonic clock, in seconds.
    - ``dry_run``: whether the pass only shows what it would write.
    - ``backlog``: in a loop, holds samples while the database is not available.
    - ``sightings``: in a loop, holds passes that are not in the ledger yet.
    - ``period_s``: seconds from one pass to the next: the interval of a loop, else PASS_PERIOD.
    - ``recording``: a pass uses the database inside ``with recording():``, after its probes. In a
      loop, this raises StillRecordingError while an earlier pass is still being recorded. So the
      next probes begin on time, however slow the database is.
    """

    settings: Settings
    observe: Callable[[Sequence[Target]], list[Observation]]
    store: Store
    clock: Callable[[], float]
    dry_run: bool = False
    backlog: Backlog | None = None
    period_s: float = DEFAULT_PERIOD_S
    recording: Callable[[], AbstractContextManager[None]] = nullcontext
    sightings: Sightings | None = None

    @property
    def origin(self) -> dict[str, str]:
        """What identifies this pass: its version, and its job, pod and installation if named."""
        names = {
            "job": self.settings.job_name,
            "pod": self.settings.hostname,
            "version": __version__,
        }
        named = {key: name for key, name in names.items() if name}
        return named | tags_of(self.settings.installation)

    def observed(self, spec: PassSpec) -> Observed:
        """Probe and judge the services."""
        targets = self.settings.targets
        assessment = self._assessed(targets)
        verdicts = health.judge_all(assessment.observations)
        outcome = Outcome(
            name=spec.name,
            result=Result.SKIPPED,
            verdicts=() if assessment.suspects else verdicts,
            unprobed=health.not_probed(verdicts, targets),
            unprobed_because=health.not_probed_reasons(assessment.observations, targets),
        )
        return Observed(outcome, verdicts, assessment)

    def _assessed(self, targets: Sequence[Target]) -> Assessment:
        """Probe the services. With DOUBT_PASSES, look for reasons to doubt the observations."""
        if not self.settings.doubt_passes:
            return Assessment(tuple(self.observe(targets)))
        before_s = machine.throttled_s()
        observations = self.observe(targets)
        after_s = machine.throttled_s()
        throttled_s = None
        if before_s is not None and after_s is not None:
            throttled_s = after_s - before_s
        return assess(observations, targets, Evidence(throttled_s, machine.nameservers()))

    def settle_doubt(
        self, transaction: Transaction, spec: PassSpec, assessment: Assessment
    ) -> DoubtRow | None:
        """Judge whether this pass is blind, and count it; return its row.

        Return None if the pass does not doubt what it saw.
        """
        if not self.settings.doubt_passes:
            return None
        transaction.warnings.extend(assessment.warnings)
        before = DoubtRow(
            spec.name,
            self.settings.shard,
            period_s=self.period_s,
            installation=self.settings.installation,
        )
        row = doubt_rows.settle(
            transaction, assessment, before, self.settings.doubt_passes, dry_run=self.dry_run
        )
        if row is not None and (warning := belief_warning(row)):
            transaction.warnings.append(warning)
        return row

    def transact(
        self,
        spec: PassSpec,
        work: Callable[[Transaction], T],
        optional_tables: Sequence[str],
    ) -> T | None:
        """Run ``work`` in the transaction of a pass; return None if another process holds its lock.

        A dry run takes no lock and cannot write. Raises DatabaseError or SchemaError.
        """
        transact = self.store.dry_run if self.dry_run else self.store.write
        return transact(spec.transaction, work, optional_tables=optional_tables)

    def require_live_holder(self, name: str) -> None:
        """Raise DatabaseError if the process that holds the lock of this pass seems to hang.

        A pass is skipped while another process holds its lock, because that process does the work.
        If the transaction of that process is older than three periods (at least 90 s), the process
        seems to hang. Without this error, every later pass would be skipped silently.
        """
        holder = self.store.lock_holder
        if holder is None or holder.held_s is None or holder.held_s <= stale_after_s(self.period_s):
            return
        waits = f", which waits for {holder.wait_event}" if holder.wait_event else ""
        raise DatabaseError(
            f"the {name} pass is skipped: database process {holder.pid} "
            f"({holder.application}{waits}) has held its lock for {format_age(holder.held_s)} "
            "and seems to hang; find it in pg_stat_activity and end it with "
            f"SELECT pg_terminate_backend({holder.pid})"
        )

    def watch_peers(
        self,
        transaction: Transaction,
        spec: PassSpec,
        begun: float,
        *,
        may_open: bool,
        doubt: DoubtRow | None = None,
    ) -> Recorded:
        """Open or close the worker's own alert: it is open while a pass has stopped or is blind.

        ``begun`` is the moment at which this pass began (seconds, monotonic clock). ``doubt`` is
        the row of this pass if it doubts what it saw. Do nothing if system alerts are off. Without
        self-metrics, this pass cannot detect that another pass has stopped.
        """
        if not self.settings.system_alert_enabled:
            return pass_writes.NOTHING
        return own_alert.update(
            transaction,
            own_alert.Watch(
                name=spec.name,
                begun=begun,
                origin=self.origin,
                may_open=may_open,
                peers=self.settings.record_own_metrics,
                doubt=doubt,
                dry_run=self.dry_run,
                resumed_at=None if self.backlog is None else self.backlog.resumed_at,
            ),
        )

    def self_metrics(
        self,
        spec: PassSpec,
        verdicts: Sequence[Verdict],
        begun: float,
        *,
        maintenance: bool | None = None,
        blind: bool = False,
    ) -> list[Sample]:
        """Return the self-metrics of a pass that began at the moment ``begun``; none if off.

        ``begun`` is in seconds of the monotonic clock.
        """
        if not self.settings.record_own_metrics:
            return []
        # Readers use the period to judge whether this pass has stopped.
        tags = {"period_s": f"{self.period_s:g}"} | tags_of(self.settings.installation)
        if spec.sharded and self.settings.shard_count > 1:
            tags["shard"] = f"{self.settings.job_completion_index}/{self.settings.shard_count}"
        duration_s = self.clock() - begun
        return self_metrics(
            spec.name,
            verdicts,
            duration_s,
            tags,
            maintenance=maintenance,
            blind=blind if self.settings.doubt_passes and spec.probes else None,
        )

    def latencies(self, verdicts: Sequence[Verdict]) -> list[Sample]:
        """Return the latency of every service that answered; none if self-metrics are off."""
        return latency_samples(verdicts) if self.settings.record_own_metrics else []

    def certificates(self, verdicts: Sequence[Verdict]) -> list[Sample]:
        """Return the days left of every certificate; none if self-metrics are off."""
        return certificate_samples(verdicts) if self.settings.record_own_metrics else []
