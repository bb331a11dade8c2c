"""Endpoints of other users, written as entries of our catalogue and probed."""

from __future__ import annotations

import contextlib
import ssl
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from ops_worker.adapters.http import observe
from ops_worker.catalogue import Source, Surroundings, load
from ops_worker.core.health import judge
from tests.adapters.http.endpoints import ENDPOINTS, SLOW, Endpoint
from tests.stubs import Behaviour, Stub

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ops_worker.core.model import Target, Verdict

pytestmark = pytest.mark.integration

SURROUNDINGS = Surroundings({"KEY": "sesame-open-up"})
WRITTEN = [endpoint for endpoint in ENDPOINTS if endpoint.entry is not None]


def listed(endpoint: Endpoint) -> str:
    """Return the name of an endpoint in the list of tests."""
    return f"{endpoint.source}: {endpoint.asks}"


@contextlib.contextmanager
def served(
    endpoint: Endpoint, authority: trustme.CA, validity: timedelta = timedelta(days=90)
) -> Iterator[Stub]:
    """Run the service of an endpoint. Its certificate, if any, is valid for this long."""
    context = None
    if endpoint.scheme in {"https", "tls"}:
        issuer = trustme.CA() if endpoint.untrusted else authority
        end = datetime.now(UTC) + validity
        leaf = issuer.issue_cert("127.0.0.1", not_before=end - timedelta(900), not_after=end)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(context)
    stub = Stub("ingest", tls=context)
    stub.mode = endpoint.well[0]
    try:
        yield stub
    finally:
        stub.close()


def service(name: str, endpoint: Endpoint, stub: Stub) -> str:
    """Return the entry of a catalogue for an endpoint."""
    url = f"{endpoint.scheme}://127.0.0.1:{stub.port}"
    entry = endpoint.entry or ""
    if stub.mode != SLOW[0]:
        # On a slow machine, a healthy service may need longer than the limit.
        entry = entry.replace("max_latency_ms = 499", "max_latency_ms = 60000")
    return f'[services."{name}"]\nurl = "{url}"\ndeadline = 60\n{entry}\n'


def targets(services: Iterable[str]) -> tuple[Target, ...]:
    """Load a catalogue of these services. Assert that it has no faults."""
    text = "\n".join(["builtin = false", *services])
    catalogue, faults = load(Source("c.toml", text), SURROUNDINGS)
    assert not faults + catalogue.faults
    return catalogue.targets


def judged(endpoint: Endpoint, stub: Stub, mode: Behaviour | str) -> Verdict:
    """Probe an endpoint with this behaviour of its service."""
    stub.mode = mode
    return judge(observe(targets([service("a", endpoint, stub)]))[0])


def test_counts() -> None:
    """Of 86 endpoints, 75 have an equal entry, and an ICMP echo is a connection.

    The other ten have no entry.
    """
    kinds: Counter[str] = Counter()
    for endpoint in ENDPOINTS:
        kind = endpoint.asks.partition(";")[0]
        kinds[kind if kind in {"push", "dns", "icmp"} else "written"] += endpoint.number
        assert (endpoint.entry is None) == (kind in {"push", "dns"})
    assert kinds == {"written": 75, "icmp": 1, "dns": 4, "push": 6}
    assert sum(endpoint.number for endpoint in WRITTEN) == 76


def test_all(authority: trustme.CA) -> None:
    """One pass probes all endpoints in one catalogue, and all are healthy."""
    with contextlib.ExitStack() as stack:
        services = []
        for index, endpoint in enumerate(WRITTEN):
            stub = stack.enter_context(served(endpoint, authority))
            names = (f"{endpoint.source}-{index}-{number}" for number in range(endpoint.number))
            services += [service(name, endpoint, stub) for name in names]
        verdicts = [judge(observation) for observation in observe(targets(services))]
    assert [verdict.reason for verdict in verdicts] == [""] * 76


@pytest.mark.parametrize("endpoint", WRITTEN, ids=listed)
def test_endpoint(authority: trustme.CA, endpoint: Endpoint) -> None:
    """Answers that are healthy for Gatus are healthy. All others have their reason."""
    with served(endpoint, authority) as stub:
        for mode in endpoint.well:
            assert judged(endpoint, stub, mode).reason == ""
        assert endpoint.ill
        for mode, reason in endpoint.ill:
            assert judged(endpoint, stub, mode).reason.startswith(reason)


@pytest.mark.parametrize(
    "endpoint", [endpoint for endpoint in WRITTEN if "CERTIFICATE" in endpoint.asks], ids=listed
)
def test_certificate(authority: trustme.CA, endpoint: Endpoint) -> None:
    """A certificate that ends within 14 days makes the service unhealthy."""
    with served(endpoint, authority, timedelta(days=13, hours=23)) as stub:
        reason = judged(endpoint, stub, endpoint.well[0]).reason
    assert "certificate expires in 13 days, wants at least 14 days left" in reason
