"""Logging: text on a terminal, JSON lines elsewhere; always on standard error, so that standard output is the outcome's.

Messages are constant; what varies is in ``extra``, and both forms print it.
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
    """Send the package's log to ``stream`` (standard error), from ``level`` up. May be called again.

    What other libraries than psycopg log goes nowhere: it may quote a secret, and the worker
    reports their errors itself.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Text() if stream.isatty() else Json())
    root = logging.getLogger()
    if not root.handlers:  # else `logging.error`, as libraries call it, adds one that prints
        root.addHandler(logging.NullHandler())
    for name, threshold in (
        ("ops_worker", level),
        ("psycopg", level if level == "DEBUG" else "CRITICAL"),
    ):
        logger = logging.getLogger(
            name
        )  # psycopg's warnings are of errors that the worker reports itself
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(threshold)


class Json(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the extras, and the traceback if there is one."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Render the record."""
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        line: dict[str, object] = {
            "time": stamp,
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line |= _extras(record)
        if record.exc_info:
            line["traceback"] = starred(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class Text(logging.Formatter):
    """Level, message, the extras as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the record."""
        extras = "".join(f" {key}={value}" for key, value in _extras(record).items())
        trace = f"\n{starred(self.formatException(record.exc_info))}" if record.exc_info else ""
        return f"{record.levelname}: {_message(record)}{extras}{trace}"


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _message(record: logging.LogRecord) -> str:
    """Return a record's message; that of another library without the secrets that are known."""
    message = record.getMessage()
    return message if record.name.startswith("ops_worker") else starred(message)
