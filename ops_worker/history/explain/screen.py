"""The screen of ``ops-worker explain``: sentences, and tables below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.core.certificates import end_in_words
from ops_worker.core.ledger import UNSEEN
from ops_worker.core.model import State
from ops_worker.core.needs import with_causes
from ops_worker.core.samples import OPS_WORKER, POSTGRES
from ops_worker.history.actions import NO_ACTIONS, actions_table
from ops_worker.history.budgets import budgets_table
from ops_worker.history.explain.rows import PERIOD
from ops_worker.history.explain.state import NOT_OBSERVED, STALE
from ops_worker.history.ledger import availability_sentence
from ops_worker.history.maintenances import maintenances_table
from ops_worker.history.screen import (
    NO_LEDGER_TO_READ,
    WIDTH,
    Column,
    ScreenTable,
    flexible,
    format_ago,
    format_time,
    others_here,
    stale_reason,
    wrapped,
)
from ops_worker.text import format_age, format_duration, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.history.explain.alert import Alert
    from ops_worker.history.explain.document import (
        Explanation,
        Observation,
        Sight,
        Turn,
    )
    from ops_worker.history.outages import Past, StateTotal, Stretch

UNHEALTHY_STATES = frozenset(state.value for state in State if state is not State.HEALTHY)
"""The unhealthy states. One streak of unhealthy passes may have several of them."""
DAYS = f"last {PERIOD.days} d"
MAX_ACTIONS = 8
"""Maximum number of people's actions in the list."""
MIN_VALUE = 24
"""The least width, in columns, of a text that is wrapped beside its name."""


def heading(explanation: Explanation, width: int = WIDTH) -> ScreenTable:
    """Return the first lines of the screen: the sentences, wrapped between words."""
    first, *others = sentences(explanation)
    lines = [line for sentence in others for line in wrapped(sentence, width)]
    return ScreenTable("\n".join(wrapped(first, width)), (), (), none="\n".join(lines))


def sentences(explanation: Explanation) -> list[str]:
    """Return the sentences on the state and its reason, the certificate, the alert and the past."""
    spoken = [f"at {format_time(explanation.at)} UTC: {_state_sentence(explanation)}"]
    if explanation.status_shows not in {"", explanation.state}:
        spoken.append(_status_sentence(explanation))
    if explanation.certificate_days_left is not None:
        spoken.append(f"its certificate {end_in_words(explanation.certificate_days_left)}")
    spoken.append(explanation.alert)
    past = explanation.past
    if past is not None:
        spoken.append(_past_sentence(past))
    elif not explanation.ledger and explanation.service not in {OPS_WORKER, POSTGRES}:
        spoken.append(f"nothing is known about earlier states: {NO_LEDGER_TO_READ}")
    if explanation.is_elsewhere:
        spoken.append(f"installation {explanation.installation} keeps its state and its alert")
    elif explanation.other_installations:
        spoken.append(others_here(explanation.other_installations))
    return spoken


def _state_sentence(explanation: Explanation) -> str:
    service, reason = explanation.service, explanation.reason
    if explanation.state == STALE and explanation.service != OPS_WORKER:
        return f"{service} is {STALE}: {_stale_clause(explanation)}"
    if not explanation.seen_by:
        if reason == NOT_OBSERVED:
            return f"nothing is known about {service}: no pass has looked"
        return f"nothing is known about {service}: {reason}"
    reason = with_causes(reason, explanation.because_of)
    why = f": {reason}" if reason else ""
    return f"{service} is {explanation.state}{_since(explanation)}{why}{_seen_by(explanation)}"


def _stale_clause(explanation: Explanation) -> str:
    """Return since when no pass has looked or the pass is blind, and the last state."""
    last_seen = explanation.last_seen
    is_blind = explanation.reason != stale_reason(explanation.last_state)
    if last_seen is None or is_blind:
        return explanation.reason
    age = _age(explanation.age_s, explanation)
    looked = f"no pass has looked since {format_time(last_seen)}{f' ({age})' if age else ''}"
    return f"{looked}; it was {explanation.last_state}"


def _since(explanation: Explanation) -> str:
    """Return since when the state has lasted, and how much earlier it may have begun."""
    since = explanation.since
    if since is None:
        return ""
    clause = f" since {format_time(since)}{_earlier(since, explanation.since_earliest)}"
    if explanation.first_sight:
        clause = f" since {format_time(since)}, when it was first seen"
    if not explanation.complete:
        clause = f" since {format_time(since)} or earlier"
    if explanation.state in UNHEALTHY_STATES:
        clause = f"{_state_since(explanation)}, unhealthy{clause}"
    if explanation.unseen_s:
        clause += f"; nobody looked for {format_duration(explanation.unseen_s)} of that time"
    return clause


def _state_since(explanation: Explanation) -> str:
    """Return since when the state has lasted, if the service was in another unhealthy state before.

    Otherwise return an empty text.
    """
    began = explanation.state_since
    if began is None or began == explanation.since:
        return ""
    return f" since {format_time(began)}{_earlier(began, explanation.state_since_earliest)}"


def _earlier(since: datetime, earliest: datetime | None) -> str:
    """Return by how much earlier a state may have begun; empty if by less than about a second."""
    if earliest is None or round((since - earliest).total_seconds()) <= 0:
        return ""
    return f", at most {format_age((since - earliest).total_seconds())} earlier"


def _seen_by(explanation: Explanation) -> str:
    age = _age(explanation.age_s, explanation)
    if explanation.last_seen is None or not age:
        return f" (seen by {explanation.seen_by})"
    return f" (seen by {explanation.seen_by} {age})"


def _age(age_s: float | None, explanation: Explanation) -> str:
    """Return how long ago a sight was, or how long before the time in question."""
    if age_s is None:
        return ""
    if explanation.now:
        return format_ago(age_s)
    return f"{format_age(max(age_s, 0.0))} before"


def _status_sentence(explanation: Explanation) -> str:
    """Return the sentence on why ``ops-worker status`` shows another state."""
    shows = f"`ops-worker status` shows {explanation.status_shows}"
    if explanation.status_shows == STALE:
        return f"{shows}: the health pass has not looked lately"
    return f"{shows}: that is what the health pass saw last"


def _past_sentence(past: Past) -> str:
    availability = availability_sentence(past.availability)
    if past.availability.value is None:
        return f"{DAYS}: {availability}"
    if not past.outages or past.longest is None:
        return f"{DAYS}: no outage; {availability}"
    length = format_duration(past.longest.seconds)
    if past.outages == 1:
        return f"{DAYS}: 1 outage of {length}; {availability}"
    return f"{DAYS}: {past.outages} outages, the longest of {length}; {availability}"


def tables(explanation: Explanation, width: int = WIDTH) -> list[ScreenTable]:
    """Return the tables below the sentences, for a screen of ``width`` columns."""
    return [
        _turns_table(explanation),
        _outages_table(explanation.past),
        budgets_table([(explanation.service, explanation.budget)]),
        _sights_table(explanation),
        _observations_table(explanation),
        _pairs("Rule", ("RULE", "VALUE"), explanation.rule, width),
        _alerts_table(explanation.alerts),
        _evidence_table(explanation.alerts, width),
        _actions_table(explanation),
        maintenances_table(explanation.maintenances, "Maintenance at that time"),
        _passes_table(explanation),
    ]


def _turns_table(explanation: Explanation) -> ScreenTable:
    none = NOT_OBSERVED
    if explanation.passes:
        none = "no pass has recorded its state"
    if explanation.service in {OPS_WORKER, POSTGRES} or not explanation.ledger:
        none = ""  # The ledger has neither service. If there is no ledger, a sentence says so.
    columns = (
        Column("STATE"),
        Column("FROM"),
        Column("TO", drop=2),
        Column("LASTED"),
        Column("BOUNDS", drop=1),
        Column("REASON", least=6, is_note=True),
    )
    rows = tuple(_turn_row(turn) for turn in explanation.turns)
    return flexible("Last changes", columns, rows, state_column=0, none=none)


def _turn_row(turn: Turn) -> tuple[str, ...]:
    return (
        turn.state if turn.seen else UNSEEN,
        format_time(turn.from_),
        format_time(turn.to),
        format_duration(turn.seconds),
        _bounds(turn) or "-",
        turn.reason or "-",
    )


def _bounds(span: Turn | Stretch) -> str:
    """Return how much earlier a state may have begun, and how much later it may have ended."""
    earlier_s = (span.from_ - span.from_earliest).total_seconds()
    later_s = (span.to_latest - span.to).total_seconds()
    parts = [f"-{format_age(earlier_s)}"] if round(earlier_s) > 0 else []
    parts += [f"+{format_age(later_s)}"] if round(later_s) > 0 else []
    return " ".join(parts)


def _outages_table(past: Past | None) -> ScreenTable:
    columns = (
        Column("STATE"),
        Column("TIMES"),
        Column("TOTAL", drop=2),
        Column("LONGEST"),
        Column("LONGEST BEGAN"),
        Column("BOUNDS", drop=1),
    )
    rows: list[tuple[str, ...]] = []
    if past is not None:
        rows = [_total_row(total) for total in past.states if total.longest is not None]
        if len(rows) > 1:
            unhealthy_s = sum(total.seconds for total in past.states)
            rows.append(_outage_row("unhealthy", past.outages, unhealthy_s, past.longest))
    return flexible(f"Outages, {DAYS}", columns, tuple(rows), state_column=0)


def _total_row(total: StateTotal) -> tuple[str, ...]:
    return _outage_row(total.state, total.times, total.seconds, total.longest)


def _outage_row(state: str, times: int, seconds: float, longest: Stretch | None) -> tuple[str, ...]:
    if longest is None:
        return (state, str(times), format_duration(seconds), "-", "-", "-")
    return (
        state,
        str(times),
        format_duration(seconds),
        format_duration(longest.seconds),
        format_time(longest.from_),
        _bounds(longest) or "-",
    )


def _sights_table(explanation: Explanation) -> ScreenTable:
    """Return the table of what each pass saw, if several passes looked.

    If only one pass looked, the first sentence already has this.
    """
    columns = (Column("PASS"), Column("STATE"), Column("SINCE"), Column("LAST SEEN", drop=1))
    rows: tuple[tuple[str, ...], ...] = ()
    if len(explanation.sights) > 1:
        rows = tuple(_sight_row(sight, explanation) for sight in explanation.sights)
    return flexible("What each pass saw", columns, rows, state_column=1)


def _sight_row(sight: Sight, explanation: Explanation) -> tuple[str, ...]:
    age = _age(sight.age_s, explanation)
    return (sight.pass_, sight.state, format_time(sight.since), age or "-")


def _observations_table(explanation: Explanation) -> ScreenTable:
    none = "no pass has recorded anything about it"
    if explanation.seen_by:
        none = "no sample is recorded"
    if explanation.service == OPS_WORKER:
        none = ""
    return flexible(
        "Last samples",
        (Column("TIME"), Column("PASS"), Column("RESULT", least=8)),
        tuple(_observation_row(observation) for observation in explanation.observations),
        none=none,
    )


def _observation_row(observation: Observation) -> tuple[str, ...]:
    return (format_time(observation.time), observation.pass_, observation.found)


def _pairs(title: str, head: tuple[str, str], pairs: Mapping[str, str], width: int) -> ScreenTable:
    """Return a table of names and values. A long value takes several rows."""
    name_width = max(map(len, [head[0], *pairs]), default=0)
    value_width = max(MIN_VALUE, width - name_width - 2)
    rows = []
    for name, value in pairs.items():
        first, *others = wrapped(value, value_width)
        rows += [(name, first), *(("", line) for line in others)]
    columns = (Column(head[0], least=8), Column(head[1], least=MIN_VALUE))
    return flexible(title, columns, tuple(rows))


def _alerts_table(alerts: Iterable[Alert]) -> ScreenTable:
    columns = (
        Column("ID"),
        Column("STATUS"),
        Column("OPENED"),
        Column("CLOSED", drop=2),
        Column("ACKNOWLEDGED", least=12, drop=1),
        Column("SUMMARY", least=8, is_note=True),
    )
    rows = tuple(
        (
            str(alert.id),
            one_line(alert.status),
            format_time(alert.opened),
            format_time(alert.closed),
            _acknowledgement(alert),
            alert.summary,
        )
        for alert in alerts
    )
    return flexible("Last alerts", columns, rows, state_column=1, none="none")


def _acknowledgement(alert: Alert) -> str:
    if alert.acknowledged_at is None:
        return "-"
    return f"{alert.acknowledged_by}, {format_time(alert.acknowledged_at)}"


def _evidence_table(alerts: Sequence[Alert], width: int) -> ScreenTable:
    """Return the table of the evidence of the newest alert that has evidence.

    The table has no rows if no alert has evidence.
    """
    head = ("NAME", "VALUE")
    for alert in alerts:
        if alert.evidence:
            pairs = {one_line(name): one_line(str(value)) for name, value in alert.evidence.items()}
            return _pairs(f"Evidence of alert {alert.id}", head, pairs, width)
    return _pairs("Evidence", head, {}, width)


def _actions_table(explanation: Explanation) -> ScreenTable:
    """Return the table of what people did. If the actions cannot be read, the table says so."""
    title = "What people did"
    if explanation.actions is None:
        return actions_table([], title, none=NO_ACTIONS)
    return actions_table(explanation.actions[-MAX_ACTIONS:], title)


def _passes_table(explanation: Explanation) -> ScreenTable:
    columns = (Column("PASS", least=8), Column("RECORDED"), Column("AGE"))
    rows = tuple(
        (record.pass_, format_time(record.recorded), format_age(record.age_s))
        for record in explanation.passes
    )
    none = "none was recorded, or RECORD_OWN_METRICS is off"
    title = "Last passes" if explanation.now else "Last passes before that time"
    return flexible(title, columns, rows, none=none)
