"""What a pass is given: everything it may use of the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ops_worker.core.backlog import Backlog
    from ops_worker.core.model import Observation, Target
    from ops_worker.edges.store import Store
    from ops_worker.settings import Settings


class Context(NamedTuple):
    """The settings, the two edges, the monotonic clock in seconds, and whether nothing may be written.

    ``period_s`` is the time from one pass to the next: a loop's interval, else that of the shortest CronJob. A loop also
    gives the metrics pass a backlog, where samples wait while the database is away.
    """

    settings: Settings
    observe: Callable[[Sequence[Target]], list[Observation]]
    store: Store
    clock: Callable[[], float]
    dry_run: bool = False
    backlog: Backlog | None = None
    period_s: float = 60.0
