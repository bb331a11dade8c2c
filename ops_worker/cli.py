"""The command line: parse the arguments, load the settings, run a command, return its exit code.

The modules of a command are imported when it runs. So ``--help`` imports little more than argparse.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import math
import sys
import textwrap
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ops_worker import __version__
from ops_worker.core.output import failure_summary, message
from ops_worker.core.passes import PASSES
from ops_worker.core.passes import commands as pass_commands
from ops_worker.errors import FULL, OpsWorkerError, SettingsError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_worker.settings import Settings

_log = logging.getLogger("ops_worker")

EXIT_CODES = """\
exit codes:
  0  done: the pass was recorded, whatever the state of the services. Also if the pass was skipped,
     because another process held the lock, or is off (SYSTEM_ALERT_ENABLED)
  1  not done: the database was away, the deadline passed, a signal, or a bug. Also if the process
     that holds the lock seems to hang. A retry may help
  2  usage or settings: the message names the variable and what it expects. Also for check, if a
     service lacks a value
  3  schema or permission: the message says what to run or to set. Also for check, if it finds a
     fault outside the settings
  4  with --fail-on-unhealthy: the pass was recorded (in a dry run, shown), and a service is
     unhealthy or the pass was blind. Also for manifests check and catalogue check, if they find
     faults, and for cluster --fail-on-warnings, if it finds warnings
"""


class Command(NamedTuple):
    """A subcommand: a summary of one line, and the module in ``commands`` with its functions.

    ``options`` names the function that adds the command's options to a parser. ``run`` names the
    function that runs the command. It takes options and settings, or only options if the command
    has no settings. The module is imported when one of the two functions is needed, so that a pass
    imports nothing that only people's commands need.
    """

    summary: str
    module: str
    options: str = "options"
    run: str = "run"
    has_settings: bool = True

    def function(self, name: str) -> Any:
        """Import the module of the command; return its function ``name``."""
        return getattr(import_module(f"ops_worker.commands.{self.module}"), name)


def main(argv: Sequence[str] | None = None, *, guarded: bool = False) -> int:
    """Run one command and return its exit code.

    In a single pass, this is the only place that catches every error.

    ``guarded`` is for a process that runs this command only: a signal or the deadline ends it.
    """
    begun = time.monotonic()
    try:
        parser = _parser()
        options = parser.parse_args(argv)
    except SystemExit as error:  # argparse has printed what is wrong, or the help
        return int(error.code or 0)
    options.begun, options.parser = begun, parser
    try:
        _check(options)
        return _run(options, guarded=guarded)
    except OpsWorkerError as error:
        _log.debug("the command failed", exc_info=True)
        return _fail(options, error)
    except BrokenPipeError:  # the reader of the output has gone
        return OpsWorkerError.exit_code
    except Exception as error:  # noqa: BLE001 - the traceback goes to the log
        if isinstance(error, OSError) and error.errno in FULL:
            problem = f"the output could not be written: {error.strerror}"
            return _fail(options, OpsWorkerError(problem))
        _log.exception("this is a bug in ops-worker")
        return _fail(options, OpsWorkerError(shown(error)))


def _check(options: argparse.Namespace) -> None:
    """Raise SettingsError for what the parser cannot check."""
    unknown = [name for name in getattr(options, "passes", ()) if name not in PASSES]
    if unknown:
        from ops_worker.core.suggest import did_you_mean

        problem = f"no pass {', '.join(unknown)}: the passes are {', '.join(PASSES)}"
        raise SettingsError([problem + did_you_mean(unknown[0], [*PASSES])])
    if getattr(options, "every", 0) is None and options.for_s != math.inf:
        raise SettingsError(["--for needs --every: a single pass ends by itself"])


def _run(options: argparse.Namespace, *, guarded: bool) -> int:
    """Set up the log, the settings and the end of the process; run the command."""
    from ops_worker import log, process

    command = commands()[options.command]
    code: int
    if command.has_settings:
        settings = _load_settings(options)
        log.setup(settings.log_level)
        if options.command in pass_commands():
            _warn_of_doubts(settings)
        if guarded:
            _guard(options, settings)
        code = command.function(command.run)(options, settings)
    else:
        log.setup("INFO")
        if guarded:
            process.release_signals()
        code = command.function(command.run)(options)
    if options.command not in pass_commands():
        # The person asked for this output, so a failure to write it is an error. The output of a
        # pass is different: the database has the result.
        sys.stdout.flush()
    return code


def _load_settings(options: argparse.Namespace) -> Settings:
    """Load the settings. Keep the path of the termination message even if they are invalid."""
    from ops_worker import settings

    options.message_path, options.job = settings.termination_variables()
    try:
        loaded = settings.load(options.env_file)
    except SettingsError as error:  # perhaps a missing variable is set under a similar name
        from ops_worker.commands.check import near_misses

        similar = near_misses(options.env_file)
        unread = [f"{name} is set, but nothing reads it; {hint}" for name, hint in similar]
        raise SettingsError([*error.faults, *unread]) from None
    options.message_path, options.job = loaded.termination_message_path, loaded.job_name
    return loaded


def _warn_of_doubts(settings: Settings) -> None:
    for name, doubt in settings.doubts.items():
        extra = {"action": "setting", "setting": name, **doubt._asdict()}
        _log.warning("a setting has an unknown word", extra=extra)


def _guard(options: argparse.Namespace, settings: Settings) -> None:
    """Prepare the end of the process by a signal or by the deadline.

    Loops wait for signals themselves. A command whose duration has no limit has no deadline.
    """
    from ops_worker import process

    if options.command == "sidecar" or getattr(options, "every", None) is not None:
        return
    builds_indexes = getattr(options, "indexes", None) == "create"
    # A history may be long, and a pager may read it slowly.
    is_unlimited = builds_indexes or options.command == "history"
    if is_unlimited or getattr(options, "watch", None):
        process.release_signals()
        return
    process.enforce_deadline(
        settings.pass_deadline,
        lambda reason: _cut_off(options, reason),
        spent_s=time.monotonic() - options.begun,
    )


def _cut_off(options: argparse.Namespace, reason: str) -> int:
    """Report that the process is ended early; return its exit code.

    If the pass has already reported its outcome, it is recorded. Then only posts, Events or the
    heartbeat are lost.
    """
    reported_code: int | None = getattr(options, "reported_code", None)
    if reported_code is not None:
        return reported_code
    return _fail(options, OpsWorkerError(reason))


def _fail(options: argparse.Namespace, error: OpsWorkerError) -> int:
    """Report an error in every place where the caller may look for it; return its exit code."""
    faults = error.faults if isinstance(error, SettingsError) else (str(error),)
    with contextlib.suppress(OSError):  # the exit code still reports the failure
        for fault in faults:
            print(f"ops-worker {options.command}: {fault}", file=sys.stderr)
    if getattr(options, "output", "") == "json":
        failure = {
            "pass": options.command,
            "result": "failed",
            "error": str(error),
            "exit_code": error.exit_code,
        }
        with contextlib.suppress(OSError):
            print(json.dumps(failure), flush=True)
    path = getattr(options, "message_path", "")
    if path:
        from ops_worker import process

        job = getattr(options, "job", "")
        document = failure_summary(options.command, str(error), error.exit_code, job)
        process.write_termination_message(path, message(document))
    return error.exit_code


COMMANDS = {
    "sidecar": Command(
        summary="run all passes, or the named ones, each in its own loop, until a signal",
        module="run_loop",
    ),
    "check": Command(
        summary="check everything that a pass needs; change nothing",
        module="check",
        has_settings=False,
    ),
    "status": Command("show the current state: services, open alerts, passes, figures", "status"),
    "explain": Command("explain the state of a service, now or at an earlier time", "explain"),
    "history": Command(
        summary="show the states of services over days or years, and their availability",
        module="history",
    ),
    "report": Command(
        summary="write an HTML page: availability, incidents, latency, figures",
        module="report",
    ),
    "alerts": Command(
        summary="list, acknowledge or close system alerts; remove services no longer monitored",
        module="alerts",
    ),
    "maintenance": Command(
        summary="start, plan, list or end a time in which no alert opens",
        module="maintenance",
    ),
    "init-db": Command(
        summary="create, upgrade and repair the tables that the worker owns",
        module="init_db",
    ),
    "trigger": Command(
        summary="run a pass or another command in the cluster now, from a CronJob",
        module="trigger",
        has_settings=False,
    ),
    "cluster": Command(
        summary="show the CronJobs and Deployments in the cluster, and warnings about them",
        module="cluster",
        has_settings=False,
    ),
    "catalogue": Command(
        summary="check a file of services and figures, or show the catalogue in force",
        module="catalogue",
        has_settings=False,
    ),
    "manifests": Command(
        summary="check Kubernetes manifests that run the worker",
        module="manifests",
        has_settings=False,
    ),
}
"""Every command except the passes. A new command needs only an entry here."""


def commands() -> dict[str, Command]:
    """Return every command by its name, the passes first."""
    passes = {spec.name: Command(spec.summary, "run_pass") for spec in PASSES.values()}
    return {**passes, **COMMANDS}


class _Parser(argparse.ArgumentParser):
    """A parser that suggests corrections, and builds its epilog only when it prints help.

    ``suggest_on_error`` of Python 3.14 suggests only choices. This parser also suggests options, on
    every version of Python. The help keeps its line breaks.
    """

    _words: Sequence[str] = ()
    command: Command | None = None
    """The command whose options are not added yet."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        named.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **named)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments. The parser of the command reports unknown arguments itself."""
        self._complete()
        self._words = sys.argv[1:] if args is None else [*args]
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """End with a message, and add suggestions for misspelled options."""
        from ops_worker.core.suggest import closest

        option_names = [*self._option_string_actions]
        words = [word.partition("=")[0] for word in self._words]
        if self._subparsers:  # the words after a command belong to the command
            words = list(itertools.takewhile(lambda word: word.startswith("-"), words))
        for word in dict.fromkeys(words):
            # argparse accepts abbreviations of options.
            is_known = any(option.startswith(word) for option in option_names)
            if not word.startswith("--") or is_known:
                continue
            suggestion = closest(word, option_names)
            if suggestion:
                message += f"; did you mean {suggestion} instead of {word}?"
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            from ops_worker.core.suggest import did_you_mean

            candidates = [*(action.choices or ())]
            if action.nargs == argparse.PARSER:
                candidates += self._option_string_actions
            error.message += did_you_mean(str(value), candidates)
            raise

    def _complete(self) -> None:
        """Add the options of the command on their first use."""
        if self.command is not None:
            command, self.command = self.command, None
            command.function(command.options)(self)

    def format_help(self) -> str:
        """Return the help with the variables that the command reads, and the exit codes."""
        self._complete()
        name = self.prog.partition(" ")[2]
        command = commands().get(name)
        self.epilog = EXIT_CODES
        if command is not None and command.has_settings:
            self.epilog = f"{_variables(name)}\n{EXIT_CODES}"
        return super().format_help()


def _parser() -> argparse.ArgumentParser:
    about = (
        "Health and metrics passes for an IoT platform. "
        "A command runs one pass and ends, or runs passes in loops."
    )
    parser = _Parser("ops-worker", description=about)
    parser.add_argument("--version", action="version", version=f"ops-worker {__version__}")
    subparsers: Any = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands().items():
        about = f"{command.summary[0].upper()}{command.summary[1:]}."
        subparsers.add_parser(name, help=command.summary, description=about).command = command
    return parser


def _variables(command: str) -> str:
    """Return the part of the help about the environment variables that a command reads."""
    from ops_worker.variables import variables

    lines = [
        "environment variables (of several names, the first one that is set counts; an empty value",
        "counts as not set, unless the text says otherwise):",
    ]
    indent = "      "
    for variable in variables():
        if variable.commands and command not in variable.commands:
            continue
        default = f" (default {variable.default})" if variable.default else ""
        lines.append("  " + ", ".join(variable.names) + default)
        lines.append(
            textwrap.fill(variable.meaning, 100, initial_indent=indent, subsequent_indent=indent)
        )
    return "\n".join(lines) + "\n"
