"""The ledger of a pass: what the pass saw waits until a transaction has entered it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.adapters.postgres import ledger_writes
from ops_worker.core.sightings import Sightings, seen_by_pass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.adapters.postgres import Transaction
    from ops_worker.core.model import Verdict
    from ops_worker.core.passes import PassSpec
    from ops_worker.passes.context import Context


class PassLedger:
    """What one pass enters into the ledger, together with the passes that waited before it.

    A dry run never calls ``enter``, and what it saw does not wait. Nor does a pass wait that may be
    blind, until it believes what it saw.
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
        """Prepare the entry of a pass that began at ``begun`` and has these verdicts."""
        self._context = context
        self._spec = spec
        # A single pass keeps nothing for a later one.
        self._sightings = Sightings() if context.sightings is None else context.sightings
        self._entered: int | None = None
        self._number: int | None = None
        self._verdicts = verdicts
        self._begun = begun
        if not may_be_blind:
            self.believe()

    def believe(self) -> None:
        """Add this pass to the passes that wait, unless it is already one of them."""
        if self._number is not None or self._context.dry_run:
            return
        config, _ = self._context.settings.config
        pass_entry = seen_by_pass(self._verdicts, self._begun, self._context.period_s, config)
        self._number = self._sightings.add(pass_entry)

    def enter(self, transaction: Transaction, *, is_blind: bool = False) -> None:
        """Enter all passes that wait, oldest first, in the transaction of this one.

        If this one is blind, it is not among them, and the run ends.
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
        """Remove the entered passes from those that wait. Call this after the COMMIT."""
        if self._entered is not None:
            self._sightings.discard(self._entered)

    def withdraw(self) -> None:
        """Do not enter this pass: another process has the lock, and enters its own."""
        self._sightings.withdraw(self._number)
