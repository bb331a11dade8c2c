"""A PgBouncer in front of a database, in transaction mode, with a single server connection."""

from __future__ import annotations

import contextlib
import getpass
import re
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.postgres import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def pooler(url: str, folder: Path) -> Iterator[str]:
    """Run a PgBouncer with its files in ``folder``, and yield the URL of the database through it.

    Skip the test if this machine has no PgBouncer.
    """
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("no pgbouncer on this machine; Debian's package pgbouncer has one")
    parts = urlsplit(url)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    home = folder / "bouncer"
    home.mkdir()
    (home / "users.txt").write_text(f'"postgres" "{PASSWORD}"\n')
    (home / "bouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={parts.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {home}/users.txt\n"
        f"pool_mode = transaction\ndefault_pool_size = 1\n"
    )
    # PgBouncer refuses to run as root.
    user = []
    if getpass.getuser() == "root":
        for path in (*folder.parents, folder, home, *home.iterdir()):
            if path.is_relative_to(folder.parent.parent):
                path.chmod(0o755)
        user = ["-u", "nobody"]
    process = subprocess.Popen(
        [program, "-q", *user, str(home / "bouncer.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        for _ in range(100):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield re.sub(r":\d+/", f":{port}/", url)
    finally:
        process.terminate()
        process.communicate()
