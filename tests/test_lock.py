"""Tests of the image's lock files: they have all dependencies of pyproject.toml, with hashes."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.image_content import steps
from tests.lock import BASE, EXTRAS, REQUIREMENTS, ROOT, blocks

pytestmark = pytest.mark.unit

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
DECLARED: dict[str, list[str]] = {
    BASE: PROJECT["dependencies"],
    **{extra: PROJECT["optional-dependencies"][extra] for extra in EXTRAS},
}
NOT_FOR_THE_IMAGE = {"demo", "dev"}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def locked(name: str) -> dict[str, str]:
    """Return the entries of a lock file: the requirement, and its lines."""
    return blocks((REQUIREMENTS / f"{name}.lock").read_text(encoding="utf-8"))


def versions(name: str, python: str) -> dict[str, str]:
    """Return the version of every package that a lock file has for a Python on Linux."""
    environment = {
        "implementation_name": "cpython",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    pins = {}
    for text in locked(name):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            assert requirement.name not in pins, f"two versions of {requirement.name}"
            pins[requirement.name] = pin.version
    return pins


def test_extras() -> None:
    """Every extra has a lock file, or is not for the image."""
    files = {path.stem for path in REQUIREMENTS.iterdir()}
    assert files == DECLARED.keys()
    assert PROJECT["optional-dependencies"].keys() == set(EXTRAS) | NOT_FOR_THE_IMAGE


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", DECLARED)
def test_versions(name: str, python: str) -> None:
    """Every dependency is locked to a version within its bounds."""
    known = {**versions(BASE, python), **versions(name, python)}
    for text in DECLARED[name]:
        requirement = Requirement(text)
        version = known[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text


@pytest.mark.parametrize("python", PYTHONS)
def test_one_version_for_all(python: str) -> None:
    """A package of several extras has one version, so that any extras can be combined."""
    locked_versions: dict[str, str] = {}
    for name in DECLARED:
        for package, version in versions(name, python).items():
            assert locked_versions.setdefault(package, version) == version, package


@pytest.mark.parametrize("name", DECLARED)
def test_hashes(name: str) -> None:
    """Every entry has only hashes."""
    entries = locked(name)
    assert entries
    for text, entry in entries.items():
        first, *hashes = entry.replace("\\\n", "\n").splitlines()
        assert first.strip() == text
        assert hashes
        for line in hashes:
            assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64} *", line), line


def test_image_is_built_from_the_lock_files() -> None:
    """The image installs only wheels with a hash, and copies the package."""
    script = steps(ROOT / "app", DOCKERFILE)
    assert "--require-hashes --only-binary :all:" in script
    assert script.count("pip install") == 1
    copied = re.findall(r"^COPY (\S+) \1$", DOCKERFILE, re.MULTILINE)
    assert copied == [".requirements", "ops_worker"]
    context_files = re.findall(
        r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert context_files == copied


def test_python_of_the_image_is_tested() -> None:
    """The package metadata has the Python of the image, so that CI tests it."""
    (version,) = re.findall(r"^ARG PYTHON_VERSION=(.*)$", DOCKERFILE, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
