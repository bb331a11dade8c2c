"""Explain why a service has its state: from rows to a document, sentences and tables.

``rows`` has the types of the rows. ``state`` decides the state, ``alert`` explains the alert, and
``rule`` describes how the service is judged. ``document`` builds the document from all of them, and
``screen`` makes sentences and tables of it. The past of a service comes from the ledger. Without a
ledger, only the service's row in ``service_health`` is known.
"""

from ops_worker.history.explain.document import Explanation, build
from ops_worker.history.explain.rows import (
    Rule,
    ServiceHistory,
    ServiceLedger,
    before,
    is_known,
    look_back,
)
from ops_worker.history.explain.screen import heading, sentences, tables

__all__ = [
    "Explanation",
    "Rule",
    "ServiceHistory",
    "ServiceLedger",
    "before",
    "build",
    "heading",
    "is_known",
    "look_back",
    "sentences",
    "tables",
]
