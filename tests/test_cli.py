"""Tests of the command line: suggestions, exit codes, and reports of failures."""

from __future__ import annotations

import errno
import io
import json
import logging
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import cli, process
from ops_worker.cli import EXIT_CODES, Command, commands, main
from ops_worker.errors import (
    FULL,
    CommitUnknownError,
    DatabaseError,
    NotWritableError,
    OpsWorkerError,
    SchemaError,
    SettingsError,
    StatementTimeoutError,
    StillRecordingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("helth", "; did you mean health?"),
        ("init_db", "; did you mean init-db?"),
        ("help", "; did you mean --help?"),
        ("--verison", "; did you mean --version instead of --verison?"),
        ("maintenance strat", "; did you mean start?"),
        ("alerts lst", "; did you mean list?"),
        ("status --output jsn", "; did you mean json?"),
        ("init-db --indexes=creat", "; did you mean create?"),
        (
            "health --dry-rnu",
            "ops-worker health: error: unrecognized arguments: --dry-rnu; "
            "did you mean --dry-run instead of --dry-rnu?",
        ),
        ("health --dry_run", "; did you mean --dry-run instead of --dry_run?"),
        ("explain ingest --ta=5m", "; did you mean --at instead of --ta?"),
        (
            "maintenance start --resaon=x --fro 5m",
            "; did you mean --reason instead of --resaon?; did you mean --for instead of --fro?",
        ),
        ("alerts ack --bye kim 3", "; did you mean --by instead of --bye?"),
        ("sidecar metrcs", "; did you mean metrics?"),
    ],
)
def test_did_you_mean(capsys: pytest.CaptureFixture[str], line: str, suggestion: str) -> None:
    """A misspelled command, action, option, choice or pass has a suggestion."""
    assert main(line.split()) == 2
    assert capsys.readouterr().err.rstrip("\n").endswith(suggestion)


@pytest.mark.parametrize(
    "line",
    ["nonsense", "maintenance stop", "health --xyzzy", "status --output 7", "health --every x", ""],
)
def test_no_idea(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """A word that resembles no other has no suggestion."""
    assert main(line.split()) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_right_options_are_not_questioned(capsys: pytest.CaptureFixture[str]) -> None:
    """An error about a value suggests nothing for the other options, even if abbreviated."""
    assert main(["health", "--dry", "--output=text", "--every", "never"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_correct_line_imports_no_difflib() -> None:
    """A correct command line does not import the module that compares words."""
    code = (
        "import sys; from ops_worker.cli import main; main(['--version']); "
        "sys.exit('difflib' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the function of the command ``health``. The settings are valid, but not used."""
    monkeypatch.setenv("PG_PASS", "not-used")

    def replace(run: Callable[[Any, Any], int]) -> None:
        module = SimpleNamespace(run=run, options=Command("", "run_pass").function("options"))

        def function(_: Command, name: str) -> Any:
            return getattr(module, name)

        monkeypatch.setattr(Command, "function", function)

    return replace


def raising(error: BaseException) -> Callable[[Any, Any], int]:
    """Return a command that raises."""

    def run(_: Any, __: Any) -> int:
        raise error

    return run


ERRORS: list[tuple[Exception, int, str]] = [
    (OpsWorkerError("not done"), 1, "not done"),
    (DatabaseError("no connection"), 1, "no connection"),
    (CommitUnknownError("77"), 1, str(CommitUnknownError("77"))),
    (NotWritableError(), 1, str(NotWritableError())),
    (StillRecordingError(), 1, str(StillRecordingError())),
    (StatementTimeoutError(), 1, str(StatementTimeoutError())),
    (SettingsError(["PG_PORT is 'x'"]), 2, "PG_PORT is 'x'"),
    (SchemaError("no table x"), 3, "no table x"),
]


class TestExitCodes:
    """An error of a command becomes an exit code and a message."""

    @pytest.mark.parametrize("code", [0, 1, 3, 4])
    def test_returned(self, command: Callable[..., None], code: int) -> None:
        """The exit code of a command is that of the process."""
        command(lambda *_: code)
        assert main(["health"]) == code

    @pytest.mark.parametrize(("error", "code", "text"), ERRORS)
    def test_error(
        self,
        command: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
        error: Exception,
        code: int,
        text: str,
    ) -> None:
        """Every class of errors has its exit code, and a message of one line."""
        command(raising(error))
        assert main(["health"]) == code
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", f"ops-worker health: {text}\n")

    def test_every_class_is_tested(self) -> None:
        """The table above has every class of errors."""
        classes = {OpsWorkerError}
        while more := {sub for kind in classes for sub in kind.__subclasses__()} - classes:
            classes |= more
        own_classes = {kind for kind in classes if kind.__module__ == "ops_worker.errors"}
        assert own_classes == {type(error) for error, _, _ in ERRORS}

    @pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
    def test_help_explains(self, code: int) -> None:
        """The help explains every exit code."""
        assert f"\n  {code}  " in EXIT_CODES

    def test_all_faults(
        self, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every fault of the settings has a line of its own."""
        command(raising(SettingsError(["A is wrong", "B is wrong"])))
        assert main(["health"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["ops-worker health: A is wrong", "ops-worker health: B is wrong"]

    def test_bug(self, command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
        """A bug ends with 1. The log has the traceback; the message has only the class."""
        command(raising(ZeroDivisionError("s3cret")))
        assert main(["health"]) == 1
        log, last = capsys.readouterr().err.splitlines()
        record = json.loads(log)
        assert record["message"] == "this is a bug in ops-worker"
        assert "ZeroDivisionError" in record["traceback"]
        expected = "a bug in ops-worker: ZeroDivisionError; the log has the traceback"
        assert last == f"ops-worker health: {expected}"

    def test_debug(
        self,
        command: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """LOG_LEVEL=DEBUG adds the traceback of an expected error."""
        monkeypatch.setenv("LOG_LEVEL", "debug")
        command(raising(DatabaseError("no connection")))
        assert main(["health"]) == 1
        assert "Traceback" in capsys.readouterr().err

    def test_broken_pipe(
        self, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """If the reader of the output has ended, the exit code is 1. This is no bug."""
        command(raising(BrokenPipeError(errno.EPIPE, "Broken pipe")))
        assert main(["status"]) == 1
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", "")

    @pytest.mark.parametrize("number", sorted(FULL))
    def test_disk_full(
        self, command: Callable[..., None], capsys: pytest.CaptureFixture[str], number: int
    ) -> None:
        """A full disk, a quota or a broken device ends with 1. This is no bug."""
        command(raising(OSError(number, "no room")))
        assert main(["health"]) == 1
        problem = "the output could not be written: no room"
        assert capsys.readouterr().err == f"ops-worker health: {problem}\n"

    def test_other_os_error(
        self, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Any other error of the operating system is a bug."""
        command(raising(OSError(errno.EACCES, "no")))
        assert main(["health"]) == 1
        assert "this is a bug in ops-worker" in capsys.readouterr().err

    def test_output_arrives(
        self,
        command: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """``status`` fails if its output cannot be written; a pass does not."""

        class Full(io.StringIO):
            def flush(self) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        command(lambda *_: 0)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Full())
            assert main(["health"]) == 0
            assert main(["status"]) == 1
        problem = "the output could not be written: No space left on device"
        assert capsys.readouterr().err == f"ops-worker status: {problem}\n"

    @pytest.mark.parametrize(("line", "code"), [("--help", 0), ("--version", 0), ("", 2), ("x", 2)])
    @pytest.mark.usefixtures("capsys")
    def test_parser(self, line: str, code: int) -> None:
        """The parser ends with 0 for help and version, and with 2 for a wrong command line."""
        assert main(line.split()) == code

    @pytest.mark.parametrize(
        ("line", "text"),
        [
            ("health --for 5", "--for needs --every"),
            (
                "sidecar metric",
                "no pass metric: the passes are health, metrics, rollup; did you mean metrics",
            ),
            ("sidecar a b", "no pass a, b: the passes are health, metrics, rollup"),
        ],
    )
    def test_checked(self, capsys: pytest.CaptureFixture[str], line: str, text: str) -> None:
        """Faults that the parser cannot find end with 2, before any connection is made."""
        assert main(line.split()) == 2
        assert text in capsys.readouterr().err


class TestFailure:
    """A failure is also reported as JSON and in the termination message."""

    @pytest.mark.parametrize(("error", "code", "text"), ERRORS)
    def test_json(
        self,
        command: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
        error: Exception,
        code: int,
        text: str,
    ) -> None:
        """With --output json, standard output gets one document."""
        command(raising(error))
        assert main(["health", "--output", "json"]) == code
        assert json.loads(capsys.readouterr().out) == {
            "pass": "health",
            "result": "failed",
            "error": text,
            "exit_code": code,
        }

    def test_termination_message(
        self, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The termination message has the failure and the name of the Job."""
        path = tmp_path / "message"
        monkeypatch.setenv("TERMINATION_MESSAGE_PATH", str(path))
        monkeypatch.setenv("JOB_NAME", "job-1")
        command(raising(SchemaError("no table x")))
        assert main(["metrics"]) == 3
        assert json.loads(path.read_text(encoding="utf-8")) == {
            "pass": "metrics",
            "result": "failed",
            "exit_code": 3,
            "error": "no table x",
            "job": "job-1",
        }

    def test_termination_message_of_wrong_settings(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Wrong settings are in the termination message, too. A similar variable is named."""
        path = tmp_path / "message"
        monkeypatch.setenv("TERMINATION_MESSAGE_PATH", str(path))
        monkeypatch.setenv("PG_PASSWD", "s3cret")
        assert main(["health"]) == 2
        document = json.loads(path.read_text(encoding="utf-8"))
        err = capsys.readouterr().err
        for text in (document["error"], err):
            assert "PG_PASS is not set" in text
            assert "PG_PASSWD is set, but nothing reads it" in text
            assert "s3cret" not in text

    def test_streams_take_nothing(
        self, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The exit code reports the failure, even if both streams are broken."""

        class Broken(io.StringIO):
            def write(self, _: str) -> int:
                raise BrokenPipeError

        command(raising(SchemaError("no table x")))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Broken())
            patch.setattr(sys, "stderr", Broken())
            assert main(["health", "--output", "json"]) == 3


class TestGuard:
    """Deadline and signals of a process: a pass has a deadline, loops and watches have none."""

    @pytest.fixture
    def guards(self, monkeypatch: pytest.MonkeyPatch, command: Callable[..., None]) -> list[str]:
        """Record the deadline and the release of signals, instead of setting them up."""
        prepared: list[str] = []
        command(lambda *_: 0)

        def enforce(deadline_s: float, fail: Callable[[str], int], *, spent_s: float) -> None:
            prepared.append(f"deadline {deadline_s:g}")
            assert fail("too late") == 1
            assert 0 <= spent_s < 60

        monkeypatch.setattr(process, "enforce_deadline", enforce)
        monkeypatch.setattr(process, "release_signals", lambda: prepared.append("released"))
        return prepared

    @pytest.mark.parametrize("line", ["health", "metrics --dry-run"])
    def test_pass(self, guards: list[str], capsys: pytest.CaptureFixture[str], line: str) -> None:
        """A single pass has a deadline. Its callback reports a failure."""
        assert main(line.split(), guarded=True) == 0
        assert guards == ["deadline 40"]
        assert capsys.readouterr().err == f"ops-worker {line.partition(' ')[0]}: too late\n"

    def test_loop(self, guards: list[str]) -> None:
        """A loop waits for signals itself."""
        assert main(["health", "--every", "5"], guarded=True) == 0
        assert guards == []

    def test_not_guarded(self, guards: list[str]) -> None:
        """Without ``guarded``, the process gets no deadline, and signals are not released."""
        assert main(["health"]) == 0
        assert guards == []

    @pytest.mark.parametrize(
        ("options", "prepared"),
        [({"watch": 2.0}, ["released"]), ({"indexes": "create"}, ["released"]),
         ({"command": "history"}, ["released"]),
         ({"watch": None}, ["deadline 40"]), ({"indexes": "print"}, ["deadline 40"])],
    )  # fmt: skip
    def test_commands_of_people(
        self, guards: list[str], options: dict[str, object], prepared: list[str]
    ) -> None:
        """A watch, a history and the creation of indexes have no deadline; others have one."""
        attributes = {"command": "status", "begun": time.monotonic(), **options}
        parsed: Any = SimpleNamespace(**attributes)
        settings: Any = SimpleNamespace(pass_deadline=40.0)
        cli._guard(parsed, settings)
        assert guards == prepared

    def test_without_settings(self, guards: list[str]) -> None:
        """A command without settings has no deadline. A signal ends it as usual."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Command, "function", lambda *_: lambda *_: 0)
            assert main(["check"], guarded=True) == 0
        assert guards == ["released"]


def test_doubtful_setting(
    command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass warns about a switch with an unknown value; ``status`` does not."""
    monkeypatch.setenv("RECORD_OWN_METRICS", "maybe")
    command(lambda *_: 0)
    assert main(["health"]) == 0
    record = json.loads(capsys.readouterr().err)
    assert (record["action"], record["setting"]) == ("setting", "RECORD_OWN_METRICS")
    assert main(["status"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", sorted(commands()))
def test_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The help of every command has its summary, the exit codes and its variables."""
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    command = commands()[name]
    assert command.summary[1:] in " ".join(out.split())
    assert EXIT_CODES in out
    assert ("environment variables" in out) == command.has_settings
    assert all(len(line) <= 100 for line in out.splitlines())


def test_log_is_set_up(command: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has the level of the settings while a command runs."""
    monkeypatch.setenv("LOG_LEVEL", "warning")
    command(lambda *_: logging.getLogger("ops_worker").level)
    assert main(["health"]) == logging.WARNING
