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
"""Bytes that an expression may need to be compiled, as RE2 counts them.

Many repetitions of all letters need more, and a catalogue may have 10,000 services.
"""
MATCH_MEMORY = 8 << 20
"""Bytes for the states of an expression while it is matched: RE2's default.

With less, RE2 soon has no room for them, and takes a way that is 100 times slower.
"""
MAX_STEPS = 1 << 29
"""Bytes of a text, times instructions of an expression.

On its slow way, RE2 looks at every instruction for every byte, in 3 to 20 ns each. So a match takes
some seconds at most, and no body ends the pass.
"""
_MATCHERS = 4
"""Expressions that stay compiled with MATCH_MEMORY: a pod has 128 MiB."""
NO_EXTRA = "`matches` needs an extra: pip install 'ops-worker[re2]'"
"""The problem of every expression where the extra is missing."""


class TooLongError(ValueError):
    """A text is too long for an expression. The message says which length is not."""


def problem(expression: str) -> str:
    """Return why an expression cannot be used; empty if it can."""
    try:
        return _refusal(expression)
    except ImportError:
        return NO_EXTRA


def matches(text: str, expression: str) -> bool:
    """Return whether an expression matches anywhere in a text.

    Raises TooLongError if that may take too long, ImportError without the extra, and ValueError if
    the expression is not valid.
    """
    matcher = _matcher(expression)
    # A lone surrogate, which JSON can have, is not in any UTF-8 text.
    data = text.encode(errors="replace")
    longest = MAX_STEPS // matcher.programsize
    if len(data) > longest:
        raise TooLongError(f"longer than {longest} bytes, which is too long for the expression")
    return matcher.search(data) is not None


@lru_cache(maxsize=128)
def _refusal(expression: str) -> str:
    try:
        _compiled(expression, MAX_MEMORY)
    except ValueError as error:
        return f"not an RE2 expression: {error}"
    return ""


@lru_cache(maxsize=_MATCHERS)
def _matcher(expression: str) -> Any:
    return _compiled(expression, MATCH_MEMORY)


def _compiled(expression: str, memory: int) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False  # RE2 would write them to standard error
    options.max_mem = memory
    options.never_capture = True
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        # RE2 reports its errors as bytes.
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(one_line(text)) from None
