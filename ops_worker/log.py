"""Logging to standard error: text on a terminal, JSON lines elsewhere.

Standard output is for the outcome. Messages are constant texts. Data is in ``extra``, and both
formats print it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from ops_worker.redact import starred

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup(level: str, stream: TextIO | None = None) -> None:
    """Send the logs of this package at ``level`` or above to a stream, by default standard error.

    May be called again. Other libraries do not log, because their messages may quote a secret and
    the worker reports their errors itself. Only psycopg logs, and only if the level is DEBUG.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Text() if stream.isatty() else Json())
    root = logging.getLogger()
    if not root.handlers:  # `logging.error`, which libraries call, would add a handler that prints
        root.addHandler(logging.NullHandler())
    psycopg_level = level if level == "DEBUG" else "CRITICAL"
    for name, threshold in (("ops_worker", level), ("psycopg", psycopg_level)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(threshold)


class Json(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, the extras, the traceback."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        seconds = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line |= _extras(record)
        if record.exc_info:
            line["traceback"] = starred(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class Text(logging.Formatter):
    """Level, message, the extras as ``key=value``, and the traceback on separate lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = f"{record.levelname}: {_message(record)}"
        for key, value in _extras(record).items():
            line += f" {key}={value}"
        if record.exc_info:
            line += f"\n{starred(self.formatException(record.exc_info))}"
        return line


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _message(record: logging.LogRecord) -> str:
    """Return the message of a record. In messages of other libraries, replace known secrets."""
    message = record.getMessage()
    if not record.name.startswith("ops_worker"):
        message = starred(message)
    return message
