"""The rendered installation, and functions that break it, for the tests of the rules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from ops_worker.cli import _parser
from ops_worker.commands.manifests import program_facts
from ops_worker.manifest_rules import Document, check

K8S = Path(__file__).parents[2] / "k8s"
JOB = "spec.jobTemplate.spec"
POD = f"{JOB}.template.spec"
CONTAINER = f"{POD}.containers[0]"
ENV = f"{CONTAINER}.env[0]"
HEALTH = "40-cronjob-health.yaml"
CATALOGUE = "20-configmap-catalogue.yaml"
GONE = object()
INSTALLED = [
    (path.name, yaml.safe_load(path.read_text(encoding="utf-8")))
    for path in sorted(K8S.glob("*.yaml"))
]
SUBJECT = f"{HEALTH}: CronJob/ops-worker-health: "
OURS = dict(INSTALLED)[HEALTH]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
PROXY = {"name": "cloud-sql-proxy", "image": "cloud-sql-proxy:2.8.0", "args": ["--port=5432"]}
FACTS = program_facts(_parser())


def documents(text: str) -> list[Any]:
    """Return the documents of a YAML text.

    The parser in C takes a tenth of the time. It is used if PyYAML has it.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [content for content in yaml.load_all(text, Loader=loader) if content]


def faults_of(objects: list[tuple[str, Any]]) -> list[str]:
    """Return the faults of objects, as text."""
    return [
        str(fault) for fault in check([Document(file, content) for file, content in objects], FACTS)
    ]


def broken(
    file: str, path: str, value: object, objects: list[tuple[str, Any]] = INSTALLED
) -> list[tuple[str, Any]]:
    """Return a copy of the objects with one field of one file changed or removed."""
    changed = copy.deepcopy(objects)
    node: Any = dict(changed)[file]
    *way, last = path.replace("[", ".[").split(".")
    for key in way:
        node = node[int(key[1:-1])] if key.startswith("[") else node.setdefault(key, {})
    place: Any = int(last[1:-1]) if last.startswith("[") else last.replace("|", ".")
    if value is GONE:
        del node[place]
    else:
        node[place] = value
    return changed


def variant(name: str) -> list[tuple[str, Any]]:
    """Return the objects of a variant, each in a file named after its kind and name."""
    objects = documents((K8S / name / "rendered.yaml").read_text(encoding="utf-8"))
    return [(f"{content['kind']}/{content['metadata']['name']}", content) for content in objects]


def health_faults(*changes: tuple[str, object]) -> list[str]:
    """Return the faults of the health CronJob after changes, without file and object."""
    objects = INSTALLED
    for path, value in changes:
        objects = broken(HEALTH, path, value, objects)
    faults = faults_of(objects)
    assert all(fault.startswith(SUBJECT) for fault in faults)
    return [fault.removeprefix(SUBJECT) for fault in faults]


def assert_fault(path: str, value: object, field: str, message: str) -> None:
    """Break one field of the health CronJob. Expect this fault, and no password in any fault."""
    name = value if path == "metadata.name" else "ops-worker-health"
    faults = faults_of(broken(HEALTH, path, value))
    assert f"{HEALTH}: CronJob/{name}: {field}: {message}" in faults
    assert not any("hunter2" in fault for fault in faults)
