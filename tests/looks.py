"""Run passes at times in the past, with chosen observations, to write histories for tests."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from ops_worker import settings
from ops_worker.adapters.postgres import Store
from ops_worker.core.model import Failure, Observation
from ops_worker.core.sightings import Sightings
from ops_worker.passes import Context, function_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pytest

    from ops_worker.core.model import Outcome, Target
    from ops_worker.settings import Settings
    from tests.conftest import Database

NO_BUILTIN = "builtin = false\n"
START_S = -500_000.0
"""The beginning of the histories, in seconds from the beginning of the test.

It is so early that no pass of a test is in the future.
"""


class Looks:
    """Runs passes at times in the past. The test chooses what they observe.

    ``now`` is the moment at which the test began, in seconds of the monotonic clock.
    """

    def __init__(self, env: pytest.MonkeyPatch, folder: Path, database: Database) -> None:
        self.env = env
        self.folder = folder
        self.database = database
        self.now = time.monotonic()
        self.sightings = Sightings()
        self._loaded: tuple[object, Settings] | None = None
        self._stores: dict[tuple[str, int], Store] = {}
        env.setenv("DATABASE_URL", database.url)
        env.setenv("OPS_WORKER_CATALOGUE", str(folder / "catalogue.toml"))
        env.setenv("RECORD_OWN_METRICS", "false")
        self.services("a", "b", "c")

    def services(self, *names: str) -> None:
        """Monitor these services in the next passes."""
        entries = [f'[services.{name}]\nurl = "http://127.0.0.1:1"\n' for name in names]
        (self.folder / "catalogue.toml").write_text(NO_BUILTIN + "\n".join(entries))

    def __call__(
        self,
        second: float,
        states: dict[str, str],
        *,
        name: str = "health",
        period_s: float = 60.0,
        url: str = "",
        dry_run: bool = False,
    ) -> Outcome:
        """Run a pass that began ``second`` seconds after the beginning of the history.

        ``states`` has the state of each service that the pass probes. ``url`` is the database of
        the pass, if it is not the database of the test.
        """
        moment = self.now + START_S + second

        def observe(targets: Sequence[Target]) -> list[Observation]:
            """Return an observation of each service in ``states``."""
            return [
                observation(target, moment, states[target.name])
                for target in targets
                if target.name in states
            ]

        pass_settings = self._settings()
        connection: Mapping[str, str | int] = pass_settings.connection
        if url:
            connection = {"conninfo": url}
        with self._store(connection, pass_settings.job_completion_index) as store:
            context = Context(
                settings=pass_settings,
                observe=observe,
                store=store,
                clock=lambda: moment,
                dry_run=dry_run,
                period_s=period_s,
                sightings=self.sightings,
            )
            return function_of(name)(context)

    def _settings(self) -> Settings:
        """Return the settings. Load them only after a change.

        Loading takes half of the time of a pass.
        """
        source = (dict(os.environ), (self.folder / "catalogue.toml").read_text())
        if self._loaded is None or self._loaded[0] != source:
            self._loaded = (source, settings.load())
        return self._loaded[1]

    @contextlib.contextmanager
    def _store(self, connection: Mapping[str, str | int], shard: int) -> Iterator[Store]:
        """Yield a connection. As in a loop, it stays open unless a pass fails."""
        key = (str(connection), shard)
        store = self._stores.pop(key, None) or Store(connection, shard=shard)
        try:
            yield store
        except BaseException:
            store.close()
            raise
        self._stores[key] = store

    def close(self) -> None:
        """Close the connections."""
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table in the order in which they were written."""
        return self.database.rows(f"SELECT * FROM {table} ORDER BY id")

    def spans(self) -> list[tuple[object, ...]]:
        """Return the spans, ordered by service and by beginning.

        A row has the service, state, reason class, and numbers of the first and last pass.
        """
        return [
            (row["service"], row["state"], row["reason_class"], row["first_no"], row["last_no"])
            for row in sorted(self.rows("ops_worker_span"), key=lambda row: row["service"])
        ]


def observation(target: Target, moment: float, state: str) -> Observation:
    """Return an observation whose verdict has this state.

    Any state except healthy, down and timeout gives an answer with status 503.
    """
    if state == "healthy":
        return Observation(target, moment, 200, 3, body=b"{}")
    if state == "down":
        return Observation(
            target,
            moment,
            failure=Failure.NO_CONNECTION,
            error="Connection refused",
            reason_class="refused",
            sign=True,
        )
    if state == "timeout":
        return Observation(
            target,
            moment,
            failure=Failure.NO_ANSWER,
            error=f"timeout after {moment:.3f} s",
            reason_class="timeout",
        )
    return Observation(target, moment, 503, 4)


CONTRADICTIONS = """
SELECT 'spans overlap, or the order of their numbers is wrong' AS problem, s.*
FROM (
    SELECT s.*, r.shard, r.installation,
        lead(s.first_at) OVER w AS next_at, lead(s.id) OVER w AS next_id
    FROM ops_worker_span AS s JOIN ops_worker_run AS r ON r.id = s.run
    WINDOW w AS (PARTITION BY s.pass, s.service, r.shard, r.installation ORDER BY s.first_at, s.id)
) AS s
WHERE (s.next_id IS NOT NULL AND (s.last_at IS NULL OR s.last_at >= s.next_at))
    OR s.last_at < s.first_at
    OR (s.last_at IS NULL) <> (s.last_run IS NULL) OR (s.last_at IS NULL) <> (s.last_no IS NULL)
    OR (s.last_run = s.run AND s.last_no < s.first_no)
    OR s.first_no > (SELECT passes FROM ops_worker_run AS r WHERE r.id = s.run)
    OR s.last_no > (SELECT passes FROM ops_worker_run AS r WHERE r.id = s.last_run)
"""
"""Select the rows of the ledger that contradict each other."""


def passes_in_ledger(database: Database) -> int:
    """Return the number of passes in the ledger. Check that no rows contradict each other."""
    contradictions = database.rows(CONTRADICTIONS)
    assert contradictions == [], contradictions
    return int(database.value("SELECT coalesce(sum(passes), 0)::int FROM ops_worker_run"))
