"""HTTP probes: from targets to observations. The only importer of httpx and h11.

A probe is one connection with one request, and one deadline from the first packet to the last byte.
Each redirect that is followed (``redirects``) adds a connection and a request.
The transports of httpx are not suitable: they keep a pool for later requests, search the pool for
every request, and have one timeout per read. A probe has no later requests, thousands of probes may
run at the same time, and a body that arrives one byte at a time must not exceed the deadline.

So httpx only parses the URL and builds the request, and h11 parses the answer (``exchange``). One
thread with a selector runs all probes and reads the clock at the socket (``reactor``). ``reasons``
has the texts for errors, and ``limits`` the limits of this process.
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

from ops_worker.adapters.http.exchange import (
    MAX_BODY,
    UnusableError,
    ask,
    connect,
    failed,
    refused,
)
from ops_worker.adapters.http.limits import fitting, own_limit
from ops_worker.adapters.http.reactor import Reactor
from ops_worker.core.model import TLS_SCHEMES, Failure, Observation, Target, Tls
from ops_worker.redact import secrets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ops_worker.adapters.http.exchange import Steps
    from ops_worker.adapters.http.reactor import Task

CONCURRENCY = 128
"""Default maximum number of probes at the same time."""
DATABASE_RESERVE_S = 5.0
"""Seconds of a pass that are reserved for the database."""

__all__ = [
    "CONCURRENCY",
    "DATABASE_RESERVE_S",
    "MAX_BODY",
    "confirm",
    "faults",
    "fitting",
    "observe",
]


def probe(target: Target, contexts: Mapping[Tls, ssl.SSLContext]) -> Steps:
    """Return the probe of a target: a request, or only a connection."""
    return connect(target, contexts) if target.only_connects else ask(target, contexts)


def observe(
    targets: Sequence[Target],
    *,
    concurrency: int = CONCURRENCY,
    budget_s: float = math.inf,
    on_progress: Callable[[int], None] | None = None,
    exchange: Callable[[Target, Mapping[Tls, ssl.SSLContext]], Steps] = probe,
) -> list[Observation]:
    """Probe the targets, at most ``concurrency`` at once; return their observations in order.

    The first ``concurrency`` probes start at once. A further probe starts only if its deadline ends
    within ``budget_s`` seconds; a target without a probe has no observation. If there are more
    targets than ``concurrency``, their order is random, so that every pass leaves out different
    targets. After each probe, ``on_progress`` receives the number of observations so far.
    ``exchange`` makes the request, or several requests within the deadline of the target.

    Never raises because of a service or a limit of this process. If there are not enough file
    descriptors, fewer probes run at the same time. If a target still cannot be probed, the failure
    of its observation is NOT_PROBED.

    A target that has faults, or whose certificates cannot be loaded, receives no request. Its
    observation has the reason, and the ``target`` of the observation has the faults.
    """
    last_end = time.monotonic() + budget_s
    try:
        contexts, problems = _tls_contexts(targets)
        concurrency = fitting(concurrency)
        reactor = Reactor(concurrency)
    except (OSError, MemoryError) as error:
        if not own_limit(error):
            raise
        return [_faulty(target) if target.faults else failed(target, error) for target in targets]
    targets = [_with_faults(target, problems) for target in targets]
    observations: dict[int, Observation] = {}
    queue: list[int] = []
    for index, target in enumerate(targets):
        if target.faults:
            observations[index] = _faulty(target)
        else:
            queue.append(index)
    if len(queue) > concurrency:
        random.shuffle(queue)
    entries = (
        (index, partial(exchange, targets[index], contexts), targets[index].deadline_s)
        for index in queue
    )
    for task in reactor.run(entries, last_end):
        observations[task.key] = _observation(targets[task.key], task)
        if on_progress is not None:
            on_progress(len(observations))
    return [observations[index] for index in sorted(observations)]


def confirm(  # noqa: PLR0913 - the parameters of ``observe``, and when to probe again
    targets: Sequence[Target],
    *,
    times: int,
    delay_s: float,
    concurrency: int = CONCURRENCY,
    budget_s: float = math.inf,
    on_progress: Callable[[int], None] | None = None,
) -> list[Observation]:
    """Probe the targets. Repeat probes without an HTTP answer, up to ``times``.

    The last result counts. The network of a pod may not be ready in its first second, so each
    repetition begins ``delay_s`` seconds after the round of probes before it. It begins only if it
    ends within ``budget_s`` seconds.
    """
    end = time.monotonic() + budget_s
    observations = observe(
        targets, concurrency=concurrency, budget_s=budget_s, on_progress=on_progress
    )
    for attempt in range(2, times + 2):
        repeated = [
            observation.target for observation in observations if _needs_confirmation(observation)
        ]
        batches = math.ceil(len(repeated) / fitting(concurrency))
        longest_s = max((target.deadline_s for target in repeated), default=0.0)
        if not repeated or time.monotonic() + delay_s + batches * longest_s > end:
            break
        time.sleep(delay_s)
        signs = {observation.target.name: observation.sign for observation in observations}
        later = {
            observation.target.name: observation._replace(
                attempts=attempt,
                # An earlier probe of the pass also proves that packets come back.
                sign=observation.sign or signs[observation.target.name],
            )
            for observation in observe(repeated, concurrency=concurrency)
            if observation.failure is not Failure.NOT_PROBED
        }
        observations = [
            later.get(observation.target.name, observation) for observation in observations
        ]
    return observations


def faults(targets: Iterable[Target]) -> Iterator[tuple[str, str]]:
    """Yield every fault in the settings of services, with the service's name. Send no request.

    The catalogue detects some faults. Only the libraries that build the request and load the
    certificates detect the others.
    """
    targets = tuple(targets)
    try:
        problems = _tls_contexts(targets)[1]
    except (OSError, MemoryError):  # A limit of this process is not a fault of the files.
        problems = {}
    for target in targets:
        faults = [*_with_faults(target, problems).faults]
        if target.url and not target.faults and (problem := refused(target)):
            faults.append(problem)
        for fault in faults:
            yield target.name, fault


def _needs_confirmation(observation: Observation) -> bool:
    """Return whether a repeated probe could have another result."""
    unanswered = observation.failure in {Failure.NO_CONNECTION, Failure.NO_ANSWER}
    return unanswered and not observation.target.faults


def _observation(target: Target, task: Task) -> Observation:
    """Return the observation of a task that has ended."""
    result = task.result
    if isinstance(result, UnusableError):
        return _faulty(target._replace(faults=(str(result),)))
    if not isinstance(result, Observation):
        result = failed(target, result)
    result = result._replace(sign=task.sign, stalled_s=task.stalled_s)
    return _without_secrets(result)


def _faulty(target: Target) -> Observation:
    """Return the observation of a target that cannot be probed because of its settings."""
    return Observation(
        target=target,
        taken_at=time.monotonic(),
        failure=Failure.NO_ANSWER,
        error="; ".join(target.faults),
        reason_class="setting",
    )


def _without_secrets(observation: Observation) -> Observation:
    """Return an observation with stars instead of the service's secrets.

    A service may send its secrets back in an error, a header or the body. A secret that consists of
    digits is not replaced in a JSON body, because it may be an ordinary number there.
    """
    target = observation.target
    if not target.headers and not target.body_secrets and "@" not in target.url:
        return observation
    error = observation.error
    body = observation.body
    headers = dict(observation.headers)
    for secret in secrets_of(target):
        error = error.replace(secret, "***")
        headers = {name: value.replace(secret, "***") for name, value in headers.items()}
        if not (secret.isdigit() and target.json):
            body = body.replace(secret.encode(errors="replace"), b"***")
    return observation._replace(error=error, body=body, headers=headers)


def _uses_tls(target: Target) -> bool:
    return target.scheme in TLS_SCHEMES


def _tls_settings(target: Target) -> tuple[Tls, ...]:
    """Return the TLS settings that a probe of a target may need.

    A redirect may lead to https. It may also lead to another origin, which must not receive the
    client certificate.
    """
    if target.redirects:
        return target.tls, target.tls.without_client
    return (target.tls,) if _uses_tls(target) else ()


def _with_faults(target: Target, problems: dict[Tls, str]) -> Target:
    """Return a target whose faults include the problem of its certificates."""
    for tls in _tls_settings(target):
        if tls in problems:
            return target._replace(faults=(*target.faults, problems[tls]))
    return target


def _tls_contexts(targets: Iterable[Target]) -> tuple[dict[Tls, ssl.SSLContext], dict[Tls, str]]:
    """Load the certificates of all targets that may need them, each set of files once.

    Return the contexts, and the problems of the sets that could not be loaded.
    """
    contexts: dict[Tls, ssl.SSLContext] = {}
    problems: dict[Tls, str] = {}
    for tls in {tls for target in targets for tls in _tls_settings(target)}:
        try:
            contexts[tls] = _tls_context(tls)
        except UnusableError as error:
            problems[tls] = str(error)
    return contexts, problems


def _tls_context(tls: Tls) -> ssl.SSLContext:
    """Return a TLS context with the files of the settings, by default certifi's or SSL_CERT_FILE.

    Raises UnusableError. Its message names the key and the file.
    """
    context = _trusting(tls)
    if tls.certificate:
        try:
            context.load_cert_chain(tls.certificate, tls.key or None, password=_no_password)
        except (OSError, ValueError) as error:
            if own_limit(error):
                raise
            raise UnusableError(_certificate_problem(tls, error)) from None
    return context


def _trusting(tls: Tls) -> ssl.SSLContext:
    """Return a context that trusts the authorities, or a context that verifies no certificate."""
    if tls.skip_verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if tls.ca:
            return ssl.create_default_context(cafile=tls.ca)
        return httpx.create_ssl_context()
    except (OSError, ValueError) as error:
        if own_limit(error):
            raise
        source = f"ca: {tls.ca}" if tls.ca else "SSL_CERT_FILE or SSL_CERT_DIR"
        problem = _tls_problem(error, "it holds no PEM certificate")
        raise UnusableError(f"{source} cannot be loaded: {problem}") from None


def _certificate_problem(tls: Tls, error: Exception) -> str:
    """Return whether the client's certificate or its key cannot be loaded, and why."""
    certificate = f"certificate: {tls.certificate}"
    key = f"key: {tls.key or tls.certificate}"
    if isinstance(error, _PasswordError):
        return f"{key} has a password; use a key without one"
    if isinstance(error, ssl.SSLError) and not error.reason:
        try:
            if b"CERTIFICATE-----" not in Path(tls.certificate).read_bytes():
                return f"{certificate} holds no PEM certificate"
            if b"PRIVATE KEY-----" not in Path(tls.key or tls.certificate).read_bytes():
                return f"{key} holds no PEM key"
        except OSError as unreadable:  # the file was removed meanwhile
            error = unreadable
    return f"{certificate} and {key} cannot be loaded: {_tls_problem(error, 'they are damaged')}"


def _tls_problem(error: Exception, default: str) -> str:
    """Return what is wrong with a PEM file: the system's text or OpenSSL's name of the error.

    Neither quotes the file. ``default`` is for an error that has no name.
    """
    if not isinstance(error, ssl.SSLError):
        text = error.strerror if isinstance(error, OSError) else ""
        return text or "it is no path"
    reason = (error.reason or "").replace("_", " ").lower()
    if reason in {"key values mismatch", "key type mismatch"}:
        return "the key does not belong to the certificate"
    if reason in {"", "no certificate or crl found"}:
        return default
    return reason


class _PasswordError(ValueError):
    """A key has a password."""


def _no_password() -> str:
    """Refuse to return the password of a key. Always raises _PasswordError.

    Without this function, OpenSSL would ask for the password on the terminal, and wait.
    """
    raise _PasswordError
