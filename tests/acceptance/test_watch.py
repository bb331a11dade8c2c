"""`ops-worker status --watch` as a process: it goes on until a person has had enough."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Worker

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch(worker: Worker, number: signal.Signals) -> None:
    """It shows one document after the other, also one with what has happened meanwhile, and ends at once when it is told to."""
    with worker.start("status", "--watch", "1", "--output", "json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["services"] == []
        assert worker("health").returncode == 0
        end = time.monotonic() + 60
        while not json.loads(process.stdout.readline())["services"]:
            assert time.monotonic() < end
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-number, "")
