"""`make lock`: write the lock files of the image, one for each extra, in `.requirements`.

`base.lock` has the packages of every command, `EXTRA.lock` those of an extra. Each package has one
version and the hashes of all its files, so that an image for any machine can be built from them.
All versions come from one resolution with all extras, so any extras can be combined.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / ".requirements"
EXTRAS = ("cluster", "re2", "report", "sidecar", "view")
"""The extras for the image. The others are for the demo and for developers."""
BASE = "base"
HEADER = "# Made by `make lock` from pyproject.toml; do not edit.\n"


def blocks(text: str) -> dict[str, str]:
    """Return the entries of a lock file, with their hashes, by package and marker.

    A package can have one version for each of several Python versions.
    """
    entries = re.findall(r"^[a-z0-9].*\n(?:^ .*\n)*", text, re.MULTILINE)
    return {entry.partition("\n")[0].rstrip(" \\"): entry for entry in entries}


def compiled(extras: tuple[str, ...], constraints: Path | None = None) -> str:
    """Resolve the dependencies with some extras, for every supported Python and platform."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"]
    for extra in extras:
        command += ["--extra", extra]
    if constraints is not None:
        command += ["--constraints", str(constraints)]
    command.append("pyproject.toml")
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def lock_files() -> dict[Path, str]:
    """Return the lock files and their text, with the newest versions."""
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder) / "all.txt"
        together.write_text(compiled(EXTRAS), encoding="utf-8")
        base = blocks(compiled((), together))
        files = {REQUIREMENTS / f"{BASE}.lock": HEADER + "".join(base.values())}
        for extra in EXTRAS:
            entries = blocks(compiled((extra,), together))
            added = [entry for name, entry in entries.items() if name not in base]
            files[REQUIREMENTS / f"{extra}.lock"] = HEADER + "".join(added)
    return files


if __name__ == "__main__":
    REQUIREMENTS.mkdir(exist_ok=True)
    for path, content in lock_files().items():
        path.write_text(content, encoding="utf-8")
        print(path.relative_to(ROOT))
