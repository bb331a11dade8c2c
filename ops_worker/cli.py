"""The command line: arguments to settings, settings to a pass, its outcome to a line and an exit code.

The modules that a command needs are imported when it runs, so that ``--help`` costs what argparse costs.
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
from ops_worker.core.output import failed, message
from ops_worker.core.passes import PASSES
from ops_worker.core.passes import commands as pass_commands
from ops_worker.errors import FULL, OpsWorkerError, SettingsError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence


_log = logging.getLogger("ops_worker")

EXIT_CODES = """\
exit codes:
  0  the pass was done and recorded, whatever the services' state; or skipped, because another one held the lock;
     or off: SYSTEM_ALERT_ENABLED
  1  it was not done: the database was away, the deadline passed, a signal, or a bug; a retry may help
  2  usage or settings: the message names the variable and what it wants; check where a service lacks a value
  3  schema or permission: the message says what to run or to set; check with a fault that is none of the settings
  4  only with --fail-on-unhealthy: done and recorded (or, dry, shown), and a service is unhealthy; and where there are
     faults (manifests check, catalogue check) or warnings (cluster --fail-on-warnings)
"""


class Command(NamedTuple):
    """A subcommand: what it does in a line, and the module in ``commands`` that has its functions.

    ``options`` names the function that adds its options to a parser, ``run`` the one that runs it:
    with the options and the settings, or without settings with the options only. The module is
    imported when one of the two is needed: a pass does not pay for the commands of people.
    """

    summary: str
    module: str
    options: str = "options"
    run: str = "run"
    has_settings: bool = True

    def function(self, name: str) -> Any:
        """Return a function of its module."""
        return getattr(import_module(f"ops_worker.commands.{self.module}"), name)


def main(argv: Sequence[str] | None = None, *, guarded: bool = False) -> int:
    """Run one command and give its exit code. The one place that catches everything.

    ``guarded`` is for a process of its own: signals and the deadline then end it.
    """
    begun = time.monotonic()
    try:
        parser = _parser()
        options = parser.parse_args(argv)
    except SystemExit as usage:  # argparse has said what is wrong, or printed the help
        return int(usage.code or 0)
    options.begun, options.parser = begun, parser
    try:
        _check(options)
        return _run(options, guarded=guarded)
    except OpsWorkerError as error:
        _log.debug("the command failed", exc_info=True)
        return _fail(options, error)
    except BrokenPipeError:  # nobody reads any more
        return OpsWorkerError.exit_code
    except Exception as error:  # noqa: BLE001 - a bug: the traceback is worth its lines
        if isinstance(error, OSError) and error.errno in FULL:
            return _fail(
                options, OpsWorkerError(f"the output could not be written: {error.strerror}")
            )
        _log.exception("this is a bug in ops-worker")
        return _fail(options, OpsWorkerError(shown(error)))


def _check(options: argparse.Namespace) -> None:
    """Refuse what the parser cannot: raises SettingsError."""
    unknown = [name for name in getattr(options, "passes", ()) if name not in PASSES]
    if unknown:
        from ops_worker.core.suggest import did_you_mean

        told = "".join(did_you_mean(name, [*PASSES]) for name in unknown[:1])
        raise SettingsError(
            [f"no pass {', '.join(unknown)}: there are {' and '.join(PASSES)}{told}"]
        )
    if getattr(options, "every", 0) is None and options.seconds != math.inf:
        raise SettingsError(["--for wants --every as well"])


def _run(options: argparse.Namespace, *, guarded: bool) -> int:
    from ops_worker import log, process, settings

    command = commands()[options.command]
    runs_passes = options.command in pass_commands()
    if command.has_settings:
        options.left_at, options.job = settings.termination()
        try:
            found = settings.load(options.env_file)
        except SettingsError as error:  # perhaps what is missing is there by another name
            from ops_worker.commands.check import near_misses

            near = near_misses(options.env_file)
            unread = [f"{name} is set, but nothing reads it; {question}" for name, question in near]
            raise SettingsError([*error.faults, *unread]) from None
        options.left_at, options.job = found.termination_message_path, found.job_name
        log.setup(found.log_level)
        for name, doubt in found.doubts.items() if runs_passes else ():
            extra = {"action": "setting", "setting": name, **doubt._asdict()}
            _log.warning("a setting has a word that it does not know", extra=extra)
        loops = _loops(options)
        endless = (
            loops
            or getattr(options, "indexes", None) == "create"
            or getattr(options, "watch", None)
        )
        if guarded and endless and not loops:
            process.release_signals()
        if guarded and not endless:
            spent_s = time.monotonic() - options.begun
            process.enforce_deadline(
                found.pass_deadline,
                lambda why: _fail(options, OpsWorkerError(why)),
                spent_s=spent_s,
            )
        code: int = command.function(command.run)(options, found)
    else:
        log.setup("INFO")
        if guarded:
            process.release_signals()
        code = command.function(command.run)(options)
    if not runs_passes:
        sys.stdout.flush()  # what was asked for has to arrive; the database has what a pass did
    return code


def _loops(options: argparse.Namespace) -> bool:
    """Return whether the command runs passes in loops, which wait for signals themselves."""
    return options.command == "sidecar" or getattr(options, "every", None) is not None


def _fail(options: argparse.Namespace, error: OpsWorkerError) -> int:
    faults = error.faults if isinstance(error, SettingsError) else (str(error),)
    with contextlib.suppress(OSError):  # the exit code still tells
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
    if path := getattr(options, "left_at", ""):
        from ops_worker import process

        process.write_termination_message(
            path,
            message(
                failed(options.command, str(error), error.exit_code, getattr(options, "job", ""))
            ),
        )
    return error.exit_code


COMMANDS = {
    "sidecar": Command(
        summary="run both passes, or those named, each in a loop of its own, until told to stop",
        module="run_loop",
    ),
    "check": Command(
        summary="look at everything that a pass needs, and change nothing",
        module="check",
        has_settings=False,
    ),
    "status": Command("show what is known now: services, open alerts, passes, figures", "status"),
    "explain": Command("say why a service is what it is, or was at some time", "explain"),
    "report": Command(
        summary="write what happened as an HTML page: availability, incidents, latency, figures",
        module="report",
    ),
    "alerts": Command(
        summary="list system alerts, acknowledge or close one, remove what is left of services no longer watched",
        module="alerts",
    ),
    "maintenance": Command(
        summary="start or end a time in which no alert opens, or say whether there is one",
        module="maintenance",
    ),
    "init-db": Command(
        summary="create, upgrade and repair the tables that the worker owns",
        module="init_db",
    ),
    "trigger": Command(
        summary="run a pass in the cluster now, from its CronJob",
        module="cluster",
        options="trigger_options",
        run="trigger",
        has_settings=False,
    ),
    "cluster": Command(
        summary="show what the CronJobs in the cluster do, and what is wrong",
        module="cluster",
        options="cluster_options",
        run="cluster",
        has_settings=False,
    ),
    "catalogue": Command(
        summary="check a file of services and figures, or show what is in force",
        module="catalogue",
        has_settings=False,
    ),
    "manifests": Command(
        summary="check Kubernetes manifests that run the worker",
        module="manifests",
        has_settings=False,
    ),
}
"""Every command that is no pass. Adding one here is all it takes."""


def commands() -> dict[str, Command]:
    """Return every command by its name: the passes first."""
    passes = {spec.name: Command(spec.summary, "run_pass") for spec in PASSES.values()}
    return {**passes, **COMMANDS}


class _Parser(argparse.ArgumentParser):
    """A parser that suggests what was meant. Its epilog is made when somebody asks for help.

    ``suggest_on_error`` of Python 3.14 knows choices only; this one knows options as well, on every
    version. The lines of a help stay as they are.
    """

    _given: Sequence[str] = ()
    command: Command | None = None
    """The command whose options are still to be added."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(
            *arguments, **{"formatter_class": argparse.RawDescriptionHelpFormatter} | named
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all of it: what is not known is an error of the command to which it was given."""
        self._complete()
        self._given = sys.argv[1:] if args is None else [*args]
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """End with a message, to which is added what a misspelled option may have been."""
        from ops_worker.core.suggest import meant

        known = [*self._option_string_actions]
        words = [word.partition("=")[0] for word in self._given]
        if self._subparsers:  # what follows a command is the command's
            words = list(itertools.takewhile(lambda word: word.startswith("-"), words))
        for word in dict.fromkeys(words):
            misspelled = word.startswith("--") and not any(one.startswith(word) for one in known)
            if misspelled and (name := meant(word, known)):
                message += f"; did you mean {name} instead of {word}?"
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            from ops_worker.core.suggest import did_you_mean

            options = self._option_string_actions if action.nargs == argparse.PARSER else ()
            error.message += did_you_mean(str(value), [*(action.choices or ()), *options])
            raise

    def _complete(self) -> None:
        """Add the options of the command, the first time that they are needed."""
        if self.command is not None:
            command, self.command = self.command, None
            command.function(command.options)(self)

    def format_help(self) -> str:
        self._complete()
        command = self.prog.partition(" ")[2]
        self.epilog = (
            f"{_variables(command)}\n{EXIT_CODES}"
            if command in commands() and commands()[command].has_settings
            else EXIT_CODES
        )
        return super().format_help()


def _parser() -> argparse.ArgumentParser:
    about = "Health and metrics passes for an IoT platform. A command is one pass, which does its work and ends, or a loop of them."
    parser = _Parser("ops-worker", description=about)
    parser.add_argument("--version", action="version", version=f"ops-worker {__version__}")
    subparsers: Any = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands().items():
        about = f"{command.summary[0].upper()}{command.summary[1:]}."
        subparsers.add_parser(name, help=command.summary, description=about).command = command
    return parser


def _variables(command: str) -> str:
    from ops_worker.variables import variables

    lines = [
        "environment variables, the first one set wins; an empty one is as good as unset, except where it says so:"
    ]
    for variable in variables():
        if variable.commands and command not in variable.commands:
            continue
        default = f" (default {variable.default})" if variable.default else ""
        lines.append("  " + ", ".join(variable.names) + default)
        lines.append(
            textwrap.fill(
                variable.meaning, 100, initial_indent="      ", subsequent_indent="      "
            )
        )
    return "\n".join(lines) + "\n"
