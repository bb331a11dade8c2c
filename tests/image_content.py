"""`make twice`: build the content of the image twice, and compare.

The steps are those of the stage `build` in the Dockerfile, in two folders instead of /app. Only the
times of files may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class File(NamedTuple):
    """The parts of a file, a folder or a link that must be equal: type, permissions, content."""

    mode: int
    content: str


def steps(app: Path, dockerfile: str) -> str:
    """Return the commands of the stage `build`, with another folder than /app."""
    (stage,) = re.findall(r"^FROM \S+ AS build\n(.*?)^FROM ", dockerfile, re.MULTILINE | re.DOTALL)
    lines = [line for line in stage.splitlines() if not line.lstrip().startswith("#")]
    commands = re.findall(r"^RUN ((?:.*\\\n)*.*)$", "\n".join(lines), re.MULTILINE)
    script = "\n".join(f"({command}) || exit" for command in commands)
    changed = script.replace("app=/app ", f"app={app} ")
    assert changed.count(str(app)) == len(commands), "a RUN without app=/app"
    return changed


def build(source: Path, app: Path, extras: str) -> None:
    """Build the content of the image in a folder, with this Python."""
    environment = {**os.environ, "EXTRAS": extras, "PATH": f"{source}:{os.environ['PATH']}"}
    script = steps(app, (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    subprocess.run(["sh", "-c", script], cwd=source, env=environment, check=True)


def copy_sources(source: Path) -> None:
    """Copy the same folders as the Dockerfile, and let its `python` be this Python."""
    ignored = shutil.ignore_patterns("__pycache__")  # as .dockerignore does
    for name in (".requirements", "ops_worker"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    (source / "python").symlink_to(sys.executable)


def content(app: Path) -> dict[str, File]:
    """Return every file of a folder by its path."""
    files = {}
    for path in sorted(app.rglob("*")):
        if path.is_symlink():
            digest = str(path.readlink())
        elif path.is_dir():
            digest = ""
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files[str(path.relative_to(app))] = File(path.lstat().st_mode, digest)
    return files


def run() -> int:
    """Build twice, print the differences, and return 1 if there is one."""
    parser = argparse.ArgumentParser(prog="image_content")
    parser.add_argument("--extras", default="cluster,re2,report,sidecar,view")
    extras = parser.parse_args().extras
    builds = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        copy_sources(source)
        for name in ("first", "second"):
            app = Path(folder) / name
            start = time.monotonic()
            build(source, app, extras)
            builds.append(content(app))
            print(f"{name} build: {len(builds[-1])} files in {time.monotonic() - start:.0f} s")
    first, second = builds
    differ = sorted(name for name in first | second if first.get(name) != second.get(name))
    for name in differ:
        print(f"differs: {name}")
    total = hashlib.sha256(repr(sorted(second.items())).encode()).hexdigest()
    print(f"{len(differ)} of {len(first | second)} files differ; content sha256 {total}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(run())
