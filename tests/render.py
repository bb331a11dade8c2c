"""`make render` makes the files to apply, with kustomize; `make validate` checks them.

Each rendered file contains a digest of its own text and of its source folders. Where there is no
kubectl, the digest shows whether one of them has changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import yaml

from ops_worker.cli import main
from tests.manifest_rules import prometheusrule

if TYPE_CHECKING:
    from collections.abc import Callable

K8S = Path(__file__).parent.parent.resolve() / "k8s"
INSTALLATION = K8S / "base"
VARIANTS = (
    *(
        K8S / "variants" / name
        for name in ("alertmanager", "every-5s", "events", "monitoring", "sharded", "sidecar")
    ),
    K8S / "examples" / "inject",
    K8S / "examples" / "overlay",
)
RENDERED = "rendered.yaml"
ORDER = ("Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy", "CronJob")
CUSTOM: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "PrometheusRule": prometheusrule.faults,
}
"""The check of each custom resource. Kubernetes has no schema for these."""
SCHEMAS = ("1.29", "1.37")
"""The oldest and the newest Kubernetes that are supported.

Before 1.29, native sidecars need a feature gate.
"""


def rendered(folder: Path) -> dict[Path, str]:
    """Return the text of each file that a kustomization makes."""
    found = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    ).stdout
    if folder != INSTALLATION:
        return {folder / RENDERED: _stamped(folder, found)}
    files = {}
    for text in found.split("---\n"):
        one = yaml.safe_load(text)
        kind, name = one["kind"], one["metadata"]["name"]
        part = name.removeprefix("ops-worker") if kind in {"CronJob", "ConfigMap"} else ""
        files[K8S / f"{ORDER.index(kind)}0-{kind.lower()}{part}.yaml"] = _stamped(folder, text)
    return files


def out_of_date(folder: Path, files: list[Path]) -> list[str]:
    """Return the rendered files that differ from what their folder makes now."""
    if shutil.which("kubectl"):
        fresh = rendered(folder)
        wrong = [
            path
            for path in {*fresh, *files}
            if not path.is_file() or path.read_text(encoding="utf-8") != fresh.get(path)
        ]
    else:
        wrong = [
            path
            for path in files
            if path.read_text(encoding="utf-8") != _stamped(folder, _body(path))
        ]
    return [
        f"{path.relative_to(K8S.parent)}: out of date; run `make render`" for path in sorted(wrong)
    ]


def misfits(path: Path) -> list[str]:
    """Return the faults that the Kubernetes schemas find in a file, with the object of each."""
    faults = []
    for content in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        subject = f"{path.relative_to(K8S.parent)}: {content['kind']}/{content['metadata']['name']}"
        faults += [f"{subject}: {fault}" for fault in misfits_of(content)]
    return faults


def misfits_of(content: dict[str, Any]) -> list[str]:
    """Return the faults of an object by the schemas of the oldest and the newest Kubernetes.

    A kind without a schema is an error, unless it is in CUSTOM.
    """
    if content["kind"] in CUSTOM:
        return CUSTOM[content["kind"]](content)
    faults = []
    for version in SCHEMAS:
        try:
            kubernetes_validate.validate(content, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"Kubernetes {version}: {error.message}")
    return faults


def _body(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[2]


def _stamped(folder: Path, body: str) -> str:
    digest = hashlib.sha256(body.encode())
    for source in sources(folder):
        for path in sorted(source.iterdir()):
            if path.is_file() and path.name != RENDERED:
                digest.update(path.read_bytes())
    place = folder.relative_to(K8S.parent)
    return (
        f"# Made by `make render` from {place}; do not edit. "
        f"sha256 {digest.hexdigest()[:32]}\n{body}"
    )


def sources(folder: Path) -> list[Path]:
    """Return the folders from which a kustomization is made: its own, its bases, its components."""
    text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    folders = [folder]
    for name in [*content.get("resources", ()), *(content.get("components") or ())]:
        path = (folder / name).resolve()
        if path.is_dir():
            folders += [source for source in sources(path) if source not in folders]
    return folders


def run() -> int:
    """Render the files; with --check, validate them."""
    parser = argparse.ArgumentParser(prog="render")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    folders = (INSTALLATION, *VARIANTS)
    if not check:
        if not shutil.which("kubectl"):
            print(
                "make render wants kubectl 1.27 or newer on the PATH: "
                "it renders with `kubectl kustomize`",
                file=sys.stderr,
            )
            return 2
        for folder in folders:
            for path, text in rendered(folder).items():
                path.write_text(text, encoding="utf-8")
                print(path.relative_to(K8S.parent))
        return 0
    faults = []
    code = 0
    for folder in folders:
        files = sorted(K8S.glob("*.yaml")) if folder == INSTALLATION else [folder / RENDERED]
        faults += out_of_date(folder, files)
        for path in files:
            faults += misfits(path)
        print(f"{folder.relative_to(K8S.parent)}: ", end="", flush=True)
        code = max(
            code,
            main(
                ["manifests", "check", *([str(K8S)] if folder == INSTALLATION else map(str, files))]
            ),
        )
    for fault in faults:
        print(fault, file=sys.stderr)
    return 4 if faults else code


if __name__ == "__main__":
    sys.exit(run())
