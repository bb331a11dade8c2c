"""Fill the ledger once, for the time before it existed, from samples of the metrics pass.

A sample shows whether a service was healthy, but not in which way it was unhealthy. So an unhealthy
service gets the state ``unknown``. The runs have the shard SHARD, which no pass has, and no
configuration.
"""

from __future__ import annotations

import statistics
from datetime import timedelta
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.adapters.postgres.ledger_writes import read_book, write_book
from ops_worker.core.installations import DEFAULT
from ops_worker.core.ledger import HEALTHY, Sight, Sighting
from ops_worker.core.passes import METRICS
from ops_worker.core.staleness import DEFAULT_PERIOD_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from ops_worker.adapters.postgres.transaction import Transaction
    from ops_worker.core.ledger import Book, Run

SHARD = "samples"
"""The shard of the runs that this module writes."""
STEP = timedelta(hours=1)
"""The longest period whose samples one transaction reads."""
ROWS = 50_000
"""Maximum number of samples that one transaction reads.

They use about 20 MiB of memory. The container of the rollup has 128 MiB, and an hour of 1,000
services every 5 s has 720,000 samples.
"""
SAME_PERIOD = 0.1
"""The share by which two periods may differ and still count as equal.

A CronJob may start a pass late.
"""
REASON_CLASS = "sample"
REASON = "recorded as unhealthy before the ledger began"
KEY = {"pass": METRICS.name, "shard": SHARD, "installation": DEFAULT}
"""The key of these runs. Before the ledger existed, installations had no names."""


class SampleRow(NamedTuple):
    """A sample: the series of a service, and whether the service was healthy."""

    time: datetime
    series: str
    value: float


def fill(transaction: Transaction, services: Mapping[str, str]) -> bool:
    """Fill the ledger with the samples of the next step; return whether further steps remain.

    ``services`` has the name of each monitored service by its series.
    """
    book = read_book(transaction, KEY)
    filled = book.newest.last_at if book.newest else None
    parameters = {**KEY, "after": filled, "series": list(services)}
    bounds = transaction.execute("fill_bounds", parameters).fetchone()
    if bounds is None or bounds["first"] is None:
        return _end(transaction, book)
    until = min(bounds["first"] + STEP, bounds["ledger_begins"])
    rows = _samples(transaction, parameters | {"since": bounds["first"], "until": until})
    for sighting in _sightings(rows, services, book.newest):
        book.enter(sighting)
    write_book(transaction, book, KEY, ("", {}))
    return True


def _end(transaction: Transaction, book: Book) -> bool:
    """End the spans after the last step. The passes themselves enter the time after it."""
    newest = book.newest
    if newest is not None and transaction.execute("open_spans", KEY).fetchone():
        # Enter a pass that saw no service: it ends all spans with the sights of the pass before it.
        moment = newest.last_at + timedelta(microseconds=1)
        book.enter(Sighting(moment, (), newest.period_s, newest.config))
        write_book(transaction, book, KEY, ("", {}))
    return False


def _samples(transaction: Transaction, parameters: Mapping[str, Any]) -> list[SampleRow]:
    """Read the samples of whole passes, oldest first, up to the limit of one transaction."""
    # Read several passes, so that their period can be computed.
    limit = max(ROWS, 4 * len(parameters["series"]))
    step = {**parameters, "rows": limit}
    rows = transaction.query(SampleRow, "samples_to_fill", step).fetchall()
    if len(rows) < limit:
        return rows
    # Samples of the last pass may be missing, so leave it out unless it is the only pass.
    last = rows[-1].time
    return [row for row in rows if row.time != last] or rows


def _sightings(
    rows: Sequence[SampleRow], services: Mapping[str, str], newest: Run | None
) -> Iterator[Sighting]:
    """Yield what each pass saw, in order of time. ``newest`` is the run before these passes."""
    period_s = _period_s(sorted({row.time for row in rows}), newest)
    for time, group in groupby(rows, key=lambda row: row.time):
        sights = {services[row.series]: _sight(row, services[row.series]) for row in group}
        yield Sighting(time, tuple(sights.values()), period_s, "")


def _period_s(times: Sequence[datetime], newest: Run | None) -> float:
    """Return the period of passes that began at these times, in whole seconds.

    If the period is similar to that of the run before, or if there is only one pass, return the
    period of the run before. So a pass that is a little late does not begin a new run.
    """
    earlier_s = DEFAULT_PERIOD_S if newest is None else newest.period_s
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    if not gaps:
        return earlier_s
    period_s = max(1.0, float(round(statistics.median(gaps))))
    if newest is not None and abs(period_s - earlier_s) <= SAME_PERIOD * earlier_s:
        return earlier_s
    return period_s


def _sight(row: SampleRow, service: str) -> Sight:
    if row.value == 1:
        return Sight(service, row.time, HEALTHY)
    return Sight(service, row.time, "unknown", REASON_CLASS, REASON)
