"""Turn a typed document into JSON. Only this module decides keys, their order and formats."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ops_worker.history.rows import JsonValue


def as_json(value: object) -> JsonValue:
    """Return a value that ``json.dumps`` accepts.

    A NamedTuple becomes an object with its fields as keys, in their order. A field whose name would
    be a Python keyword ends with an underscore (``from_``); its key has no underscore. A time
    becomes ISO 8601 text. Any other sequence becomes an array. Any other value is unchanged.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)
        return {name.rstrip("_"): as_json(content) for name, content in fields}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return value
