"""Rules of CronJobs: when a pass runs, how long it may, and what becomes of one that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from ops_worker.adapters.cron import Gaps, NeverError, read
from ops_worker.core.passes import PASSES
from ops_worker.core.pods import at, containers, items, mapping, text
from ops_worker.core.staleness import STALE_PERIODS
from ops_worker.manifest_rules.parts import Worker, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops_worker.manifest_rules.parts import Document, Facts

Found = tuple[str, str]
MIN_STARTING_S = 10
"""The controller looks every 10 s: below that a run may never start (kubernetes.io, "CronJob", limitations)."""
LATE = (
    "is not set: a run that could not start in time starts however late it is, one for all that "
    "were missed (TooManyMissedTimes warns of more than a hundred); set "
)
MINUTE_S = 60
"""The controller names a Job by its minute, so there is one a minute at most."""
MAX_PERIOD_S = 999_999
"""The most that PASS_PERIOD can say."""
MAX_NAME = 52
"""The controller appends eleven characters to a name that may have 63 (kubernetes.io, "CronJob")."""
NO_RETRY = {2, 3}
"""Exit codes that no retry helps: settings, and schema or permission (docs/operations.md, "Exit codes")."""

COUNTS = ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
JOB_COUNTS = (
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "completions",
    "parallelism",
)
"""Fields of a CronJob and of its Job that are whole numbers."""


def schedule(document: Document, _: Worker, __: Facts) -> Iterator[Found]:
    """The schedule can be read, in a zone that exists; without one it is the controller's own."""
    spec = at(document.content, "spec")
    zone = spec.get("timeZone")
    try:
        gaps = read(text(spec.get("schedule"))).gaps
    except ValueError as error:
        by_hand = isinstance(error, NeverError) and spec.get("suspend") is True
        if not by_hand:
            yield "spec.schedule", f"{text(spec.get('schedule'))!r} is no cron schedule: {error}"
    else:
        if gaps.shortest < MINUTE_S:
            each = f"is each {gaps.shortest} s"
            once = "Kubernetes starts one Job a minute"
            yield "spec.schedule", f"{each}, but {once}; use --every, with --for"
    if zone is None:
        yield "spec.timeZone", "is not set, so that the controller's zone counts; set Etc/UTC"
    elif not _is_zone(text(zone)):
        yield "spec.timeZone", f"{zone!r} is no time zone; set Etc/UTC"


def deadlines(document: Document, worker: Worker, facts: Facts) -> Iterator[Found]:
    """In order: the pass's own budget, the Job's deadline, the period; so a pass can say what held it up, and none runs into the next."""
    spec = at(document.content, "spec")
    if spec.get("concurrencyPolicy") != "Forbid":
        yield (
            "spec.concurrencyPolicy",
            f"is {spec.get('concurrencyPolicy') or 'not set'}; set Forbid",
        )
    path = "spec.jobTemplate.spec.activeDeadlineSeconds"
    active = number(at(spec, "jobTemplate", "spec").get("activeDeadlineSeconds"))
    budget, source = _budget(worker, facts)
    if active is None:
        yield (
            path,
            "is not set: with Forbid a pod that cannot start would keep all later ones from it",
        )
    elif budget is not None and active <= budget:
        yield (
            path,
            f"is {active:g}; it has to be above {source} ({budget:g}), so that the pass can say what held it up",
        )
    gaps = _gaps(document)
    if gaps is None or spec.get("suspend") is True:
        return
    if active is not None and active >= gaps.shortest:
        yield path, f"is {active:g}; {_below(gaps)}"


def starting(document: Document, _: Worker, __: Facts) -> Iterator[Found]:
    """A run that could not start in time is left out, and one that is in time does start."""
    spec = at(document.content, "spec")
    path = "spec.startingDeadlineSeconds"
    seconds = number(spec.get("startingDeadlineSeconds"))
    every = text(spec.get("schedule")).startswith("@every ")
    if seconds is None:
        yield path, LATE + ("the period and 25" if every else "20 to 30")
        return
    if seconds <= MIN_STARTING_S:
        yield path, f"is {seconds:g}; it has to be above 10, or no run might ever start"
    gaps = _gaps(document)
    if gaps is None or spec.get("suspend") is True:
        return
    if every and (problem := read(text(spec.get("schedule"))).starved(seconds)):
        yield path, problem
    if not every and seconds >= gaps.shortest:
        yield path, f"is {seconds:g}; {_below(gaps)}"


def told_period(document: Document, worker: Worker, facts: Facts) -> Iterator[Found]:
    """A pass knows the longest time to the next; after three of them it counts as stopped."""
    if worker.command not in PASSES or "--every" in worker.options:
        return
    gaps = _gaps(document)
    if gaps is None:
        return
    told = number(worker.env.get("PASS_PERIOD") or facts.defaults["PASS_PERIOD"])
    wanted = min(gaps.longest, MAX_PERIOD_S)
    each = f"leaves up to {gaps.longest} s between two runs"
    if gaps.shortest == gaps.longest:
        each = f"is each {gaps.longest} s"
    patience = STALE_PERIODS * MAX_PERIOD_S
    if gaps.longest > patience:
        alert = f"the other pass opens an alert after {patience} s"
        yield "spec.schedule", f"{each}, but {alert}; run it each month"
    elif told is not None and told < wanted and "PASS_PERIOD" not in worker.variables.hidden:
        said = f"PASS_PERIOD is {told:g}: set it to {wanted}"
        otherwise = "or the other pass opens an alert when none is due"
        yield "spec.schedule", f"{each}, but {said}, {otherwise}"


def retries(document: Document, worker: Worker, _: Facts) -> Iterator[Found]:
    """Retries agree with the exit codes: one for 1, none for 2 and 3, and an eviction is none of the worker's."""
    path = "spec.jobTemplate.spec"
    job = at(document.content, "spec", "jobTemplate", "spec")
    if worker.pod.get("restartPolicy") != "Never":
        yield (
            f"{worker.pod_path}.restartPolicy",
            f"is {worker.pod.get('restartPolicy') or 'not set'}; set Never: each try is a pod with a log",
        )
    backoff = number(job.get("backoffLimit"))
    if backoff is None or not 0 <= backoff <= 3:  # noqa: PLR2004 - the default is 6, with pauses of minutes
        yield (
            f"{path}.backoffLimit",
            f"is {job.get('backoffLimit', 'not set')}; set 1 (0 to 3): the next run comes anyway",
        )
    rules = [mapping(rule) for rule in items(at(job, "podFailurePolicy").get("rules"))]
    where = f"{path}.podFailurePolicy.rules"
    own = text(worker.container.get("name"))
    others = {box.name for box in containers(worker.pod)} - {own}
    failing: set[Any] = set()
    for index, rule in enumerate(rules):
        codes = at(rule, "onExitCodes")
        named = text(codes.get("containerName"))
        if named in others:
            continue
        ours = named in {"", own}
        if rule.get("action") == "FailJob" and codes.get("operator") == "In" and ours:
            values = [code for code in items(codes.get("values")) if isinstance(code, int)]
            failing |= set(values)
            if values != sorted(set(values)):
                yield f"{where}[{index}]", "has codes that do not ascend, which Kubernetes refuses"
        elif codes:
            yield (
                f"{where}[{index}]",
                f"is no FailJob on codes of this container; leave one, on 2, 3, in container {own}",
            )
    if failing != NO_RETRY:
        told = ", ".join(map(str, sorted(failing))) or "nothing"
        yield (
            where,
            f"FailJob on exit codes {told}; it has to be 2, 3: settings and schema, which no retry helps",
        )
    conditions = [
        mapping(one).get("type")
        for rule in rules
        if rule.get("action") == "Ignore"
        for one in items(rule.get("onPodConditions"))
    ]
    if "DisruptionTarget" not in conditions:
        yield where, "has no Ignore on DisruptionTarget: a drained node would count as a failure"


def types(document: Document, _: Worker, __: Facts) -> Iterator[Found]:
    """The API server refuses a number in quotes, a fraction, and a word for true or false."""
    spec = at(document.content, "spec")
    job = at(spec, "jobTemplate", "spec")
    for path, node, fields in (("spec", spec, COUNTS), ("spec.jobTemplate.spec", job, JOB_COUNTS)):
        for field in fields:
            value = node.get(field)
            if value is not None and not _whole(value):
                yield f"{path}.{field}", "is no whole number, without quotes"
    if not isinstance(spec.get("suspend"), bool | None):
        yield "spec.suspend", "is neither true nor false, without quotes"


def history(document: Document, _: Worker, __: Facts) -> Iterator[Found]:
    """What is finished goes away, and what failed stays long enough to be read."""
    spec = at(document.content, "spec")
    job = at(spec, "jobTemplate", "spec")
    for field, wanted in (("successfulJobsHistoryLimit", 1), ("failedJobsHistoryLimit", 3)):
        if spec.get(field) is None:
            yield f"spec.{field}", f"is not set; set {wanted}"
        elif (number(spec.get(field)) or 0) < 0:
            yield f"spec.{field}", f"is below 0; set {wanted}"
    if (number(job.get("ttlSecondsAfterFinished", -1)) or 0) < 0:
        yield (
            "spec.jobTemplate.spec.ttlSecondsAfterFinished",
            "is not set to a number of seconds; set 3600",
        )


def shards(document: Document, worker: Worker, _: Facts) -> Iterator[Found]:
    """Each shard is an index of the Job, and each index a shard (kubernetes.io, "Job", completion mode)."""
    job = at(document.content, "spec", "jobTemplate", "spec")
    count, completions = (
        number(worker.env.get("SHARD_COUNT") or 1),
        number(job.get("completions", 1)),
    )
    if count != completions or (count != 1 and job.get("completionMode") != "Indexed"):
        told = worker.env.get("SHARD_COUNT") or 1
        yield (
            "spec.jobTemplate.spec.completions",
            f"with SHARD_COUNT {told} it has to be {told}, and completionMode Indexed: a pod for each shard",
        )
    if count != 1 and job.get("parallelism") != job.get("completions"):
        yield (
            "spec.jobTemplate.spec.parallelism",
            "has to be that of completions, so that all shards are probed in the same period",
        )


def name(document: Document, _: Worker, __: Facts) -> Iterator[Found]:
    """The name leaves room for what the controller appends."""
    if len(document.name) > MAX_NAME:
        yield (
            "metadata.name",
            f"has {len(document.name)} characters; the controller appends 11 to at most 52",
        )


def _gaps(document: Document) -> Gaps | None:
    """Give the times between runs; None if the schedule is wrong, which another rule tells."""
    spec = at(document.content, "spec")
    zone = text(spec.get("timeZone"))
    try:
        return read(text(spec.get("schedule")), zone if _is_zone(zone) else "UTC").gaps
    except ValueError:
        return None


def _below(gaps: Gaps) -> str:
    called = "period" if gaps.shortest == gaps.longest else "shortest time between two runs"
    return f"it has to be below the {called} ({gaps.shortest})"


def _whole(value: Any) -> bool:
    """Tell whether the API server takes it for a whole number; it does so with 50.0."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_zone(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError):
        return False
    return True


def _budget(worker: Worker, facts: Facts) -> tuple[float | None, str]:
    if "--for" in worker.options:
        return number(worker.options["--for"]), "--for"
    return number(
        worker.env.get("PASS_DEADLINE") or facts.defaults["PASS_DEADLINE"]
    ), "PASS_DEADLINE"


RULES = (schedule, deadlines, starting, told_period, retries, types, history, shards, name)
"""The rules of a CronJob. Each gives fields and what is wrong with them."""
