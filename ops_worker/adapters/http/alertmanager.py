"""Post alerts to several Alertmanagers at the same time, and check that each one answers.

An Alertmanager receives alerts, groups and routes them, and sends them to people. Prometheus
defines its interface (api/v2/openapi.yaml of Alertmanager).
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ops_worker import redact
from ops_worker.adapters import http
from ops_worker.adapters.http.exchange import ask
from ops_worker.catalogue import NO_HEADER, is_header_value
from ops_worker.core.decoding import decode
from ops_worker.core.model import Target, Tls
from ops_worker.text import one_line, without_password

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from ops_worker.adapters.http.exchange import Steps
    from ops_worker.core.model import Observation
    from ops_worker.core.self_check import Presence

BATCH = 256
"""Maximum number of alerts in one request, as in Prometheus.

Such a request has less than 1 MB, which is a usual limit of proxies.
"""
MAX_TOKEN = 1 << 14
"""Maximum size of a token in bytes, the same as for a secret in a file of the catalogue."""
ACCEPTED = tuple(range(200, 300))
"""HTTP statuses of a successful post."""
JSON_CONTENT = ("Content-Type", "application/json")


class Alertmanagers(NamedTuple):
    """The Alertmanagers of an installation, and how to reach them.

    - ``urls``: their base URLs. A URL with ``user:password@`` uses Basic authentication.
    - ``token_file``: the file with a bearer token for the other URLs; empty: no token.
    - ``ca``: the file with the authorities to trust for https; empty: the default ones.
    """

    urls: tuple[str, ...]
    token_file: str = ""
    ca: str = ""


def post(
    receivers: Alertmanagers, alerts: Sequence[Mapping[str, Any]], deadline_s: float
) -> list[str]:
    """Post the alerts to every Alertmanager within ``deadline_s`` seconds; return what failed.

    The order of the alerts is kept. Redirects are not followed. Never raises for what an
    Alertmanager or its files do.
    """
    documents = [
        json.dumps(alerts[start : start + BATCH], allow_nan=False).encode()
        for start in range(0, len(alerts), BATCH)
    ]
    targets = [
        target._replace(headers=(*target.headers, JSON_CONTENT))
        for target in _targets(receivers, "/api/v2/alerts", deadline_s)
    ]
    observations = http.observe(targets, exchange=partial(_post_all, documents))
    return [
        f"{_shown(receivers.urls[index])}: {_problem(observation)}"
        for index, observation in enumerate(observations)
        if observation.http_status not in ACCEPTED
    ]


def presence(receivers: Alertmanagers, deadline_s: float) -> list[Presence]:
    """Ask every Alertmanager for its version within ``deadline_s`` seconds."""
    from ops_worker.core.self_check import Presence

    observations = http.observe(_targets(receivers, "/api/v2/status", deadline_s))
    present = []
    for url, observation in zip(receivers.urls, observations, strict=True):
        version, problem = "", ""
        if observation.http_status in ACCEPTED:
            version, problem = _version(observation.body)
        else:
            problem = _problem(observation)
        present.append(Presence(_shown(url), version, problem))
    return present


def _version(body: bytes) -> tuple[str, str]:
    """Return the version in an answer, or why the answer is not from an Alertmanager."""
    try:
        about = decode(body).get("versionInfo")
    except ValueError:
        about = None
    if not isinstance(about, dict):
        return "", "the answer is not that of an Alertmanager"
    return one_line(str(about.get("version", ""))), ""


def _post_all(
    documents: Sequence[bytes], target: Target, contexts: Mapping[Tls, ssl.SSLContext]
) -> Steps:
    """Post the documents one after the other; return the first unexpected answer.

    If all answers are as expected, return the last one.
    """
    refused: Observation | None = None
    observation: Observation | None = None
    for document in documents:
        observation = yield from ask(target._replace(method="POST", body=document), contexts)
        assert observation is not None
        if observation.http_status not in ACCEPTED:
            # Post the other documents, too: the answer may be about a single alert.
            refused = refused or observation
    return refused or observation


def _targets(receivers: Alertmanagers, path: str, deadline_s: float) -> list[Target]:
    """Return a target for every Alertmanager. The token is read again each time."""
    headers: tuple[tuple[str, str], ...] = ()
    faults: tuple[str, ...] = ()
    if receivers.token_file and not all(map(_has_login, receivers.urls)):
        token, fault = _read_token(receivers.token_file)
        redact.remember([token])
        if token:
            headers = (("Authorization", f"Bearer {token}"),)
        else:
            faults = (fault,)
    return [
        Target(
            name="alertmanager",
            url=url.rstrip("/") + path,
            series="",
            counters=None,
            expect=ACCEPTED,
            deadline_s=deadline_s,
            json=False,
            headers=() if _has_login(url) else headers,
            tls=Tls(ca=receivers.ca),
            faults=() if _has_login(url) else faults,
        )
        for url in receivers.urls
    ]


def _read_token(path: str) -> tuple[str, str]:
    """Return the token in a file, or why there is none. The reason never quotes the file."""
    problem = "cannot be read: it is not a path"
    try:
        # Open without blocking: a pipe would wait for a process that writes to it.
        with open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        ) as file:
            data = file.read(MAX_TOKEN + 1) or b""  # None: the pipe has a writer and no data
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError:
        pass
    else:
        token = data.decode("utf-8-sig", errors="replace").strip()
        if not token:
            problem = "is empty"
        elif len(data) > MAX_TOKEN:
            problem = "cannot be read: larger than 16 KiB"
        elif not is_header_value(token):
            problem = NO_HEADER
        else:
            return token, ""
    # Do not show the path: a person may have set the token itself instead.
    return "", f"the file of ALERTMANAGER_TOKEN_FILE {problem}"


def _has_login(url: str) -> bool:
    return "@" in urlsplit(url).netloc


def _shown(url: str) -> str:
    return one_line(without_password(url))


def _problem(observation: Observation) -> str:
    return one_line(observation.error or f"http {observation.http_status}")
