"""From verdicts and readings to the samples of ``system_metrics``."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ops_worker.core.model import Counter, Reading, Sample, Verdict
from ops_worker.text import format_labels, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ops_worker.core.model import Figure

    Part = tuple[list[Sample], list[str]]

HEALTHY = "healthy"
POSTGRES = "postgres"
"""The series of the database itself; it gets a ``healthy`` row as the services do."""
OPS_WORKER = "ops_worker"
"""The series of the worker itself."""
PLATFORM = "platform"
"""The series of the platform's own figures."""
RESERVED = frozenset({POSTGRES, OPS_WORKER, PLATFORM})
"""Names that no service may have, and no series of a service: the worker writes these itself."""
PROBE_LATENCY_MS = "probe_latency_ms"
OWN_METRICS = frozenset({HEALTHY, PROBE_LATENCY_MS})
"""Metrics that the worker itself records of each service: names for no counter or figure of one."""
PASS_SUCCESS = "pass_success"  # noqa: S105 - a metric
MAINTENANCE = "maintenance"
"""From each health pass, 1 in a maintenance and else 0: so that one can be told from the past as well."""
MAX_COUNTERS = 200
"""Counters that are recorded of a service that is not asked for some by name: a service must not fill the table."""
MAX_ROWS = 1000
"""Rows that a figure may return."""
MAX_FAULTS = 10
"""Rows of a figure that its warning names."""
MAX_SHARE = 0.1
"""Of its interval, that a figure may take before it is told to the operator."""


def service_samples(verdict: Verdict) -> tuple[list[Sample], list[str]]:
    """Take a service's samples from its verdict, and a warning for each counter that is no finite number.

    An absent counter is 0; one that cannot be recorded costs its own row and no other. ``counters`` that is no object
    means that there are none to record. A service that answered as it should, but does not fulfil its conditions, has
    its counters recorded as well.
    """
    target, reported = verdict.target, verdict.counters
    samples: list[Sample] = []
    warnings: list[str] = []
    if isinstance(reported, dict):
        wanted = (
            target.counters
            if target.counters is not None
            else _all(reported, warnings, target.series)
        )
        for counter in wanted:
            key = next((key for key in counter.keys or (counter.name,) if key in reported), None)
            found = 0 if key is None else reported[key]
            value = number(found)
            if value is None:
                warnings.append(
                    f"{target.series}.{counter.name} not recorded: {_shown(found)} is no finite number"
                )
            else:
                samples.append(Sample(target.series, counter.name, value, target.tags))
    elif verdict.healthy:
        warnings.append(f"{target.series}: counters not recorded: {_shown(reported)} is no object")
    samples.append(Sample(target.series, HEALTHY, float(verdict.healthy), target.tags))
    return samples, warnings


def figure_samples(
    readings: Iterable[Reading] | None, period_s: float = math.inf
) -> tuple[list[Sample], list[str]]:
    """Take the database's samples from its readings, and a warning for each figure that could not be taken or took long.

    Such a figure is absent, never 0. The database is healthy when it answered at least one of them; None says that it
    was not there to be asked. ``period_s`` is the time from one pass to the next.
    """
    samples: list[Sample] = []
    warnings: list[str] = []
    answers: list[bool] = []
    for reading in readings or ():
        name, period = reading.figure.name, reading.figure.every_s or period_s
        samples.extend(reading.samples)
        answers.append(not reading.problem and not reading.absent)
        if reading.problem and not reading.absent:
            warnings.append(f"{name} not recorded: {reading.problem}")
        if reading.faults:
            more = len(reading.faults) - MAX_FAULTS
            listed = "; ".join(reading.faults[:MAX_FAULTS]) + (
                f"; and {more} more" if more > 0 else ""
            )
            warnings.append(f"{name}: {len(reading.faults)} of its rows not recorded: {listed}")
        if reading.took_s > MAX_SHARE * period:
            warnings.append(
                f"{name} took {reading.took_s * 1000:.0f} ms, {reading.took_s / period:.0%} of its {period:g} s: "
                "give it `every` in the catalogue, or see `ops-worker init-db --indexes`"
            )
    healthy = readings is not None and (not answers or any(answers))
    samples.append(Sample(POSTGRES, HEALTHY, float(healthy)))
    return samples, warnings


def distinct(parts: Iterable[Part]) -> list[Part]:
    """Leave out rows of a series that an earlier row of the same sample has, with a warning.

    Two rows with one time are two values at once, of which readers take either. Only a figure's
    statement can return such rows, or one of the worker's own series.
    """
    seen: set[tuple[str, str, str]] = set()
    found = []
    for samples, warnings in parts:
        kept: list[Sample] = []
        lost: dict[str, list[str]] = {}
        for sample in samples:
            tags = json.dumps(dict(sample.tags), sort_keys=True) if sample.tags else ""
            key = (sample.service, sample.metric, tags)
            if key in seen or sample.service == OPS_WORKER:
                lost.setdefault(sample.metric, []).append(sample.service)
            else:
                seen.add(key)
                kept.append(sample)
        told = (
            f"{one_line(services[0])}.{metric} not recorded ({len(services)} such rows): "
            "the series is the worker's own, or another row of the sample has it"
            for metric, services in lost.items()
        )
        found.append((kept, [*warnings, *told]))
    return found


def shape_fault(columns: Sequence[str]) -> str:
    """Say what is wrong with the columns that a figure's statement returns."""
    known = {"value", "service", "tags"}
    if "value" in columns and known.issuperset(columns):
        return ""
    return f"returns {', '.join(columns)}; it has to return `value`, or rows of `service`, `value` and `tags`"


def samples_of(
    figure: Figure, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Return a figure's samples from the rows of its statement, and a fault for each bad row.

    A bad row costs itself where rows have a `service`. Raises ValueError with what is wrong with
    all of them.
    """
    if wrong := shape_fault(columns):
        raise ValueError(wrong)
    if len(rows) > MAX_ROWS:
        raise ValueError(f"returns more than {MAX_ROWS} rows")
    if "service" not in columns:
        if len(rows) != 1:
            raise ValueError(
                f"returns {len(rows) or 'no'} rows; without a column `service` it has to be one"
            )
        return (_sample(figure, rows[0]),), ()
    samples: dict[tuple[str, str], Sample] = {}
    faults: list[str] = []
    for place, row in enumerate(rows, 1):
        service = "" if row["service"] is None else str(row["service"])
        try:
            if not service:
                raise ValueError("has no `service`")  # noqa: TRY301 - as what is wrong with its value is
            sample = _sample(figure, row)
            key = (service, json.dumps(sample.tags, sort_keys=True))
            if key in samples:
                raise ValueError("has the `service` and `tags` of an earlier row")  # noqa: TRY301
            samples[key] = sample
        except ValueError as error:
            name = one_line(service + format_labels(row.get("tags")))
            faults.append(f"row {place}{f' ({name})' if name else ''} {error}")
    return tuple(samples.values()), tuple(faults)


def _sample(figure: Figure, row: Mapping[str, Any]) -> Sample:
    found, tags, service = row["value"], row.get("tags"), row.get("service")
    if isinstance(found, Decimal):
        found = float(found)
    value = number(found)
    if value is None:
        raise ValueError(f"returns {_shown(found)}, which is no finite number")
    if not isinstance(tags, (dict, type(None))):
        raise ValueError("returns `tags` that are no JSON object")  # noqa: TRY004 - what a statement returns is a value
    return Sample(
        figure.series if service is None else str(service),
        figure.metric,
        value,
        {**figure.tags, **(tags or {})},
    )


def self_metrics(
    name: str,
    verdicts: Sequence[Verdict],
    duration_s: float,
    tags: Mapping[str, str],
    *,
    maintenance: bool | None = None,
) -> list[Sample]:
    """Take the worker's own figures of a pass that is being recorded; one that fails leaves none, and that tells.

    ``tags`` say which pass it is and how long it is to the next one, so that a reader knows when they stopped.
    """
    figures = {
        "pass_duration_ms": duration_s * 1000,
        PASS_SUCCESS: 1.0,
        "services_unhealthy": float(sum(not verdict.healthy for verdict in verdicts)),
    } | ({} if maintenance is None else {MAINTENANCE: float(maintenance)})
    return [
        Sample(OPS_WORKER, metric, value, {"pass": name, **tags})
        for metric, value in figures.items()
    ]


def latency_samples(verdicts: Iterable[Verdict]) -> list[Sample]:
    """Take the latency of each service that answered."""
    return [
        Sample(
            verdict.target.series, PROBE_LATENCY_MS, float(verdict.latency_ms), verdict.target.tags
        )
        for verdict in verdicts
        if verdict.latency_ms is not None
    ]


def number(value: Any) -> float | None:
    """Give a value as the double that ``system_metrics`` holds, or None where it is no finite number."""
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        double = float(value)
    except OverflowError:  # an integer beyond a double
        return None
    return double if math.isfinite(double) else None


def _all(reported: dict[str, Any], warnings: list[str], series: str) -> list[Counter]:
    """Name every finite number that a service reported, each name once, bounded."""
    keys: dict[str, str] = {}
    for key, value in reported.items():
        if number(value) is not None:
            keys.setdefault(one_line(key), key)
    found = [Counter(name, (key,)) for name, key in keys.items() if name not in OWN_METRICS]
    if len(found) > MAX_COUNTERS:
        warnings.append(
            f"{series}: {len(found)} counters reported, the first {MAX_COUNTERS} recorded: name those that you want"
        )
    return found[:MAX_COUNTERS]


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 - room enough to recognise a number
