"""Fixtures of the tests of adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

from tests.stubs import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Yield one healthy service."""
    running = Stub("ingest")
    yield running
    running.close()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return an authority that the worker trusts."""
    trusted = trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return trusted
