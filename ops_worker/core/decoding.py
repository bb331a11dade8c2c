"""Decode what services and other programs wrote: JSON bodies, stored values, times."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

MAX_INT_DIGITS = 4_000
"""Longer integers count as infinite: Python refuses to print more than 4,300 digits, and no counter has them."""

MAX_DEPTH = 200
"""Levels of nesting that are kept: few enough for whatever reads, writes or stores them after us."""

_SET_JSON = "(set json = false)"
"""What to do, in the service's entry of the catalogue, where the body is not meant to be JSON."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # in a Python string every surrogate is a lone one


def decode(body: bytes) -> dict[str, Any]:
    """Read a response body as a JSON object, in which NaN and infinities are null.

    Raises ValueError, with what is wrong in one short sentence, for anything else; never another exception.
    """
    try:
        # NaN and Infinity are no JSON, but Python's own encoder writes them, so services send them.
        found = json.loads(
            body, parse_constant=lambda _: None, parse_float=_finite, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("bad JSON: nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(body, error)) from None
    except json.JSONDecodeError as error:
        raise ValueError(_unparsable(error)) from None
    if isinstance(found, dict):
        return found
    raise ValueError(f"not a JSON object but {_KINDS[type(found)]}")


def loaded(text: str | bytes) -> Any:
    """Read a value that ``jsonb`` holds, whoever wrote it.

    A number beyond a double or of too many digits, and what is nested too deep, become null.
    """
    try:
        found = json.loads(text, parse_float=_finite, parse_int=_integer)
    except RecursionError:
        return None
    opening = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    return storable(found) if sum(map(text.count, opening)) > MAX_DEPTH else found  # type: ignore[arg-type]


def _undecodable(body: bytes, error: UnicodeDecodeError) -> str:
    """Say what a body is that is no text."""
    if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in {b"{", b"["}:
        return f"bad JSON: not {error.encoding.removesuffix('-sig')} at byte {error.start}"
    return f"the body is binary, not JSON {_SET_JSON}"


def _unparsable(error: json.JSONDecodeError) -> str:
    """Say what a text is that is no JSON; a parser's own words would tell what it expected next."""
    text = error.doc.strip()
    if not text:
        return f"the body is empty, not JSON {_SET_JSON}"
    if text.startswith("<"):
        html = re.match(r"<(!doctype\s+)?html\b", text, flags=re.IGNORECASE)
        markup = "HTML" if html else "XML or HTML"
        return f"the body is {markup}, not JSON {_SET_JSON}"
    if text[0] not in "{[":
        return f"the body is text, not JSON {_SET_JSON}"
    if error.msg.startswith("Unterminated string") or error.pos >= len(error.doc.rstrip()):
        return f"bad JSON: it ends too early, at line {error.lineno} column {error.colno}"
    return f"bad JSON: syntax error at line {error.lineno} column {error.colno}"


def storable(value: Any, depth: int = 1) -> Any:
    """Copy a decoded value so that ``jsonb`` has nothing to refuse.

    U+0000 and lone surrogates become U+FFFD, in keys too; what is nested deeper than MAX_DEPTH becomes null.
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
    """Return why a text is no YAML, and where.

    The parser's own text quotes the line, which may hold a secret, and tags and anchors, which a
    secret that begins with ``!``, ``&`` or ``*`` is taken for.
    """
    if isinstance(error, RecursionError):
        return "nested too deeply"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return f"it holds a value that cannot be read ({type(error).__name__})"
    unquoted = re.sub(r"\b(alias|anchor|tag|handle) .*", r"\1", str(problem), flags=re.DOTALL)
    return f"{unquoted} at line {mark.line + 1}, column {mark.column + 1}"


def parse_time(text: Any) -> datetime | None:
    """Read a time as it is kept in ``details``; None where there is none, or what a person or another program left there."""
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


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_INT_DIGITS else None
