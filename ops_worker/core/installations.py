"""Installations: their names, and which of several watches a service in the same database.

An installation is all passes with the same INSTALLATION. The rows of the default installation have
no tag and no key with its name, like the rows of releases without installations. So those older
rows belong to the default installation.
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
"""The default of INSTALLATION. It is never written in rows of samples and states."""
NAME_PATTERN = "^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
"""A regular expression for names: a label value of Kubernetes that is not empty."""
RECENT_AGE = timedelta(days=7)
"""The age up to which a record shows that an installation still watches its services.

After an outage of a weekend, the rows of an installation must not look abandoned: `alerts prune`
removes abandoned rows.
"""
SEPARATOR = "#"
"""Separates `ops_worker` from an installation in the service of the worker's own alert.

The name of a service cannot contain it.
"""
CONTESTED_REMEDY = (
    "remove each of them from the catalogue of one installation, or give both the same name"
)
"""What to do about services that two installations watch."""
MAX_NAMES = 10
"""The maximum number of services that a message names."""


class Claim(NamedTuple):
    """The last time that an installation watched a service, from a row or a span.

    ``period_s`` is the period of its pass in seconds; None if it is not known.
    """

    service: str
    installation: str
    last_at: datetime
    period_s: float | None = None

    def is_current(self, now: datetime) -> bool:
        """Return whether the installation watches the service now (``staleness.is_current``)."""
        age_s = (now - self.last_at).total_seconds()
        return is_current(age_s, self.period_s or DEFAULT_PERIOD_S)


class InstallationRecord(NamedTuple):
    """An installation in this database, and when one of its passes was recorded last."""

    name: str
    last_at: datetime


def tags_of(installation: str) -> dict[str, str]:
    """Return the part of tags and keys that names an installation; empty for the default one."""
    return {} if installation == DEFAULT else {"installation": installation}


def own_service(installation: str) -> str:
    """Return the service of the worker's own alert: `ops_worker`, or `ops_worker#INSTALLATION`."""
    return OPS_WORKER if installation == DEFAULT else f"{OPS_WORKER}{SEPARATOR}{installation}"


def without_installation(service: str) -> str:
    """Return a service. If it is that of an own alert, return it without the installation."""
    return OPS_WORKER if service.startswith(f"{OPS_WORKER}{SEPARATOR}") else service


def installation_of(service: str) -> str:
    """Return the installation in the service of an own alert; empty if the service has none."""
    name, _, installation = service.partition(SEPARATOR)
    return installation if name == OPS_WORKER else ""


def is_own_service(service: str) -> bool:
    """Return whether this is the service of the own alert of any installation."""
    return without_installation(service) == OPS_WORKER


def other_keepers(
    known: Mapping[str, KnownState], installation: str, now: datetime, period_s: float
) -> dict[str, str]:
    """Return the services whose rows another installation keeps, each with that installation.

    If two installations watch a service, only the one that keeps its row decides about its alert.
    The first installation keeps the row while the row is current. Then the other installation
    takes over. ``installation`` is this installation, and ``period_s`` the period of its health
    pass in seconds.
    """
    return {
        service: state.installation
        for service, state in known.items()
        if state.checked_at is not None
        and state.installation != installation
        and is_current((now - state.checked_at).total_seconds(), period_s)
    }


def keeper_warnings(keepers: Mapping[str, str]) -> list[str]:
    """Return one warning for each installation in the result of ``other_keepers``."""
    by_installation: dict[str, list[str]] = {}
    for service, installation in sorted(keepers.items()):
        by_installation.setdefault(installation, []).append(service)
    return [
        f"installation {one_line(installation)} watches the same services, and keeps their states "
        f"and alerts: {service_list(services)}: {CONTESTED_REMEDY}"
        for installation, services in sorted(by_installation.items())
    ]


def contested(
    claims: Iterable[Claim], monitored: Container[str], now: datetime
) -> dict[str, list[str]]:
    """Return the monitored services that other installations watch now, by installation.

    ``claims`` are those of the other installations.
    """
    services: dict[str, set[str]] = {}
    for claim in claims:
        if claim.service in monitored and claim.is_current(now):
            services.setdefault(claim.installation, set()).add(claim.service)
    return {name: sorted(services[name]) for name in sorted(services)}


def protected_services(
    claims: Iterable[Claim],
    others: Iterable[InstallationRecord],
    now: datetime,
    own: Container[str] = frozenset(),
) -> dict[str, str]:
    """Return the services that a person must not remove, each with the installation it belongs to.

    - ``claims``: the claims of the other installations. Recent ones protect their service.
    - ``others``: the result of ``recent_installations``. The own alert of each is protected, even
      if the installation watches no services.
    - ``own``: the services whose rows this installation keeps. It has taken them over, so that only
      a current claim protects them.
    """
    protected = {own_service(other.name): other.name for other in others}
    for claim in claims:
        if now - claim.last_at > RECENT_AGE:
            continue
        protected[own_service(claim.installation)] = claim.installation
        if claim.service not in own or claim.is_current(now):
            protected[claim.service] = claim.installation
    return protected


def recent_installations(
    rows: Iterable[InstallationRecord], installation: str, now: datetime
) -> list[InstallationRecord]:
    """Return the other installations with a row of the last RECENT_AGE, sorted by name.

    ``rows`` may have several rows of one installation, and rows of this ``installation``.
    """
    newest: dict[str, datetime] = {}
    for row in rows:
        if row.name != installation and now - row.last_at <= RECENT_AGE:
            newest[row.name] = max(row.last_at, newest.get(row.name, row.last_at))
    return [InstallationRecord(name, newest[name]) for name in sorted(newest)]


def service_list(services: Sequence[str]) -> str:
    """Return the names of services for a message, at most MAX_NAMES of them."""
    names = ", ".join(map(one_line, services[:MAX_NAMES]))
    more = len(services) - MAX_NAMES
    return f"{names} and {more} more" if more > 0 else names
