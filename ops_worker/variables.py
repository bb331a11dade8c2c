"""The documentation of the environment variables.

``--help`` prints this documentation, and docs/settings.md is generated from it. A test compares
``.env.example`` with it.

The documentation is read from the source text of ``settings``. To import that module would also
import pydantic, and ``--help`` would take five times as long.
"""

from __future__ import annotations

import ast
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ops_worker.catalogue import builtin_urls
from ops_worker.core.passes import PASSES


class Variable(NamedTuple):
    """A setting, with one or more names of its environment variable: the first one set wins.

    ``default`` is a text; empty means that there is no default. ``only`` lists the commands whose
    work depends on the variable, separated by spaces; empty means all commands that load settings.
    """

    names: tuple[str, ...]
    default: str
    meaning: str
    only: str = ""

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that read the variable; empty if all do.

        The word ``passes`` in ``only`` stands for every pass.
        """
        words = self.only.split()
        passes = PASSES if "passes" in words else ()
        return (*passes, *(word for word in words if word != "passes"))


def variables() -> list[Variable]:
    """Return all variables in the order of the settings.

    The variables with URLs of services come after the variables of the database.
    """
    settings = _settings()
    services = [
        Variable(
            names=names,
            default=default,
            meaning=f"Base URL of {service}. Empty: the service is not monitored.",
            only="passes sidecar status explain report alerts maintenance catalogue",
        )
        for service, names, default in builtin_urls()
    ]
    split = sum(variable.names[0].startswith(("DATABASE_", "PG_")) for variable in settings)
    return [*settings[:split], *services, *settings[split:]]


@cache
def _settings() -> tuple[Variable, ...]:
    """Read the fields of the class ``Settings``, each with the docstring that follows it.

    Parsing the source takes 8 ms, and `check` needs the names three times, so they are cached.
    """
    source = Path(__file__).with_name("settings.py").read_text(encoding="utf-8")
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    return tuple(
        _variable(node, str(ast.literal_eval(after.value)))
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr)
    )


def _variable(node: ast.AnnAssign, docstring: str) -> Variable:
    assert isinstance(node.target, ast.Name)
    assert isinstance(node.value, ast.Call)
    arguments = {keyword.arg: keyword.value for keyword in node.value.keywords}
    default = node.value.args[0] if node.value.args else arguments["default"]
    only = ast.literal_eval(arguments["only"]) if "only" in arguments else ""
    return Variable(
        names=(node.target.id.upper(),),
        default=_as_text(ast.literal_eval(default)),
        meaning=" ".join(docstring.split()),
        only=only,
    )


def _as_text(default: object) -> str:
    """Return a default as it is written in the environment."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return str(default)
