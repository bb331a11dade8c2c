"""Tests of the exit codes and messages of errors."""

from __future__ import annotations

import errno

import pytest

from ops_worker import errors

pytestmark = pytest.mark.unit

EXIT_CODES = {
    "OpsWorkerError": 1,
    "DatabaseError": 1,
    "CommitUnknownError": 1,
    "NotWritableError": 1,
    "StillRecordingError": 1,
    "StatementTimeoutError": 1,
    "SettingsError": 2,
    "SchemaError": 3,
}


def test_exit_codes() -> None:
    """Every class of error has its documented exit code."""
    exit_codes = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.OpsWorkerError)
    }
    assert exit_codes == EXIT_CODES


def test_codes_without_error() -> None:
    """0 is success; 4 is success with an unhealthy service."""
    codes = (errors.DONE, errors.UNHEALTHY)
    assert codes == (0, 4)


def test_retried() -> None:
    """A DatabaseError is an error for which a retry may help, such as a full disk."""
    assert not issubclass(errors.SchemaError, errors.DatabaseError)
    assert not issubclass(errors.SettingsError, errors.DatabaseError)
    assert {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO} == errors.FULL


def test_message() -> None:
    """The default message of an error is the first line of its docstring."""
    assert str(errors.DatabaseError("refused")) == "refused"
    assert str(errors.StillRecordingError()) == (errors.StillRecordingError.__doc__ or "").rstrip()


def test_severity() -> None:
    """The order is: success, unhealthy service, failures. An unknown code is the worst."""
    assert sorted([137, 3, 0, 4, 1, 2], key=errors.severity) == [0, 4, 1, 3, 2, 137]


def test_all_faults() -> None:
    """All wrong settings are in one error."""
    error = errors.SettingsError(["a is wrong", "b is missing"])
    assert error.faults == ("a is wrong", "b is missing")
    assert str(error) == "a is wrong; b is missing"


def test_commit_unknown() -> None:
    """The error has the transaction id, to look up its status later. The message does not."""
    error = errors.CommitUnknownError("4711")
    assert error.xid == "4711"
    assert "4711" not in str(error)


def test_shown() -> None:
    """Only the class of another program's error is shown, because its text may have a secret."""
    assert errors.shown(errors.SchemaError("no table x")) == "no table x"
    text = errors.shown(ValueError("password is hunter2"))
    assert "ValueError" in text
    assert "hunter2" not in text
