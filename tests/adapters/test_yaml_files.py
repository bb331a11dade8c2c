"""Kubernetes objects from YAML files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from ops_worker.adapters import yaml_files
from ops_worker.adapters.yaml_files import _parts, read
from ops_worker.cli import main
from ops_worker.errors import SettingsError
from tests.manifest_rules.installation import (
    CATALOGUE,
    HEALTH,
    INSTALLED,
    K8S,
)

pytestmark = pytest.mark.unit

LAUGHS = "\n".join(
    [
        "a: &a {x: 1}",
        "b: &b [*a, *a]",
        *(f"{chr(n)}: &{chr(n)} [{', '.join([f'*{chr(n - 1)}'] * 9)}]" for n in range(99, 110)),
    ]
)
"""A text of 500 characters that would expand to 9**11 values."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: [",
            "{path} is not valid YAML: expected the node content, "
            "but found '<stream end>' at line 1, column 5",
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
            "{path} is not valid YAML: could not determine a constructor for the tag "
            "at line 1, column 4",
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
    """A file that cannot be read is one line of error, with exit code 2."""
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["manifests", "check", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ops-worker manifests: {message.format(path=path)}")


def test_folder(tmp_path: Path) -> None:
    """A folder is read as `kubectl apply -f` does: sorted, by suffix, without subfolders."""
    for name in ("b.yml", "a.yaml", "c.json", "d.txt", "sub/e.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"kind": "{name}"}}', encoding="utf-8-sig")
    loaded = read([str(tmp_path)])
    names = ["a.yaml", "b.yml", "c.json"]
    assert loaded.objects == [(str(tmp_path / name), {"kind": name}) for name in names]
    assert loaded.errors == []


@pytest.mark.parametrize("path", ["chart", "chart/templates", "chart/templates/sub/x.yaml"])
def test_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    """A Helm chart is skipped with one line. Without any other file, that line is an error."""
    templates = tmp_path / "chart" / "templates" / "sub"
    templates.mkdir(parents=True)
    (tmp_path / "chart" / "Chart.yaml").write_text("apiVersion: v2\nname: x\n")
    (templates / "x.yaml").write_text("kind: {{ .Values.kind }}\n")
    service = tmp_path / "service.yaml"
    service.write_text("kind: Service\n")
    chart = str(tmp_path / path)
    assert main(["manifests", "check", chart, str(service)]) == 0
    line = "is a Helm chart, which is skipped; check what `helm template` prints"
    assert capsys.readouterr().out.splitlines() == [
        f"{chart}: {line}",
        "manifests: 1 object checked, 0 faults",
    ]
    assert main(["manifests", "check", chart]) == 2
    assert f"{chart} {line}" in capsys.readouterr().err


def test_beside_a_chart(tmp_path: Path) -> None:
    """Only the templates of a chart are skipped, not other folders next to them."""
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: x\n")
    for name in ("k8s", "k8s/templates"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x.yaml").write_text("kind: Service\n")
        loaded = read([str(folder)])
        assert (len(loaded.objects), loaded.skipped) == (1, [])


def test_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above the size limit is not read. A file at the limit is read."""
    text = "kind: Service\n"
    for name, content in (("a.yaml", text), ("b.yaml", f"{text} ")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(yaml_files, "MAX_BYTES", len(text))
    loaded = read([str(tmp_path)])
    assert [Path(file).name for file, _ in loaded.objects] == ["a.yaml"]
    ((file, message),) = loaded.errors
    assert Path(file).name == "b.yaml"
    assert message.startswith("is larger than ")


def test_faults_are_reported_once(tmp_path: Path) -> None:
    """Equal errors of one file are reported once. All errors are in one exception."""
    path = tmp_path / "x.yaml"
    path.write_text("- 1\n---\n- 2\n", encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        read([str(path), "/nowhere"])
    assert str(raised.value).count("it has no kind") == 1
    assert "/nowhere cannot be read: No such file or directory" in str(raised.value)


def test_lists() -> None:
    """A List is split into its items, and an empty one has none. Other kinds are not split."""
    assert _parts({"kind": "CronJobList", "items": [1, 2]}) == [1, 2]
    assert _parts({"kind": "AllowList"}) == [{"kind": "AllowList"}]
    assert _parts({"kind": "List"}) == _parts(None) == []
    assert _parts(5) == [5]


def test_aliases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Aliases and merge keys are expanded."""
    path = tmp_path / "x.yaml"
    content = copy.deepcopy(dict(INSTALLED)[HEALTH])
    labels = content["metadata"]["labels"]
    content["spec"]["jobTemplate"]["metadata"]["labels"] = content["spec"]["jobTemplate"]["spec"][
        "template"
    ]["metadata"]["labels"] = labels
    text = yaml.safe_dump(content)  # the dump has an anchor and aliases of it
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
    """An unreadable file or document is a fault. The others are still checked."""
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
