"""The repository's promises: what its documents say is what the program does."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import Distribution, distribution
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops_worker import __version__, settings
from ops_worker.catalogue import builtin_urls, entries
from ops_worker.cli import COMMANDS, EXIT_CODES
from ops_worker.variables import variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.conftest import Database, Worker
    from tests.stubs import Stubs

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
    block = block.replace(". venv/bin/activate", "")
    block = block.replace("manifests check k8s", f"manifests check {ROOT}/k8s")
    script = f"""set -eu
        make() {{ command make --directory {ROOT} --dry-run "$@"; }}
        python3() {{ :; }}
        pip() {{ :; }}
        ops-worker() {{ {sys.executable} -m ops_worker "$@"; }}
        {block}"""
    env = {name: value for name, value in worker.env.items() if not name.endswith("_HEALTH_URL")} | {"PYTHONPATH": str(ROOT)}
    if "export" not in block:
        env |= {"DATABASE_URL": worker.env.get("DATABASE_URL", "")}
    done = subprocess.run(["bash", "-c", script], cwd=worker.folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.acceptance  # not with the oldest dependencies, which are smaller
@pytest.mark.parametrize(("target", "extras"), [("DEMO", "demo"), ("READY", "cluster,sidecar,demo,dev")])
def test_installation_is_as_large_as_it_says(target: str, extras: str) -> None:
    """The line before an installation, and the README, give the number of packages and their size to within a sixth."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(rf"^\$\({target}\):.*\n(?:\t.*\n)+", makefile, re.MULTILINE)
    assert recipe is not None and f"--editable '.[{extras}]'" in recipe[0]
    said = re.search(r"@echo .*about (\d+)\D+(\d+) MB", recipe[0])
    assert said is not None
    assert re.search(rf"{said[1]} packages\s\({said[2]} MB\)|{said[1]} packages, {said[2]} MB", README)
    packages = installed(extras.split(","))
    size = sum(
        path.stat().st_size for one in packages.values() for file in one.files or () if (path := Path(str(one.locate_file(file)))).is_file()
    )
    assert len(packages) == pytest.approx(int(said[1]), rel=1 / 6)
    assert size / 1e6 == pytest.approx(int(said[2]), rel=1 / 6)


def installed(extras: Sequence[str]) -> dict[str, Distribution]:
    """Give the packages besides this one that an installation of it with these extras brings, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    todo = [(Requirement(line), "") for line in wanted]
    found: dict[str, Distribution] = {}
    done = set()
    while todo:
        one, extra = todo.pop()
        if (str(one), extra) in done or (one.marker is not None and not one.marker.evaluate({"extra": extra})):
            continue
        done.add((str(one), extra))
        if one.name == project["name"]:
            todo += [(Requirement(line), "") for extra in one.extras for line in project["optional-dependencies"][extra]]
            continue
        package = found[canonicalize_name(one.name)] = distribution(one.name)
        todo += [(Requirement(line), extra) for line in package.requires or () for extra in one.extras or {""}]
    return found


MOMENTS = {
    "the server's files are made": ("Starting a PostgreSQL", "*/initdb.out"),
    "the server starts": ("Starting a PostgreSQL", "*/pg_ctl.out"),
    "the platform is loaded": ("(to look at it", ""),
    "a health pass runs": ("$ ops-worker health", ""),
    "a metrics pass runs": ("$ ops-worker metrics", ""),
    "the page is written": ("$ ops-worker report", ""),
}
"""The line that the demo prints before it, and the file in its temporary folder that is made then."""


NOBODY = (
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
"""Runs a program as somebody who is not root, and who may read the Python of root's home all the same."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder that everybody may reach and write to, as /tmp."""
    with tempfile.TemporaryDirectory(prefix="ops-test-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        for name in ("tmp", "cwd"):
            (folder / name).mkdir()
            (folder / name).chmod(0o1777)
        yield folder


def demo(folder: Path, *, nobody: bool = False, **env: str) -> subprocess.Popen[str]:
    """Start the demo in a process group of its own, with a working and a temporary folder of its own."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    bare |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(
        [*(NOBODY if nobody else ()), sys.executable, "-m", "tests.demo"],
        cwd=folder / "cwd",
        env=bare | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def nothing_left(folder: Path) -> None:
    """Claim that the temporary folder is empty, and that no server runs on a folder that was in it."""
    assert not list((folder / "tmp").rglob("*"))
    assert not subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False).stdout


@pytest.mark.acceptance
def test_demo(temporary: Path) -> None:
    """The demo shows an alert open and close and every value, whatever the machine's speed; it leaves its page only.

    Settings from outside do not reach it: those of a .env, and those of the environment, are left aside and named.
    """
    (temporary / "cwd" / ".env").write_text("PG_HOST=nowhere\nALERT_AFTER_FAILURES=3\nOPS_WORKER_CATALOGUE=/nowhere\n")
    with demo(temporary, SYSTEM_ALERT_ENABLED="false", PGOPTIONS="-c no.such=setting -c port=1", PG_PASS="hidden") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    first, _, shown = out.partition("\n")
    assert first.startswith("Not used by the demo, which has settings of its own: .env, PGOPTIONS, PG_PASS, SYSTEM_ALERT_ENABLED.")
    assert "hidden" not in out + err
    assert "1 alert opened: dispatcher" in shown
    assert "1 alert closed: dispatcher" in shown
    listed = re.findall(r"^  (\w+) +(\w+) +\[(.*)\]$", shown, re.MULTILINE)
    down = {("dispatcher", name) for name in ("alerts_processed", "routes_matched", "probe_latency_ms")}
    assert len(listed) == 26
    assert all(len(values.split(", ")) == (2 if (service, name) in down else 3) for service, name, values in listed)
    assert re.search(r"^health +on time .* 15\nmetrics +on time .* 180$", shown, re.MULTILINE), (
        "what the history has as missed, and no more"
    )
    page, _, status = shown.partition("report.html: written\n\n$ ops-worker status --since 2h\n")
    assert re.search(r"^evaluator +rules_evaluated .*[▁▂▃▄▅▆▇█·]{24}$", status, re.MULTILINE) and "$" not in status
    assert (temporary / "cwd" / "report.html").read_text(encoding="utf-8").count("<svg") >= 14, page
    assert sorted(path.name for path in (temporary / "cwd").iterdir()) == [".env", "report.html"]
    nothing_left(temporary)


@pytest.mark.acceptance
def test_demo_on_another_database(temporary: Path, database: Database, stubs: Stubs) -> None:
    """With DATABASE_URL in .env, the demo is a pass of each kind on that database, with all the settings that are there."""
    lines = [f"{name}={value}" for name, value in (stubs.env | {"DATABASE_URL": database.url, "DELIVERY_HEALTH_URL": ""}).items()]
    (temporary / "cwd" / ".env").write_text("\n".join(lines))
    with demo(temporary) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "health: 3 services, 3 healthy" in out and "metrics: 3 services, 3 healthy" in out and "PostgreSQL" not in out
    assert set(database.health()) == {"ingest", "evaluator", "dispatcher"}


@pytest.mark.acceptance
@pytest.mark.parametrize("nobody", [False, True], ids=["whoever runs the tests", "nobody"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_demo_interrupted(temporary: Path, moment: str, nobody: bool) -> None:
    """Ctrl-C, which reaches the group, or a SIGTERM ends the demo at any moment; no file, no process, no traceback is left."""
    if nobody and (os.geteuid() != 0 or subprocess.run([*NOBODY, "true"], capture_output=True, check=False).returncode):
        pytest.skip("wants root, and setpriv")
    number = (signal.SIGINT, signal.SIGTERM)[(list(MOMENTS).index(moment) + nobody) % 2]
    line, made = MOMENTS[moment]
    with demo(temporary, nobody=nobody) as process:
        assert process.stdout is not None
        shown = ""
        while line not in shown and (more := process.stdout.readline()):
            shown += more
        assert line in shown
        end = time.monotonic() + 60
        while made and not list((temporary / "tmp").glob(made)):
            assert time.monotonic() < end
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, err = process.communicate(timeout=60)  # its end is also that of whoever wrote to the same pipes
    assert process.returncode == 128 + number, err
    assert err.endswith("\ninterrupted; nothing was left behind\n")
    assert "Traceback" not in err
    nothing_left(temporary)
