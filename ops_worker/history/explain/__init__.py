"""Why a service has its state: from the rows about it to a document, sentences and tables.

``rows`` has what the readers get, ``state`` decides the state, ``alert`` explains the alert,
``rule`` describes how the service is judged, ``document`` puts all of it together, and ``screen``
lays it out. What a service was comes from the ledger. Without a ledger, its row in
``service_health`` is all that is known.
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
