"""The schema is repaired from each known fault and upgraded from every earlier version."""

from __future__ import annotations

import contextlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops_worker import sql
from ops_worker.adapters.postgres import Store
from ops_worker.cli import main
from ops_worker.core.passes import DOUBT_TABLE, LEDGER_TABLES, ROLLUP_TABLES
from ops_worker.core.schema import OWN, SHAPES, VERSIONS, VIEW
from tests.conftest import copy_of, scrub, template_of
from tests.stubs import Stubs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops_worker.adapters.postgres.migrate import Change
    from ops_worker.core.schema import Column
    from tests.conftest import Database

pytestmark = pytest.mark.integration

STANDALONE = (
    "tenants",
    "fleet_alert",
    "system_metrics",
    "service_health",
    VIEW,
    "ops_worker_maintenance",
    "ops_worker_maintenance_log",
    "ops_worker_maintenance_window",
    *LEDGER_TABLES,
    DOUBT_TABLE,
    *ROLLUP_TABLES,
    VERSIONS,
)
NEWEST = sql.migrations()[-1].version
COLUMNS = """SELECT c.relname AS object, a.attname AS column,
    format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
    pg_get_expr(d.adbin, d.adrelid) AS expression, a.attidentity <> '' AS identity
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') ORDER BY 1, 2"""
KEYS = """SELECT indrelid::regclass::text AS object, pg_get_indexdef(indexrelid) AS index
    FROM pg_index
    WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    ORDER BY 1, 2"""
VIEWS = "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1"
OTHER_TYPES = {
    "text": "varchar(99)",
    "text[]": "varchar(99)[]",
    "integer": "bigint",
    "bigint": "numeric",
    "real": "double precision",
    "double precision": "text",
    "jsonb": "json",
    "boolean": "text",
    "timestamp with time zone": "timestamp",
}


@pytest.fixture(scope="module")
def standalone(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Create a template database without a platform, in which all tables are in use."""

    def fill(url: str) -> None:
        """Run the commands that create and use the tables."""
        with pytest.MonkeyPatch.context() as env, Stubs() as stubs:
            scrub(env, tmp_path_factory.mktemp("standalone"))
            for name, value in (stubs.env | {"DATABASE_URL": url}).items():
                env.setenv(name, value)
            assert main(["init-db", "--standalone"]) == 0
            stubs["ingest"].mode = "down"
            use()

    yield from template_of(dsn, "standalone", fill)


@pytest.fixture
def standalone_copy(
    dsn: str, standalone: str, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Return a copy of the template database, which the settings name."""
    # `check` would warn about variables of this machine that resemble settings.
    others = {name for name in os.environ if not name.startswith(("PATH", "HOME", "LANG", "PY"))}
    for name in others - stubs.env.keys():
        monkeypatch.delenv(name)
    for database in copy_of(dsn, standalone):
        for name, value in (stubs.env | {"DATABASE_URL": database.url}).items():
            monkeypatch.setenv(name, value)
        stubs["ingest"].mode = "down"
        yield database


def use() -> None:
    """Let passes and people write to every table."""
    main(["maintenance", "end"])
    assert main(["health"]) == main(["metrics"]) == 0
    assert main(["maintenance", "start"]) == 0
    assert main(["maintenance", "start", "--service", "dispatcher"]) == 0


def findings(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """Return the faults and warnings of ``check``, except those about services.

    One of the services is down.
    """
    capsys.readouterr()
    code = main(["check", "--output", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == code
    problems = [finding for finding in document["findings"] if finding["state"] != "ok"]
    return [finding for finding in problems if not finding["subject"].startswith("service ")]


def follow(
    database: Database, capsys: pytest.CaptureFixture[str], remedy: str, depth: int = 0
) -> None:
    """Run the commands and execute the statements of a remedy, in order.

    If init-db cannot repair the schema, follow its message, which names a statement.
    """
    assert depth < 3, remedy
    steps = re.findall(r"`([^`]+)`", remedy)
    assert steps, remedy
    for step in steps:
        if step == "ops-worker check":
            continue  # repair runs it, and follows its remedies
        if not step.startswith("ops-worker "):
            database.rows(step)
            continue
        capsys.readouterr()
        if main(step.split()[1:]):
            follow(database, capsys, capsys.readouterr().err, depth + 1)


def repair(database: Database, capsys: pytest.CaptureFixture[str], why: str) -> None:
    """Follow the remedies of ``check``, in order, until it is green; at most three times.

    Several lines may have the same remedy. Follow it once, as a person does.
    """
    for _ in range(3):
        faults = findings(capsys)
        if not faults:
            return
        for remedy in dict.fromkeys(finding["remedy"] for finding in faults):
            if not remedy.startswith("see the lines of"):
                follow(database, capsys, remedy)
    assert findings(capsys) == [], why


def break_and_repair(
    database: Database, capsys: pytest.CaptureFixture[str], statements: str, *subjects: str
) -> None:
    """Break the schema, expect findings of ``check``, and follow the remedies until it is green."""
    database.rows(statements)
    faults = findings(capsys)
    assert faults, statements
    assert {finding["subject"] for finding in faults} >= {*subjects}
    repair(database, capsys, statements)


Columns = dict[str, "Column"]
"""One column of each of these tables, by table."""


def columns_at(position: int) -> Columns:
    """Return the column at this position of each table, if there is one."""
    return {
        table: shape.columns[position]
        for table, shape in SHAPES.items()
        if position < len(shape.columns)
    }


COLUMN_SETS = [
    columns_at(place) for place in range(max(len(shape.columns) for shape in SHAPES.values()))
]
"""All columns of all tables; an item has at most one column of each table."""
FIRST_COLUMNS = [{table: column} for table, column in COLUMN_SETS[0].items()]
"""The first columns, one at a time, because the repairs of keys depend on each other."""
if os.environ.get("OPS_TEST_FULL"):
    COLUMN_SETS[1:] = [{table: place[table]} for place in COLUMN_SETS[1:] for table in place]


@pytest.mark.parametrize("columns", [*FIRST_COLUMNS, *COLUMN_SETS[1:]])
def test_dropped_column(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str], columns: Columns
) -> None:
    """Each column of each table comes back if it was dropped with all that depends on it."""
    needed = {
        table: column.name
        for table, column in columns.items()
        # The worker does not need these columns of the platform's tables.
        if not column.name.startswith(("acknowledged_", "created_", "updated_"))
    }
    dropped = [f"ALTER TABLE {table} DROP COLUMN {name} CASCADE" for table, name in needed.items()]
    if dropped:
        break_and_repair(
            standalone_copy, capsys, ";\n".join(dropped), *(f"table {name}" for name in needed)
        )
    use()


DROP_DEPENDENTS = f"""DROP VIEW IF EXISTS {VIEW};
ALTER TABLE ops_worker_maintenance DROP CONSTRAINT ops_worker_maintenance_single_check;
ALTER TABLE fleet_alert DROP CONSTRAINT fleet_alert_status_check,
    DROP CONSTRAINT fleet_alert_tenant_id_fkey;
ALTER TABLE fleet_alert ALTER COLUMN id DROP IDENTITY, ALTER COLUMN id SET DEFAULT 7;
DROP INDEX idx_fleet_alert_open_uq, idx_fleet_alert_tenant_created"""
"""Statements that remove everything that depends on the type of a column."""


@pytest.mark.parametrize("columns", COLUMN_SETS)
def test_changed_type(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str], columns: Columns
) -> None:
    """Each column of each table is converted back to its type without loss."""
    standalone_copy.rows(DROP_DEPENDENTS)
    assert main(["init-db"]) == 0
    before = {table: standalone_copy.rows(f"SELECT * FROM {table}") for table in columns}
    changed = [f"DROP VIEW {VIEW}"]
    changed += [changed_type(table, column) for table, column in columns.items()]
    break_and_repair(
        standalone_copy, capsys, ";\n".join(changed), *(f"table {table}" for table in columns)
    )
    assert {table: standalone_copy.rows(f"SELECT * FROM {table}") for table in columns} == before
    use()


def changed_type(table: str, column: Column) -> str:
    """Return the statements that give a column another type."""
    name, other = column.name, OTHER_TYPES[column.type]
    is_identity = column.default.startswith("GENERATED")
    if is_identity and table != "fleet_alert":
        other = "integer"  # an identity column has no other types
    if table in ROLLUP_TABLES and name == "tags":
        other = "text"  # a column of a key cannot be json
    default = "" if is_identity else f"ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT;"
    return f"{default} ALTER TABLE {table} ALTER COLUMN {name} TYPE {other} USING {name}::{other}"


def test_values_that_do_not_convert(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that does not convert ends the repair; the message names a statement."""
    broken = f"""DROP VIEW {VIEW}; ALTER TABLE service_health ALTER checked_at DROP DEFAULT;
        ALTER TABLE service_health ALTER checked_at TYPE integer USING 0"""
    standalone_copy.rows(broken)
    assert main(["init-db"]) == 3
    assert "`ALTER TABLE service_health DROP COLUMN checked_at CASCADE`" in capsys.readouterr().err
    repair(standalone_copy, capsys, broken)


OUTDATED = {
    "the same columns": f"""CREATE OR REPLACE VIEW {VIEW} AS
        SELECT service, status, latency_ms, details, checked_at FROM service_health""",
    "fewer columns": f"DROP VIEW {VIEW}; CREATE VIEW {VIEW} AS SELECT service FROM service_health",
    "a column more": f"""CREATE OR REPLACE VIEW {VIEW} AS
        SELECT service, status, latency_ms, details, checked_at, 1 AS more FROM service_health""",
    "a view on it": f"""DROP VIEW {VIEW}; CREATE VIEW {VIEW} AS SELECT status FROM service_health;
        CREATE VIEW other AS SELECT * FROM {VIEW}""",
    "a table in its place": f"DROP VIEW {VIEW}; CREATE TABLE {VIEW} (service text)",
    "dropped": f"DROP VIEW {VIEW}",
}


@pytest.mark.parametrize("statements", OUTDATED.values(), ids=list(OUTDATED))
def test_view(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str], statements: str
) -> None:
    """A view with another definition is replaced, and a missing one is created."""
    expected = standalone_copy.rows(VIEWS)
    break_and_repair(standalone_copy, capsys, statements, f"view {VIEW}")
    assert standalone_copy.rows(VIEWS) == expected


def test_view_keeps_its_grants(standalone_copy: Database) -> None:
    """A view that is dropped and created again has the same grants."""
    standalone_copy.rows('CREATE ROLE "ops view"')
    standalone_copy.rows(OUTDATED["fewer columns"])
    standalone_copy.rows(
        f'GRANT SELECT ON {VIEW} TO PUBLIC; GRANT SELECT, UPDATE ON {VIEW} TO "ops view"'
    )
    granted = "SELECT relacl::text FROM pg_class WHERE relname = 'service_health_current'"
    before = standalone_copy.value(granted)
    assert main(["init-db"]) == 0
    assert sorted(standalone_copy.value(granted)) == sorted(before)
    standalone_copy.rows('DROP OWNED BY "ops view"; DROP ROLE "ops view"')


@pytest.mark.parametrize("table", [name for name in SHAPES if name != VERSIONS])
def test_missing_table(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    """A table that was dropped is created again."""
    standalone_copy.rows(f"DROP TABLE {table} CASCADE")
    if table.startswith("ops_worker_maintenance"):  # optional: `maintenance start` creates them
        assert findings(capsys) == []
        assert main(["maintenance", "start", "--replace"]) == 0
    elif table in ROLLUP_TABLES:  # optional: the rollup pass creates them
        assert findings(capsys) == []
        assert main(["rollup"]) == 0
    else:
        assert findings(capsys) != []
    repair(standalone_copy, capsys, table)
    assert standalone_copy.value(f"SELECT to_regclass('{table}')") is not None


@pytest.mark.parametrize("table", [name for name in SHAPES if SHAPES[name].key])
@pytest.mark.parametrize("repeated", [False, True])
def test_missing_key(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str], table: str, repeated: bool
) -> None:
    """A dropped unique key is added; if rows are duplicates, they are named first."""
    broken = f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey CASCADE"
    if repeated:
        broken += f"; INSERT INTO {table} SELECT * FROM {table}"
    break_and_repair(standalone_copy, capsys, broken)
    use()


def test_key_of_other_columns(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the primary key has other columns, a unique key is added beside it."""
    broken = """ALTER TABLE service_health DROP CONSTRAINT service_health_pkey;
        ALTER TABLE service_health ADD PRIMARY KEY (service, checked_at)"""
    break_and_repair(standalone_copy, capsys, broken, "table service_health")


VERSION_FAULTS = {
    "no row": f"DELETE FROM {VERSIONS}",
    "no table": f"DROP TABLE {VERSIONS}",
    "unreadable": f"ALTER TABLE {VERSIONS} RENAME COLUMN version TO number",
    "no number": f"ALTER TABLE {VERSIONS} ALTER version TYPE text USING 'v' || version",
}


@pytest.mark.parametrize("statements", VERSION_FAULTS.values(), ids=list(VERSION_FAULTS))
def test_version(
    standalone_copy: Database, capsys: pytest.CaptureFixture[str], statements: str
) -> None:
    """A missing or unreadable version is a warning, and is recorded again."""
    break_and_repair(standalone_copy, capsys, statements, "schema")


def test_newer_version(
    standalone_copy: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The schema of a newer program is a warning.

    Passes work, and init-db changes nothing.
    """
    later = with_another_migration(tmp_path)
    with monkeypatch.context() as newer:
        newer.setattr(sql, "MIGRATIONS", later)
        assert main(["init-db", "--standalone"]) == 0
        assert findings(capsys) == []
    (finding,) = findings(capsys)
    assert (finding["subject"], finding["state"]) == ("schema", "warning")
    assert finding["found"] == f"version {NEWEST + 1}; this program knows version {NEWEST}"
    assert main(["health"]) == main(["metrics"]) == 0
    before = standalone_copy.rows(COLUMNS), standalone_copy.rows(VIEWS)
    capsys.readouterr()
    assert main(["init-db"]) == 0
    assert capsys.readouterr().out.startswith(
        f"schema: version {NEWEST + 1} is newer than this program, which knows {NEWEST}; "
        "nothing was changed\n"
    )
    assert (standalone_copy.rows(COLUMNS), standalone_copy.rows(VIEWS)) == before
    standalone_copy.rows("DROP TABLE system_metrics CASCADE")
    assert main(["init-db"]) == 3
    assert "run init-db with the ops-worker that made this version" in capsys.readouterr().err
    monkeypatch.setattr(sql, "MIGRATIONS", later)  # the remedy: the newer program
    repair(standalone_copy, capsys, "newer")


def with_another_migration(folder: Path) -> Path:
    """Return a folder of the migrations and one more, which is not released."""
    for path in sql.MIGRATIONS.glob("*.sql"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    view = sql.migrations()[0].sections[VIEW].rstrip(";")
    (folder / f"{NEWEST + 1:04}_more.sql").write_text(
        "-- object: ops_worker_maintenance_log\n"
        "ALTER TABLE ops_worker_maintenance_log ADD COLUMN IF NOT EXISTS ticket text;\n"
        f"-- object: {VIEW}\n{view} ORDER BY service;\n",
        encoding="utf-8",
    )
    return folder


def test_migration_of_another_owner(
    configured: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """If a migration changes a table of another role, the message names that role."""
    assert main(["init-db"]) == 0
    configured.rows("CREATE ROLE ops_deploy LOGIN PASSWORD 'x'")
    configured.rows("GRANT ALL ON ALL TABLES IN SCHEMA public TO ops_deploy")
    monkeypatch.setattr(sql, "MIGRATIONS", with_another_migration(tmp_path))
    with monkeypatch.context() as other:
        other.setenv("DATABASE_URL", configured.as_user("ops_deploy"))
        capsys.readouterr()
        assert main(["init-db"]) == 3
        assert "belongs to role postgres: run `ops-worker init-db` as that role" in (
            capsys.readouterr().err
        )
    assert {finding["subject"] for finding in findings(capsys)} == {"schema", f"view {VIEW}"}
    configured.rows("DROP OWNED BY ops_deploy; DROP ROLE ops_deploy")
    repair(configured, capsys, "migration")


def test_repair_by_another_role(
    configured: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of another role is reported with that role and the statement.

    Nothing is changed.
    """
    assert main(["init-db"]) == main(["health"]) == main(["metrics"]) == 0
    configured.rows("CREATE ROLE ops_deploy LOGIN PASSWORD 'x'")
    configured.rows("GRANT ALL ON ALL TABLES IN SCHEMA public TO ops_deploy")
    configured.rows("ALTER TABLE service_health DROP COLUMN latency_ms CASCADE")
    configured.rows("GRANT CREATE ON SCHEMA public TO ops_deploy")
    configured.rows(f"CREATE VIEW {VIEW} AS SELECT service FROM service_health")
    with monkeypatch.context() as other:
        other.setenv("DATABASE_URL", configured.as_user("ops_deploy"))
        capsys.readouterr()
        assert main(["init-db"]) == 3
        out, err = capsys.readouterr()
    assert "service_health: already there\n" in out
    statement = "`ALTER TABLE service_health ADD COLUMN latency_ms integer`"
    assert f"service_health belongs to role postgres: as that role run {statement}" in err
    follow(configured, capsys, statement)
    configured.rows("DROP OWNED BY ops_deploy; DROP ROLE ops_deploy")
    repair(configured, capsys, "another role")


def test_repair_as_the_role_that_owns(
    configured: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that does not inherit the rights of PG_ROLE repairs the tables of that role."""
    configured.rows("CREATE ROLE ops_owner; CREATE ROLE ops_login LOGIN NOINHERIT PASSWORD 'x'")
    configured.rows("GRANT ops_owner TO ops_login; GRANT CREATE ON SCHEMA public TO ops_owner")
    configured.rows("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as since PostgreSQL 15
    configured.rows("DROP TABLE system_metrics CASCADE")
    with monkeypatch.context() as other:
        other.setenv("DATABASE_URL", configured.as_user("ops_login"))
        other.setenv("PG_ROLE", "ops_owner")
        assert main(["init-db"]) == 0
        configured.rows("ALTER TABLE service_health DROP COLUMN latency_ms CASCADE")
        capsys.readouterr()
        assert main(["init-db"]) == 0
        assert "latency_ms" in capsys.readouterr().out
    owner = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'service_health'"
    assert configured.value(owner) == "ops_owner"
    configured.rows("DROP OWNED BY ops_owner; DROP ROLE ops_login; DROP ROLE ops_owner")


def test_version_that_may_not_be_read(
    configured: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the role may not read the version, the remedy is a GRANT, and no new table."""
    assert main(["init-db"]) == 0
    configured.rows("CREATE ROLE ops_blind LOGIN PASSWORD 'x' BYPASSRLS")
    configured.rows("GRANT ALL ON ALL TABLES IN SCHEMA public TO ops_blind")
    configured.rows(f"REVOKE SELECT ON {VERSIONS} FROM ops_blind, PUBLIC")
    with monkeypatch.context() as other:
        other.setenv("DATABASE_URL", configured.as_user("ops_blind"))
        remedies = {finding["subject"]: finding["remedy"] for finding in findings(capsys)}
    configured.rows("DROP OWNED BY ops_blind; DROP ROLE ops_blind")
    assert not any("DROP" in remedy for remedy in remedies.values())
    assert "GRANT" in remedies[f"table {VERSIONS}"]


def test_missing_grants(
    configured: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed GRANTs are all that a role without any privilege needs."""
    assert main(["init-db"]) == main(["health"]) == 0
    configured.rows("CREATE ROLE \"ops granted\" LOGIN PASSWORD 'x' BYPASSRLS")
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops%20granted"))
    faults = findings(capsys)
    assert {finding["subject"] for finding in faults} >= {"table fleet_alert", "table tenants"}
    repair(configured, capsys, "grants")
    assert main(["health"]) == main(["metrics"]) == 0
    configured.rows('DROP OWNED BY "ops granted"; DROP ROLE "ops granted"')


@pytest.mark.parametrize("is_public", [True, False])
def test_out_of_reach(
    configured: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_public: bool,
) -> None:
    """If the role cannot reach the schema of a table, no second table is created elsewhere."""
    assert main(["init-db"]) == main(["health"]) == 0
    configured.rows("CREATE ROLE ops_reach LOGIN PASSWORD 'x' BYPASSRLS")
    configured.rows("GRANT ALL ON ALL TABLES IN SCHEMA public TO ops_reach")
    configured.rows("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO ops_reach")
    if is_public:
        configured.rows('ALTER ROLE ops_reach SET search_path TO "$user"')
    else:
        configured.rows("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    monkeypatch.setenv("DATABASE_URL", configured.as_user("ops_reach"))
    problems = {finding["subject"]: finding for finding in findings(capsys)}
    assert problems["table system_metrics"]["found"] == "not visible: it is in schema public"
    follow(configured, capsys, problems["table system_metrics"]["remedy"])
    assert findings(capsys) == []
    configured.rows("DROP OWNED BY ops_reach; DROP ROLE ops_reach")


def test_platforms_tables_are_left_alone(
    configured: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --standalone, init-db changes nothing about tenants and fleet_alert."""
    shape = (
        "SELECT * FROM information_schema.columns "
        "WHERE table_name IN ('tenants', 'fleet_alert', 'device_state') ORDER BY 3, 4"
    )
    configured.rows("ALTER TABLE fleet_alert RENAME COLUMN summary TO title")
    configured.rows("ALTER TABLE tenants ALTER name TYPE varchar(200)")
    configured.rows("DROP VIEW system_metrics_latest, system_metrics_recent")
    configured.rows("ALTER TABLE system_metrics ALTER tags TYPE json")
    configured.rows("CREATE VIEW readers AS SELECT tags FROM system_metrics")
    before = configured.rows(shape)
    assert main(["init-db"]) == 0
    assert "system_metrics: column tags is json, not jsonb; it was left as it is" in (
        capsys.readouterr().out
    )
    assert configured.rows(shape) == before
    problems = {finding["subject"]: finding for finding in findings(capsys)}
    assert "run the platform's migrations" in problems["table fleet_alert"]["remedy"]
    assert problems["table tenants"]["state"] == "warning"
    assert "drop the views that read it (readers)" in problems["table system_metrics"]["remedy"]


def schema_of(database: Database) -> list[list[dict[str, object]]]:
    """Return the columns, keys and views of the whole schema."""
    return [database.rows(query) for query in (COLUMNS, KEYS, VIEWS)]


def test_shapes_are_the_sum_of_the_migrations(standalone_copy: Database) -> None:
    """core/schema.py describes each table as the migrations make it."""
    rows = [row for row in standalone_copy.rows(COLUMNS) if row["object"] != VIEW]
    expected = [
        (shape.name, column.name, column.type, column.required, bool(column.default))
        for shape in SHAPES.values()
        for column in shape.columns
    ]
    actual = [
        (
            row["object"],
            row["column"],
            row["type"],
            row["required"],
            row["identity"] or row["expression"] is not None,
        )
        for row in rows
    ]
    assert sorted(actual) == sorted(expected)
    for shape in SHAPES.values():
        for column in shape.columns:
            if column.default and not column.default.startswith("GENERATED"):
                default = standalone_copy.value(
                    "SELECT pg_get_expr(adbin, adrelid) "
                    "FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum"
                    f" WHERE adrelid = '{shape.name}'::regclass AND attname = '{column.name}'"
                )
                assert default.partition("::")[0].strip("'") == column.default.strip("'")
    assert set(OWN) < set(SHAPES)


FIRST_RELEASE = Path(__file__).with_name("first_release.sql").read_text(encoding="utf-8")
"""The tables of the first release, which recorded no version."""
EARLIER = {
    "nothing": "",
    "what a pass of the first release created": FIRST_RELEASE[
        FIRST_RELEASE.index("CREATE TABLE service_health") : FIRST_RELEASE.index(
            "-- service_health_current"
        )
    ],
    "the first release": FIRST_RELEASE,
    **{
        f"version {migration.version}": "\n".join(
            [
                *(
                    statements
                    for earlier in sql.migrations()[: migration.version]
                    for statements in earlier.sections.values()
                ),
                *(
                    (
                        f"INSERT INTO {VERSIONS} (version, name) "
                        f"VALUES ({earlier.version}, '{earlier.name}');"
                    )
                    for earlier in sql.migrations()[: migration.version]
                ),
            ]
        )
        for migration in sql.migrations()
    },
}


@pytest.mark.parametrize("statements", EARLIER.values(), ids=list(EARLIER))
def test_from_every_earlier_version(
    another: Database,
    empty: Database,
    stubs: Stubs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    statements: str,
) -> None:
    """From every earlier version, init-db leads to the same schema.

    Passes and `check` then work.
    """
    for name, value in (stubs.env | {"DATABASE_URL": empty.url}).items():
        monkeypatch.setenv(name, value)
    empty.rows(statements or "SELECT")
    assert main(["init-db", "--standalone"]) == 0
    assert "replaced" not in capsys.readouterr().out
    upgraded = schema_of(empty)
    assert main(["health"]) == main(["metrics"]) == 0
    assert findings(capsys) == []
    assert empty.value(f"SELECT max(version) FROM {VERSIONS}") == sql.migrations()[-1].version
    # The sum of the migrations, executed as they are.
    another.rows("DROP SCHEMA public CASCADE")
    another.rows("CREATE SCHEMA public")
    for migration in sql.migrations():
        for section in migration.sections.values():
            another.rows(section)
    assert schema_of(another) == upgraded


def test_by_several_at_once(empty: Database) -> None:
    """Several runs of init-db at once succeed, and each object is created once."""

    def run(_: int) -> list[Change]:
        with contextlib.closing(Store({"conninfo": empty.url})) as store:
            return list(store.migrate(standalone=True))

    with ThreadPoolExecutor(6) as pool:
        changes = [change for run in pool.map(run, range(6)) for change in run]
    assert not any(change.fault for change in changes)
    created = [change.subject for change in changes if change.action == "created"]
    assert sorted(created) == sorted(STANDALONE)
    # Each migration is a transaction, so that several runs may have applied some of them.
    applied = [change.subject for change in changes if change.action == "applied"]
    assert sorted(applied) == [f"migration {migration.name}" for migration in sql.migrations()]


def test_first_pass_records_the_version(
    configured: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an empty installation, a pass creates its table and records the version.

    init-db creates the rest.
    """
    assert main(["health"]) == 0
    assert configured.value(f"SELECT count(*) FROM {VERSIONS}") == len(sql.migrations())
    repair(configured, capsys, "view")
    configured.rows(f"DROP TABLE {VERSIONS}, service_health CASCADE")
    assert main(["maintenance", "start"]) == main(["health"]) == 0
    assert configured.value(f"SELECT to_regclass('{VERSIONS}')") is None, "older tables were there"
    repair(configured, capsys, "adopted")


def test_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations are numbered from 1 without a gap, and each section names an object."""
    numbers = [migration.version for migration in sql.migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    for migration in sql.migrations():
        assert set(migration.sections) <= set(STANDALONE)
    monkeypatch.setattr(sql, "MIGRATIONS", with_another_migration(tmp_path))
    assert [migration.name for migration in sql.migrations()][-1] == f"{NEWEST + 1:04}_more"
