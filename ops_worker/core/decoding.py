"""Decode what services and other programs wrote: JSON bodies, stored values, times."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

MAX_INT_DIGITS = 4_000
"""The most digits of an integer. A longer integer becomes null.

Python refuses to print an integer of more than 4,300 digits (``sys.set_int_max_str_digits``).
"""

MAX_DEPTH = 200
"""The most levels of nesting that are stored, so that every other program can read the value."""

_SET_JSON = "(set json = false)"
"""What to set in the service's catalogue entry if its body is not meant to be JSON."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # every surrogate in a Python string is a lone one


class NotAnObjectError(ValueError):
    """A body is JSON, but not an object."""


def decode(body: bytes) -> dict[str, Any]:
    """Return a response body as a JSON object, in which NaN and infinities are null.

    Raises ValueError for anything else, and no other exception. Its message says what is wrong, in
    one short sentence.
    """
    document = decode_any(body)
    if isinstance(document, dict):
        return document
    raise NotAnObjectError(f"not a JSON object but {_KINDS[type(document)]}")


def decode_any(body: bytes) -> Any:
    """Return a response body as any JSON value, in which NaN and infinities are null.

    Raises ValueError if it is not JSON, and no other exception; its message says why.
    """
    try:
        # NaN and Infinity are not JSON, but Python's encoder writes them, so services send them.
        return json.loads(
            body, parse_constant=lambda _: None, parse_float=_finite, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("bad JSON: nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(body, error)) from None
    except json.JSONDecodeError as error:
        raise ValueError(_unparsable(error)) from None


def load_jsonb(text: str | bytes) -> Any:
    """Return a value that ``jsonb`` holds. Any program may have written it.

    A number that does not fit a double, an integer with too many digits and a value that is nested
    too deeply become null.
    """
    try:
        value = json.loads(text, parse_float=_finite, parse_int=_integer)
    except RecursionError:
        return None
    brackets = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    # The depth is at most the number of brackets, which is quick to count. Most values have few.
    if sum(map(text.count, brackets)) > MAX_DEPTH:  # type: ignore[arg-type]
        value = storable(value)
    return value


def _undecodable(body: bytes, error: UnicodeDecodeError) -> str:
    """Return what is wrong with a body that is not text."""
    if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in {b"{", b"["}:
        return f"bad JSON: not {error.encoding.removesuffix('-sig')} at byte {error.start}"
    return f"the body is binary, not JSON {_SET_JSON}"


def _unparsable(error: json.JSONDecodeError) -> str:
    """Return what is wrong with a text that is not JSON.

    The parser's own message names what it expected next, which does not help an operator.
    """
    text = error.doc.strip()
    if not text:
        return f"the body is empty, not JSON {_SET_JSON}"
    if text.startswith("<"):
        html = re.match(r"<(!doctype\s+)?html\b", text, flags=re.IGNORECASE)
        markup = "HTML" if html else "XML or HTML"
        return f"the body is {markup}, not JSON {_SET_JSON}"
    if text[0] not in "{[":
        return f"the body is text, not JSON {_SET_JSON}"
    position = f"at line {error.lineno} column {error.colno}"
    if error.msg.startswith("Unterminated string") or error.pos >= len(error.doc.rstrip()):
        return f"bad JSON: unexpected end {position}"
    return f"bad JSON: syntax error {position}"


def storable(value: Any, depth: int = 1) -> Any:
    """Return a copy of a decoded value that ``jsonb`` accepts.

    U+0000 and lone surrogates become U+FFFD, also in keys. Values nested deeper than MAX_DEPTH
    become null.
    """
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item, depth + 1) for item in value]
    return value


def yaml_problem(error: Exception) -> str:
    """Return why a text is not YAML, and where.

    The parser's own message is not safe to show. It quotes the line, which may hold a secret. It
    also quotes tags and anchors. To the parser, a secret that begins with ``!``, ``&`` or ``*`` is
    a tag or an anchor.
    """
    if isinstance(error, RecursionError):
        return "nested too deeply"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or not problem:
        return f"it holds a value that cannot be read ({type(error).__name__})"
    unquoted = re.sub(r"\b(alias|anchor|tag|handle) .*", r"\1", str(problem), flags=re.DOTALL)
    return f"{unquoted} at line {mark.line + 1}, column {mark.column + 1}"


def parse_time(text: Any) -> datetime | None:
    """Return a time that is stored in ``details``, in UTC.

    Return None if there is no time, or if a person or another program wrote something else.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


_KINDS = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
"""The name of each kind of JSON value in messages, by its type in Python."""


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_INT_DIGITS else None
