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
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from ops_worker.adapters.http.exchange import MAX_BODY, UnusableError, ask, failed, refused
from ops_worker.adapters.http.limits import fitting, own_limit
from ops_worker.adapters.http.reactor import Reactor
from ops_worker.core.model import Failure, Observation, Target, Tls
from ops_worker.redact import known_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

CONCURRENCY = 128
"""Probes under way at once; the platform's four all are."""
RESERVE_S = 5.0
"""Seconds of a pass that are kept for the database."""

__all__ = ["CONCURRENCY", "MAX_BODY", "RESERVE_S", "confirm", "faults", "fitting", "observe"]


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

    A target that has faults, or whose certificates cannot be loaded, is not asked: its observation
    says why, and its ``target`` has the faults that were found.
    """
    last_start = time.monotonic() + budget_s
    try:
        contexts, broken = _tls_contexts(targets)
        reactor = Reactor(concurrency := fitting(concurrency))
    except (OSError, MemoryError) as error:
        if not own_limit(error):
            raise
        return [_unasked(one) if one.faults else failed(one, error) for one in targets]
    targets = [_with_faults(target, broken) for target in targets]
    order = [index for index, target in enumerate(targets) if not target.faults]
    if len(order) > concurrency:
        random.shuffle(order)
    begin = (
        (index, partial(ask, targets[index], contexts=contexts), targets[index].deadline_s)
        for index in order
    )
    seen = {index: _unasked(target) for index, target in enumerate(targets) if target.faults}
    for task in reactor.run(begin, last_start):
        result, target = task.result, targets[task.key]
        if isinstance(result, UnusableError):
            seen[task.key] = _unasked(target._replace(faults=(str(result),)))
        else:
            one = result if isinstance(result, Observation) else failed(target, result)
            seen[task.key] = _without_secrets(one)
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
        again = [one.target for one in seen if one.failure in unanswered and not one.target.faults]
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


def faults(targets: Iterable[Target]) -> Iterator[tuple[str, str]]:
    """Yield every fault of the targets' own values with the service's name; ask none of them.

    These are what the catalogue found, and what only those libraries know that make the request
    and load the certificates.
    """
    targets = tuple(targets)
    try:
        broken = _tls_contexts(targets)[1]
    except (OSError, MemoryError):  # a limit of this process, which says nothing of the files
        broken = {}
    for target in targets:
        found = [*_with_faults(target, broken).faults]
        if target.url and not target.faults and (problem := refused(target)):
            found.append(problem)
        for fault in found:
            yield target.name, fault


def _tls_contexts(targets: Iterable[Target]) -> tuple[dict[Tls, ssl.SSLContext], dict[Tls, str]]:
    """Load the certificates of the targets that need them, each set once.

    Returns what was loaded, and why the others could not be.
    """
    contexts, broken = {}, {}
    for tls in {target.tls for target in targets if _is_https(target)}:
        try:
            contexts[tls] = _tls_context(tls)
        except UnusableError as error:
            broken[tls] = str(error)
    return contexts, broken


def _is_https(target: Target) -> bool:
    return target.url.lower().startswith("https:")


def _with_faults(target: Target, broken: dict[Tls, str]) -> Target:
    if _is_https(target) and target.tls in broken:
        return target._replace(faults=(*target.faults, broken[target.tls]))
    return target


def _without_secrets(seen: Observation) -> Observation:
    """Star the service's own secrets where it sends them back: in the error, and in the body.

    One of digits only is left in the answer, where it may well be a number.
    """
    target = seen.target
    if not target.headers and "@" not in target.url:
        return seen
    error, body = seen.error, seen.body
    for secret in known_of(target):
        error = error.replace(secret, "***")
        if not secret.isdigit():
            body = body.replace(secret.encode(errors="replace"), b"***")
    return seen._replace(error=error, body=body)


def _unasked(target: Target) -> Observation:
    error = "; ".join(target.faults)
    return Observation(target, time.monotonic(), failure=Failure.NO_ANSWER, error=error)


def _tls_context(tls: Tls) -> ssl.SSLContext:
    """Make a context: with the files that are named, else certifi's or SSL_CERT_FILE's.

    Raises UnusableError, in words of our own that name the key and the file.
    """
    try:
        context = (
            ssl.create_default_context(cafile=tls.ca) if tls.ca else httpx.create_ssl_context()
        )
    except (OSError, ValueError) as error:
        if own_limit(error):
            raise
        what = f"ca: {tls.ca}" if tls.ca else "SSL_CERT_FILE or SSL_CERT_DIR"
        problem = _tls_problem(error, "it holds no PEM certificate")
        raise UnusableError(f"{what} cannot be loaded: {problem}") from None
    if tls.certificate:
        try:
            context.load_cert_chain(tls.certificate, tls.key or None, password=_no_password)
        except (OSError, ValueError) as error:
            if own_limit(error):
                raise
            raise UnusableError(_certificate_problem(tls, error)) from None
    return context


def _certificate_problem(tls: Tls, error: Exception) -> str:
    """Say which of a client's certificate and key cannot be loaded, and why."""
    certificate, key = f"certificate: {tls.certificate}", f"key: {tls.key or tls.certificate}"
    if isinstance(error, _PasswordError):
        return f"{key} has a password; leave it without one"
    if isinstance(error, ssl.SSLError) and not error.reason:
        try:
            if b"CERTIFICATE-----" not in Path(tls.certificate).read_bytes():
                return f"{certificate} holds no PEM certificate"
            if b"PRIVATE KEY-----" not in Path(tls.key or tls.certificate).read_bytes():
                return f"{key} holds no PEM key"
        except OSError as unreadable:  # it went away meanwhile
            error = unreadable
    return f"{certificate} and {key} cannot be loaded: {_tls_problem(error, 'they are damaged')}"


def _tls_problem(error: Exception, otherwise: str) -> str:
    """Return what is wrong with a PEM file: the system's words, or OpenSSL's name for it.

    Neither quotes the file. ``otherwise`` is for an error that OpenSSL has no name for.
    """
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").replace("_", " ").lower()
        if reason in {"key values mismatch", "key type mismatch"}:
            return "the key is not the certificate's"
        return otherwise if reason in {"", "no certificate or crl found"} else reason
    return (error.strerror if isinstance(error, OSError) else "") or "it is no path"


class _PasswordError(ValueError):
    """A key has a password."""


def _no_password() -> str:
    """Stand for the password of a key, which OpenSSL would otherwise ask the terminal for, and wait."""
    raise _PasswordError
