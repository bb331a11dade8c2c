"""Facts about the machine, from files with any content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ops_worker.adapters import machine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set up a machine without any of these files."""
    monkeypatch.setattr(machine, "RESOLV_CONF", tmp_path / "resolv.conf")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def write(path: Path, text: str) -> None:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("latin-1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("nameserver 10.96.0.10\nsearch svc\n", ("10.96.0.10",)),
        ("# nameserver 1.1.1.1\n;x\nnameserver\nnameserver fe80::1%eth0 x\n", ("fe80::1%eth0",)),
        ("nameserver odd\x1b[31m\nnameserver \xff\n", ()),
        ("nameserver 10.0.0.1\n" * 9, ("10.0.0.1",) * 3),
        ("#" * (1 << 16) + "\nnameserver 10.0.0.1\n", ()),
    ],
)
def test_nameservers(files: Path, text: str, expected: tuple[str, ...]) -> None:
    """Only addresses are name servers. At most three of them count, as in the resolver."""
    write(files / "resolv.conf", text)
    assert machine.nameservers() == expected


def test_nothing_is_said(files: Path) -> None:
    """Without files, there are no facts."""
    assert not any(files.iterdir())
    assert (machine.nameservers(), machine.throttled_s()) == ((), None)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cgroup/cpu.stat", "usage_usec 5\nthrottled_usec 2500000\n", 2.5),
        ("cgroup/pods/a/cpu.stat", "throttled_usec 1000000\n", 1.0),
        ("cgroup/cpu/x/cpu.stat", "throttled_time 500000000\n", 0.5),
        ("cgroup/cpu/cpu.stat", "nr_throttled 1\nthrottled_time 3000000000\n", 3.0),
        ("cgroup/cpu.stat", "throttled_usec x\nthrottled_usec\n", None),
        ("cgroup/cpu.stat", "usage_usec 5\n", None),
    ],
)
def test_throttled_s(files: Path, name: str, text: str, expected: float | None) -> None:
    """The statistics come from the cgroup's own folder, or from the root in a container."""
    write(files / "membership", "9:name=systemd:/\n3:cpu,cpuacct:/x\n0::/pods/a\nodd\n")
    write(files / name, text)
    assert machine.throttled_s() == expected
