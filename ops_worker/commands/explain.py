"""``ops-worker explain``: why a service is what it is, or was at some time."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ops_worker.arguments import env_file, since, words
from ops_worker.commands.status import draw
from ops_worker.core.output import MAX_LISTED
from ops_worker.core.samples import OPS_WORKER, POSTGRES
from ops_worker.errors import DONE, SettingsError
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ops_worker.core.model import Target
    from ops_worker.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    env_file(parser)
    parser.add_argument(
        "service",
        type=words,
        metavar="SERVICE",
        help="a service that is watched, postgres, ops_worker, or one that was watched once",
    )
    parser.add_argument(
        "--at",
        type=moment,
        metavar="TIME",
        help="a time, UTC unless it says otherwise (2026-03-01T03:10), or so long ago (90m); else now",
    )
    parser.add_argument(
        "--output",
        choices=["json", "text"],
        default="text",
        help="sentences and tables (the default), or one document",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Explain it. Raises DatabaseError, SchemaError, or SettingsError for a service that nobody knows or a time that is not yet."""
    from ops_worker.adapters import postgres
    from ops_worker.adapters.postgres import history
    from ops_worker.core.health import thresholds_of
    from ops_worker.history.explain import Rule, build, known, sentences, tables

    watched = {target.name: target for target in settings.catalogue.targets}
    target = watched.get(options.service) or next(
        (one for one in watched.values() if one.series == options.service), None
    )
    service = target.name if target else options.service
    with contextlib.closing(
        postgres.Store(settings.connection, role=settings.pg_role, application="ops-worker explain")
    ) as database:
        found = database.read(
            lambda transaction: history.findings(transaction, service, target, options.at),
            required_tables=postgres.HISTORY_TABLES,
            optional_tables=postgres.HISTORY_OPTIONAL_TABLES,
        )
    if target is None and not known(found):
        raise SettingsError([_unknown(one_line(service), watched)])
    if (
        settings.maintenance_until is not None
        and options.at is None
        and settings.maintenance_until > found.now
    ):
        found = found._replace(
            maintenance_until=max(settings.maintenance_until, found.maintenance_until or found.now)
        )
    thresholds = thresholds_of(target, settings.thresholds) if target else settings.thresholds
    rule = Rule(
        target,
        thresholds,
        alerts=settings.system_alert_enabled,
        own=settings.record_own_metrics,
    )
    document = build(found, rule)
    if options.output == "json":
        print(json.dumps(document))
    else:
        print("\n".join(sentences(document)), end="\n\n", flush=True)
        draw([one for one in tables(document) if one.rows or one.none])
    return DONE


def _unknown(service: str, watched: Mapping[str, Target]) -> str:
    """Say that there is no such service, and which one may be meant."""
    from ops_worker.core.suggest import did_you_mean

    names = [*watched, *(target.series for target in watched.values()), POSTGRES, OPS_WORKER]
    question = did_you_mean(service, names)
    listed = ", ".join([*watched][:MAX_LISTED]) + (", ..." if len(watched) > MAX_LISTED else "")
    there_are = question or f": there are {listed or 'none'}"
    return f"no service {service} is watched, and nothing is recorded of one{there_are}"


def moment(text: str) -> datetime:
    """Read a time, or how long ago it was."""
    if re.fullmatch(r"[\d.]+[smhd]", text):
        return datetime.now(UTC) - timedelta(seconds=since(text))
    try:
        told = datetime.fromisoformat(text)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text} is no time: 2026-03-01T03:10, or 90m for so long ago"
        ) from None
