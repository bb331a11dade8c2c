"""The catalogue: which services are monitored and which figures are measured.

The catalogue is data, and only this package reads and checks it. ``builtin.toml`` has the built-in
entries, which are those of the platform. A file of the user adds entries, replaces built-in entries
of the same name, or is used alone.

- ``source`` reads and parses a file; ``entries`` defines the keys and their accepted values.
- ``resolve`` creates targets from entries, with the values of variables and files.
- ``conflicts`` finds entries that cannot be in force together.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ops_worker.catalogue.conflicts import conflicts
from ops_worker.catalogue.resolve import (
    NO_HEADER,
    Surroundings,
    is_header_value,
    references,
    resolve,
)
from ops_worker.catalogue.source import Source, parse, read
from ops_worker.catalogue.urls import is_host, url_problem
from ops_worker.core.model import NO_TAGS, Figure, Target
from ops_worker.core.needs import problems

if TYPE_CHECKING:
    from ops_worker.catalogue.entries import Entries, FigureEntry

__all__ = [
    "NO_HEADER",
    "Catalogue",
    "Source",
    "Surroundings",
    "builtin_urls",
    "is_header_value",
    "is_host",
    "load",
    "read",
    "references",
    "url_problem",
]

BUILTIN = Path(__file__).with_name("builtin.toml")
BUILTIN_FILE = "built-in catalogue"
"""The name of the built-in catalogue in messages."""


class Catalogue(NamedTuple):
    """The services and figures in force.

    - ``targets``: the monitored services.
    - ``unmonitored``: names of services whose URL is empty.
    - ``user_entries``: names of the entries in the user's file, ``services.NAME`` or
      ``figures.SERVICE.NAME``.
    - ``file``: the name of the user's file in messages, or BUILTIN_FILE without a user's file.
    """

    targets: tuple[Target, ...] = ()
    figures: tuple[Figure, ...] = ()
    unmonitored: tuple[str, ...] = ()
    user_entries: frozenset[str] = frozenset()
    file: str = BUILTIN_FILE

    def located(self, service: str, fault: str) -> str:
        """Return a fault of a service, preceded by the file and the entry."""
        entry = f"services.{service}"
        file = self.file if entry in self.user_entries else BUILTIN_FILE
        return f"{file}: {entry}.{fault}"

    @property
    def faults(self) -> list[str]:
        """The faults of single services. They do not affect other services."""
        return [
            self.located(target.name, fault) for target in self.targets for fault in target.faults
        ]


def load(source: Source | None, surroundings: Surroundings) -> tuple[Catalogue, list[str]]:
    """Return the catalogue in force, and the faults of the file itself (keys, types, conflicts).

    ``source`` is the user's file, or None. If only one service needs a value that is missing or
    unusable, the fault is in the ``faults`` of that target instead.
    """
    builtin, faults = parse(Source(BUILTIN_FILE, BUILTIN.read_text(encoding="utf-8")))
    user, user_faults = parse(source) if source is not None else (None, [])
    if builtin is None or user_faults:
        return Catalogue(), [*faults, *user_faults]
    layers = _layers(builtin, user)
    services = {name: entry for layer in layers for name, entry in layer.services.items()}
    targets, unmonitored = [], []
    for name, entry in services.items():
        target = resolve(name, entry, surroundings)
        if target is None:
            unmonitored.append(name)
        else:
            targets.append(target)
    figures = _figures(layers)
    file = source.file if source is not None else BUILTIN_FILE
    faults += [f"{file}: {conflict}" for conflict in conflicts(services, targets, figures)]
    needs = {name: entry.needs for name, entry in services.items()}
    faults += [f"{file}: services.{name}: {problem}" for name, problem in problems(needs)]
    in_force = Catalogue(
        targets=tuple(targets),
        figures=figures,
        unmonitored=tuple(unmonitored),
        user_entries=_names(user),
        file=file,
    )
    return in_force, faults


def builtin_urls() -> list[tuple[str, tuple[str, ...], str]]:
    """Return the platform's services for the documentation: name, variables, default URL.

    The first variable that is set wins.
    """
    services = tomllib.loads(BUILTIN.read_text(encoding="utf-8"))["services"]
    return [
        (name, tuple(references(" ".join(service["url"]))), service["url"][-1])
        for name, service in services.items()
    ]


def _layers(builtin: Entries, user: Entries | None) -> list[Entries]:
    """Return the catalogues in force. Entries of the later one replace those of the earlier one."""
    if user is None:
        return [builtin]
    return [builtin, user] if user.builtin else [user]


def _figures(layers: list[Entries]) -> tuple[Figure, ...]:
    figures: dict[tuple[str, str], Figure] = {}
    for layer in layers:
        for series, entries in layer.figures.items():
            for name, entry in entries.items():
                figures[series, name] = _figure(series, name, entry)
    return tuple(figures.values())


def _figure(series: str, name: str, entry: FigureEntry) -> Figure:
    return Figure(
        series=series,
        metric=name,
        sql=entry.sql,
        tables=entry.tables,
        timeout_s=entry.timeout,
        every_s=entry.every,
        tags=entry.tags or NO_TAGS,
    )


def _names(user: Entries | None) -> frozenset[str]:
    """Return the names of all entries of the user's file."""
    if user is None:
        return frozenset()
    services = [f"services.{name}" for name in user.services]
    figures = [
        f"figures.{series}.{name}" for series, entries in user.figures.items() for name in entries
    ]
    return frozenset([*services, *figures])
