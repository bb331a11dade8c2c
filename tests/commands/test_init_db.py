"""`ops-worker init-db`: its messages about the platform's tables and about privileges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ops_worker.cli import main

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.integration


def test_no_platform(
    empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On an empty database, the last line names the missing tables and the remedies."""
    monkeypatch.setenv("DATABASE_URL", empty.url)
    assert main(["init-db"]) == 0
    *lines, warning = capsys.readouterr().out.splitlines()
    assert "service_health: created" in lines
    assert warning.startswith("warning: no table tenants, fleet_alert in database ")
    assert warning.endswith("run the platform's migrations, or `ops-worker init-db --standalone`")
    assert main(["init-db", "--standalone"]) == 0
    capsys.readouterr()
    assert main(["init-db"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_platform_in_another_schema(
    configured: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the platform's tables are outside the role's search path, the warning names them."""
    configured.rows("CREATE ROLE ops_init LOGIN PASSWORD 'x'; CREATE SCHEMA ops_init")
    configured.rows("ALTER SCHEMA ops_init OWNER TO ops_init")
    configured.rows('ALTER ROLE ops_init SET search_path TO "$user"')
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_init"))
    assert main(["init-db"]) == 0
    warning = capsys.readouterr().out.splitlines()[-1]
    configured.rows("DROP OWNED BY ops_init; DROP ROLE ops_init")
    assert "public.fleet_alert" in warning and "search_path" in warning


def test_no_right_on_the_platform(
    configured: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A role without privileges on fleet_alert can create the tables, without a warning."""
    configured.rows(
        "CREATE ROLE ops_init LOGIN PASSWORD 'x'; GRANT CREATE ON SCHEMA public TO ops_init"
    )
    configured.rows("DROP TABLE system_metrics CASCADE")
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_init"))
    code = main(["init-db"])
    out = capsys.readouterr().out
    configured.rows("DROP OWNED BY ops_init; DROP ROLE ops_init")
    assert (code, "warning" in out) == (0, False)


def test_role_that_cannot_be_taken(
    configured: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A PG_ROLE without the login role as a member is a warning. The tables are created."""
    configured.rows("CREATE ROLE ops_init LOGIN PASSWORD 'x'; CREATE ROLE ops_other")
    configured.rows("GRANT CREATE ON SCHEMA public TO ops_init; DROP TABLE system_metrics CASCADE")
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_init"))
    monkeypatch.setenv("PG_ROLE", "ops_other")
    code = main(["init-db"])
    *lines, warning = capsys.readouterr().out.splitlines()
    configured.rows("DROP OWNED BY ops_init, ops_other; DROP ROLE ops_init, ops_other")
    assert (code, "service_health: created" in lines) == (0, True)
    assert 'permission denied to set role "ops_other"' in warning
