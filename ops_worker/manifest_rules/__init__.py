"""What is right for a manifest that runs the worker: rules that know the program, where schemas know only shapes.

``check`` is pure: parsed objects in, faults out. A rule is a function in one of the tables: ``schedules.RULES`` for
CronJobs, ``containers.RULES`` for containers; ``together`` holds those that look at several objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.manifest_rules import containers, schedules, together
from ops_worker.manifest_rules.parts import Document, Facts, Fault, workers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Document", "Facts", "Fault", "check"]


def check(documents: Sequence[Document], facts: Facts) -> list[Fault]:
    """Give every fault of the objects, in the order of the files.

    Objects of others have none; but if no container is the worker's, that is one.
    """
    found = list(workers(documents))
    faults = [*together.files(documents, found), *together.none_found(documents, found)]
    faults += together.one_image(found)
    faults += [*together.network(documents, found, facts), *together.rights(documents, found)]
    for worker in found:
        one = worker.document
        wrong = [pair for rule in containers.RULES for pair in rule(worker, facts)]
        if worker.scheduled:
            wrong += [
                pair for scheduled in schedules.RULES for pair in scheduled(one, worker, facts)
            ]
        faults += [
            Fault(one.file, f"{one.kind}/{one.name}", field, message) for field, message in wrong
        ]
    order = {document.file: place for place, document in enumerate(reversed(documents))}
    return sorted(dict.fromkeys(faults), key=lambda fault: -order[fault.file])
