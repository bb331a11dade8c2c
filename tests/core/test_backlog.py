from __future__ import annotations

import pytest

from ops_worker.core.backlog import Backlog, Pending

pytestmark = pytest.mark.unit

A, B, C, D = (Pending(float(n), ()) for n in range(4))


def test_overflow() -> None:
    """What waits is bounded: the oldest goes, and is counted."""
    backlog = Backlog(2)
    assert backlog.replace([A]) == 0
    assert backlog.replace([A, B, C, D]) == 2
    assert (backlog.waiting(), len(backlog), backlog.dropped) == ((C, D), 2, 2)
    assert backlog.replace(()) == 0
    assert len(backlog) == 0


@pytest.mark.parametrize(("committed", "expected"), [(True, (C,)), (False, (A, B, C))])
def test_settle(committed: bool, expected: tuple[Pending, ...]) -> None:
    """Samples in doubt are forgotten if they were committed, else they wait again, before the newer ones."""
    backlog = Backlog(10)
    backlog.in_doubt = ("42", (A, B))
    backlog.replace([C])
    backlog.settle(committed=committed)
    assert expected == backlog.waiting()
    assert backlog.in_doubt is None
