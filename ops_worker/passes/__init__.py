"""The passes. A pass is a function ``run(context) -> Outcome`` that only calls other functions.

``ops_worker.core.passes`` is the registry. A pass is imported when it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ops_worker.core.passes import PASSES
from ops_worker.passes.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops_worker.core.model import Outcome

__all__ = ["Context", "flush_of", "function_of"]


def function_of(name: str) -> Callable[[Context], Outcome]:
    """Return the function that runs the pass ``name``."""
    run: Callable[[Context], Outcome] = _imported(PASSES[name].run)
    return run


def flush_of(name: str) -> Callable[[Context, float], int] | None:
    """Return the function that writes the waiting samples of the pass ``name``, if it has one."""
    reference = PASSES[name].flush
    if not reference:
        return None
    flush: Callable[[Context, float], int] = _imported(reference)
    return flush


def _imported(reference: str) -> Any:
    """Return the function that ``module:function`` names."""
    module, _, function = reference.partition(":")
    return getattr(import_module(module), function)
