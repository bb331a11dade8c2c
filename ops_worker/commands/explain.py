"""``ops-worker explain``: explain why a service has its state, now or at an earlier time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file, output_option, time_or_age, words
from ops_worker.commands.database import opened, read_history
from ops_worker.commands.status import draw, screen_width
from ops_worker.core.output import MAX_LISTED
from ops_worker.core.samples import OPS_WORKER, POSTGRES
from ops_worker.errors import DONE, SettingsError
from ops_worker.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from ops_worker.core.model import Target
    from ops_worker.history.explain import Explanation, Rule, ServiceHistory
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "service",
        type=words,
        metavar="SERVICE",
        help="a service that is or was monitored, postgres, ops_worker, or ops_worker#NAME for the "
        "worker of the installation NAME",
    )
    parser.add_argument(
        "--at",
        type=_time,
        metavar="TIME",
        help="the time to explain, as far back as the ledger goes: 2026-03-01T03:10 (UTC unless it "
        "has a zone), 05:08, or 90m for 90 minutes ago; default: now",
    )
    output_option(parser, "sentences and tables for people (the default), or one JSON document")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Explain the state of a service.

    Raises DatabaseError, SchemaError, or SettingsError for an unknown service or a future time.
    """
    from ops_worker.core.health import maintenance_end
    from ops_worker.core.needs import all_needed, needs_of
    from ops_worker.history.explain import build, is_known

    targets = {target.name: target for target in settings.catalogue.targets}
    target = named_target(options.service, targets)
    service = target.name if target else options.service
    needs = needs_of(targets.values())
    needed = sorted(all_needed(needs, [service]))
    history = _read(options, settings, service, target, needed)
    if target is None and not is_known(history):
        problem = unknown_service(one_line(service), targets, POSTGRES, OPS_WORKER)
        raise SettingsError([problem])
    if options.at is None:
        until = maintenance_end(history.maintenance_until, settings.maintenance_until, history.now)
        history = history._replace(maintenance_until=until)
    _show(options, build(history, _rule(target, settings)._replace(needs=needs)))
    return DONE


def named_target(name: str, targets: Mapping[str, Target]) -> Target | None:
    """Return the target of a service, by its name or by its name in ``system_metrics``."""
    if name in targets:
        return targets[name]
    for target in targets.values():
        if target.series == name:
            return target
    return None


def _read(
    options: argparse.Namespace,
    settings: Settings,
    service: str,
    target: Target | None,
    needed: Sequence[str],
) -> ServiceHistory:
    from ops_worker.adapters.postgres import history

    with opened(settings, "explain") as store:
        return read_history(
            store,
            lambda transaction: history.service_history(
                transaction, service, target, options.at, needed
            ),
        )


def _rule(target: Target | None, settings: Settings) -> Rule:
    from ops_worker.core.health import thresholds_of
    from ops_worker.history.explain import Rule

    thresholds = settings.thresholds
    if target:
        thresholds = thresholds_of(target, thresholds)
    return Rule(
        target=target,
        thresholds=thresholds,
        alerts_enabled=settings.system_alert_enabled,
        self_metrics_enabled=settings.record_own_metrics,
        doubt_passes=settings.doubt_passes,
    )


def _show(options: argparse.Namespace, explanation: Explanation) -> None:
    from ops_worker.history.documents import as_json
    from ops_worker.history.explain import heading, tables
    from ops_worker.history.screen import fitted

    if options.output == "json":
        print(json.dumps(as_json(explanation)))
        return
    width = screen_width()
    visible = [table for table in tables(explanation, width) if table.rows or table.none]
    fitting = [fitted(table, width) for table in visible]
    draw([heading(explanation, width), *fitting], width=width)


def unknown_service(service: str, targets: Mapping[str, Target], *others: str) -> str:
    """Return the error for an unknown service, with a similar name as a suggestion.

    ``others`` has further names that the command knows, in addition to those of the targets.
    """
    from ops_worker.core.suggest import did_you_mean

    series = [target.series for target in targets.values()]
    hint = did_you_mean(service, [*targets, *series, *others])
    if not hint:
        listed = ", ".join(list(targets)[:MAX_LISTED]) or "none"
        ellipsis = ", ..." if len(targets) > MAX_LISTED else ""
        hint = f"; monitored services: {listed}{ellipsis}"
    return f"service {service} is not monitored, and nothing is recorded about it{hint}"


def _time(text: str) -> datetime:
    """Return a time from a time or an age. Raises ArgumentTypeError for anything else."""
    value = time_or_age(text)
    if isinstance(value, datetime):
        return value
    return datetime.now(UTC) - timedelta(seconds=value)
