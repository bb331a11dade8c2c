"""`ops-worker report`: unknown periods, files, and errors."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from ops_worker.adapters.html import unbroken
from ops_worker.cli import main
from ops_worker.text import format_duration

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


@pytest.mark.integration
def test_what_is_not_known_is_not_green(
    seeded: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stopped pass is named at the top of the page.

    The rows of a slow pass hide no gap of a fast one. A gauge is not shown as a counter.
    """
    seeded.rows(
        "DELETE FROM system_metrics "
        "WHERE service = 'ops_worker' AND tags ->> 'pass' = 'health' "
        "AND time > now() - interval '20 minutes'"
    )
    seeded.rows(
        "INSERT INTO system_metrics (time, metric_name, service, value) "
        "SELECT now() - make_interval(mins => n), 'free_bytes', 'disk_0', 100 - n "
        "FROM generate_series(1, 90) AS n"
    )
    seeded.rows(
        "UPDATE fleet_alert SET closed_at = NULL "
        "WHERE status = 'CLOSED' AND tenant_id = '__system__'"
    )
    seeded.rows(
        "UPDATE fleet_alert SET status = 'CLOSED', closed_at = created_at "
        "WHERE status = 'OPEN' AND tenant_id = '__system__'"
    )
    capsys.readouterr()
    assert main(["report", "-o", "-", "--since", "2h"]) == 0
    page = capsys.readouterr().out
    _, ended = (
        datetime.fromisoformat(text) for text in re.findall(r'<time datetime="([^"]+)"', page)[:2]
    )
    last = seeded.value(
        "SELECT max(time) FROM system_metrics "
        "WHERE service = 'ops_worker' AND tags ->> 'pass' = 'health'"
    )
    stopped = unbroken(format_duration((ended - last).total_seconds()))
    assert (
        f"<strong>The health pass has not been recorded for {stopped}: while it does not run, "
        "no alert opens.</strong>"
    ) in page
    assert ">still " not in page, "a closed alert is not open, also without the time of its closing"
    assert re.search(r"disk_0 free_bytes<small>bytes; now\s", page)
    seeded.rows(
        "DELETE FROM system_metrics WHERE service = 'ops_worker' AND tags ->> 'pass' = 'health'"
    )
    assert main(["report", "-o", "-", "--since", "2h"]) == 0
    page = capsys.readouterr().out
    assert "The health pass has not been recorded for 2\u00a0h" in page
    assert "not in this period" in page


@pytest.mark.usefixtures("seeded")
@pytest.mark.integration
def test_where_it_is_written(tmp_path: Path) -> None:
    """A link stays a link, a file keeps its mode, and a pipe receives the page."""
    page, link, pipe = tmp_path / "page.html", tmp_path / "link.html", tmp_path / "pipe"
    page.write_text("old")
    page.chmod(0o640)
    link.symlink_to(page)
    os.mkfifo(pipe)
    assert main(["report", "-o", str(link), "--since", "10m"]) == 0
    assert link.is_symlink()
    assert page.stat().st_mode & 0o777 == 0o640
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    with (
        (tmp_path / "read").open("wb") as output,
        subprocess.Popen(["cat", str(pipe)], stdout=output),
    ):
        assert main(["report", "-o", str(pipe), "--since", "10m"]) == 0
    assert (tmp_path / "read").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "link.html",
        "page.html",
        "pipe",
        "read",
    ]


@pytest.mark.integration
def test_missing_tables(
    empty: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Without tables the exit code is 3, and the error names a remedy."""
    monkeypatch.setenv("DATABASE_URL", empty.url)
    assert main(["report", "-o", str(tmp_path / "r.html")]) == 3
    assert "or `ops-worker init-db --standalone`" in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.usefixtures("configured")
def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Without rows, each part of the page says that nothing was recorded."""
    assert main(["report", "-o", "-"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("<!doctype html>") and "No service was recorded." in page
    assert "nobody knows what the services were in this period" in page, "there is no ledger"
    assert "No pass was recorded" in page
    assert "No figure was recorded" in page
    assert "No system alert was open." in page


@pytest.mark.integration
@pytest.mark.usefixtures("configured")
def test_bad(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Wrong periods and files end with 2."""
    target = str(tmp_path / "r.html")
    assert (
        main(["report"])
        == main(["report", "-o", target, "--since", "0s"])
        == main(["report", "-o", target, "--since", "11y"])
        == main(["report", "-o", target, "--since", "1h", "--to", "2h"])
        == main(["report", "-o", target, "--since", "1h", "--from", "2h"])
        == 2
    )
    capsys.readouterr()
    for wrong in (tmp_path / "none" / "r.html", tmp_path):
        assert main(["report", "-o", str(wrong)]) == 2
        assert re.fullmatch(
            rf"ops-worker report: -o {wrong}: (No such file or directory|Is a directory)\n",
            capsys.readouterr().err,
        )
    assert list(tmp_path.iterdir()) == [], "a page that cannot be written leaves no file"


@pytest.mark.integration
def test_no_privilege(
    configured: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Without the privilege to read, the exit code is 3."""
    configured.rows("CREATE ROLE ops_reader LOGIN PASSWORD 'x' BYPASSRLS")
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_reader"))
    assert main(["report", "-o", str(tmp_path / "r.html")]) == 3
    assert "permission denied" in capsys.readouterr().err
    configured.rows("DROP ROLE ops_reader")


@pytest.mark.integration
@pytest.mark.usefixtures("configured")
def test_missing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without the extra `report` the exit code is 2, and the error names it."""
    monkeypatch.setitem(__import__("sys").modules, "ops_worker.adapters.html", None)
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    for name in ("ops_worker.adapters.html", "ops_worker.adapters.html.charts"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    assert main(["report", "-o", str(tmp_path / "r.html")]) == 2
    assert capsys.readouterr().err == (
        "ops-worker report: report needs an extra: pip install 'ops-worker[report]', "
        "or an image built with EXTRAS=report (jinja2 is missing)\n"
    )
