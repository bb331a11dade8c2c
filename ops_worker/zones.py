"""Time zones by name. Only this module reads the time zone database of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import tzinfo


def zone_of(name: str) -> tzinfo:
    """Return the time zone with a name such as ``Europe/Berlin``.

    Raises ValueError if the name is unknown.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # The name may also be a folder (Europe), be too long, or lead out of the database's folder.
        raise ValueError(
            "it is not a time zone of this machine; write for example Europe/Berlin"
        ) from None
