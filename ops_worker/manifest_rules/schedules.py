"""Rules for CronJobs: when passes run, how long they may take, and what follows a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from ops_worker.adapters.cron import Gaps, NeverError, read
from ops_worker.core.passes import PASSES
from ops_worker.core.pods import at, containers, items, mapping, text
from ops_worker.core.staleness import STALE_PERIODS
from ops_worker.manifest_rules.parts import Problem, Worker, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ops_worker.manifest_rules.parts import Document, ProgramFacts

MIN_STARTING_S = 10
"""The least startingDeadlineSeconds.

The controller checks every 10 s. With a shorter deadline, a run may never start.

Source: kubernetes.io, "CronJob", section "CronJob limitations", "Job creation".
"""
NO_STARTING_DEADLINE = (
    "is not set: a run that missed its time starts however late it is, once for all missed runs "
    "(Kubernetes reports TooManyMissedTimes after more than 100); set "
)
MIN_MARGIN_S = 8
"""The least time between the end of ``--for`` and the deadline of the Job, in seconds.

The time of the Job begins before the time of the process: a pod needs 2 to 3 s to start on a quiet
node, and 5 s on a busy node. The remaining time is for the last pass.
"""
MINUTE_S = 60
"""The controller names a Job by its minute, so it starts at most one Job per minute."""
MAX_PERIOD_S = 999_999
"""The largest value of PASS_PERIOD."""
MAX_NAME = 52
"""Maximum length of a CronJob's name.

The controller appends 11 characters to it, and the name of a Job has at most 63 characters.

Source: kubernetes.io, "CronJob", introduction.
"""
MAX_BACKOFF = 3
"""Maximum number of retries. The default of Kubernetes is 6, with pauses of minutes between them.

Source: kubernetes.io, "Jobs", section "Pod backoff failure policy".
"""
NO_RETRY = {2, 3}
"""Exit codes after which a retry is useless: 2 (settings) and 3 (schema or permission).

Source: docs/operations.md, "Exit codes".
"""
COUNTS = ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
"""Fields of a CronJob that are whole numbers."""
JOB_COUNTS = (
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "completions",
    "parallelism",
)
"""Fields of a Job that are whole numbers."""
JOB_PATH = "spec.jobTemplate.spec"


def schedule(document: Document, _: Worker, __: ProgramFacts) -> Iterator[Problem]:
    """The schedule is valid, and runs at most once per minute.

    Source: kubernetes.io, "CronJob", section "Schedule syntax".
    """
    spec = at(document.content, "spec")
    expression = text(spec.get("schedule"))
    try:
        gaps = read(expression).gaps
    except ValueError as error:
        # A suspended CronJob that is never due is started by hand, like `init-db`.
        by_hand = isinstance(error, NeverError) and spec.get("suspend") is True
        if not by_hand:
            yield Problem("spec.schedule", f"{expression!r} is not a cron schedule: {error}")
        return
    if gaps.shortest < MINUTE_S:
        yield Problem(
            "spec.schedule",
            f"runs every {gaps.shortest} s, but Kubernetes starts at most one Job per minute; "
            "use --every with --for",
        )


def time_zone(document: Document, _: Worker, __: ProgramFacts) -> Iterator[Problem]:
    """The time zone is set and exists.

    Source: kubernetes.io, "CronJob", section "Time zones".
    """
    zone = at(document.content, "spec").get("timeZone")
    if zone is None:
        yield Problem(
            "spec.timeZone",
            "is not set, so the time zone of kube-controller-manager is used; set Etc/UTC",
        )
    elif not _is_zone(text(zone)):
        yield Problem("spec.timeZone", f"{zone!r} is not a time zone; set Etc/UTC")


def concurrency(document: Document, _: Worker, __: ProgramFacts) -> Iterator[Problem]:
    """Two runs of a CronJob never overlap.

    Source: kubernetes.io, "CronJob", section "Concurrency policy".
    """
    policy = at(document.content, "spec").get("concurrencyPolicy")
    if policy != "Forbid":
        yield Problem("spec.concurrencyPolicy", f"is {policy or 'not set'}; set Forbid")


def deadlines(document: Document, worker: Worker, facts: ProgramFacts) -> Iterator[Problem]:
    """The deadline of the pass is less than that of the Job, which is less than the period.

    So a slow pass can report its reason, and no run delays the next run. A loop (``--for``) needs a
    margin, because it uses all of its time.

    Source: kubernetes.io, "Jobs", section "Job termination and cleanup".
    """
    spec = at(document.content, "spec")
    field = f"{JOB_PATH}.activeDeadlineSeconds"
    deadline = number(at(spec, "jobTemplate", "spec").get("activeDeadlineSeconds"))
    if deadline is None:
        yield Problem(
            field,
            "is not set: with concurrencyPolicy Forbid, a pod that cannot start would block all "
            "later runs",
        )
        return
    needed, source = _duration_of_pass(worker, facts)
    if needed is not None and source == "--for":
        if deadline - needed < MIN_MARGIN_S:
            yield Problem(field, _narrow_margin(deadline, needed))
    elif needed is not None and deadline <= needed:
        yield Problem(
            field,
            f"is {deadline:g}; it must be greater than {source} ({needed:g}), "
            "so that the pass can report why it is slow",
        )
    gaps = _gaps(document)
    if gaps is None or spec.get("suspend") is True:
        return
    if deadline >= gaps.shortest:
        yield Problem(field, f"is {deadline:g}; {_less_than_period(gaps)}")


def _narrow_margin(deadline: float, needed: float) -> str:
    return (
        f"is {deadline:g}, {deadline - needed:g} s more than --for ({needed:g}): a pod that starts "
        f"late is ended with its last passes; the difference must be at least {MIN_MARGIN_S}, "
        f"so set --for to {deadline - MIN_MARGIN_S:g} or less"
    )


def starting_deadline(document: Document, _: Worker, __: ProgramFacts) -> Iterator[Problem]:
    """A run that missed its time is skipped, and a run that is on time can start.

    Source: kubernetes.io, "CronJob", section "Deadline for delayed Job start".
    """
    spec = at(document.content, "spec")
    field = "spec.startingDeadlineSeconds"
    deadline = number(spec.get("startingDeadlineSeconds"))
    expression = text(spec.get("schedule"))
    is_every = expression.startswith("@every ")
    if deadline is None:
        proposal = "the period and 25" if is_every else "20 to 30"
        yield Problem(field, NO_STARTING_DEADLINE + proposal)
        return
    if deadline <= MIN_STARTING_S:
        message = f"it must be greater than {MIN_STARTING_S}, or a run may never start"
        yield Problem(field, f"is {deadline:g}; {message}")
    gaps = _gaps(document)
    if gaps is None or spec.get("suspend") is True:
        return
    if is_every:
        problem = read(expression).starved(deadline)
        if problem:
            yield Problem(field, problem)
    elif deadline >= gaps.shortest:
        yield Problem(field, f"is {deadline:g}; {_less_than_period(gaps)}")


def pass_period(document: Document, worker: Worker, facts: ProgramFacts) -> Iterator[Problem]:
    """PASS_PERIOD is at least the longest time between two runs.

    A pass counts as stopped after three of its periods. Source: docs/glossary.md, entry stale.
    """
    if worker.command not in PASSES or "--every" in worker.options:
        return
    gaps = _gaps(document)
    if gaps is None:
        return
    period = f"leaves up to {gaps.longest} s between two runs"
    if gaps.shortest == gaps.longest:
        period = f"runs every {gaps.longest} s"
    max_stale_s = STALE_PERIODS * MAX_PERIOD_S
    if gaps.longest > max_stale_s:
        yield Problem(
            "spec.schedule",
            f"{period}, but another pass opens an alert after {max_stale_s} s; "
            "run it at least every month",
        )
        return
    if "PASS_PERIOD" in worker.environment.unknown:
        return
    setting = number(worker.values.get("PASS_PERIOD") or facts.defaults["PASS_PERIOD"])
    needed = min(gaps.longest, MAX_PERIOD_S)
    if setting is not None and setting < needed:
        yield Problem(
            "spec.schedule",
            f"{period}, but PASS_PERIOD is {setting:g}: set it to {needed}, "
            "or another pass opens an alert although no run is due",
        )


def retries(document: Document, worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """Every attempt of a Job has its own pod, and the number of attempts is small.

    Source: kubernetes.io, "Jobs", sections "Handling Pod and container failures" and "Pod backoff
    failure policy".
    """
    restart = worker.pod.get("restartPolicy")
    if restart != "Never":
        yield Problem(
            f"{worker.pod_path}.restartPolicy",
            f"is {restart or 'not set'}; set Never, so that every attempt is a pod with a log",
        )
    job = at(document.content, "spec", "jobTemplate", "spec")
    backoff = number(job.get("backoffLimit"))
    if backoff is None or not 0 <= backoff <= MAX_BACKOFF:
        yield Problem(
            f"{JOB_PATH}.backoffLimit",
            f"is {job.get('backoffLimit', 'not set')}; set 1 (0 to {MAX_BACKOFF} is accepted): "
            "the next run comes anyway",
        )


def failure_policy(document: Document, worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """A Job fails without a retry on exit codes 2 and 3, and does not count evictions.

    Source: kubernetes.io, "Jobs", section "Pod failure policy"; docs/operations.md, "Exit codes".
    """
    field = f"{JOB_PATH}.podFailurePolicy.rules"
    policy = at(document.content, "spec", "jobTemplate", "spec", "podFailurePolicy")
    rules = [mapping(rule) for rule in items(policy.get("rules"))]
    name_of_worker = text(worker.content.get("name"))
    others = {container.name for container in containers(worker.pod)} - {name_of_worker}
    failing: set[Any] = set()
    for index, rule in enumerate(rules):
        exit_codes = at(rule, "onExitCodes")
        container = text(exit_codes.get("containerName"))
        if not exit_codes or container in others:
            continue
        if not _is_fail_job(rule) or container not in {"", name_of_worker}:
            yield Problem(
                f"{field}[{index}]",
                "is not a FailJob rule for exit codes of this container; "
                f"keep one rule, for exit codes 2, 3 of container {name_of_worker}",
            )
            continue
        codes = [code for code in items(exit_codes.get("values")) if isinstance(code, int)]
        failing |= set(codes)
        if codes != sorted(set(codes)):
            message = "must have exit codes in ascending order, each once"
            yield Problem(f"{field}[{index}]", f"{message}; Kubernetes refuses others")
    if failing != NO_RETRY:
        codes_text = ", ".join(map(str, sorted(failing))) or "no exit codes"
        yield Problem(
            field,
            f"FailJob is set for {codes_text}; set it for exit codes 2, 3 (settings, schema): "
            "a retry does not help there",
        )
    if not any(map(_ignores_disruption, rules)):
        yield Problem(
            field,
            "has no Ignore rule for DisruptionTarget: a drained node would count as a failure",
        )


def _is_fail_job(rule: Mapping[str, Any]) -> bool:
    return rule.get("action") == "FailJob" and at(rule, "onExitCodes").get("operator") == "In"


def _ignores_disruption(rule: Mapping[str, Any]) -> bool:
    if rule.get("action") != "Ignore":
        return False
    conditions = map(mapping, items(rule.get("onPodConditions")))
    return any(condition.get("type") == "DisruptionTarget" for condition in conditions)


def types(document: Document, _: Worker, __: ProgramFacts) -> Iterator[Problem]:
    """Numbers are whole and without quotes, and ``suspend`` is true or false.

    The API server refuses other values. Source: kubernetes.io, API reference, "CronJob" and "Job".
    """
    spec = at(document.content, "spec")
    job = at(spec, "jobTemplate", "spec")
    for path, node, fields in (("spec", spec, COUNTS), (JOB_PATH, job, JOB_COUNTS)):
        for field in fields:
            value = node.get(field)
            if value is not None and not _is_whole(value):
                yield Problem(f"{path}.{field}", "must be a whole number, without quotes")
    if not isinstance(spec.get("suspend"), bool | None):
        yield Problem("spec.suspend", "must be true or false, without quotes")


def history(document: Document, _: Worker, __: ProgramFacts) -> Iterator[Problem]:
    """Finished Jobs are removed, and failed ones stay long enough to read their logs.

    Source: kubernetes.io, "CronJob", section "Jobs history limits", and "Automatic Cleanup for
    Finished Jobs".
    """
    spec = at(document.content, "spec")
    for name, proposal in (("successfulJobsHistoryLimit", 1), ("failedJobsHistoryLimit", 3)):
        if spec.get(name) is None:
            yield Problem(f"spec.{name}", f"is not set; set {proposal}")
        elif (number(spec.get(name)) or 0) < 0:
            yield Problem(f"spec.{name}", f"is below 0; set {proposal}")
    job = at(spec, "jobTemplate", "spec")
    if (number(job.get("ttlSecondsAfterFinished", -1)) or 0) < 0:
        yield Problem(
            f"{JOB_PATH}.ttlSecondsAfterFinished",
            "is not set to a number of seconds; set 3600",
        )


def shards(document: Document, worker: Worker, _: ProgramFacts) -> Iterator[Problem]:
    """Every shard is an index of an Indexed Job, and all shards run at the same time.

    Source: kubernetes.io, "Jobs", section "Completion mode".
    """
    job = at(document.content, "spec", "jobTemplate", "spec")
    setting = worker.values.get("SHARD_COUNT") or 1
    count = number(setting)
    completions = number(job.get("completions", 1))
    is_indexed = job.get("completionMode") == "Indexed"
    if worker.command in PASSES and not PASSES[worker.command].sharded:
        if completions != 1:
            message = f"must be 1: one {worker.command} pass does the work for all shards"
            yield Problem(f"{JOB_PATH}.completions", message)
        return
    if count != completions or (count != 1 and not is_indexed):
        yield Problem(
            f"{JOB_PATH}.completions",
            f"must be {setting} with SHARD_COUNT {setting}, and completionMode must be Indexed: "
            "one pod for every shard",
        )
    if count != 1 and job.get("parallelism") != job.get("completions"):
        yield Problem(
            f"{JOB_PATH}.parallelism",
            "must equal completions, so that all shards are probed in the same period",
        )


def name(document: Document, _: Worker, __: ProgramFacts) -> Iterator[Problem]:
    """The name is short enough for the characters that the controller appends.

    Source: kubernetes.io, "CronJob", introduction.
    """
    if len(document.name) > MAX_NAME:
        yield Problem(
            "metadata.name",
            f"has {len(document.name)} characters; it can have at most {MAX_NAME}, because the "
            "controller appends 11",
        )


def _gaps(document: Document) -> Gaps | None:
    """Return the times between runs; None if the schedule is invalid (another rule reports it)."""
    spec = at(document.content, "spec")
    zone = text(spec.get("timeZone"))
    if not _is_zone(zone):
        zone = "UTC"
    try:
        return read(text(spec.get("schedule")), zone).gaps
    except ValueError:
        return None


def _less_than_period(gaps: Gaps) -> str:
    period = "shortest time between two runs"
    if gaps.shortest == gaps.longest:
        period = "period"
    return f"it must be less than the {period} ({gaps.shortest})"


def _is_whole(value: Any) -> bool:
    """Return whether the API server accepts a value as a whole number. It also accepts 50.0."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_zone(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError):
        return False
    return True


def _duration_of_pass(worker: Worker, facts: ProgramFacts) -> tuple[float | None, str]:
    """Return the longest duration of a run in seconds, and the option or setting that limits it."""
    if "--for" in worker.options:
        return number(worker.options["--for"]), "--for"
    setting = worker.values.get("PASS_DEADLINE") or facts.defaults["PASS_DEADLINE"]
    return number(setting), "PASS_DEADLINE"


RULES = (
    schedule,
    time_zone,
    concurrency,
    deadlines,
    starting_deadline,
    pass_period,
    retries,
    failure_policy,
    types,
    history,
    shards,
    name,
)
"""The rules for CronJobs. Each rule takes a CronJob and its worker, and yields problems."""
