"""Regular expressions whose time is linear in the length of the text: RE2.

The texts come from services. Python's own ``re`` may take hours for a hostile text and an
expression such as ``a(a+)+``. RE2 takes linear time, and has a limit on its memory. It is installed
with the extra ``re2``. Only this module imports it, and only if the catalogue has an expression.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ops_worker.text import one_line

MAX_EXPRESSION = 1_000
"""Maximum number of characters of an expression."""
MAX_MEMORY = 1 << 20
"""Maximum memory that ``problem`` allows for compiling an expression, in bytes as RE2 counts them.

Many repetitions of all letters need more. The limit is low, because a catalogue may have 10,000
services.
"""
MATCH_MEMORY = 8 << 20
"""Maximum memory of an expression that is matched, in bytes: RE2's default.

RE2 keeps the states of the match there. With less memory, it soon has no room for them, and falls
back to a method that is 100 times slower.
"""
MAX_STEPS = 1 << 29
"""Maximum product of the bytes of a text and the instructions of an expression.

RE2's slow method executes every instruction for every byte, in 3 to 20 ns each. So a match takes
at most about 11 s, and no body makes the pass exceed its deadline.
"""
_MATCHERS = 4
"""Number of expressions that stay compiled with MATCH_MEMORY: a pod has 128 MiB."""
NO_EXTRA = "`matches` needs an extra: pip install 'ops-worker[re2]'"
"""The problem of every expression if the extra is not installed."""


class TooLongError(ValueError):
    """A text is too long for an expression. The message has the maximum length."""


def problem(expression: str) -> str:
    """Return why an expression cannot be used; an empty text if it can."""
    try:
        return _refusal(expression)
    except ImportError:
        return NO_EXTRA


def matches(text: str, expression: str) -> bool:
    """Return whether an expression matches anywhere in a text.

    Raises TooLongError if the match may take too long, ImportError if the extra is not installed,
    and ValueError if the expression is not valid.
    """
    matcher = _matcher(expression)
    # JSON may contain a lone surrogate, which UTF-8 cannot encode.
    data = text.encode(errors="replace")
    longest = MAX_STEPS // matcher.programsize
    if len(data) > longest:
        raise TooLongError(f"longer than {longest} bytes, which is too long for the expression")
    return matcher.search(data) is not None


@lru_cache(maxsize=128)
def _refusal(expression: str) -> str:
    """Return why RE2 refuses an expression. Raises ImportError if the extra is not installed."""
    try:
        _compiled(expression, MAX_MEMORY)
    except ValueError as error:
        return f"not an RE2 expression: {error}"
    return ""


@lru_cache(maxsize=_MATCHERS)
def _matcher(expression: str) -> Any:
    return _compiled(expression, MATCH_MEMORY)


def _compiled(expression: str, memory: int) -> Any:
    """Return the compiled expression. Raises ValueError with the reason if RE2 refuses it."""
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
