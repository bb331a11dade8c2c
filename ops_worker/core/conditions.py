"""Conditions on a service's answer: a JSON pointer (RFC 6901), a relation and a value."""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ops_worker.core.model import Condition

ABSENT: Any = type("Absent", (), {"__repr__": lambda _: "absent"})()
"""What a pointer gives that matches nothing."""
_SHOWN = 60


class Relation(NamedTuple):
    """How a value is compared: in words, by which function, and whether it is for numbers only."""

    words: str
    holds: Callable[[Any, Any], bool]
    numeric: bool = False


def _equal(found: Any, wanted: Any) -> bool:
    """Compare as JSON does: true is not 1, and 1 is 1.0."""
    return bool(isinstance(found, bool) is isinstance(wanted, bool) and found == wanted)


RELATIONS = {
    "equals": Relation("", _equal),
    "differs": Relation("anything but ", lambda found, wanted: not _equal(found, wanted)),
    "one_of": Relation("one of ", lambda found, wanted: any(_equal(found, one) for one in wanted)),
    "at_most": Relation("at most ", operator.le, numeric=True),
    "at_least": Relation("at least ", operator.ge, numeric=True),
}
"""The relations, by the key that names them in a catalogue."""


def value_at(document: Any, pointer: str) -> Any:
    """Give what a JSON pointer names, or ABSENT."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and key in document:
            document = document[key]
        elif isinstance(document, list) and _index(key) < len(document):
            document = document[int(key)]
        else:
            return ABSENT
    return document


def broken(document: Any, conditions: Iterable[Condition]) -> list[str]:
    """Say of each condition that does not hold what was found, and what was wanted. Absent fits nothing."""
    return [
        f"{condition.pointer} is {_shown(found)}, wants {_wanted(condition)}"
        for condition in conditions
        if not _holds(found := value_at(document, condition.pointer), condition)
    ]


def wanted(conditions: Iterable[Condition]) -> list[str]:
    """Say what each condition asks for."""
    return [f"{condition.pointer} is {_wanted(condition)}" for condition in conditions]


def _wanted(condition: Condition) -> str:
    return f"{RELATIONS[condition.relation].words}{_shown(condition.value)}"


def _holds(found: Any, condition: Condition) -> bool:
    relation = RELATIONS[condition.relation]
    comparable = (
        isinstance(found, (int, float)) and not isinstance(found, bool)
        if relation.numeric
        else found is not ABSENT
    )
    return comparable and relation.holds(found, condition.value)


def _index(key: str) -> float:
    plain = key.isascii() and key.isdigit() and (key == "0" or key[0] != "0") and len(key) < 10  # noqa: PLR2004 - no array is longer
    return int(key) if plain else float("inf")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:  # noqa: PLR2004 - Python refuses to print the longest
        return "a very large number"
    text = repr(value) if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
