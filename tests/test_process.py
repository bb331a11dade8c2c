"""Tests of the end of a process. Tests that end a process use a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ops_worker import __main__ as entry
from ops_worker import process

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
READY = 'print("ready", flush=True)'
HOLD = "process.hold_signals()"
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def start(code: str) -> subprocess.Popen[str]:
    """Start a child that imports ``process`` and runs these lines. Its streams are buffered."""
    script = (
        f"import os, sys, threading, time\nfrom ops_worker import process\n{textwrap.dedent(code)}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str) -> tuple[int, str, str]:
    """Run a child to its end; return its exit code, standard output and standard error."""
    with start(code) as child:
        out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def end(child: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    """Wait until the child is ready, send a signal, and wait for its end."""
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


class TestSignals:
    """SIGTERM and SIGINT are held, awaited and released."""

    @BOTH
    def test_held(self, number: signal.Signals) -> None:
        """A held signal stays pending until ``await_signal``, which returns its name."""
        code = f"""
            {HOLD}
            os.kill(os.getpid(), {int(number)})
            print("still running")
            print(process.await_signal())
        """
        assert run(code) == (0, f"still running\n{number.name}\n", "")

    @BOTH
    def test_threads_inherit(self, number: signal.Signals) -> None:
        """A thread that starts later holds the signals, too."""
        code = f"""
            {HOLD}
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            {READY}
            print(process.await_signal())
        """
        with start(code) as child:
            assert end(child, number) == (0, f"{number.name}\n", "")

    @BOTH
    def test_released(self, number: signal.Signals) -> None:
        """A released signal ends the process by this signal, without a traceback."""
        code = f"""
            {HOLD}
            process.release_signals()
            {READY}
            time.sleep(60)
        """
        with start(code) as child:
            assert end(child, number) == (-number, "", "")

    @BOTH
    def test_pending_when_released(self, number: signal.Signals) -> None:
        """A signal that arrives while signals are held takes effect when they are released."""
        code = f"""
            {HOLD}
            os.kill(os.getpid(), {int(number)})
            process.release_signals()
            time.sleep(60)
        """
        assert run(code) == (-number, "", "")


class TestDeadline:
    """``enforce_deadline``: a signal or the deadline ends the process in any state."""

    FAIL = "lambda reason: print(reason, flush=True) or 3"

    @BOTH
    def test_signal(self, number: signal.Signals) -> None:
        """A signal ends the process. The callback gets the reason and returns the exit code."""
        code = f"""
            {HOLD}
            process.enforce_deadline(60, {self.FAIL})
            {READY}
            time.sleep(60)
        """
        with start(code) as child:
            assert end(child, number) == (3, f"stopped by {number.name}\n", "")

    def test_signal_before(self) -> None:
        """A signal that arrives before ``enforce_deadline`` ends the process, too."""
        code = f"""
            {HOLD}
            os.kill(os.getpid(), {int(signal.SIGTERM)})
            process.enforce_deadline(60, {self.FAIL})
            time.sleep(60)
        """
        assert run(code) == (3, "stopped by SIGTERM\n", "")

    @pytest.mark.parametrize(
        ("arguments", "limit"),
        [("0.2, FAIL", "0.2"), ("60, FAIL, spent_s=59.8", "60"), ("6, FAIL, spent_s=7.5", "6")],
    )
    def test_time(self, arguments: str, limit: str) -> None:
        """The deadline counts from the start of the process: the time spent is subtracted."""
        begun = time.monotonic()
        code = f"""
            FAIL = {self.FAIL}
            {HOLD}
            process.enforce_deadline({arguments})
            time.sleep(60)
        """
        assert run(code) == (3, f"took more than {limit} s in all (PASS_DEADLINE)\n", "")
        assert time.monotonic() - begun < 50

    def test_main_thread_in_c(self) -> None:
        """The process ends even if its main thread never returns from C."""
        code = f"""
            import ctypes
            {HOLD}
            process.enforce_deadline(0.2, {self.FAIL})
            ctypes.CDLL(None).sleep(60)
        """
        begun = time.monotonic()
        assert run(code)[0] == 3
        assert time.monotonic() - begun < 50

    def test_work_is_done_in_time(self) -> None:
        """A process that has done its work ends before its deadline."""
        code = f"""
            {HOLD}
            process.enforce_deadline(3600, {self.FAIL})
            print("done")
        """
        assert run(code) == (0, "done\n", "")


class TestFinish:
    """``finish`` writes all output and ends the process without other code."""

    @pytest.mark.parametrize("code", [0, 1, 4])
    def test_flushes(self, code: int) -> None:
        """Both streams are flushed, and the exit code is the argument."""
        lines = f"""
            print("out", end="")
            print("err", end="", file=sys.stderr)
            process.finish({code})
        """
        assert run(lines) == (code, "out", "err")

    def test_no_teardown(self) -> None:
        """Neither exit handlers nor other threads delay the end."""
        code = """
            import atexit
            atexit.register(print, "handler")
            threading.Thread(target=time.sleep, args=(60,)).start()
            process.finish(0)
        """
        assert run(code) == (0, "", "")

    @pytest.mark.parametrize(
        "stream", ["sys.stdout.close()", "os.close(1)", "sys.stdout = open('/dev/full', 'w')"]
    )
    def test_stream_that_takes_nothing(self, stream: str) -> None:
        """A closed stream or a full disk does not change the exit code."""
        if "/dev/full" in stream and not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        code = f"""
            print("x", end="")
            {stream}
            try:
                print("y", end="")
            except ValueError:
                pass
            process.finish(4)
        """
        assert run(code)[::2] == (4, "")


class TestTerminationMessage:
    """``write_termination_message`` writes one line, or warns."""

    def test_replaces(self, tmp_path: Path) -> None:
        """The file has only the last line, in UTF-8."""
        path = tmp_path / "message"
        process.write_termination_message(str(path), "a long line of an earlier pass")
        process.write_termination_message(str(path), "Störung")
        assert path.read_bytes() == "Störung".encode()

    def test_no_path(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Without a path nothing is written, and nothing is logged."""
        process.write_termination_message("", "line")
        assert (os.listdir(tmp_path), caplog.records) == ([], [])  # noqa: PTH208 - the names

    @pytest.mark.parametrize("path", ["nowhere/at/all", ".", "/dev/full"])
    def test_not_writable(self, path: str, caplog: pytest.LogCaptureFixture) -> None:
        """If the file cannot be written, a warning has the path and the reason."""
        process.write_termination_message(path, "line")
        (record,) = caplog.records
        fields = vars(record)
        assert (record.levelname, fields["action"]) == ("WARNING", "no termination message")
        assert fields["path"] == path
        assert fields["error"]


class Stream:
    """A stream that records its reconfiguration."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def reconfigure(self, **options: Any) -> None:
        """Keep the arguments."""
        self.options = options


class TestEntry:
    """``python -m ops_worker`` prepares the process, then runs the command."""

    def test_streams(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An ASCII stream replaces other characters by ``?``. A closed stream discards all."""
        out = Stream()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", None)
        entry._repair_streams()
        assert out.options == {"errors": "replace"}
        discarded: Any = sys.stderr
        assert discarded.write("text") == 4
        discarded.close()

    def test_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Signals are held before the command runs. The process ends with its exit code."""
        steps: list[object] = []

        def step(name: str, value: int | None = None) -> Callable[..., int | None]:
            def take(*arguments: object, **options: object) -> int | None:
                steps.append((name, *arguments, options) if options else (name, *arguments))
                return value

            return take

        monkeypatch.setattr("gc.disable", step("gc.disable"))
        monkeypatch.setattr(entry, "_repair_streams", step("streams"))
        monkeypatch.setattr(process, "hold_signals", step("hold"))
        monkeypatch.setattr(process, "finish", step("finish"))
        monkeypatch.setattr("ops_worker.cli.main", step("main", 3))
        entry.run()
        assert steps == [
            ("gc.disable",),
            ("streams",),
            ("hold",),
            ("main", {"guarded": True}),
            ("finish", 3),
        ]

    def test_module(self) -> None:
        """The package runs as a module."""
        result = subprocess.run(
            [sys.executable, "-m", "ops_worker", "--version"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0
        assert result.stdout.startswith("ops-worker ")


def test_awaits_in_a_thread() -> None:
    """A thread other than the main thread can wait for a signal."""
    code = f"""
        {HOLD}
        names = []
        thread = threading.Thread(target=lambda: names.append(process.await_signal()))
        thread.start()
        os.kill(os.getpid(), {int(signal.SIGINT)})
        thread.join()
        print(names)
    """
    assert run(code) == (0, "['SIGINT']\n", "")
