"""HTTP: targets to observations. The only importer of httpx, h11 and of sockets.

A probe is one connection that carries one request, under one deadline from the first packet to the last byte. httpx's
own transports keep a pool for the next request, scan it for each, and have a timeout for each read; here there is no next
request, there may be thousands at once, and a body that trickles in one byte at a time must not outlive its
deadline. So httpx has the URL and the request; h11 is the parser (``exchange``); one thread with a selector
runs all of them, with the clock read at the socket (``reactor``). ``reasons`` has the words for what goes wrong,
``limits`` what this process can do at once.
"""

from __future__ import annotations

import math
import random
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING

import httpx

from ops_worker.core.model import Failure, Observation, Target, Tls
from ops_worker.edges.probes.exchange import MAX_BODY, ask, failed
from ops_worker.edges.probes.limits import fitting, own_limit
from ops_worker.edges.probes.reactor import Reactor
from ops_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONCURRENCY = 128
"""Probes under way at once; the platform's four all are."""
RESERVE_S = 5.0
"""Seconds of a pass that are kept for the database."""

__all__ = ["CONCURRENCY", "MAX_BODY", "RESERVE_S", "confirm", "fitting", "observe"]


def observe(
    targets: Sequence[Target],
    *,
    concurrency: int = CONCURRENCY,
    budget_s: float = math.inf,
    told: Callable[[int], None] | None = None,
) -> list[Observation]:
    """Probe the targets, at most ``concurrency`` at once, and give one observation each, in the order of the targets.

    Never raises for what a service does, nor for a limit of this process: fewer are probed at once
    where files are few, and what could not be probed even so has an observation whose failure is
    NOT_PROBED. The first ones are probed whatever the time; of the others those whose deadline
    still ends within ``budget_s`` seconds. The rest has no observation: nobody looked. Which ones
    that are is left to chance, so that in every pass others are looked at. ``told`` is given how
    many are done, after each.

    Raises SettingsError for certificates that cannot be loaded.
    """
    last_start = time.monotonic() + budget_s
    certificates = {target.tls for target in targets if target.url.lower().startswith("https:")}
    try:
        contexts = {tls: _tls_context(tls) for tls in certificates}
        reactor = Reactor(concurrency := fitting(concurrency))
    except (OSError, MemoryError) as error:
        if not own_limit(error):
            raise
        return [failed(target, error) for target in targets]
    order = list(range(len(targets)))
    if len(order) > concurrency:
        random.shuffle(order)
    begin = ((index, partial(ask, targets[index], contexts=contexts), targets[index].deadline_s) for index in order)
    seen: dict[int, Observation] = {}
    for task in reactor.run(begin, last_start):
        result = task.result
        seen[task.key] = result if isinstance(result, Observation) else failed(targets[task.key], result)
        if told is not None:
            told(len(seen))
    return [seen[index] for index in sorted(seen)]


def confirm(  # noqa: PLR0913 - what ``observe`` is told, and when to ask again
    targets: Sequence[Target],
    *,
    times: int,
    delay_s: float,
    concurrency: int = CONCURRENCY,
    budget_s: float = math.inf,
    told: Callable[[int], None] | None = None,
) -> list[Observation]:
    """Probe the targets, and those without any HTTP answer up to ``times`` again, of which the last result counts.

    In the first second of a pod its network may not be there yet. A round is begun only while it still fits into
    ``budget_s``, the seconds that the probes have.
    """
    end = time.monotonic() + budget_s
    seen = observe(targets, concurrency=concurrency, budget_s=budget_s, told=told)
    for attempt in range(2, times + 2):
        unanswered = {Failure.NO_CONNECTION, Failure.NO_ANSWER}
        again = [one.target for one in seen if one.failure in unanswered]
        rounds = -(-len(again) // fitting(concurrency))
        longest = max((target.deadline_s for target in again), default=0.0)
        if not again or time.monotonic() + delay_s + rounds * longest > end:
            break
        time.sleep(delay_s)
        later = {
            one.target.name: one._replace(attempts=attempt)
            for one in observe(again, concurrency=concurrency)
            if one.failure is not Failure.NOT_PROBED
        }
        seen = [later.get(one.target.name, one) for one in seen]
    return seen


def _tls_context(tls: Tls) -> ssl.SSLContext:
    """Make a context: with the authorities and the certificate that are named, else certifi's or SSL_CERT_FILE's."""
    what = tls.ca or "SSL_CERT_FILE or SSL_CERT_DIR"
    try:
        context = ssl.create_default_context(cafile=tls.ca) if tls.ca else httpx.create_ssl_context()
        if tls.certificate:
            what = f"{tls.certificate} or {tls.key or 'its key'}"
            context.load_cert_chain(tls.certificate, tls.key or None, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        if own_limit(error):
            raise
        raise SettingsError([f"{what} cannot be loaded: {error}"]) from None
    return context


def _no_password() -> str:
    """Stand for the password of a key, which OpenSSL would otherwise ask the terminal for, and wait."""
    raise ValueError("the key has a password")
