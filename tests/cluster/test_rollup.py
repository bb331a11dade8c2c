"""The rollup CronJob on a real cluster, and the ledger that the passes of CronJobs write."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ops_worker.cli import main
from tests.cluster.conftest import K8S, NAMESPACE, kubectl
from tests.looks import passes_in_ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cluster.conftest import Installation

pytestmark = pytest.mark.cluster
HOURS = 3
SAMPLES = f"""
INSERT INTO system_metrics (time, service, metric_name, value, tags)
SELECT h.ends - make_interval(mins => n), s.service, s.metric, s.sign * (1000 - n), '{{}}'
FROM date_trunc('hour', now() - interval '10 minutes') AS h (ends),
    generate_series(1, {HOURS * 60}) AS n,
    (VALUES ('ingest', 'messages_received', 1), ('platform', 'devices_online', -1))
        AS s (service, metric, sign)
"""
"""A counter that grows by one every minute, and a figure that falls, in complete hours."""
SLOW = """
CREATE FUNCTION ops_test_slow() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM pg_sleep(5); RETURN NULL; END$$;
CREATE TRIGGER slow AFTER INSERT ON ops_worker_hour
FOR EACH STATEMENT EXECUTE FUNCTION ops_test_slow()
"""
"""Lets every hour take five seconds."""
OWN_TABLES = ("ops_worker_hour", "ops_worker_day", "ops_worker_span", "ops_worker_run")


@pytest.fixture(scope="module")
def schema(installation: Installation) -> Installation:
    """Return the installation with every table of the worker."""
    assert main(["trigger", "init-db", "--wait", "-n", NAMESPACE]) == 0
    return installation


@pytest.fixture
def plain(plain: Installation, schema: Installation) -> Installation:
    """Return the installation after emptying the worker's own tables."""
    for table in OWN_TABLES:
        schema.database.rows(f"DELETE FROM {table}")
    return plain


def hours(installation: Installation) -> list[dict[str, Any]]:
    """Return the hours of the services, with the number of the transaction that wrote each."""
    return installation.database.rows(
        "SELECT xmin::text, * FROM ops_worker_hour WHERE service <> 'ops_worker'"
        " ORDER BY service, metric_name, tags, begun"
    )


def state_of(name: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the row of a CronJob in `ops-worker cluster`, or no row if it does not exist."""
    capsys.readouterr()
    assert main(["cluster", "-n", NAMESPACE, "--output", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["cronjobs"]
    return [row for row in rows if row["name"] == name]


def run(names: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run a pass of each CronJob, one after the other. Return their closing lines.

    Output and log reach the log of the pod by two pipes, so either may have the last line.
    """
    lines = []
    for name in names:
        assert main(["trigger", name, "--wait", "-n", NAMESPACE]) == 0
        lines_of_log = capsys.readouterr().out.splitlines()
        lines += [line for line in lines_of_log if line.startswith(f"{name}: ")]
    return lines


def test_rollup(plain: Installation) -> None:
    """Under Pod Security restricted, a Job writes the hours, and its pod's message says so."""
    labels = json.loads(kubectl("get", "namespace", NAMESPACE, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    plain.database.rows(SAMPLES)
    ended = plain.job("t-rollup", "rollup")
    assert ended.condition == "Complete"
    assert len(ended.pods) == 1
    summary = ended.message["summary"]
    assert re.fullmatch(
        rf"rollup: {HOURS} hours and [01] days? written, \d+ rows; "
        r"complete until \d{4}-\d\d-\d\d \d\d:00 UTC \(\d+\.\d\d s\)",
        summary,
    )
    ended.message.pop("summary")
    assert {key: ended.message[key] for key in ("pass", "result", "exit_code", "job")} == {
        "pass": "rollup",
        "result": "recorded",
        "exit_code": 0,
        "job": "t-rollup",
    }
    rows = hours(plain)
    assert [(row["service"], row["samples"]) for row in rows] == [
        *[("ingest", 60)] * HOURS,
        *[("platform", 60)] * HOURS,
    ]
    newest, gauge = rows[HOURS - 1], rows[-1]
    assert (newest["least"], newest["most"], newest["latest"]) == (940, 999, 999)
    assert (newest["increase"], newest["seconds"]) == (60, 3600)
    assert (gauge["mean"], gauge["increase"]) == (-969.5, None)


def test_again(plain: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run changes no row. Late samples of an hour are added to it."""
    plain.database.rows(SAMPLES)
    run(["rollup"], capsys)
    before = hours(plain)
    (line,) = run(["rollup"], capsys)
    assert line.startswith("rollup: 0 hours and 0 days written, 0 rows; complete until ")
    assert hours(plain) == before
    plain.database.rows(
        "INSERT INTO system_metrics (time, service, metric_name, value, tags)"
        " SELECT max(time) + interval '30 s', service, metric_name, 5000, '{}'"
        " FROM system_metrics WHERE service = 'ingest' AND metric_name = 'messages_received'"
        " GROUP BY service, metric_name"
    )
    (line,) = run(["rollup"], capsys)
    assert line.startswith("rollup: 1 hour and ")
    changed = [row for row in hours(plain) if row not in before]
    assert [(row["samples"], row["latest"]) for row in changed] == [(61, 5000)]


def test_commands(plain: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """`trigger rollup --wait` runs it and shows its line. `cluster` shows the CronJob."""
    plain.database.rows(SAMPLES)
    (line,) = run(["rollup"], capsys)
    assert line.startswith(f"rollup: {HOURS} hours and ")
    (row,) = state_of("ops-worker-rollup", capsys)
    assert (row["schedule"], row["exit_code"], row["summary"]) == ("17 * * * *", 0, line)
    assert (row["missed"], row["running"]) == (None, 0)
    (warning,) = row["warnings"]
    assert "patch cronjob ops-worker-rollup" in warning  # these tests suspend it
    assert row["last_success_s"] is not None


def test_failed(plain: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """A rollup without memory fails. Both commands say why."""
    rollup = yaml.safe_load((K8S / "40-cronjob-rollup.yaml").read_text(encoding="utf-8"))
    job = rollup["spec"]["jobTemplate"]["spec"]
    job["backoffLimit"] = 0
    resources = job["template"]["spec"]["containers"][0]["resources"]
    resources["requests"]["memory"] = resources["limits"]["memory"] = "24Mi"
    rollup["spec"]["suspend"] = True
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(rollup))
    assert main(["trigger", "rollup", "--wait", "-n", NAMESPACE]) == 137
    problem = "OOMKilled: raise resources.limits.memory of the container"
    assert f"ended with exit code 137: {problem}" in capsys.readouterr().err
    (row,) = state_of("ops-worker-rollup", capsys)
    assert row["exit_code"] == 137
    assert row["summary"].startswith(problem)
    warning, suspended = row["warnings"]
    assert "patch cronjob ops-worker-rollup" in suspended
    failure = "ops-worker-rollup: the last pass failed with exit code 137"
    assert warning.startswith(f"{failure}: {problem}")
    assert hours(plain) == []


def test_pod_deleted(plain: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """A pod that is deleted in the middle keeps its hours. The Job's next pod continues."""
    plain.database.rows(SAMPLES)
    plain.database.rows(SLOW)
    try:
        assert main(["trigger", "rollup", "-n", NAMESPACE]) == 0
        job = re.findall(r"job\.batch/(\S+) created", capsys.readouterr().err)[0]
        end = time.monotonic() + 60
        while not hours(plain) and time.monotonic() < end:
            time.sleep(0.2)
        done = hours(plain)
        kubectl("-n", NAMESPACE, "delete", "pod", "-l", f"job-name={job}", "--wait=false")
        kubectl("-n", NAMESPACE, "wait", "--for=condition=complete", f"job/{job}", "--timeout=90s")
    finally:
        plain.database.rows("DROP FUNCTION ops_test_slow CASCADE")
    assert 0 < len(done) < 2 * HOURS
    rows = hours(plain)
    assert len(rows) == 2 * HOURS
    assert [row for row in done if row in rows] == done


def test_without_rollup(
    plain: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its CronJob, no pass, no alert and no screen mentions the rollup."""
    kubectl("-n", NAMESPACE, "delete", "cronjob", "ops-worker-rollup", "--wait=true")
    lines = run(["health", "metrics", "health", "metrics"], capsys)
    assert [re.sub(r" \([\d.]+ s\)", "", line) for line in lines[:1]] == [
        "health: 4 services, 4 healthy"
    ]
    assert not any("warning" in line or "alert" in line for line in lines)
    assert plain.database.alerts() == []
    assert state_of("ops-worker-rollup", capsys) == []
    monkeypatch.setenv("DATABASE_URL", plain.database.url)
    assert main(["status"]) == 0
    assert "rollup" not in capsys.readouterr().out


def test_rollup_removed(plain: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """A rollup that stopped opens an alert, until its rows are deleted as the runbook says."""
    kubectl("-n", NAMESPACE, "delete", "cronjob", "ops-worker-rollup", "--wait=true")
    plain.database.rows(
        "INSERT INTO system_metrics (time, service, metric_name, value, tags)"
        " VALUES (now() - interval '4 hours', 'ops_worker', 'rollup_behind_s', 0,"
        """ '{"pass": "rollup", "period_s": "3600"}')"""
    )
    # A pass opens the alert only if it is itself on time: in the second run.
    (_, second) = run(["health", "health"], capsys)
    assert "1 alert opened: ops_worker" in second
    (alert,) = plain.database.alerts()
    assert "rollup" in json.dumps(alert, default=str)
    plain.database.rows(
        "DELETE FROM system_metrics"
        " WHERE service = 'ops_worker' AND metric_name = 'rollup_behind_s'"
    )
    (closing,) = run(["metrics"], capsys)
    assert "1 alert closed: ops_worker" in closing
    (closed,) = plain.database.alerts()
    assert closed["status"] == "CLOSED"


def test_ledger(plain: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """The passes of CronJobs extend one run each, and write a span when a state changes."""
    run(["health", "metrics", "health", "metrics"], capsys)
    runs = plain.database.rows("SELECT * FROM ops_worker_run ORDER BY pass")
    assert [(row["pass"], row["shard"], row["passes"], row["period_s"]) for row in runs] == [
        ("health", "0/1", 2, 60),
        ("metrics", "0/1", 2, 60),
    ]
    assert spans(plain) == [("health", "healthy", None, 4), ("metrics", "healthy", None, 4)]
    plain.stubs["ingest"].mode = "503"
    try:
        run(["health"], capsys)
    finally:
        plain.stubs["ingest"].mode = "ok"
    assert spans(plain) == [
        ("health", "degraded", None, 1),
        ("health", "healthy", 2, 1),
        ("health", "healthy", None, 3),
        ("metrics", "healthy", None, 4),
    ]
    # The rollup writes no run: there is no sample from before the ledger.
    run(["rollup", "health"], capsys)
    assert passes_in_ledger(plain.database) == 6
    assert plain.database.value("SELECT count(*) FROM ops_worker_run") == 2
    assert ("health", "degraded", 3, 1) in spans(plain)


def spans(installation: Installation) -> list[tuple[Any, ...]]:
    """Return the number of spans of each pass, state and last number."""
    rows = installation.database.rows(
        "SELECT pass, state, last_no, count(*) AS count FROM ops_worker_span"
        " GROUP BY pass, state, last_no ORDER BY pass, state, last_no"
    )
    return [(row["pass"], row["state"], row["last_no"], row["count"]) for row in rows]
