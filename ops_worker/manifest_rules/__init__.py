"""Rules for manifests that run the worker. Schemas check shapes; these rules know the program.

``check`` is pure: it takes parsed objects and returns faults. A rule is a function in a table:
``schedules.RULES`` for CronJobs, ``containers.RULES`` for containers. Rules about several objects
are in ``together`` and ``references``. The docstring of a rule states what the rule requires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops_worker.manifest_rules import containers, references, schedules, together
from ops_worker.manifest_rules.parts import Document, Fault, ProgramFacts, find_workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ops_worker.manifest_rules.parts import Worker

__all__ = ["Document", "Fault", "ProgramFacts", "check"]


def check(documents: Sequence[Document], facts: ProgramFacts) -> list[Fault]:
    """Return every fault of these objects, in the order of the files.

    Objects of other programs have no faults. But if objects create pods and no container runs the
    worker, this is one fault.
    """
    workers = list(find_workers(documents))
    faults = [
        *together.files(documents, workers),
        *together.no_worker(documents, workers),
        *together.one_image(workers),
        *together.one_password_source(workers),
        *together.network(documents, workers, facts),
        *together.rights(documents, workers),
        *references.references(documents, workers),
        *references.two_loops(workers),
    ]
    config_maps = {
        (document.namespace, document.name): document
        for document in documents
        if document.kind == "ConfigMap"
    }
    for worker in workers:
        faults += _faults_of(worker, facts, config_maps)
    # The place of a file is the place of its first document.
    places: dict[str, int] = {}
    for place, document in enumerate(documents):
        places.setdefault(document.file, place)
    return sorted(dict.fromkeys(faults), key=lambda fault: places[fault.file])


def _faults_of(
    worker: Worker, facts: ProgramFacts, config_maps: Mapping[tuple[str, str], Document]
) -> Iterator[Fault]:
    """Yield the faults of a container and of the ConfigMaps that it uses."""
    document = worker.document
    for rule in containers.RULES:
        for problem in rule(worker, facts):
            place = document
            if problem.config_map:
                place = config_maps[document.namespace, problem.config_map]
            yield place.fault(problem.field, problem.message)
    if worker.scheduled:
        for schedule_rule in schedules.RULES:
            for problem in schedule_rule(document, worker, facts):
                yield document.fault(problem.field, problem.message)
