"""The environment variables as documentation, which ``--help`` prints and docs/settings.md and ``.env.example`` follow.

Read from the source of ``settings`` instead of its classes: importing pydantic would make ``--help`` five times as slow.
"""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ops_worker.catalogue import builtin_urls
from ops_worker.core.passes import PASSES


class Variable(NamedTuple):
    """One variable: its names (the first one set wins), its default as text, what it means, the commands that read it if not all do."""

    names: tuple[str, ...]
    default: str
    meaning: str
    only: str = ""

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that read it, or none where all do; ``passes`` stands for every pass."""
        words = self.only.split()
        passes = PASSES if "passes" in words else ()
        return (*passes, *(word for word in words if word != "passes"))


def variables() -> list[Variable]:
    """List every variable, in the order of the settings' fields; those of the services follow the database's."""
    tree = ast.parse(Path(__file__).with_name("settings.py").read_text(encoding="utf-8"))
    body = next(
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    found = [
        _variable(node, str(ast.literal_eval(after.value)))
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr)
    ]
    urls = [
        Variable(
            names,
            default,
            f"Base URL of {service}; empty: it is not watched.",
            "passes sidecar catalogue",
        )
        for service, names, default in builtin_urls()
    ]
    split = next(
        index
        for index, variable in enumerate(found)
        if not variable.names[0].startswith(("DATABASE_", "PG_"))
    )
    return [*found[:split], *urls, *found[split:]]


def _variable(node: ast.AnnAssign, meaning: str) -> Variable:
    assert isinstance(node.target, ast.Name)
    assert isinstance(node.value, ast.Call)
    given = {keyword.arg: keyword.value for keyword in node.value.keywords}
    default = ast.literal_eval(node.value.args[0] if node.value.args else given["default"])
    only = ast.literal_eval(given["only"]) if "only" in given else ""
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, float):
        default = f"{default:g}"
    return Variable(
        (node.target.id.upper(),),
        "" if default is None else str(default),
        " ".join(meaning.split()),
        only,
    )
