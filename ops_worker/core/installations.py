"""Several installations in one database: their names, and which services each of them watches.

An installation is all passes with the same INSTALLATION. The default one writes rows as it did
before there were names: without a tag and without a key. So rows of earlier releases belong to it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.core.samples import OPS_WORKER
from ops_worker.core.staleness import DEFAULT_PERIOD_S, is_current
from ops_worker.text import one_line

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from datetime import datetime

    from ops_worker.core.model import KnownState

DEFAULT = "ops-worker"
"""The name of the installation without a name."""
NAME_PATTERN = "^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
"""A regular expression for names: those of a label value in Kubernetes, and never empty."""
KEPT = timedelta(days=7)
"""Time for which an installation without a pass still counts as one that watches its services.

A weekend's outage must not make its rows look like leftovers, which `alerts prune` removes.
"""
SEPARATOR = "#"
"""Before the name in that of the worker's own alert. No name of a service may contain it."""
CONTESTED_REMEDY = (
    "remove each of them from the catalogue of one installation, or give both the same name"
)
"""What to do about services that two installations watch."""
MAX_NAMES = 10
"""Services that a warning names."""


class Claim(NamedTuple):
    """A service that an installation watched last at ``last_at``, with a pass of this period."""

    service: str
    installation: str
    last_at: datetime
    period_s: float | None = None

    def is_current(self, now: datetime) -> bool:
        """Return whether the installation still watches the service, by the usual patience."""
        age_s = (now - self.last_at).total_seconds()
        return is_current(age_s, self.period_s or DEFAULT_PERIOD_S)


class Neighbour(NamedTuple):
    """Another installation in the same database, and when a pass of it was recorded last."""

    name: str
    last_at: datetime


def tags_of(installation: str) -> dict[str, str]:
    """Return the tag of self-metrics, and the key of rows, that name an installation."""
    return {} if installation == DEFAULT else {"installation": installation}


def own_service(installation: str) -> str:
    """Return the service of the worker's own alert. Each installation has an alert of its own."""
    return OPS_WORKER if installation == DEFAULT else f"{OPS_WORKER}{SEPARATOR}{installation}"


def without_installation(service: str) -> str:
    """Return the service of an alert. The worker's own service is without its installation."""
    return OPS_WORKER if service.startswith(f"{OPS_WORKER}{SEPARATOR}") else service


def kept_by_others(
    known: Mapping[str, KnownState], installation: str, now: datetime, period_s: float
) -> dict[str, str]:
    """Return the services whose rows another installation keeps, and its name.

    The first installation keeps a row until it has not written it for three periods of this one.
    So one of two decides about an alert, and the other takes over when that one is gone.
    """
    return {
        service: state.installation
        for service, state in known.items()
        if state.checked_at is not None
        and state.installation != installation
        and is_current((now - state.checked_at).total_seconds(), period_s)
    }


def kept_warnings(kept: Mapping[str, str]) -> list[str]:
    """Return a warning for each installation that keeps services which this one watches, too."""
    by_installation: dict[str, list[str]] = {}
    for service, installation in sorted(kept.items()):
        by_installation.setdefault(installation, []).append(service)
    return [
        f"installation {one_line(installation)} watches the same services, and keeps their states "
        f"and alerts: {named(services)}: {CONTESTED_REMEDY}"
        for installation, services in sorted(by_installation.items())
    ]


def contested(
    claims: Iterable[Claim], monitored: Container[str], now: datetime
) -> dict[str, list[str]]:
    """Return the monitored services that others watch now, by the installation that does."""
    services: dict[str, set[str]] = {}
    for claim in claims:
        if claim.service in monitored and claim.is_current(now):
            services.setdefault(claim.installation, set()).add(claim.service)
    return {name: sorted(services[name]) for name in sorted(services)}


def kept_services(
    claims: Iterable[Claim],
    others: Iterable[Neighbour],
    now: datetime,
    own: Container[str] = frozenset(),
) -> dict[str, str]:
    """Return what a person must not remove, by service: the installation that watches it.

    ``others`` are the ``neighbours``. The own alert of each neighbour stays, too, even if that
    installation watches no services. ``own`` are the services whose rows this installation keeps.
    It has taken them over, so only an installation that still watches them counts.
    """
    kept = {own_service(other.name): other.name for other in others}
    for claim in claims:
        if now - claim.last_at > KEPT:
            continue
        kept[own_service(claim.installation)] = claim.installation
        if claim.service not in own or claim.is_current(now):
            kept[claim.service] = claim.installation
    return kept


def installation_of(service: str) -> str:
    """Return the installation that the name of an own alert names; empty if it names none."""
    name, _, installation = service.partition(SEPARATOR)
    return installation if name == OPS_WORKER else ""


def is_own_service(service: str) -> bool:
    """Return whether a name is the service of the own alert of any installation."""
    return without_installation(service) == OPS_WORKER


def neighbours(rows: Iterable[Neighbour], installation: str, now: datetime) -> list[Neighbour]:
    """Return the other installations that were recorded lately, sorted by name."""
    newest: dict[str, datetime] = {}
    for row in rows:
        if row.name != installation and now - row.last_at <= KEPT:
            newest[row.name] = max(row.last_at, newest.get(row.name, row.last_at))
    return [Neighbour(name, newest[name]) for name in sorted(newest)]


def named(services: Sequence[str]) -> str:
    """Return names of services for a message, not too many of them."""
    listed = ", ".join(map(one_line, services[:MAX_NAMES]))
    more = len(services) - MAX_NAMES
    return f"{listed} and {more} more" if more > 0 else listed
