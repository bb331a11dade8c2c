"""`make render`: from kustomize to the files that are applied; `make validate`: that they are not out of date, and right.

Each rendered file carries the digest of the folders it came from and of itself, so that where there is no kubectl it
still shows whether both are as they were when it was made.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

from ops_worker.cli import main
from tests.manifest_rules import prometheusrule

K8S = Path(__file__).parent.parent / "k8s"
INSTALLATION = K8S / "base"
VARIANTS = (
    *(
        K8S / "variants" / name
        for name in ("alertmanager", "every-5s", "events", "monitoring", "sharded", "sidecar")
    ),
    K8S / "examples" / "inject",
    K8S / "examples" / "overlay",
)
ORDER = ("Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy", "CronJob")
SCHEMAS = ("1.29", "1.37")
"""The oldest and the newest Kubernetes that is supported; before 1.29 there are no native sidecars without a feature gate."""


def rendered(folder: Path) -> dict[Path, str]:
    """Return what a kustomization comes to, by the file that it belongs in."""
    found = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    ).stdout
    if folder != INSTALLATION:
        return {folder / "rendered.yaml": _stamped(folder, found)}
    files = {}
    for text in found.split("---\n"):
        one = yaml.safe_load(text)
        kind, name = one["kind"], one["metadata"]["name"]
        part = name.removeprefix("ops-worker") if kind in {"CronJob", "ConfigMap"} else ""
        files[K8S / f"{ORDER.index(kind)}0-{kind.lower()}{part}.yaml"] = _stamped(folder, text)
    return files


def out_of_date(folder: Path, files: list[Path]) -> list[str]:
    """Return which of the rendered files are not what their folder comes to."""
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
    """Return what the Kubernetes schemas have against a file, and how each is called. A kind without a schema is an error."""
    faults = []
    for one in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        subject = f"{path.relative_to(K8S.parent)}: {one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "PrometheusRule":  # a custom resource, of which Kubernetes has no schema
            faults += [f"{subject}: {fault}" for fault in prometheusrule.faults(one)]
            continue
        for version in SCHEMAS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                faults.append(f"{subject}: Kubernetes {version}: {error.message}")
    return faults


def _body(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[2]


def _stamped(folder: Path, body: str) -> str:
    digest = hashlib.sha256(body.encode())
    sources = [
        folder,
        *([INSTALLATION] if folder != INSTALLATION else []),
        *([K8S / "variants" / "inject"] if folder.name == "inject" else []),
    ]
    for source in sources:
        for path in sorted(source.glob("*.yaml")):
            if path.name != "rendered.yaml":
                digest.update(path.read_bytes())
    return f"# Made by `make render` from {folder.relative_to(K8S.parent)}; do not edit. sha256 {digest.hexdigest()[:32]}\n{body}"


def run() -> int:
    """Render, or with --check validate."""
    parser = argparse.ArgumentParser(prog="render")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    folders = (INSTALLATION, *VARIANTS)
    if not check:
        if not shutil.which("kubectl"):
            print(
                "make render wants kubectl 1.27 or newer on the PATH: it renders with `kubectl kustomize`",
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
        files = sorted(K8S.glob("*.yaml")) if folder == INSTALLATION else [folder / "rendered.yaml"]
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
