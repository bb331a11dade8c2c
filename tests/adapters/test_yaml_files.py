"""Kubernetes objects from YAML files."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import yaml

from ops_worker.cli import main
from tests.manifest_rules.installation import (
    CATALOGUE,
    HEALTH,
    INSTALLED,
    K8S,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

LAUGHS = "\n".join(
    [
        "a: &a {x: 1}",
        "b: &b [*a, *a]",
        *(f"{chr(n)}: &{chr(n)} [{', '.join([f'*{chr(n - 1)}'] * 9)}]" for n in range(99, 110)),
    ]
)
"""A text of five hundred characters that would have 9**11 values."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: [",
            "{path} is not valid YAML: expected the node content, but found '<stream end>' at line 1, column 5",
        ),
        ("a: &x [*x]", "{path} is not valid YAML: an anchor (&) contains an alias (*) of itself"),
        (LAUGHS, "{path} is not valid YAML: its aliases (*) repeat more than 1 MiB"),
        (
            LAUGHS.replace("[", "{<<: [").replace("]", "]}"),
            "{path} is not valid YAML: its aliases (*) repeat more than 1 MiB",
        ),
        (
            f"a: &x {'x' * 70_000}\nb: [{'*x, ' * 16}]",
            "{path} is not valid YAML: its aliases (*) repeat more than 1 MiB",
        ),
        ("[" * 5000, "{path} is not valid YAML: nested too deeply"),
        (
            "a: !hush b",
            "{path} is not valid YAML: could not determine a constructor for the tag at line 1, column 4",
        ),
        ("a: 0o9", "{path} contains something that is not a Kubernetes object"),
        (
            "a: 2026-13-45",
            "{path} is not valid YAML: it holds a value that cannot be read (ValueError)",
        ),
        ("just text", "{path} contains something that is not a Kubernetes object: it has no kind"),
        ("- 1", "{path} contains something that is not a Kubernetes object: it has no kind"),
        ("", "no Kubernetes object in {path}"),
        ("\udcff", "{path} cannot be read: it is not UTF-8"),
        (None, "{path} cannot be read: No such file or directory"),
    ],
)
def test_unreadable(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None, message: str
) -> None:
    """What cannot be read is one line and exit code 2."""
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["manifests", "check", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ops-worker manifests: {message.format(path=path)}")


def test_lists() -> None:
    """A List is taken apart, an object whose kind ends so is not, and an empty List is nothing."""
    from ops_worker.adapters.yaml_files import _parts

    assert _parts({"kind": "CronJobList", "items": [1, 2]}) == [1, 2]
    assert _parts({"kind": "AllowList"}) == [{"kind": "AllowList"}]
    assert _parts({"kind": "List"}) == _parts(None) == []
    assert _parts(5) == [5]


def test_aliases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An alias and a merge are read as what they stand for."""
    path = tmp_path / "x.yaml"
    content = copy.deepcopy(dict(INSTALLED)[HEALTH])
    labels = content["metadata"]["labels"]
    content["spec"]["jobTemplate"]["metadata"]["labels"] = content["spec"]["jobTemplate"]["spec"][
        "template"
    ]["metadata"]["labels"] = labels
    text = yaml.safe_dump(content)  # which writes an anchor, and aliases of it
    assert text.count("*id001") == 2
    path.write_text(text.replace("labels: *id001", "labels: {<<: *id001}", 1), encoding="utf-8")
    assert (
        main(
            ["manifests", "check", str(path), str(K8S / "20-configmap.yaml"), str(K8S / CATALOGUE)]
        )
        == 0
    )
    assert capsys.readouterr().out == "manifests: 3 objects checked, 0 faults\n"


def test_a_bad_file_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read is a fault of its own, and the others are checked: files, and documents before the bad one."""
    for name, text in (
        ("a.yaml", "a: ["),
        ("b.yml", "- 1\n---\nkind: Service\nmetadata: {name: ops-worker}\n---\n{{ helm }}\n"),
        ("c.json", "\udcff"),
    ):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "d.yaml").write_text(
        (K8S / HEALTH).read_text(encoding="utf-8").replace("timeZone: Etc/UTC", "timeZone: Moon"),
        encoding="utf-8",
    )
    (tmp_path / "e.yaml").symlink_to(tmp_path / "nowhere")
    config, catalogue = str(K8S / "20-configmap.yaml"), str(K8S / CATALOGUE)
    assert main(["manifests", "check", str(tmp_path), "/nowhere", config, catalogue]) == 4
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{tmp_path}/").partition(", ")[0] for line in lines] == [
        "a.yaml: is not valid YAML: expected the node content",
        "b.yml: contains something that is not a Kubernetes object: it has no kind",
        "b.yml: is not valid YAML: found unhashable key at line 6",
        "c.json: cannot be read: it is not UTF-8",
        "e.yaml: cannot be read: No such file or directory",
        "/nowhere: cannot be read: No such file or directory",
        "b.yml: Service/ops-worker: metadata.namespace: is not set",
        "d.yaml: CronJob/ops-worker-health: spec.timeZone: 'Moon' is not a time zone; set Etc/UTC",
    ]
    assert last == "manifests: 4 objects checked, 8 faults"
    (tmp_path / "d.yaml").unlink()
    (tmp_path / "b.yml").unlink()
    assert main(["manifests", "check", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("cannot be read") == 2
