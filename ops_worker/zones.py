"""Time zones by name: the only reader of the time zone database of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import tzinfo


def zone_of(name: str) -> tzinfo:
    """Return the zone of a name such as ``Europe/Berlin``. Raises ValueError for an unknown one."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # A name may also be a folder (Europe), too long, or lead out of the time zone database.
        raise ValueError(
            "it is not a time zone of this machine; write for example Europe/Berlin"
        ) from None
