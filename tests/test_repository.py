"""Tests of the repository: its version, package metadata, CI workflows and guides."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import ops_worker
from ops_worker import __version__

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
RELEASE = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
JOBS: dict[str, Any] = yaml.safe_load(WORKFLOW)["jobs"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
GUIDES = ("CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md")
VERSION = re.compile(
    r"(?:\bops-worker:|app\.kubernetes\.io/version: *\"?|newTag: *\"?|ARG VERSION=)"
    r"v?(\d+\.\d+\.\d+)"
)
"""Matches the version in image tags, labels and build arguments."""


def with_version() -> list[Path]:
    """Return the files that may repeat the version: manifests, Dockerfile, CI, documentation."""
    paths = [
        path
        for folder in ("k8s", "docs", ".github/workflows", ".ci", "ops_worker", "tests/cluster")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".png", ".pyc"}
    ]
    return [*paths, *(ROOT / name for name in ("Dockerfile", "Makefile", "README.md", *GUIDES))]


def test_version() -> None:
    """Every image tag, label and build argument has the version of the package."""
    versions = {
        f"{path.relative_to(ROOT)}: {version}"
        for path in with_version()
        for version in VERSION.findall(path.read_text(encoding="utf-8"))
    }
    assert f"Dockerfile: {__version__}" in versions
    assert any(entry.startswith("k8s/") for entry in versions)
    assert [entry for entry in sorted(versions) if not entry.endswith(f": {__version__}")] == []


def test_version_is_read() -> None:
    """The package metadata reads the version from the package."""
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert ROOT / PROJECT["tool"]["hatch"]["version"]["path"] == Path(ops_worker.__file__)


def test_metadata() -> None:
    """The package metadata is complete. It names a licence if the repository has one."""
    project = PROJECT["project"]
    assert project["keywords"] == sorted(set(project["keywords"]))
    assert project["classifiers"] == sorted(set(project["classifiers"]))
    assert (ROOT / project["readme"]).is_file()
    assert ("license" in project) == bool(list(ROOT.glob("LICEN[CS]E*"))), "both, or none"


def test_typed() -> None:
    """The wheel has py.typed, so type checkers use the annotations of the package."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["ops_worker"]}, "all files of the package, none excluded"
    marker = ROOT / "ops_worker" / "py.typed"
    assert marker.read_bytes() == b""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()  # hatch excludes these
    assert not any(marker.match(pattern) for pattern in ignored)
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]


def test_ci_versions() -> None:
    """CI tests every Python that the package metadata lists, and PostgreSQL 14 to 18."""
    claimed = [
        match[1]
        for item in PROJECT["project"]["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", item))
    ]
    matrix = JOBS["versions"]["strategy"]["matrix"]
    assert matrix["python"] == claimed
    assert PROJECT["project"]["requires-python"] == f">={claimed[0]}"
    servers = {*matrix["postgres"], *(item["postgres"] for item in matrix["include"])}
    assert servers == {"14", "15", "16", "17", "18"}
    assert {item["python"] for item in matrix["include"]} <= set(claimed)


@pytest.mark.parametrize("line", sorted({*re.findall(r"uses: .*", WORKFLOW + RELEASE)}))
def test_ci_actions(line: str) -> None:
    """Each action is pinned by its commit, and a comment has its version."""
    assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)


def test_release_permissions() -> None:
    """Jobs of a release have least permissions: only one job can write, and tests cannot."""
    workflow = yaml.safe_load(RELEASE)
    assert workflow["permissions"] == {}
    permissions = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert permissions["test"] == {"contents": "read"}
    writing = [name for name, granted in permissions.items() if granted.get("contents") == "write"]
    assert writing == ["release"]


def test_release_needs_every_test() -> None:
    """Every job of a release runs after the tests have passed."""
    jobs = yaml.safe_load(RELEASE)["jobs"]
    for name in jobs:
        needed = [name]
        while "needs" in jobs[needed[-1]]:
            needed.append(jobs[needed[-1]]["needs"])
        assert needed[-1] == "test"
    commands = [step.get("run") for step in jobs["test"]["steps"]]
    assert ".ci/run" in commands


@pytest.mark.parametrize(
    ("tag", "heading", "error"),
    [
        ("v{version}", "## [{version}] - 2026-01-31", ""),
        ("{version}", "## [{version}] - 2026-01-31", "The tag is {version}, but"),
        ("v9.9.9", "## [9.9.9] - 2026-01-31", "has version {version}: tag v{version}."),
        ("v{version}", "## [{version}]", "has no section with a date for {version}"),
        ("v{version}", "## [Unreleased]", "has no section with a date for {version}"),
    ],
)
def test_tag(tag: str, heading: str, error: str, tmp_path: Path) -> None:
    """A release needs the tag of the version, and a dated section of the changelog."""
    for name in (".ci/version", "ops_worker/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = f"# Changelog\n\n{heading.format(version=__version__)}\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    result = subprocess.run(
        [tmp_path / ".ci" / "version", tag.format(version=__version__)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == (1 if error else 0)
    assert error.format(version=__version__) in result.stderr


def test_lint_reads_the_workflow() -> None:
    """`make lint` runs zizmor without a network."""
    assert "\t$(BIN)/zizmor --offline --quiet .github/workflows\n" in MAKEFILE


def test_hooks() -> None:
    """The hooks run only existing make targets, and download nothing."""
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].removeprefix("make ") in targets()


def targets() -> set[str]:
    """Return the Makefile's targets."""
    return set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("name", GUIDES)
def test_guides(name: str) -> None:
    """Every file and make target that a guide names exists."""
    text = (ROOT / name).read_text(encoding="utf-8")
    target_names = set(re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:`|#|\n))", text))
    assert target_names <= targets()
    paths = re.findall(
        r"`((?:ops_worker|tests|k8s)(?:/[\w./-]+)?|[\w./-]+\.(?:md|toml|yaml))`", text
    )
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    assert missing == []


def test_guide_grep() -> None:
    """The grep command of CONTRIBUTING.md finds files of the package."""
    (command,) = re.findall(
        r"`(grep [^`]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    )
    result = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "ops_worker/" in result.stdout


TESTED_ELSEWHERE = {
    "__init__": "the map of the package, without code",
    "__main__": "acceptance/test_process.py runs it as a process",
    "adapters": "no code",
    "adapters.html": "commands/test_report_page.py opens the page in a browser",
    "adapters.html.charts": "commands/test_report_page.py compares every point with the rows",
    "adapters.http": "adapters/http/test_probes.py and test_confirm.py",
    "adapters.http.heartbeat": "acceptance/test_heartbeat.py",
    "adapters.http.limits": "acceptance/test_many.py needs processes with few files",
    "adapters.http.reasons": "adapters/http/test_exchange.py makes every fault on a socket",
    "adapters.terminal": "commands/test_status.py compares the screens",
    "commands": "test_cli.py",
    "commands.catalogue": "catalogue/test_catalogue.py",
    "commands.database": "commands/test_alerts.py, test_maintenance.py and test_status.py",
    "commands.run_pass": "passes/test_contract.py runs it for every pass",
    "core": "no code",
    "history": "no code",
    "passes": "the layer's description, without code",
    "passes.context": "passes/test_contract.py",
    "passes.health": "passes/test_contract.py is the contract of both passes",
    "passes.metrics": "passes/test_contract.py is the contract of both passes",
    "variables": "test_settings.py compares them with the settings",
    "zones": "commands/test_maintenance.py makes windows in zones",
}
"""Modules without a test file of the same name, and where their tests are."""
TESTED_TOGETHER = {
    "adapters.postgres": "adapters/postgres/test_store.py tests the package on a real server",
    "catalogue": "catalogue/test_catalogue.py tests the package by its documents",
    "history": "the documents of commands/test_status.py, test_explain.py and test_report.py",
    "manifest_rules": "manifest_rules/test_check.py tests the package by its findings",
}
"""Packages that are tested as a whole, and where their tests are."""


def mirrors(module: Path) -> list[Path]:
    """Return the test files in which the tests of a module may be."""
    folder = ROOT / "tests" / module.parent
    if module.name != "__init__.py":
        return [folder / f"test_{module.name}"]
    name = f"test_{module.parent.name}.py"
    return [folder / name, folder.parent / name]


def dotted(module: Path) -> str:
    """Return the name of a module without the name of the package."""
    parts = module.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def test_every_module_has_tests() -> None:
    """A module has a test file of its name, or a list above names its tests."""
    package = ROOT / "ops_worker"
    modules = [path.relative_to(package) for path in package.rglob("*.py")]
    unmirrored = {
        dotted(module) for module in modules if not any(path.is_file() for path in mirrors(module))
    }
    covered = {
        name
        for name in unmirrored
        if any(
            name == package_name or name.startswith(f"{package_name}.")
            for package_name in TESTED_TOGETHER
        )
    }
    assert unmirrored - covered - TESTED_ELSEWHERE.keys() == set()
    assert TESTED_ELSEWHERE.keys() - unmirrored == set(), "these have a test file now: remove them"


def test_where_modules_are_tested() -> None:
    """Every test file that the lists name exists."""
    paths = {
        path
        for text in (*TESTED_ELSEWHERE.values(), *TESTED_TOGETHER.values())
        for path in re.findall(r"[\w/]+\.py", text)
        if "/" in path
    }
    assert [path for path in sorted(paths) if not (ROOT / "tests" / path).is_file()] == []
