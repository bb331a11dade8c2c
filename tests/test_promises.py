"""The documents of the repository agree with the program."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops_worker import __version__, cli, settings
from ops_worker.catalogue import builtin_urls
from ops_worker.cli import EXIT_CODES, commands
from ops_worker.variables import variables
from tests import pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.conftest import Database, Worker
    from tests.stubs import Stubs

ROOT = Path(__file__).parent.parent
GUIDES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
_FILES = [*(ROOT / name for name in GUIDES), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in _FILES}
"""The documents for people, by path: the guides and every page of docs/."""
README = PAGES["README.md"]
OPERATIONS = PAGES["docs/operations.md"]
FENCED = r"^ *```.*?^ *```$"
"""A block of code, which may be inside a list."""
COPY, EXAMPLE = "k8s/overlays/mine", "k8s/examples/overlay"
"""The reader's own overlay, and the folder of which it is a copy."""


class Block(NamedTuple):
    """A block of code of a page: its language and its text."""

    page: str
    language: str
    text: str


BLOCKS = [
    Block(page, language, textwrap.dedent(text))
    for page, content in PAGES.items()
    for language, text in re.findall(
        r"^ *```(\w*)\n(.*?)^ *```$", content, re.DOTALL | re.MULTILINE
    )
]


def blocks(language: str, but: str = "") -> list[Any]:
    """Return the blocks of a language as parameters, named after page and first line.

    Blocks of the page ``but`` are left out.
    """
    return [
        pytest.param(block.text, id=f"{block.page}: {block.text[:30].splitlines()[0]}")
        for block in BLOCKS
        if block.language == language and block.page != but
    ]


@pytest.mark.unit
def test_variables_are_the_settings() -> None:
    """--help lists the variables that the settings read, with the same defaults."""
    listed = [name for variable in variables() for name in variable.names]
    field_names = [name.upper() for name in settings.Settings.model_fields]
    field_names += [name for _, names, _ in builtin_urls() for name in names]
    assert sorted(field_names) == sorted(listed)
    os.environ["PG_PASS"] = "x"
    for variable in variables():
        if variable.default:
            os.environ[variable.names[0]] = variable.default
    loaded = settings.load()
    for variable in variables():
        os.environ.pop(variable.names[0], None)
    os.environ["PG_PASS"] = "x"
    assert loaded == settings.load()
    del os.environ["PG_PASS"]


@pytest.mark.unit
def test_env_example() -> None:
    """.env.example lists every variable with its meaning, commented out.

    The value is the default, or a placeholder if there is no default.
    """
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    values = dict(re.findall(r"^#([A-Z_]+)=(.+)$", text, re.MULTILINE))
    assert list(values) == [name for variable in variables() for name in variable.names]
    prose = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for variable in variables():
        assert variable.meaning in prose
        assert all(values[name] == variable.default for name in variable.names if variable.default)
    assert not re.search(r"^[A-Z]", text, re.MULTILINE), (
        "an example that is copied must not set anything"
    )


DERIVED_SETTINGS = {
    "catalogue": ("ops_worker_catalogue",),
    "targets": ("ops_worker_catalogue",),
    "thresholds": ("alert_after_failures", "resolve_after_successes"),
}
"""Properties of the settings that commands read, and the fields from which they are made."""


@pytest.mark.unit
@pytest.mark.parametrize("name", sorted(commands()))
def test_settings_name_their_commands(name: str) -> None:
    """A setting that the module of a command reads is in the help of the command."""
    command = commands()[name]
    if not command.has_settings:
        return
    module = ROOT / "ops_worker" / "commands" / f"{command.module}.py"
    attributes = set(re.findall(r"\bsettings\.(\w+)", module.read_text(encoding="utf-8")))
    fields = {
        field for attribute in attributes for field in DERIVED_SETTINGS.get(attribute, (attribute,))
    }
    # The two modules of the passes are shared by commands that do not read all of these.
    shared = {
        "kubernetes_events",
        "heartbeat_url",
        "pass_period",
        "metrics_buffer_samples",
        "metrics_buffer_mib",
    }
    unlisted = [
        variable.names[0]
        for variable in variables()
        if variable.names[0].lower() in fields - shared
        if variable.commands
        if name not in variable.commands
    ]
    assert unlisted == []


@pytest.mark.unit
@pytest.mark.parametrize("name", pages.TABLES)
def test_tables_are_up_to_date(name: str) -> None:
    """The tables of settings and keys equal the code; `python -m tests.pages` writes them."""
    path, text = pages.with_table(name)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.unit
def test_readme_is_short() -> None:
    """README.md has at most 150 lines, and names every page."""
    assert len(README.splitlines()) <= 150
    linked = {link for link, _ in links(README)}
    decisions = {link for link, _ in links(PAGES["docs/decisions/README.md"])}
    for page in PAGES.keys() - {"README.md"}:
        assert page in linked or page.removeprefix("docs/decisions/") in decisions, page


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    """Every relative link and picture leads to a file, and every anchor to a heading."""
    for link, anchor in links(PAGES[page]):
        path = ((ROOT / page).parent / link).resolve() if link else ROOT / page
        assert path.is_relative_to(ROOT) and path.exists(), link
        if anchor:
            assert anchor in anchors(PAGES[str(path.relative_to(ROOT))]), f"{link}#{anchor}"


def links(text: str) -> list[tuple[str, str]]:
    """Return the path and the anchor of each relative link and picture."""
    prose = re.sub(FENCED, "", text, flags=re.DOTALL | re.MULTILINE)
    matches = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", prose)
    targets = [markdown or html for markdown, html in matches]
    return [target.partition("#")[::2] for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    prose = re.sub(FENCED, "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """Every file and folder of the repository that a page names exists."""
    text = PAGES[page].replace(COPY, EXAMPLE)
    names = re.findall(r"`((?:ops_worker|k8s|tests|docs)/[\w./-]*)`", text)
    missing = [name for name in names if not (ROOT / name).exists()]
    assert [name for name in missing if "NAME" not in name] == []  # NAME is a placeholder


@pytest.mark.unit
def test_code_names_pages() -> None:
    """If code or a manifest names a page, the page and the heading in quotes exist."""
    sources = [path for folder in ("ops_worker", "k8s") for path in (ROOT / folder).rglob("*.*")]
    count = 0
    for path in [*sources, ROOT / "pyproject.toml", ROOT / ".env.example", ROOT / "Makefile"]:
        if path.suffix not in {".py", ".toml", ".yaml", ".sql", ".example", ""}:
            continue
        text = path.read_text(encoding="utf-8")
        for page, heading in re.findall(r"(?<![\w/])(docs/[\w/-]+\.md)(?:, \"([^\"]+)\")?", text):
            count += 1
            assert page in PAGES, f"{path}: {page}"
            assert not heading or f"# {heading}\n" in PAGES[page], f"{path}: {heading}"
        assert not re.search(r'README, ["\w]', text), f"{path}: names a section of README.md"
    assert count > 5


@pytest.mark.unit
def test_glossary_names_code() -> None:
    """Every path in the glossary's column "code" exists, and every term has only one row."""
    lines = PAGES["docs/glossary.md"].splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    rows = [row for row in rows if len(row) == 6 and row[0] != "| term"]
    terms = [row[0] for row in rows]
    assert len(terms) == len(set(terms)) >= 50
    for row in rows:
        for name in re.findall(r"`([\w.]+)`", row[3]):
            assert exists(f"ops_worker.{name}"), f"{row[0]}: {name}"


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            known = getattr(value, "model_fields", {})
            if part not in known and not hasattr(value, part):
                return False
            value = getattr(value, part, None)
        return True
    return False


@pytest.mark.unit
def test_exit_codes_are_documented() -> None:
    """The runbook and --help have the same exit codes, and the runbook a section for each."""
    codes = re.findall(r"^  (\d)  ", EXIT_CODES, re.MULTILINE)
    assert re.findall(r"^\| (\d) \|", OPERATIONS, re.MULTILINE) == codes
    assert re.findall(r"^### Exit code (\d)$", OPERATIONS, re.MULTILINE) == codes
    assert all(re.search(rf"\b{code} \w", README.partition("## Exit codes")[2]) for code in codes)


@pytest.mark.unit
def test_alerts_are_documented() -> None:
    """The runbook has a section for each alert of the PrometheusRule and of the worker."""
    rule = (ROOT / "k8s" / "components" / "monitoring" / "rule.yaml").read_text(encoding="utf-8")
    names = re.findall(r"- alert: (\w+)", rule)
    headings = re.findall(r"^### (OpsWorker\w+)$", OPERATIONS, re.MULTILINE)
    assert names and headings == names
    assert "`system-health:<service>`" in OPERATIONS and "`system-health:ops_worker`" in OPERATIONS
    kubernetes = PAGES["docs/kubernetes.md"]
    assert re.findall(r"^\| `(OpsWorker\w+)` \|", kubernetes, re.MULTILINE) == names


@pytest.mark.unit
def test_changelog_and_version() -> None:
    """There is one version number, and the changelog has a section for the next release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.unit
def test_every_command_is_documented() -> None:
    """The page of commands lists each command."""
    listed = re.findall(r"^\| `ops-worker ([\w-]+)", PAGES["docs/commands.md"], re.MULTILINE)
    assert sorted(listed) == sorted(commands())


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The program accepts every command that a page shows, in a block or in a line."""
    for command in shown_commands(page):
        words = shlex.split(command, comments=True)
        with contextlib.suppress(SystemExit):
            cli._parser().parse_args(words[1:])
        assert capsys.readouterr().err == "", command


def shown_commands(page: str) -> list[str]:
    """Return the commands of the worker that a page shows, each from `ops-worker` to its end."""
    prose = re.sub(FENCED, "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in BLOCKS if block.page == page for line in block.text.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose)
    parts = [part for line in lines for part in re.split(r"\|\|?|&&|;", line.partition(" #")[0])]
    commands = [re.sub(r"^(\$ |[A-Z_]+=\S+ )", "", part.strip()) for part in parts]
    worker_commands = [command for command in commands if re.match(r"ops-worker [a-z-]", command)]
    return [command for command in worker_commands if "COMMAND" not in command]


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES)
def test_kubectl_commands(page: str) -> None:
    """Manifests and CronJobs that kubectl commands name exist, and bash can read the commands."""
    text = PAGES[page].replace(COPY, EXAMPLE)
    for path in re.findall(r"kubectl [^`\n]*?-[fk] (\S+?)[`\s,]", text):
        assert path == "-" or (ROOT / path).exists(), path
    rendered = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "k8s").glob("*.yaml"))
    for name in re.findall(r"kubectl [^`\n]*?cronjob[/ ](ops-worker-\S+?)[`\s,]", text):
        assert re.search(rf"^  name: {name}$", rendered, re.MULTILINE), name
    programs = ("docker ", "kubectl ", "ops-worker ", "pg_dump ")
    for block in BLOCKS:
        if block.page == page and block.text.startswith(programs):
            subprocess.run(["bash", "-n", "-c", block.text], check=True)


@pytest.mark.acceptance
@pytest.mark.parametrize("statements", blocks("sql", but="docs/dashboard.md"))
def test_sql_runs(worker: Worker, database: Database, statements: str) -> None:
    """The SQL of the pages runs on a database that the worker has used, and removes its objects.

    tests/test_dashboard.py runs the SQL of docs/dashboard.md.
    """
    assert worker("init-db").returncode == 0
    assert worker("health", DISPATCHER_HEALTH_URL="http://127.0.0.1:1").returncode == 0
    assert [alert["status"] for alert in database.alerts()] == ["OPEN"]
    for statement in statements.split(";\n"):
        if statement.strip():
            database.rows(statement)
    assert [alert["status"] for alert in database.alerts()] == ["CLOSED"]
    relations = [row["relname"] for row in database.rows("SELECT relname FROM pg_class")]
    assert [name for name in relations if name.startswith(("service_health", "ops_worker"))] == []


@pytest.mark.unit
@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_is_a_catalogue(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of a catalogue has no fault."""
    path = tmp_path / "catalogue.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("SHOP_TOKEN", "x")
    assert cli.main(["catalogue", "check", str(path)]) == 0


@pytest.mark.acceptance
@pytest.mark.parametrize("block", blocks("sh"))
def test_commands_run(worker: Worker, block: str) -> None:
    """Every command in a block of shell commands runs.

    Its URLs are those of the test's database and services. `make` only prints its commands, pytest
    only collects the tests of one folder, and nothing is installed.
    """
    for variable in ("INGEST", "EVALUATOR", "DISPATCHER"):
        block = re.sub(
            rf"{variable}_URL=\S+", f"{variable}_URL={worker.env[f'{variable}_HEALTH_URL']}", block
        )
    block = re.sub(
        r"DATABASE_URL='.*?'",
        f"DATABASE_URL='{worker.env.pop('DATABASE_URL')}'" if "DATABASE_URL" in block else "",
        block,
    )
    block = block.replace(
        ".venv/bin/pytest", f"{sys.executable} -m pytest --collect-only -q {ROOT}/tests/sql"
    )
    block = block.replace(". venv/bin/activate", "")
    block = block.replace("manifests check k8s", f"manifests check {ROOT}/k8s")
    script = f"""set -eu
        make() {{ command make --directory {ROOT} --dry-run "$@"; }}
        python3() {{ :; }}
        pip() {{ :; }}
        ops-worker() {{ {sys.executable} -m ops_worker "$@"; }}
        {block}"""
    env = {
        name: value for name, value in worker.env.items() if not name.endswith("_HEALTH_URL")
    } | {"PYTHONPATH": str(ROOT)}
    if "export" not in block:
        env |= {"DATABASE_URL": worker.env.get("DATABASE_URL", "")}
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=worker.folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.acceptance  # not with the oldest dependencies, which are smaller
@pytest.mark.parametrize(
    ("target", "extras"), [("DEMO", "demo"), ("READY", "cluster,sidecar,demo,dev")]
)
def test_installation_is_as_large_as_it_says(target: str, extras: str) -> None:
    """The installation and the README state the number of packages and their size.

    Both numbers may differ by a sixth. Bytecode does not count, because uv writes none.
    """
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(rf"^\$\({target}\):.*\n(?:\t.*\n)+", makefile, re.MULTILINE)
    assert recipe is not None and f"--editable '.[{extras}]'" in recipe[0]
    stated = re.search(r"@echo .*about (\d+)\D+(\d+) MB", recipe[0])
    assert stated is not None
    assert re.search(
        rf"{stated[1]} packages\s\({stated[2]} MB\)|{stated[1]} packages, {stated[2]} MB", README
    )
    packages = installed(extras.split(","))
    size = sum(
        path.stat().st_size
        for package in packages.values()
        for file in package.files or ()
        if file.suffix != ".pyc" and (path := Path(str(package.locate_file(file)))).is_file()
    )
    assert len(packages) == pytest.approx(int(stated[1]), rel=1 / 6)
    assert size / 1e6 == pytest.approx(int(stated[2]), rel=1 / 6)


def installed(extras: Sequence[str]) -> dict[str, Distribution]:
    """Return the packages of an installation with these extras, by name.

    This package itself is left out.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dependencies = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    todo = [(Requirement(line), "") for line in dependencies]
    packages: dict[str, Distribution] = {}
    handled = set()
    while todo:
        requirement, extra = todo.pop()
        if (str(requirement), extra) in handled or (
            requirement.marker is not None and not requirement.marker.evaluate({"extra": extra})
        ):
            continue
        handled.add((str(requirement), extra))
        if requirement.name == project["name"]:
            todo += [
                (Requirement(line), "")
                for extra in requirement.extras
                for line in project["optional-dependencies"][extra]
            ]
            continue
        package = packages[canonicalize_name(requirement.name)] = distribution(requirement.name)
        todo += [
            (Requirement(line), extra)
            for line in package.requires or ()
            for extra in requirement.extras or {""}
        ]
    return packages


MOMENTS = {
    "the server's files are made": ("Starting a PostgreSQL", "*/initdb.out"),
    "the server starts": ("Starting a PostgreSQL", "*/pg_ctl.out"),
    "the platform is loaded": ("(to look at it", ""),
    "a health pass runs": ("$ ops-worker health", ""),
    "a metrics pass runs": ("$ ops-worker metrics", ""),
    "the page is written": ("$ ops-worker report", ""),
}
"""For each moment: the line that the demo prints before, and a file that it then makes."""


NOBODY = (
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
"""Runs a program as a user other than root, who may still read the Python in root's home."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Yield a temporary folder that everybody may write to, like /tmp."""
    with tempfile.TemporaryDirectory(prefix="ops-test-") as path:
        folder = Path(path)
        folder.chmod(0o755)
        for name in ("tmp", "cwd"):
            (folder / name).mkdir()
            (folder / name).chmod(0o1777)
        yield folder


def demo(folder: Path, *, nobody: bool = False, **env: str) -> subprocess.Popen[str]:
    """Start the demo in its own process group, working folder and temporary folder."""
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
    """Check that the temporary folder is empty, and that no server runs on a folder in it."""
    assert not list((folder / "tmp").rglob("*"))
    assert not subprocess.run(
        ["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.acceptance
def test_demo(temporary: Path) -> None:
    """The demo shows an alert open and close, and every value, on a machine of any speed.

    It leaves only its page. It names the settings of .env and of the environment, and does not use
    them.
    """
    (temporary / "cwd" / ".env").write_text(
        "PG_HOST=nowhere\nALERT_AFTER_FAILURES=3\nOPS_WORKER_CATALOGUE=/nowhere\n"
    )
    with demo(
        temporary,
        SYSTEM_ALERT_ENABLED="false",
        PGOPTIONS="-c no.such=setting -c port=1",
        PG_PASS="hidden",
    ) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    first, _, output = out.partition("\n")
    assert first.startswith(
        "Not used by the demo, which has settings of its own: .env, PGOPTIONS, PG_PASS, "
        "SYSTEM_ALERT_ENABLED."
    )
    assert "hidden" not in out + err
    assert "1 alert opened: dispatcher" in output
    assert "1 alert closed: dispatcher" in output
    listed = re.findall(r"^  (\w+) +(\w+) +\[(.*)\]$", output, re.MULTILINE)
    down = {
        ("dispatcher", name) for name in ("alerts_processed", "routes_matched", "probe_latency_ms")
    }
    assert len(listed) == 26
    assert all(
        len(values.split(", ")) == (2 if (service, name) in down else 3)
        for service, name, values in listed
    )
    assert re.search(r"^health +on time .* 15\nmetrics +on time .* 180$", output, re.MULTILINE), (
        "only the passes that the history misses"
    )
    page, _, status = output.partition("report.html: written\n\n$ ops-worker status --since 2h\n")
    assert re.search(r"^evaluator +rules_evaluated .*[▁▂▃▄▅▆▇█·]{24}$", status, re.MULTILINE)
    assert "$" not in status
    assert (temporary / "cwd" / "report.html").read_text(encoding="utf-8").count("<svg") >= 14, page
    assert sorted(path.name for path in (temporary / "cwd").iterdir()) == [".env", "report.html"]
    nothing_left(temporary)


@pytest.mark.acceptance
def test_demo_on_another_database(temporary: Path, database: Database, stubs: Stubs) -> None:
    """With DATABASE_URL in .env, the demo runs a pass of each kind on that database.

    It uses all settings of .env.
    """
    lines = [
        f"{name}={value}"
        for name, value in (
            stubs.env | {"DATABASE_URL": database.url, "DELIVERY_HEALTH_URL": ""}
        ).items()
    ]
    (temporary / "cwd" / ".env").write_text("\n".join(lines))
    with demo(temporary) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "health: 3 services, 3 healthy" in out
    assert "metrics: 3 services, 3 healthy" in out
    assert "PostgreSQL" not in out
    assert set(database.health()) == {"ingest", "evaluator", "dispatcher"}


@pytest.mark.acceptance
@pytest.mark.parametrize("nobody", [False, True], ids=["whoever runs the tests", "nobody"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_demo_interrupted(temporary: Path, moment: str, nobody: bool) -> None:
    """Ctrl-C or SIGTERM ends the demo at any moment.

    No file, process or traceback is left. Ctrl-C reaches the whole process group.
    """
    if nobody and (
        os.geteuid() != 0
        or subprocess.run([*NOBODY, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs root and setpriv")
    number = (signal.SIGINT, signal.SIGTERM)[(list(MOMENTS).index(moment) + nobody) % 2]
    line, pattern = MOMENTS[moment]
    with demo(temporary, nobody=nobody) as process:
        assert process.stdout is not None
        output = ""
        while line not in output and (more := process.stdout.readline()):
            output += more
        assert line in output
        end = time.monotonic() + 60
        while pattern and not list((temporary / "tmp").glob(pattern)):
            assert time.monotonic() < end
            time.sleep(0.002)
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        # This also waits for every other process that writes to the same pipes.
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert err.endswith("\ninterrupted; nothing was left behind\n")
    assert "Traceback" not in err
    nothing_left(temporary)
