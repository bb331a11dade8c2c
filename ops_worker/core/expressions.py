"""Regular expressions whose time is linear in the text: RE2. The only importer of re2.

A text comes from a service, and an expression of Python's own ``re`` may take hours on one that
was made for it (a(a+)+ and the like). RE2 has no such expressions, and a bound on its memory. It
comes with the extra ``re2``, and is imported only where the catalogue has an expression.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ops_worker.text import one_line

MAX_EXPRESSION = 1_000
"""Characters of an expression."""
MAX_MEMORY = 1 << 20
"""Bytes that RE2 may use for one expression. Many repetitions of all letters need more.

A catalogue may have 10,000 services, so RE2's own limit of 8 MiB is too much.
"""
NO_EXTRA = "`matches` needs an extra: pip install 'ops-worker[re2]'"
"""The problem of every expression where the extra is missing."""


def problem(expression: str) -> str:
    """Return why an expression cannot be used; empty if it can."""
    try:
        _compiled(expression)
    except ImportError:
        return NO_EXTRA
    except ValueError as error:
        return f"not an RE2 expression: {error}"
    return ""


def matches(text: str, expression: str) -> bool:
    """Return whether an expression matches anywhere in a text.

    Raises ImportError without the extra, and ValueError if the expression is not valid.
    """
    # A lone surrogate, which JSON can have, is not in any UTF-8 text.
    return _compiled(expression).search(text.encode(errors="replace")) is not None


@lru_cache(maxsize=128)
def _compiled(expression: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False  # RE2 would write them to standard error
    options.max_mem = MAX_MEMORY
    options.never_capture = True
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        # RE2 reports its errors as bytes.
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(one_line(text)) from None
