"""Load values that Python cannot represent, so that no reader fails because of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg.adapt import Loader
from psycopg.types.json import set_json_loads

from ops_worker.core.decoding import load_jsonb

if TYPE_CHECKING:
    from psycopg.abc import Buffer

    from ops_worker.adapters.postgres.transaction import Connection

FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


class _Moment(Loader):
    """Load a time as a UTC datetime. A time without a zone counts as UTC.

    Infinity and years that Python does not support become Python's last or first possible time.
    """

    def load(self, data: Buffer) -> datetime:
        """Parse the text that the server sends with DateStyle ISO."""
        text = bytes(data).decode()
        try:
            moment = datetime.fromisoformat(text)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # "-infinity", "0044-03-15 ... BC", "294276-12-31 ..."
            is_past = text.startswith(("-", "000")) or text.endswith("BC")
            return FIRST if is_past else LAST


def register(connection: Connection) -> None:
    """Register loaders, so that a connection can load any time and any JSON."""
    for kind in ("timestamptz", "timestamp"):
        connection.adapters.register_loader(kind, _Moment)
    set_json_loads(load_jsonb, connection)
