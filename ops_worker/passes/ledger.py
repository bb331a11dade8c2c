"""Enter a pass into the ledger. What it saw waits until a transaction has recorded it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.adapters.postgres import ledger_writes
from ops_worker.core.sightings import Sightings, pending_sighting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.core.model import Verdict
    from ops_worker.core.passes import PassSpec
    from ops_worker.passes.context import Context


class PassLedger:
    """The entry of one pass into the ledger, together with the passes that wait before it.

    A dry run never calls ``enter`` and does not wait. A pass that may be blind waits only from the
    call of ``enqueue``.
    """

    def __init__(
        self,
        context: Context,
        spec: PassSpec,
        verdicts: Sequence[Verdict],
        begun: float,
        *,
        may_be_blind: bool = False,
    ) -> None:
        """Prepare the entry of a pass with these verdicts.

        ``begun`` is the moment at which the pass began (seconds, monotonic clock).
        """
        self._context = context
        self._spec = spec
        # A single pass keeps nothing for a later one.
        self._sightings = Sightings() if context.sightings is None else context.sightings
        self._entered: int | None = None
        self._number: int | None = None
        self._verdicts = verdicts
        self._begun = begun
        if not may_be_blind:
            self.enqueue()

    def enqueue(self) -> None:
        """Add this pass to the passes that wait, unless it is already one of them."""
        if self._number is not None or self._context.dry_run:
            return
        config, _ = self._context.settings.config
        sighting = pending_sighting(self._verdicts, self._begun, self._context.period_s, config)
        self._number = self._sightings.add(sighting)

    def enter(self, transaction: Transaction, *, is_blind: bool = False) -> None:
        """Enter all waiting passes, oldest first, in the transaction of this pass.

        A blind pass is not entered itself, and ends the run.
        """
        self._entered = ledger_writes.enter(
            transaction,
            self._spec.name,
            self._context.settings.shard,
            self._sightings.waiting(),
            self._context.settings.config,
            is_blind=is_blind,
        )

    def confirm(self) -> None:
        """Remove the entered passes from the waiting ones. Call this after the COMMIT."""
        if self._entered is not None:
            self._sightings.discard(self._entered)

    def withdraw(self) -> None:
        """Remove this pass from the waiting ones: the holder of the lock enters its own pass."""
        self._sightings.withdraw(self._number)
