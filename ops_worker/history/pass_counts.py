"""Count how often each pass was recorded and missed in a long period, without its samples.

The rollup has the number of records. The ledger has the runs, with the number of passes in each.
Within a run, the number of missed passes is the number of periods without a pass. Between two runs,
the rule of the statement ``ran`` counts. The result may be wrong by one for each run, because the
times of passes vary. A pass that a person starts may also hide a missed pass.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.installations import DEFAULT
from ops_worker.core.samples import OPS_WORKER, PASS_SUCCESS
from ops_worker.core.shards import UNDIVIDED
from ops_worker.core.staleness import DEFAULT_PERIOD_S, PERIOD_PATTERN, stale_after_s
from ops_worker.history.rows import PassCountRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.ledger import Run
    from ops_worker.history.rows import JsonValue
    from ops_worker.history.series import Series


class Records(NamedTuple):
    """The records of a pass or shard: the first and last time, the number, and the periods in s.

    ``first`` and ``last`` may be too early, by up to ``first_s`` and ``last_s`` seconds.
    """

    first: datetime
    last: datetime
    number: int
    periods: frozenset[float]
    first_s: float = 0.0
    last_s: float = 0.0


def pass_counts(
    series: Iterable[Series], runs: Mapping[str, Sequence[Run]], installation: str = DEFAULT
) -> list[PassCountRow]:
    """Return how often each pass or shard was recorded and how often missed, sorted by name.

    ``runs`` has the runs of each pass that is in the ledger. If they do not cover the whole time,
    the number of missed passes is estimated from the time between the first and the last record.
    The estimate is the least number: a pass that was not due, or a pass with a shorter period, may
    hide a missed pass. Only passes of ``installation`` count.
    """
    counts = []
    own_series = [item for item in series if _is_of(item, installation)]
    by_pass = sorted(_records(own_series).items(), key=lambda item: (item[0][0], item[0][1] or ""))
    for (name, shard), records in by_pass:
        runs_of_shard = [run for run in runs.get(name, ()) if run.shard == (shard or UNDIVIDED)]
        missed = missed_in_runs(runs_of_shard, records)
        is_least = missed is None
        if missed is None:
            length_s = _seconds(records.first, records.last) - records.first_s
            periods = round(length_s / max(records.periods))
            missed = max(0, periods - (records.number - 1))
        counts.append(
            PassCountRow(
                name=name,
                shard=shard,
                first=records.first,
                last=records.last,
                recorded=records.number,
                missed=missed,
                missed_is_least=is_least,
            )
        )
    return counts


def _is_of(item: Series, installation: str) -> bool:
    """Return whether a series belongs to an installation, by its tags."""
    tags = item.tags if isinstance(item.tags, dict) else {}
    return bool(tags.get("installation", DEFAULT) == installation)


def _records(series: Iterable[Series]) -> dict[tuple[str, str | None], Records]:
    """Return the records of each pass and shard. The tags of a series name its pass."""
    records: dict[tuple[str, str | None], Records] = {}
    for item in series:
        is_record = (item.service, item.metric) == (OPS_WORKER, PASS_SUCCESS)
        if not is_record or not isinstance(item.tags, dict) or item.tags.get("pass") is None:
            continue
        shard = item.tags.get("shard")
        key = (str(item.tags["pass"]), None if shard is None else str(shard))
        records_of_series = Records(
            first=item.first,
            last=item.last,
            number=sum(bucket.samples for bucket in item.buckets.values()),
            periods=frozenset([_period_s(item.tags)]),
            first_s=item.first_s,
            last_s=item.last_s,
        )
        records[key] = _joined(records.get(key), records_of_series)
    return records


def _joined(before: Records | None, added: Records) -> Records:
    if before is None:
        return added
    first = min(before, added, key=lambda records: records.first)
    last = max(before, added, key=lambda records: records.last)
    return Records(
        first=first.first,
        last=last.last,
        number=before.number + added.number,
        periods=before.periods | added.periods,
        first_s=first.first_s,
        last_s=last.last_s,
    )


def _period_s(tags: Mapping[str, JsonValue]) -> float:
    """Return the period in the tags of a record, in seconds, by the rule of the SQL statements."""
    period = str(tags.get("period_s"))
    return (float(period) if re.fullmatch(PERIOD_PATTERN, period) else 0) or DEFAULT_PERIOD_S


def missed_in_runs(runs: Iterable[Run], records: Records) -> int | None:
    """Return how many passes were missed between the first and last record, by these runs.

    Return None if the runs do not cover that time.
    """
    in_order = sorted((run for run in runs if run.period_s > 0), key=lambda run: run.first_at)
    in_order = [run for run in in_order if _overlaps(run, records)]
    if not in_order:
        return None
    patience_s = max(stale_after_s(run.period_s) for run in in_order)
    missing_s = [
        _seconds(records.first, in_order[0].first_at) - records.first_s,
        _seconds(max(run.last_at for run in in_order), records.last),
    ]
    if max(missing_s) > patience_s:
        return None
    missed = sum(_missed_in(run) for run in in_order)
    if in_order[0].first_at < records.first:
        missed += _missed_in_end(in_order, records) - _missed_in(in_order[0])
    for before, after in pairwise(in_order):
        period_s = max(before.period_s, after.period_s)
        missed += max(0, round(_seconds(before.last_at, after.first_at) / period_s) - 1)
    return missed


def _overlaps(run: Run, records: Records) -> bool:
    """Return whether a run has passes between the first and last record.

    A run has the times of sights. They are later than the time of a record, at which the pass
    began. So a run may begin after the last record, by at most ``stale_after_s``.
    """
    after_s = _seconds(records.last, run.first_at) - records.last_s
    return run.last_at >= records.first and after_s <= stale_after_s(run.period_s)


def _missed_in(run: Run) -> int:
    """Return how many passes were missed within a run."""
    periods = round(_seconds(run.first_at, run.last_at) / run.period_s)
    return max(0, periods - (run.passes - 1))


def _missed_in_end(runs: Sequence[Run], records: Records) -> int:
    """Return how many passes the first run missed after the first record.

    The run began before the first record. Its passes after this record are the records that are in
    no later run. The result is at most the number of passes that the whole run missed, whatever the
    number of records is.
    """
    run, *later = runs
    passes = records.number - sum(run.passes for run in later)
    periods = round(_seconds(records.first, run.last_at) / run.period_s)
    return min(max(0, periods - (passes - 1)), _missed_in(run))


def _seconds(begun: datetime, ended: datetime) -> float:
    return (ended - begun).total_seconds()
