"""Tests of the log: JSON for programs, text on a terminal."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from ops_worker import log

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.unit


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Restore the configuration of logging after each test."""
    yield
    for name in ("ops_worker", "psycopg"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def logged(stream: io.StringIO, level: str = "INFO") -> str:
    """Log three records and an exception; return the output."""
    log.setup(level, stream)
    logger = logging.getLogger("ops_worker.x")
    logger.debug("hidden")
    logger.info("alert opened", extra={"action": "alert opened", "service": "a\nb"})
    try:
        raise ValueError("oh")  # noqa: TRY301
    except ValueError:
        logger.exception("failed")
    logging.getLogger("psycopg").warning("noise")
    return stream.getvalue()


def test_json() -> None:
    """Without a terminal, each record is one line of JSON, even if a value has a line end."""
    first, second = (json.loads(line) for line in logged(io.StringIO()).splitlines())
    assert first["time"].endswith("Z")
    assert {
        "level": "INFO",
        "message": "alert opened",
        "action": "alert opened",
        "service": "a\nb",
    }.items() <= first.items()
    assert "ValueError: oh" in second["traceback"]


def test_text() -> None:
    """On a terminal, a record is text."""
    lines = logged(Terminal()).splitlines()
    assert lines[0].startswith("INFO: alert opened action=alert opened service=a")
    assert "ValueError: oh" in lines[-1]


def test_debug() -> None:
    """DEBUG shows debug records and the warnings of psycopg."""
    text = logged(io.StringIO(), "DEBUG")
    assert "hidden" in text and "noise" in text
