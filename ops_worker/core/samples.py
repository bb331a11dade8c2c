"""Build the samples of ``system_metrics`` from verdicts and readings."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core.model import Counter, Reading, Sample, Verdict
from ops_worker.text import format_labels, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ops_worker.core.model import Figure, Target

    Part = tuple[list[Sample], list[str]]
    """Some rows of a sample, and the warnings about rows that could not be recorded."""

HEALTHY = "healthy"
"""Metric of each service: 1 if it is healthy, else 0."""
POSTGRES = "postgres"
"""The series of the database. Like the series of a service, it has a metric ``healthy``."""
OPS_WORKER = "ops_worker"
"""The series of the worker."""
PLATFORM = "platform"
"""The series of the platform's own figures."""
RESERVED = frozenset({POSTGRES, OPS_WORKER, PLATFORM})
"""Names that no service and no series of a service may have, because the worker writes them."""
PROBE_LATENCY_MS = "probe_latency_ms"
"""Metric of each service that answered: its latency in milliseconds."""
CERTIFICATE_DAYS_LEFT = "certificate_days_left"
"""Metric of each service with ``certificate_days``: whole days until its certificate ends."""
OWN_METRICS = frozenset({HEALTHY, PROBE_LATENCY_MS, CERTIFICATE_DAYS_LEFT})
"""Metrics that the worker records of services. No counter or figure may have such a name."""
PASS_SUCCESS = "pass_success"  # noqa: S105 - a metric
"""Metric of each recorded pass, always 1. Its newest row shows when a pass was last recorded."""
MAINTENANCE = "maintenance"
"""Metric of each health pass: 1 during a maintenance of all services, else 0."""
BLIND = "blind"
"""Metric of each pass with DOUBT_PASSES: 1 if the pass was blind, else 0."""
ROLLUP_BEHIND_S = "rollup_behind_s"
"""Metric of each rollup pass: seconds of complete slices that are not rolled up yet."""
MAX_COUNTERS = 200
"""The maximum number of counters of a service with ``counters = "*"``.

The answers of a service must not fill the table.
"""
MAX_ROWS = 1000
"""The maximum number of rows that the statement of a figure may return."""
MAX_FAULTS = 10
"""The maximum number of bad rows of a figure that a warning describes."""
MAX_SHARE = 0.1
"""Share of its interval, from 0 to 1, that a figure may take without a warning."""
MAX_SHOWN = 40
"""The maximum number of characters of a value in a message: enough to recognise a number."""


class CounterSeries(NamedTuple):
    """The series that are counters. All other series are gauges.

    - ``listed``: pairs of a service and a metric that is a counter.
    - ``unrestricted``: the services of which every metric is a counter, except for ``gauges``.
    """

    listed: frozenset[tuple[str, str]]
    unrestricted: frozenset[str]
    gauges: frozenset[str] = OWN_METRICS

    def includes(self, service: str, metric: str) -> bool:
        """Return whether the series of a service and metric is a counter."""
        if (service, metric) in self.listed:
            return True
        return service in self.unrestricted and metric not in self.gauges


def counter_series(targets: Iterable[Target]) -> CounterSeries:
    """Return the series that are counters.

    A series is a counter if a monitored service reports it, unless the catalogue calls it a gauge.
    """
    targets = tuple(targets)
    listed = {
        (target.series, counter.name)
        for target in targets
        for counter in target.counters or ()
        if not counter.gauge
    }
    unrestricted = {target.series for target in targets if target.counters is None}
    return CounterSeries(frozenset(listed), frozenset(unrestricted))


def service_samples(verdict: Verdict) -> tuple[list[Sample], list[str]]:
    """Return the samples of a service, and a warning for each counter that is not a finite number.

    An absent counter is recorded as 0. A counter that is not a finite number has no row. If
    ``verdict.counters`` is not an object, no counter is recorded. The counters of a degraded
    service are recorded if it answered with an expected status.
    """
    target, reported = verdict.target, verdict.counters
    samples: list[Sample] = []
    warnings: list[str] = []
    if isinstance(reported, dict):
        counters = target.counters
        if counters is None:
            counters = _all_counters(reported, warnings, target.series)
        for counter in counters:
            reported_value = _counter_value(counter, reported)
            value = number(reported_value)
            if value is None:
                warnings.append(
                    f"{target.series}.{counter.name} not recorded: "
                    f"{_shown(reported_value)} is not a finite number"
                )
            else:
                samples.append(Sample(target.series, counter.name, value, target.tags))
    elif verdict.healthy:
        warnings.append(
            f"{target.series}: counters not recorded: {_shown(reported)} is not a JSON object"
        )
    samples.append(Sample(target.series, HEALTHY, float(verdict.healthy), target.tags))
    return samples, warnings


def _counter_value(counter: Counter, reported: Mapping[str, Any]) -> Any:
    """Return the value at the first key of the counter that exists; 0 if none exists."""
    keys = counter.keys or (counter.name,)
    key = next((key for key in keys if key in reported), None)
    return 0 if key is None else reported[key]


def figure_samples(
    readings: Collection[Reading] | None, period_s: float = math.inf
) -> tuple[list[Sample], list[str]]:
    """Return the samples of the database, and a warning for each figure that failed or was slow.

    A figure that failed has no sample; it is never recorded as 0. The database is healthy if it
    answered at least one figure, or if no figure was due. ``readings`` is None if the database
    could not be reached. ``period_s`` is the period of the pass in seconds.
    """
    samples: list[Sample] = []
    warnings: list[str] = []
    for reading in readings or ():
        samples.extend(reading.samples)
        warnings.extend(_figure_warnings(reading, period_s))
    samples.append(Sample(POSTGRES, HEALTHY, float(_is_database_healthy(readings))))
    return samples, warnings


def _is_database_healthy(readings: Collection[Reading] | None) -> bool:
    """Return whether the database answered a figure, or was reached and no figure was due."""
    if readings is None:
        return False
    answers = [not reading.problem and not reading.absent for reading in readings]
    return not answers or any(answers)


def _figure_warnings(reading: Reading, period_s: float) -> list[str]:
    """Return the warnings about a figure: it failed, has bad rows, or took too long."""
    name = reading.figure.name
    interval_s = reading.figure.every_s or period_s
    warnings = []
    if reading.problem and not reading.absent:
        warnings.append(f"{name} not recorded: {reading.problem}")
    if reading.faults:
        faults = "; ".join(reading.faults[:MAX_FAULTS])
        more = len(reading.faults) - MAX_FAULTS
        if more > 0:
            faults += f"; and {more} more"
        warnings.append(f"{name}: {len(reading.faults)} of its rows not recorded: {faults}")
    if reading.took_s > MAX_SHARE * interval_s:
        warnings.append(
            f"{name} took {reading.took_s * 1000:.0f} ms, "
            f"{reading.took_s / interval_s:.0%} of its interval of {interval_s:g} s: "
            "set `every` in the catalogue, or see `ops-worker init-db --indexes`"
        )
    return warnings


def distinct(parts: Iterable[Part]) -> list[Part]:
    """Return the parts without second rows of a series, with a warning about removed rows.

    If a series had two rows with the same time, readers would disagree about its value. Rows of the
    worker's own series are removed as well. Only the statement of a figure can return such rows.
    """
    keys: set[tuple[str, str, str]] = set()
    distinct_parts = []
    for samples, warnings in parts:
        unique: list[Sample] = []
        removed: dict[str, list[str]] = {}
        for sample in samples:
            tags = json.dumps(dict(sample.tags), sort_keys=True) if sample.tags else ""
            key = (sample.service, sample.metric, tags)
            if key in keys or sample.service == OPS_WORKER:
                removed.setdefault(sample.metric, []).append(sample.service)
            else:
                keys.add(key)
                unique.append(sample)
        removal_warnings = [
            f"{one_line(services[0])}.{metric} not recorded (such rows: {len(services)}): "
            "the series is the worker's own, or already has a row in this sample"
            for metric, services in removed.items()
        ]
        distinct_parts.append((unique, [*warnings, *removal_warnings]))
    return distinct_parts


def shape_fault(columns: Sequence[str]) -> str:
    """Return the fault of the columns that a figure's statement returns; empty without a fault."""
    permitted = {"value", "service", "tags"}
    if "value" in columns and permitted.issuperset(columns):
        return ""
    return (
        f"returns {', '.join(columns)}; "
        "it must return `value`, or rows of `service`, `value` and `tags`"
    )


def samples_of(
    figure: Figure, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Return the samples of a figure from the rows of its statement, and one fault per bad row.

    If there is a column `service`, a bad row does not affect the other rows. Raises ValueError if
    no row can be used: there are wrong columns or too many rows, or the only row is bad.
    """
    fault = shape_fault(columns)
    if fault:
        raise ValueError(fault)
    if len(rows) > MAX_ROWS:
        raise ValueError(f"returns more than {MAX_ROWS} rows")
    if "service" in columns:
        return _samples_by_service(figure, rows)
    if len(rows) != 1:
        count = len(rows) or "no"
        raise ValueError(
            f"returns {count} rows; without a column `service` it must return exactly one"
        )
    return (_sample(figure, rows[0], figure.series),), ()


def _samples_by_service(
    figure: Figure, rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Return the samples of rows with a column `service`, and one fault per bad row."""
    samples: dict[tuple[str, str], Sample] = {}
    faults: list[str] = []
    for row_number, row in enumerate(rows, 1):
        service = "" if row["service"] is None else str(row["service"])
        try:
            sample = _sample(figure, row, service)
            key = (service, json.dumps(sample.tags, sort_keys=True))
            if key in samples:
                raise ValueError("has the `service` and `tags` of an earlier row")  # noqa: TRY301
            samples[key] = sample
        except ValueError as error:
            name = one_line(service + format_labels(row.get("tags")))
            subject = f"row {row_number} ({name})" if name else f"row {row_number}"
            faults.append(f"{subject} {error}")
    return tuple(samples.values()), tuple(faults)


def _sample(figure: Figure, row: Mapping[str, Any], service: str) -> Sample:
    """Return the sample of a row. Raises ValueError with the fault of a bad row."""
    if not service:
        raise ValueError("has no `service`")
    value, tags = row["value"], row.get("tags")
    if isinstance(value, Decimal):
        value = float(value)
    double = number(value)
    if double is None:
        raise ValueError(f"returns {_shown(value)}, which is not a finite number")
    if not isinstance(tags, (dict, type(None))):
        raise ValueError("returns `tags` that are not a JSON object")  # noqa: TRY004 - bad data
    return Sample(service, figure.metric, double, {**figure.tags, **(tags or {})})


def self_metrics(  # noqa: PLR0913 - what a pass was, and two flags
    name: str,
    verdicts: Sequence[Verdict],
    duration_s: float,
    tags: Mapping[str, str],
    *,
    maintenance: bool | None = None,
    blind: bool | None = None,
) -> list[Sample]:
    """Return the self-metrics of a pass that is about to commit.

    A failed pass writes no self-metrics, so their absence shows the failure. ``tags`` include the
    period of the pass: a reader needs it to see that the pass has stopped. ``maintenance`` and
    ``blind`` are None if the pass does not record them. A blind pass has no metric
    ``services_unhealthy``, because it does not know the number.
    """
    metrics = {"pass_duration_ms": duration_s * 1000, PASS_SUCCESS: 1.0}
    if not blind:
        metrics["services_unhealthy"] = float(sum(not verdict.healthy for verdict in verdicts))
    if blind is not None:
        metrics[BLIND] = float(blind)
    if maintenance is not None:
        metrics[MAINTENANCE] = float(maintenance)
    return [
        Sample(OPS_WORKER, metric, value, {"pass": name, **tags})
        for metric, value in metrics.items()
    ]


def latency_samples(verdicts: Iterable[Verdict]) -> list[Sample]:
    """Return the latency of each service that answered, in milliseconds."""
    return [
        Sample(
            verdict.target.series, PROBE_LATENCY_MS, float(verdict.latency_ms), verdict.target.tags
        )
        for verdict in verdicts
        if verdict.latency_ms is not None
    ]


def certificate_samples(verdicts: Iterable[Verdict]) -> list[Sample]:
    """Return the days left of each certificate that was read."""
    return [
        Sample(
            service=verdict.target.series,
            metric=CERTIFICATE_DAYS_LEFT,
            value=float(verdict.certificate_days_left),
            tags=verdict.target.tags,
        )
        for verdict in verdicts
        if verdict.certificate_days_left is not None
    ]


def number(value: Any) -> float | None:
    """Return a value as a double for ``system_metrics``, or None if it is not a finite number."""
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        double = float(value)
    except OverflowError:  # an integer that is too large for a double
        return None
    return double if math.isfinite(double) else None


def _all_counters(
    reported: Mapping[str, Any], warnings: list[str], series: str
) -> tuple[Counter, ...]:
    """Return a counter for every finite number that a service reported, at most MAX_COUNTERS.

    Add a warning to ``warnings`` if there are more numbers.
    """
    # The keys by name: one_line may give two keys the same name, and then the first one counts.
    keys: dict[str, str] = {}
    for key, value in reported.items():
        if number(value) is not None:
            keys.setdefault(one_line(key), key)
    counters = [Counter(name, (key,)) for name, key in keys.items() if name not in OWN_METRICS]
    if len(counters) > MAX_COUNTERS:
        warnings.append(
            f"{series}: {len(counters)} counters reported, only the first {MAX_COUNTERS} recorded: "
            "list the counters to record in the catalogue"
        )
    return tuple(counters[:MAX_COUNTERS])


def _shown(value: Any) -> str:
    """Return a value for a message, at most MAX_SHOWN characters of it."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = "null" if value is None else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
