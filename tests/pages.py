"""Generate the tables of the documentation, and the schema of the chart's values, from the code.

`python -m tests.pages` writes them into their files. A table is between two comments,
`<!-- NAME: begin -->` and `<!-- NAME: end -->`. tests/test_promises.py checks that each table is up
to date.
"""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from pathlib import Path

from ops_worker.catalogue import entries
from ops_worker.settings import SECRET_VARIABLES
from ops_worker.variables import variables

DOCS = Path(__file__).parent.parent / "docs"
SCHEMA = DOCS.parent / "k8s" / "helm" / "ops-worker" / "values.schema.json"
SET_BY_THE_CHART = frozenset(
    {
        "HOSTNAME",
        "JOB_COMPLETION_INDEX",
        "JOB_NAME",
        "KUBERNETES_EVENTS",
        "OPS_WORKER_CATALOGUE",
        "PASS_PERIOD",
        "SHARD_COUNT",
        "SIDECAR_HOST",
        "SIDECAR_PORT",
    }
)
"""Settings that are not values of the chart. Its templates or Kubernetes set them."""
EMPTY = "\N{EN DASH}"
"""The cell of a table without a value."""


def settings_table() -> str:
    """Return the table of settings: names, default, meaning, and the commands that read them."""
    head = "| variable (the first one that is set wins) | default | meaning | read by |"
    rows = [head, "|---|---|---|---|"]
    for variable in variables():
        names = " ".join(f"`{name}`" for name in variable.names)
        default = f"`{variable.default}`" if variable.default else EMPTY
        commands = ", ".join(f"`{name}`" for name in variable.commands) or "all"
        rows.append(f"| {names} | {default} | {variable.meaning} | {commands} |")
    return "\n".join(rows)


def catalogue_table(model: str) -> str:
    """Return the table of the keys of a catalogue entry: ``model`` is ServiceEntry or FigureEntry.

    The docstring below a field is the meaning of its key.
    """
    tree = ast.parse(Path(entries.__file__).read_text(encoding="utf-8"))
    classes = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    meanings = {
        node.target.id: " ".join(str(ast.literal_eval(after.value)).split())
        for node, after in pairwise(classes[model])
        if isinstance(node, ast.AnnAssign)
        if isinstance(node.target, ast.Name)
        if isinstance(after, ast.Expr)
    }
    rows = ["| key | default | meaning | value |", "|---|---|---|---|"]
    for name, field in getattr(entries, model).model_fields.items():
        default = "required" if field.is_required() else _written(field.default)
        wants = field.json_schema_extra["wants"]
        rows.append(f"| `{field.alias or name}` | {default} | {meanings[name]} | {wants} |")
    return "\n".join(rows)


def _written(default: object) -> str:
    """Return the cell of a default."""
    if default in (None, "", (), {}):
        return EMPTY
    text = f"{default:g}" if isinstance(default, float) else json.dumps(default)
    return f"`{text}`"


TABLES = {
    "settings": ("settings.md", settings_table),
    "services": ("catalogue.md", lambda: catalogue_table("ServiceEntry")),
    "figures": ("catalogue.md", lambda: catalogue_table("FigureEntry")),
}
"""By name of a table: its page, and the function that returns it."""


def with_table(name: str) -> tuple[Path, str]:
    """Return the path of a table's page, and the text that the page should have."""
    page, table = TABLES[name]
    text = (DOCS / page).read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"<!-- {name}: begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}: end -->")
    assert end, f"docs/{page} has no place for the table {name}"
    return DOCS / page, f"{before}{begin}{table()}\n{end}{after}"


def chart_schema() -> tuple[Path, str]:
    """Return the path of the schema of the chart's values, and the text that it should have.

    Its `settings` are all variables of the program, except for secrets and those of the chart.
    """
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    hidden = SET_BY_THE_CHART | {name for secret in SECRET_VARIABLES for name in _forms(secret)}
    names = [name for variable in variables() for name in variable.names if name not in hidden]
    schema["properties"]["settings"]["properties"] = {name: {"type": "string"} for name in names}
    return SCHEMA, json.dumps(schema, indent=2) + "\n"


def _forms(secret: str) -> tuple[str, str]:
    """Return the two variables of a secret: its value, and the path of a file with its value."""
    return secret, f"{secret}_FILE"


if __name__ == "__main__":
    # Read a page after the table before was written: a page may have several tables.
    for table_name in TABLES:
        page_path, page_text = with_table(table_name)
        page_path.write_text(page_text, encoding="utf-8")
    schema_path, schema_text = chart_schema()
    schema_path.write_text(schema_text, encoding="utf-8")
