"""``ops-worker manifests check``: apply the rules of ``ops_worker.manifest_rules`` to files."""

from __future__ import annotations

import contextlib
import io
import math
import re
from typing import TYPE_CHECKING

from ops_worker.errors import DONE, UNHEALTHY

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from ops_worker.manifest_rules import ProgramFacts


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "action",
        choices=["check"],
        help="report every fault of manifests that run ops-worker",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a folder (read as by `kubectl apply -f`), or - for standard input",
    )


def run(options: argparse.Namespace) -> int:
    """Print one line per fault, then a summary; return 0, or 4 if there are faults.

    An unreadable file is a fault. Raises SettingsError if no file could be read.
    """
    from ops_worker.adapters import yaml_files
    from ops_worker.manifest_rules import Document, check

    loaded = yaml_files.read(options.paths)
    documents = [Document(file, content) for file, content in loaded.objects]
    faults = check(documents, program_facts(options.parser))
    lines = [f"{error.file}: {error.message}" for error in loaded.errors]
    lines += map(str, faults)
    for skipped in loaded.skipped:
        print(f"{skipped.file}: {skipped.message}")
    for line in lines:
        print(line)
    objects = _count(len(documents), "object")
    print(f"manifests: {objects} checked, {_count(len(lines), 'fault')}")
    return UNHEALTHY if lines else DONE


def program_facts(parser: argparse.ArgumentParser) -> ProgramFacts:
    """Return the facts about this program that the rules need."""
    from ops_worker import settings
    from ops_worker.manifest_rules import ProgramFacts
    from ops_worker.variables import variables

    return ProgramFacts(
        argument_error=_argument_error(parser),
        defaults={name: variable.default for variable in variables() for name in variable.names},
        setting_errors=settings.faults,
    )


def _argument_error(parser: argparse.ArgumentParser) -> Callable[[Sequence[str]], str]:
    """Return a function that returns the parser's message about arguments."""

    def argument_error(arguments: Sequence[str]) -> str:
        """Return the parser's message about arguments; empty if they are valid."""
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            try:
                options = parser.parse_args(arguments)
            except SystemExit as ended:
                if not ended.code:
                    return "only prints help and does nothing"
                problem = printed.getvalue().strip().rpartition("error: ")[2]
                return re.sub(r"=\S+", "=...", problem)  # a value may be a secret
        if getattr(options, "every", 0) is None and options.for_s != math.inf:
            return "--for requires --every"
        return ""

    return argument_error


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
