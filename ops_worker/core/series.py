"""From verdicts and readings to the samples of ``system_metrics``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ops_worker.core.catalogue import POSTGRES
from ops_worker.core.model import Reading, Sample, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

HEALTHY = "healthy"


def service_samples(verdict: Verdict) -> tuple[list[Sample], list[str]]:
    """Take a service's samples from its verdict, and a warning for each counter that is no finite number.

    An absent counter is 0; one that cannot be recorded costs its own row and no other. ``counters`` that is no object
    means that there are none to record.
    """
    series = verdict.target.series
    samples, warnings = [], []
    if verdict.healthy and isinstance(verdict.counters, dict):
        for counter in verdict.target.counters:
            key = counter.fallback if counter.name not in verdict.counters and counter.fallback else counter.name
            reported = verdict.counters.get(key, 0)
            value = number(reported)
            if value is None:
                warnings.append(f"{series}.{counter.name} not recorded: {_shown(reported)} is no finite number")
            else:
                samples.append(Sample(series, counter.name, value))
    elif verdict.healthy:
        warnings.append(f"{series}: counters not recorded: {_shown(verdict.counters)} is no object")
    samples.append(Sample(series, HEALTHY, float(verdict.healthy)))
    return samples, warnings


def figure_samples(readings: Iterable[Reading]) -> tuple[list[Sample], list[str]]:
    """Take the database's samples from its readings, and a warning for each figure that could not be taken.

    Such a figure is absent, never 0. The database is healthy when it answered at least one of them.
    """
    samples, warnings, healthy = [], [], False
    for figure, value, problem, absent in readings:
        if value is not None:
            samples.append(Sample(figure.series, figure.metric, value))
            healthy = True
        elif not absent:
            warnings.append(f"{figure.series}.{figure.metric} not recorded: {problem}")
    samples.append(Sample(POSTGRES, HEALTHY, float(healthy)))
    return samples, warnings


def number(value: Any) -> float | None:
    """Give a value as the double that ``system_metrics`` holds, or None where it is no finite number."""
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        double = float(value)
    except OverflowError:  # an integer beyond a double
        return None
    return double if math.isfinite(double) else None


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 - room enough to recognise a number
