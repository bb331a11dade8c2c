"""The passes. A pass is a function ``run(context) -> Outcome``; it only orders calls.

``ops_worker.core.passes`` is the registry. A pass is imported when it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ops_worker.core.passes import PASSES
from ops_worker.passes.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops_worker.core.model import Outcome

__all__ = ["Context", "function_of"]


def function_of(name: str) -> Callable[[Context], Outcome]:
    """Return the function that runs the pass ``name``."""
    module, _, function = PASSES[name].run.partition(":")
    run: Callable[[Context], Outcome] = getattr(import_module(module), function)
    return run
