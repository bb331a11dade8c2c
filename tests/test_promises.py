"""The repository's promises: what its documents say is what the program does."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops_worker import __version__, settings
from ops_worker.catalogue import builtin_urls, entries
from ops_worker.cli import COMMANDS, EXIT_CODES
from ops_worker.variables import variables

if TYPE_CHECKING:
    from tests.conftest import Worker

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


@pytest.mark.unit
def test_variables_are_the_settings() -> None:
    """The variables that --help lists are those that the settings read, with the defaults that they have."""
    listed = [name for variable in variables() for name in variable.names]
    read = [name.upper() for name in settings.Settings.model_fields]
    read += [name for _, names, _ in builtin_urls() for name in names]
    assert sorted(read) == sorted(listed)
    os.environ["PG_PASS"] = "x"
    for variable in variables():
        if variable.default:
            os.environ[variable.names[0]] = variable.default
    told = settings.load()
    for variable in variables():
        os.environ.pop(variable.names[0], None)
    os.environ["PG_PASS"] = "x"
    assert told == settings.load()
    del os.environ["PG_PASS"]


@pytest.mark.unit
def test_env_example() -> None:
    """.env.example lists every variable, commented out, with its meaning and its default or a placeholder."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#([A-Z_]+)=(.+)$", text, re.MULTILINE))
    assert list(found) == [name for variable in variables() for name in variable.names]
    prose = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for variable in variables():
        assert variable.meaning in prose
        assert all(found[name] == variable.default for name in variable.names if variable.default)
    assert not re.search(r"^[A-Z]", text, re.MULTILINE), "an example that is copied must not set anything"


@pytest.mark.unit
def test_readme_table() -> None:
    """The README's table of settings has every variable with its default and meaning, and no other."""
    rows = re.findall(r"^\| ((?:`[A-Z_]+` ?)+) \| (\S+) \| (.*) \|$", README, re.MULTILINE)
    found = [(tuple(re.findall(r"[A-Z_]+", names)), default.strip("`\u2013"), meaning) for names, default, meaning in rows]
    assert [row[:2] for row in found] == [(variable.names, variable.default) for variable in variables()]
    for (*_, meaning), variable in zip(found, variables(), strict=True):
        assert meaning.startswith(variable.meaning)


@pytest.mark.unit
def test_exit_codes_are_documented() -> None:
    """The README and --help tell of the same exit codes."""
    assert re.findall(r"^\| (\d) \|", README, re.MULTILINE) == re.findall(r"^  (\d)  ", EXIT_CODES, re.MULTILINE)


@pytest.mark.unit
def test_changelog_and_version() -> None:
    """There is one version number, and a changelog with a place for what comes next."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.unit
@pytest.mark.parametrize("model", ["ServiceEntry", "FigureEntry"])
def test_readme_catalogue(model: str) -> None:
    """The README's tables of a catalogue's keys are those of the program: name, default, meaning, what it wants."""
    rows = catalogue_rows(model)
    assert "\n".join(rows) in README


def catalogue_rows(model: str) -> list[str]:
    """Give the rows of the README's table for a kind of entry."""
    tree = ast.parse(Path(entries.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == model)
    meanings = {
        node.target.id: str(ast.literal_eval(after.value))
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)
    }
    rows = []
    for name, field in getattr(entries, model).model_fields.items():
        default = "required" if field.is_required() else _written(field.default)
        rows.append(f"| `{field.alias or name}` | {default} | {meanings[name]} | {field.json_schema_extra['wants']} |")
    return rows


def _written(default: object) -> str:
    if default in (None, "", (), {}):
        return "–"  # noqa: RUF001 - as in the table
    text = json.dumps(default) if not isinstance(default, float) else f"{default:g}"
    return f"`{text}`"


@pytest.mark.unit
def test_readme_names_every_command() -> None:
    """Each command is shown in the README."""
    for name in COMMANDS:
        assert f"ops-worker {name}" in README


@pytest.mark.acceptance
@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[0][:30] for block in BLOCKS])
def test_readme_commands(worker: Worker, block: str) -> None:
    """Every command of the README runs as it stands.

    Its URLs are those of the test's database and services; make tells what it would run, pytest what it would collect,
    and the installation is left to whoever runs the tests.
    """
    for variable in ("INGEST", "EVALUATOR", "DISPATCHER"):
        block = re.sub(rf"{variable}_URL=\S+", f"{variable}_URL={worker.env[f'{variable}_HEALTH_URL']}", block)
    block = re.sub(r"DATABASE_URL='.*?'", f"DATABASE_URL='{worker.env.pop('DATABASE_URL')}'" if "DATABASE_URL" in block else "", block)
    block = block.replace(".venv/bin/pytest", f"{sys.executable} -m pytest --collect-only -q {ROOT}/tests")
    block = block.replace("manifests check k8s", f"manifests check {ROOT}/k8s")
    script = f"""set -eu
        make() {{ command make --directory {ROOT} --dry-run "$@"; }}
        python3() {{ :; }}
        ops-worker() {{ {sys.executable} -m ops_worker "$@"; }}
        {re.sub(r"^.venv/bin/pip", ": pip", block, flags=re.MULTILINE)}"""
    env = {name: value for name, value in worker.env.items() if not name.endswith("_HEALTH_URL")} | {"PYTHONPATH": str(ROOT)}
    if "export" not in block:
        env |= {"DATABASE_URL": worker.env.get("DATABASE_URL", "")}
    done = subprocess.run(["bash", "-c", script], cwd=worker.folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.acceptance
def test_demo() -> None:
    """The demo shows an alert open and close, leaves its page and no process behind, and ends with the status of what was seeded."""
    (ROOT / "report.html").unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-m", "tests.demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 alert opened: dispatcher" in done.stdout
    assert "1 alert closed: dispatcher" in done.stdout
    page, _, status = done.stdout.partition("report.html: written\n\n$ ops-worker status --since 2h\n")
    assert re.search(r"^evaluator +rules_evaluated .*[▁▂▃▄▅▆▇█·]{24}$", status, re.MULTILINE) and "$" not in status
    assert (ROOT / "report.html").read_text(encoding="utf-8").count("<svg") >= 14, page
    port = re.search(r"127\.0\.0\.1:(\d+)/postgres", done.stdout)
    assert port is not None
    assert not subprocess.run(["pgrep", "-f", f"postgres.*-p {port[1]}"], capture_output=True, text=True, check=False).stdout


@pytest.mark.acceptance
def test_demo_interrupted() -> None:
    """Ctrl-C in the middle of the demo leaves nothing behind either."""
    command = [sys.executable, "-m", "tests.demo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        shown = ""
        while "$ ops-worker" not in shown and (line := process.stdout.readline()):
            shown += line
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "interrupted; nothing was left behind" in err
    port = re.search(r"127\.0\.0\.1:(\d+)/postgres", shown)
    assert port is not None
    assert not subprocess.run(["pgrep", "-f", f"postgres.*-p {port[1]}"], capture_output=True, text=True, check=False).stdout
