"""Tests of the rules about CronJobs."""

from __future__ import annotations

import pytest

from tests.manifest_rules.installation import (
    CONTAINER,
    GONE,
    HEALTH,
    INSTALLED,
    JOB,
    OURS,
    POD,
    assert_fault,
    broken,
    faults_of,
    health_faults,
    variant,
)

pytestmark = pytest.mark.unit

NOT_DUE = "or another pass opens an alert although no run is due"
TOO_LATE = (
    "is 50, -5 s more than --for (55): a pod that starts late is ended with its last passes; "
    "the difference must be at least 8, so set --for to 42 or less"
)
LATE = (
    "is not set: a run that missed its time starts however late it is, once for all missed runs "
    "(Kubernetes reports TooManyMissedTimes after more than 100); set "
)
EXIT_CODES = "exit codes 2, 3 (settings, schema): a retry does not help there"
NO_FAIL_JOB = (
    "is not a FailJob rule for exit codes of this container; "
    "keep one rule, for exit codes 2, 3 of container ops-worker"
)
ROWS: list[tuple[str, object, str, str]] = [
    (
        "spec.schedule",
        "*/5 * * * *",
        "spec.schedule",
        f"runs every 300 s, but PASS_PERIOD is 60: set it to 300, {NOT_DUE}",
    ),
    (
        "spec.schedule",
        "* * * *",
        "spec.schedule",
        "'* * * *' is not a cron schedule: it has 4 fields instead of 5",
    ),
    (
        "spec.schedule",
        "0 * * * * *",
        "spec.schedule",
        "'0 * * * * *' is not a cron schedule: it has 6 fields instead of 5",
    ),
    (
        "spec.schedule",
        "60 * * * *",
        "spec.schedule",
        "'60 * * * *' is not a cron schedule: minute '60' is not in the range 0 to 59",
    ),
    (
        "spec.schedule",
        "TZ=UTC * * * * *",
        "spec.schedule",
        "'TZ=UTC * * * * *' is not a cron schedule: the time zone belongs in spec.timeZone",
    ),
    (
        "spec.timeZone",
        GONE,
        "spec.timeZone",
        "is not set, so the time zone of kube-controller-manager is used; set Etc/UTC",
    ),
    (
        "spec.timeZone",
        "Mars/Olympus",
        "spec.timeZone",
        "'Mars/Olympus' is not a time zone; set Etc/UTC",
    ),
    ("spec.concurrencyPolicy", "forbid", "spec.concurrencyPolicy", "is forbid; set Forbid"),
    ("spec.concurrencyPolicy", GONE, "spec.concurrencyPolicy", "is not set; set Forbid"),
    (
        "spec.startingDeadlineSeconds",
        GONE,
        "spec.startingDeadlineSeconds",
        f"{LATE}20 to 30",
    ),
    (
        "spec.startingDeadlineSeconds",
        10,
        "spec.startingDeadlineSeconds",
        "is 10; it must be greater than 10, or a run may never start",
    ),
    (
        "spec.startingDeadlineSeconds",
        60,
        "spec.startingDeadlineSeconds",
        "is 60; it must be less than the period (60)",
    ),
    (
        f"{JOB}.activeDeadlineSeconds",
        GONE,
        f"{JOB}.activeDeadlineSeconds",
        "is not set: with concurrencyPolicy Forbid, a pod that cannot start would block all later "
        "runs",
    ),
    (
        f"{JOB}.activeDeadlineSeconds",
        40,
        f"{JOB}.activeDeadlineSeconds",
        "is 40; it must be greater than PASS_DEADLINE (40), so that the pass can report why it is "
        "slow",
    ),
    (
        f"{JOB}.activeDeadlineSeconds",
        60,
        f"{JOB}.activeDeadlineSeconds",
        "is 60; it must be less than the period (60)",
    ),
    (
        f"{CONTAINER}.args",
        ["health", "--every", "5", "--for", "55"],
        f"{JOB}.activeDeadlineSeconds",
        TOO_LATE,
    ),
    (
        f"{POD}.restartPolicy",
        "OnFailure",
        f"{POD}.restartPolicy",
        "is OnFailure; set Never, so that every attempt is a pod with a log",
    ),
    (
        f"{JOB}.backoffLimit",
        GONE,
        f"{JOB}.backoffLimit",
        "is not set; set 1 (0 to 3 is accepted): the next run comes anyway",
    ),
    (
        f"{JOB}.backoffLimit",
        6,
        f"{JOB}.backoffLimit",
        "is 6; set 1 (0 to 3 is accepted): the next run comes anyway",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.values",
        [1, 2, 3],
        f"{JOB}.podFailurePolicy.rules",
        f"FailJob is set for 1, 2, 3; set it for {EXIT_CODES}",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0]",
        {},
        f"{JOB}.podFailurePolicy.rules",
        f"FailJob is set for no exit codes; set it for {EXIT_CODES}",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[1]",
        GONE,
        f"{JOB}.podFailurePolicy.rules",
        "has no Ignore rule for DisruptionTarget: a drained node would count as a failure",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.values",
        [3, 2],
        f"{JOB}.podFailurePolicy.rules[0]",
        "must have exit codes in ascending order, each once; Kubernetes refuses others",
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.values",
        [2, 3, 3],
        f"{JOB}.podFailurePolicy.rules[0]",
        "must have exit codes in ascending order, each once; Kubernetes refuses others",
    ),
    *(
        (field, value, field, "must be a whole number, without quotes")
        for field, value in (
            ("spec.startingDeadlineSeconds", "25"),
            ("spec.startingDeadlineSeconds", 25.5),
            ("spec.failedJobsHistoryLimit", "3"),
            (f"{JOB}.activeDeadlineSeconds", "50"),
            (f"{JOB}.activeDeadlineSeconds", 49.5),
            (f"{JOB}.backoffLimit", "1"),
            (f"{JOB}.backoffLimit", True),
            (f"{JOB}.ttlSecondsAfterFinished", "3600"),
            (f"{JOB}.completions", "1"),
        )
    ),
    ("spec.suspend", "no", "spec.suspend", "must be true or false, without quotes"),
    ("spec.failedJobsHistoryLimit", -1, "spec.failedJobsHistoryLimit", "is below 0; set 3"),
    (
        "spec.successfulJobsHistoryLimit",
        GONE,
        "spec.successfulJobsHistoryLimit",
        "is not set; set 1",
    ),
    ("spec.failedJobsHistoryLimit", GONE, "spec.failedJobsHistoryLimit", "is not set; set 3"),
    (
        f"{JOB}.ttlSecondsAfterFinished",
        GONE,
        f"{JOB}.ttlSecondsAfterFinished",
        "is not set to a number of seconds; set 3600",
    ),
    (
        f"{JOB}.ttlSecondsAfterFinished",
        -1,
        f"{JOB}.ttlSecondsAfterFinished",
        "is not set to a number of seconds; set 3600",
    ),
    (
        f"{CONTAINER}.args",
        ["health", "--every=5", "--for=55"],
        f"{JOB}.activeDeadlineSeconds",
        TOO_LATE,
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].action",
        "Ignore",
        f"{JOB}.podFailurePolicy.rules[0]",
        NO_FAIL_JOB,
    ),
    (
        f"{JOB}.podFailurePolicy.rules[0].onExitCodes.containerName",
        "other",
        f"{JOB}.podFailurePolicy.rules[0]",
        NO_FAIL_JOB,
    ),
    (
        "metadata.name",
        "x" * 53,
        "metadata.name",
        "has 53 characters; it can have at most 52, because the controller appends 11",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    ROWS,
    ids=[f"{row[2].rpartition('.')[2]}-{number}" for number, row in enumerate(ROWS)],
)
def test_rule(path: str, value: object, field: str, message: str) -> None:
    """A wrong field is a fault that names the file, the object, the field and the remedy."""
    assert_fault(path, value, field, message)


def test_whole_number() -> None:
    """The API server accepts 50.0 as a whole number."""
    assert faults_of(broken(HEALTH, f"{JOB}.activeDeadlineSeconds", 50.0)) == []


INDEXED = (
    "must be 3 with SHARD_COUNT 3, and completionMode must be Indexed: one pod for every shard"
)


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    [
        ("completions", 2, "completions", INDEXED),
        ("completionMode", GONE, "completions", INDEXED),
        (
            "parallelism",
            1,
            "parallelism",
            "must equal completions, so that all shards are probed in the same period",
        ),
    ],
)
def test_shards(path: str, value: object, field: str, message: str) -> None:
    """Every shard must be an index of the Job."""
    name = "CronJob/ops-worker-health"
    assert f"{name}: {name}: {JOB}.{field}: {message}" in faults_of(
        broken(name, f"{JOB}.{path}", value, variant("variants/sharded"))
    )


ROLLUP = "40-cronjob-rollup.yaml"


def test_rollup_in_shards() -> None:
    """One rollup pass does the work for all shards, whatever SHARD_COUNT is."""
    message = "must be 1: one rollup pass does the work for all shards"
    assert faults_of(broken(ROLLUP, f"{JOB}.completions", 3)) == [
        f"{ROLLUP}: CronJob/ops-worker-rollup: {JOB}.completions: {message}"
    ]
    assert faults_of(broken(ROLLUP, f"{JOB}.completions", 1)) == []


def test_rollup_period() -> None:
    """PASS_PERIOD of the rollup pass must equal the period of its schedule."""
    variables = [{"name": "PASS_PERIOD", "value": "60"}]
    (fault,) = [
        fault
        for fault in faults_of(broken(ROLLUP, f"{CONTAINER}.env", variables))
        if "PASS_PERIOD" in fault
    ]
    assert "runs every 3600 s, but PASS_PERIOD is 60: set it to 3600" in fault


SCHEDULE = "spec.schedule"
STARTING = "spec.startingDeadlineSeconds"
ACTIVE = f"{JOB}.activeDeadlineSeconds"
SHORTEST = "it must be less than the shortest time between two runs"
EVERY = "with @every it must be at least the period (90), or no run ever starts"
PERIODS: list[tuple[str, str, dict[str, object], list[str]]] = [
    ("*/5 9-17 * * 1-5", "Etc/UTC", {"PASS_PERIOD": "227100"}, []),
    ("*/5 9-17 * * 1-5", "Etc/UTC", {"PASS_PERIOD": "300"}, [
        f"{SCHEDULE}: leaves up to 227100 s between two runs, but PASS_PERIOD is 300: "
        f"set it to 227100, {NOT_DUE}"
    ]),
    ("@weekly", "Etc/UTC", {}, [
        f"{SCHEDULE}: runs every 604800 s, but PASS_PERIOD is 60: set it to 604800, {NOT_DUE}"
    ]),
    ("@weekly", "Europe/Berlin", {"PASS_PERIOD": "604800"}, []),
    ("@monthly", "Etc/UTC", {"PASS_PERIOD": "604800"}, [
        f"{SCHEDULE}: leaves up to 2678400 s between two runs, but PASS_PERIOD is 604800: "
        f"set it to 999999, {NOT_DUE}"
    ]),
    ("@monthly", "Etc/UTC", {"PASS_PERIOD": "999999"}, []),
    ("@yearly", "Etc/UTC", {"PASS_PERIOD": "999999"}, [
        f"{SCHEDULE}: leaves up to 31622400 s between two runs, "
        "but another pass opens an alert after 2999997 s; run it at least every month"
    ]),
    ("0 6 * * *", "Europe/Berlin", {"PASS_PERIOD": "86400"}, []),
    ("30 2 * * *", "America/New_York", {"PASS_PERIOD": "86400"}, []),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "starting": 90}, []),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90"}, [f"{STARTING}: is 25; {EVERY}"]),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "starting": 89}, [
        f"{STARTING}: is 89; {EVERY}"
    ]),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "starting": None}, [
        f"{STARTING}: {LATE}the period and 25"
    ]),
    ("@every 90s", "Etc/UTC", {"PASS_PERIOD": "90", "suspend": True}, []),
    ("@every 1h30m", "Etc/UTC", {"PASS_PERIOD": "5400", "starting": 5425}, []),
    ("@every 30s", "Etc/UTC", {"starting": 55}, [
        f"{SCHEDULE}: runs every 30 s, but Kubernetes starts at most one Job per minute; "
        "use --every with --for",
        f"{ACTIVE}: is 50; it must be less than the period (30)",
    ]),
    ("0,1 * * * *", "Etc/UTC", {"PASS_PERIOD": "3540", "active": 60}, [
        f"{ACTIVE}: is 60; {SHORTEST} (60)"
    ]),
    ("0,1 * * * *", "Etc/UTC", {"PASS_PERIOD": "3540", "starting": 60}, [
        f"{STARTING}: is 60; {SHORTEST} (60)"
    ]),
    ("0 1-23/2 * * *", "Europe/Berlin", {"PASS_PERIOD": "7200", "active": 3600}, [
        f"{ACTIVE}: is 3600; {SHORTEST} (3600)"
    ]),
    ("0 1-23/2 * * *", "Etc/UTC", {"PASS_PERIOD": "7200", "active": 3600}, []),
    ("0 0 31 2 *", "Etc/UTC", {}, [
        f"{SCHEDULE}: '0 0 31 2 *' is not a cron schedule: no time ever matches it"
    ]),
    ("0 0 31 2 *", "Etc/UTC", {"suspend": True}, []),
    ("0 0 L * *", "Etc/UTC", {}, [
        f"{SCHEDULE}: '0 0 L * *' is not a cron schedule: "
        "day of the month 'L' is not in the range 1 to 31"
    ]),
    ("* * * * * *", "Etc/UTC", {}, [
        f"{SCHEDULE}: '* * * * * *' is not a cron schedule: it has 6 fields instead of 5"
    ]),
    ("* * * * *", "Moon", {}, ["spec.timeZone: 'Moon' is not a time zone; set Etc/UTC"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "zone", "changes", "faults"), PERIODS, ids=range(len(PERIODS))
)
def test_periods(schedule: str, zone: str, changes: dict[str, object], faults: list[str]) -> None:
    """The longest time between two runs counts for PASS_PERIOD, the shortest for the deadlines."""
    env = [
        *OURS["env"],
        *(
            [{"name": "PASS_PERIOD", "value": changes["PASS_PERIOD"]}]
            if "PASS_PERIOD" in changes
            else []
        ),
    ]
    problems = health_faults(
        ("spec.schedule", schedule),
        ("spec.timeZone", zone),
        ("spec.suspend", changes.get("suspend", False)),
        (f"{CONTAINER}.env", env),
        (f"{JOB}.activeDeadlineSeconds", changes.get("active", 50)),
        ("spec.startingDeadlineSeconds", changes.get("starting", 25)),
    )
    assert problems == faults


def test_two_of_ours() -> None:
    """Both passes may be in one pod, if each has a rule for its exit codes."""
    rule = {
        "action": "FailJob",
        "onExitCodes": {"containerName": "second", "operator": "In", "values": [2, 3]},
    }
    first = dict(INSTALLED)[HEALTH]["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    containers = [OURS, OURS | {"name": "second", "args": ["metrics"]}]
    assert (
        health_faults(
            (f"{POD}.containers", containers), (f"{JOB}.podFailurePolicy.rules", [*first, rule])
        )
        == []
    )
    assert health_faults((f"{POD}.containers", containers)) == [
        f"{JOB}.podFailurePolicy.rules: FailJob is set for no exit codes; set it for {EXIT_CODES}"
    ]


@pytest.mark.parametrize(("for_s", "margin"), [("50", None), ("51", None), ("52", 7), ("55", 4)])
def test_margin(for_s: str, margin: int | None) -> None:
    """A loop uses all of its time, so a pod that starts late needs a margin before the deadline."""
    problems = health_faults(
        (f"{CONTAINER}.args", ["health", "--every", "5", "--for", for_s]),
        (f"{JOB}.activeDeadlineSeconds", 59),
    )
    expected = (
        f"{JOB}.activeDeadlineSeconds: is 59, {margin} s more than --for ({for_s}): a pod that "
        "starts late is ended with its last passes; the difference must be at least 8, "
        "so set --for to 51 or less"
    )
    assert problems == ([] if margin is None else [expected])
