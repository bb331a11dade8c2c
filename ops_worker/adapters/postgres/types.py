"""Values of the database that Python has no room for: none of them makes a reader fail."""

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
    """Load a time as a UTC datetime; one without a zone was written in a session of UTC.

    Infinity and years that Python does not know become the last or the first moment that it does.
    """

    def load(self, data: Buffer) -> datetime:
        """Read the text that the server writes with DateStyle ISO."""
        text = bytes(data).decode()
        try:
            moment = datetime.fromisoformat(text)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # "-infinity", "0044-03-15 ... BC", "294276-12-31 ..."
            return FIRST if text.startswith(("-", "000")) or text.endswith("BC") else LAST


def register(connection: Connection) -> None:
    """Have a connection load any time and any JSON."""
    for kind in ("timestamptz", "timestamp"):
        connection.adapters.register_loader(kind, _Moment)
    set_json_loads(load_jsonb, connection)
