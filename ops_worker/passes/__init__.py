"""The passes. A pass is ``run(context) -> Outcome``; it decides the order of calls, and nothing else."""

from __future__ import annotations

from ops_worker.passes import health, metrics
from ops_worker.passes.context import Context

PASSES = {"health": health.run, "metrics": metrics.run}
"""Every pass, by the name of its command."""

__all__ = ["PASSES", "Context"]
