"""``ops-worker manifests check``: the rules of ``ops_worker.manifest_rules`` on files."""

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


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "action",
        choices=["check"],
        help="check: tell everything that is wrong with manifests that run ops-worker",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a folder (read as `kubectl apply -f` does), or - for standard input",
    )


def run(options: argparse.Namespace) -> int:
    """Print a line for each fault and one that counts them; give 0, or 4 when there are any.

    A file that cannot be read is a fault.
    """
    from ops_worker import settings
    from ops_worker.adapters import yaml_files
    from ops_worker.manifest_rules import Document, Facts, check
    from ops_worker.variables import variables

    objects, unread = yaml_files.read(options.paths)
    found = [Document(path, content) for path, content in objects]
    defaults = {name: variable.default for variable in variables() for name in variable.names}
    faults = check(found, Facts(_parsed(options.parser), defaults, settings.faults))
    lines = [*(f"{path}: {fault}" for path, fault in unread), *map(str, faults)]
    for line in lines:
        print(line)
    checked = f"{len(found)} object{'s' * (len(found) != 1)} checked"
    print(f"manifests: {checked}, {len(lines)} fault{'s' * (len(lines) != 1)}")
    return UNHEALTHY if lines else DONE


def _parsed(parser: argparse.ArgumentParser) -> Callable[[Sequence[str]], str]:
    """Give what says what is wrong with a command line, in the parser's own words."""

    def parse(arguments: Sequence[str]) -> str:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                options = parser.parse_args(arguments)
            except SystemExit as ended:
                problem = (
                    said.getvalue().strip().rpartition("error: ")[2]
                    if ended.code
                    else "asks for help, and does nothing"
                )
                return re.sub(r"=\S+", "=...", problem)  # which may be a secret
        if getattr(options, "every", 0) is None and options.seconds != math.inf:
            return "--for wants --every as well"
        return ""

    return parse
