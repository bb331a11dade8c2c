"""The parts of a manifest that the rules read.

A value of an unexpected type counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core import pods
from ops_worker.core.pods import NAME_LABEL, OURS, SHELLS, at, items, mapping, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
"""Matches ``$(NAME)`` in a value or an argument, and ``$$``, which stands for a dollar sign.

Source: kubernetes.io, "Define Dependent Environment Variables".
"""
SECRET_NAMES = ("DATABASE_URL", "PG_PASS", "PGPASSWORD")
"""Variables whose value is never expanded elsewhere, so that no fault can quote it."""
SERVICE_VARIABLE = re.compile(
    r"[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[A-Z0-9_]+)?)"
)
"""Variables that Kubernetes sets for every Service.

Source: kubernetes.io, "Service", section "Environment variables".
"""
SERVER_NAMES = re.compile(
    r"(?<![a-z0-9])(agent|collector|consul|daprd|envoy|exporter|filebeat|fluent(bit|d)?|haproxy"
    r"|memcached|nginx|otelcol|pgbouncer|pgcat|promtail|proxy|redis|sidecar|statsd|tailscale"
    r"|telegraf|traefik|tunnel|vector)"
    r"(?![a-z0-9]|[-_]?(cli|ctl|init|tool))"
)
"""Words in the names of containers and images that usually run until they are stopped."""
WAITS_FOREVER = re.compile(
    r"\bsleep\s+(infinity|inf|[0-9]{6,})|\btail\s+-[fF]|\bwhile\s+(true|:|sleep)"
)
"""Commands in a script that wait for ever."""
CAN_END = re.compile(r"\b(break|exit|kill|pkill|killall|timeout)\b|--pid")
"""Words in a script that may end such a wait."""
JOBS = frozenset({"CronJob", "Job"})
"""Kinds whose pods must end."""
POD_PATHS = {
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
    "PodTemplate": ("template",),
}
"""The path of the pod template in kinds that do not have it at ``spec.template``."""
TEMPLATE = ("spec", "template")
"""The path of the pod template in most kinds, including custom resources."""
ConfigMaps = Mapping[tuple[str, str], Mapping[str, Any]]
"""The data of ConfigMaps, by namespace and name."""


class Document(NamedTuple):
    """A Kubernetes object, and the file that it was read from."""

    file: str
    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of the object."""
        return text(self.content.get("kind"))

    @property
    def name(self) -> str:
        """The name of the object."""
        return text(at(self.content, "metadata").get("name"))

    @property
    def namespace(self) -> str:
        """The namespace of the object; empty if the file does not name it."""
        return text(at(self.content, "metadata").get("namespace"))

    @property
    def labels(self) -> Mapping[str, Any]:
        """The labels of the object."""
        return at(self.content, "metadata", "labels")

    def fault(self, field: str, message: str) -> Fault:
        """Return a fault of this object."""
        return Fault(self.file, f"{self.kind}/{self.name}", field, message)


class Problem(NamedTuple):
    """A problem in one object: the field, and what is wrong with it.

    ``config_map`` is the ConfigMap of the same namespace that has the problem. It is empty if the
    object itself has it.
    """

    field: str
    message: str
    config_map: str = ""


class Fault(NamedTuple):
    """A problem with its place: the file, the object (kind and name), the field, the message."""

    file: str
    subject: str
    field: str
    message: str

    def __str__(self) -> str:
        """Return the fault as one line, even if names contain line ends."""
        return " ".join(f"{self.file}: {self.subject}: {self.field}: {self.message}".split())


class ProgramFacts(NamedTuple):
    """The facts about the program that the rules need.

    - ``argument_error``: takes arguments, and returns their fault or an empty string.
    - ``defaults``: the settings' default values, by environment variable.
    - ``setting_errors``: takes environment variables, and returns the faults of their values.
    """

    argument_error: Callable[[Sequence[str]], str]
    defaults: Mapping[str, str]
    setting_errors: Callable[[Mapping[str, str]], Sequence[str]]


class Environment(NamedTuple):
    """The environment variables of a container, as far as the files contain them.

    - ``values``: known values, with ``$(NAME)`` expanded as Kubernetes does it.
    - ``partial``: values that still contain references to unknown values.
    - ``unknown``: the names of all variables whose value is unknown.
    - ``referenced``: the names to which values refer with ``$(NAME)``.
    - ``undefined``: references that Kubernetes does not expand: the variable, and the name in the
      reference.
    - ``password_from_secret``: whether the database password comes from a Secret.
    - ``missing_config_maps``: the ConfigMaps that are not in the files.
    - ``may_have_more``: whether there may be variables whose names are unknown.
    - ``origins``: the ConfigMaps that values come from with ``envFrom``, by variable.
    """

    values: Mapping[str, str]
    partial: Mapping[str, str]
    unknown: frozenset[str]
    referenced: frozenset[str]
    undefined: tuple[tuple[str, str], ...]
    password_from_secret: bool
    missing_config_maps: tuple[str, ...]
    may_have_more: bool
    origins: Mapping[str, str]


class Worker(NamedTuple):
    """A container that runs the worker, and its surroundings.

    - ``container_path`` and ``pod_path``: the paths of the container and of the pod's spec.
    - ``invocation``: the worker's command line; None if the container runs another program.
    - ``arguments_known``: false if the arguments refer to unknown values.
    - ``files``: content of the files that ConfigMaps mount into the container, by path.
    - ``owns_pod``: false if the pod mainly runs another program.
    - ``only_container``: true if the worker owns the pod and is its only container.
    """

    document: Document
    container: pods.Container
    container_path: str
    pod: Mapping[str, Any]
    pod_path: str
    labels: Mapping[str, Any]
    invocation: pods.Invocation | None
    arguments_known: bool
    environment: Environment
    files: Mapping[str, str]
    owns_pod: bool
    only_container: bool

    @property
    def content(self) -> Mapping[str, Any]:
        """The container in the manifest."""
        return self.container.content

    @property
    def values(self) -> Mapping[str, str]:
        """The environment variables whose values are known."""
        return self.environment.values

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of the command line, without the name of the program."""
        return self.invocation.arguments if self.invocation else ()

    @property
    def options(self) -> Mapping[str, str]:
        """The options of the command line with their values, written with ``=`` or without."""
        words = " ".join(self.arguments).replace("=", " ").split()
        following = zip(words, [*words[1:], ""], strict=False)
        return {word: after for word, after in following if word.startswith("--")}

    @property
    def command(self) -> str:
        """The subcommand that the container runs."""
        return self.arguments[0] if self.arguments else ""

    @property
    def endless(self) -> bool:
        """True if the command never ends by itself."""
        loops = "--every" in self.options and "--for" not in self.options
        return loops or self.command == "sidecar"

    @property
    def restarted(self) -> bool:
        """True if Kubernetes starts the container again after exit code 0."""
        if self.container.is_native_sidecar:
            return True
        return self.container.is_main and self.document.kind not in {*JOBS, "Pod"}

    @property
    def scheduled(self) -> bool:
        """True if the container's passes are the runs of a CronJob."""
        return self.document.kind == "CronJob" and self.container.is_main


def number(node: Any) -> float | None:
    """Return a number, or a string of digits as a number; None for anything else."""
    if isinstance(node, bool) or not isinstance(node, (int, float, str)):
        return None
    try:
        return float(node)
    except (ValueError, OverflowError):
        return None


def is_ours(document: Document) -> bool:
    """Return whether an object belongs to the worker, by its name or label."""
    named = re.search(rf"(^|-){OURS}(-|$)", document.name)
    return bool(named) or document.labels.get(NAME_LABEL) == OURS


def selects(selector: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    """Return whether a label selector matches labels. An empty selector matches all.

    Source: kubernetes.io, "Labels and Selectors", section "Resources that support set-based
    requirements".
    """
    expressions = map(mapping, items(selector.get("matchExpressions")))
    if not all(_matches(expression, labels) for expression in expressions):
        return False
    required = at(selector, "matchLabels")
    return all(labels.get(label) == value for label, value in required.items())


def _matches(expression: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    """Return whether labels match an expression; false for an unknown operator."""
    value = labels.get(text(expression.get("key")))
    values = items(expression.get("values"))
    results = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return results.get(text(expression.get("operator")), False)


def pod_template(document: Document) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return the path of an object's pod template, and the template; empty if it has none."""
    path = POD_PATHS.get(document.kind, TEMPLATE)
    template = at(document.content, *path)
    if not items(at(template, "spec").get("containers")):
        return path, {}
    return path, template


def find_workers(documents: Sequence[Document]) -> Iterator[Worker]:
    """Yield the containers that run the worker."""
    config_maps = {
        (document.namespace, document.name): mapping(document.content.get("data"))
        for document in documents
        if document.kind == "ConfigMap"
    }
    for document in documents:
        yield from _workers_of(document, config_maps)


def _workers_of(document: Document, config_maps: ConfigMaps) -> Iterator[Worker]:
    path, template = pod_template(document)
    labels = at(template, "metadata", "labels")
    pod = at(template, "spec")
    ours = pods.workers(pod, labels)
    others = [container for container in pods.containers(pod) if container not in ours]
    # A proxy beside a pass serves the pass. Any other main container owns the pod.
    owners = [
        container
        for container in others
        if container.is_main and not (document.kind in JOBS and serves(container))
    ]
    labelled = labels.get(NAME_LABEL) == OURS
    owns_pod = labelled or (any(container.is_main for container in ours) and not owners)
    pod_path = ".".join((*path, "spec"))
    for container in ours:
        environment = _environment(container.content, document.namespace, config_maps)
        invocation, unexpanded = _expanded_invocation(container, environment)
        unknown = {*environment.unknown, *SECRET_NAMES}
        depends = environment.may_have_more or any(name in unknown for name in unexpanded)
        yield Worker(
            document=document,
            container=container,
            container_path=f"{pod_path}.{container.field}[{container.position}]",
            pod=pod,
            pod_path=pod_path,
            labels=labels,
            invocation=invocation,
            arguments_known=not (unexpanded and depends),
            environment=environment,
            files=dict(_files(pod, container.content, document.namespace, config_maps)),
            owns_pod=owns_pod,
            only_container=owns_pod and not others,
        )


def _expanded_invocation(
    container: pods.Container, environment: Environment
) -> tuple[pods.Invocation | None, list[str]]:
    """Return how a container runs the worker, and the unexpanded names in its arguments."""
    invocation = pods.invocation(container.content)
    if invocation is None:
        return None, []
    arguments: list[str] = []
    unexpanded: list[str] = []
    for argument in invocation.arguments:
        expanded, names = _expanded(argument, environment.values)
        arguments.append(expanded)
        unexpanded += names
    return invocation._replace(arguments=tuple(arguments)), unexpanded


def serves(container: pods.Container) -> bool:
    """Return whether a container seems never to end by itself.

    This is so if it has the name of a server or a readiness probe, or if its script waits for ever.
    """
    content = container.content
    words = [str(word) for field in ("command", "args") for word in items(content.get(field))]
    script = " ".join(words)
    if WAITS_FOREVER.search(script):
        return not CAN_END.search(script)
    if words[1:] and words[0].rpartition("/")[2] in SHELLS:
        return False  # a script may do anything, so report no problem
    program = pods.image_name(content)
    if items(content.get("command")):
        program = words[0].rpartition("/")[2]
    names = f"{container.name} {program}".lower()
    return bool(SERVER_NAMES.search(names) or at(content, "readinessProbe"))


def _expanded(value: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    """Expand ``$(NAME)`` of known variables; return the text and the names that stay in it."""
    unexpanded: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        """Return the value of a reference; the reference itself if its value is unknown."""
        if match[1] == "$":
            return "$"
        name = match[2]
        if name in values and name not in SECRET_NAMES:
            return values[name]
        unexpanded.append(name)
        return match[0]

    return REFERENCE.sub(replacement, value), unexpanded


def _references(value: object) -> set[str]:
    """Return the names that a value refers to with ``$(NAME)``."""
    return {match[2] for match in REFERENCE.finditer(str(value)) if match[2] is not None}


def _environment(
    container: Mapping[str, Any], namespace: str, config_maps: ConfigMaps
) -> Environment:
    """Read the variables of a container in Kubernetes' order.

    Later variables can refer to earlier variables.
    """
    sources = _sources(container, namespace, config_maps)
    reader = _EnvironmentReader(sources, namespace, config_maps)
    for field in ("command", "args"):
        for word in items(container.get(field)):
            reader.referenced |= _references(word)
    for variable in items(container.get("env")):
        reader.add(mapping(variable))
    return reader.environment()


class _Sources(NamedTuple):
    """The variables that a container has from ``envFrom``."""

    values: dict[str, str]
    missing: tuple[str, ...]
    may_have_more: bool
    from_secret: bool
    origins: dict[str, str]


class _EnvironmentReader:
    """Collects the variables of ``env``, one after the other."""

    def __init__(self, sources: _Sources, namespace: str, config_maps: ConfigMaps) -> None:
        self.referenced: set[str] = set()
        self._sources = sources
        self._namespace = namespace
        self._config_maps = config_maps
        self._values = dict(sources.values)
        self._origins = dict(sources.origins)
        self._partial: dict[str, str] = {}
        self._unknown: set[str] = set()
        self._secret: set[str] = set()
        self._undefined: list[tuple[str, str]] = []

    def add(self, variable: Mapping[str, Any]) -> None:
        """Add a variable. It replaces an earlier variable of the same name."""
        name = text(variable.get("name"))
        origin = at(variable, "valueFrom")
        written = str(variable.get("value") or "")
        self.referenced |= _references(written)
        value, unexpanded = _expanded(written, self._values)
        set_elsewhere = {reference for reference in unexpanded if self._may_be_set(reference)}
        self._undefined += [
            (name, reference) for reference in unexpanded if reference not in set_elsewhere
        ]
        from_secret = "secretKeyRef" in origin
        if set_elsewhere:
            from_secret |= self._sources.from_secret or not self._secret.isdisjoint(set_elsewhere)
        self._forget(name)
        if set_elsewhere:
            self._partial[name] = value
        elif "valueFrom" not in variable:
            self._values[name] = value
        else:
            self._add_from_config_map(name, at(origin, "configMapKeyRef"))
        if name not in self._values:
            self._unknown.add(name)
        if from_secret:
            self._secret.add(name)

    def environment(self) -> Environment:
        """Return the collected variables."""
        password_names = {"DATABASE_URL", "PG_PASS"}
        return Environment(
            values=self._values,
            partial=self._partial,
            unknown=frozenset(self._unknown),
            referenced=frozenset(self.referenced),
            undefined=tuple(self._undefined),
            password_from_secret=self._sources.from_secret
            or not self._secret.isdisjoint(password_names),
            missing_config_maps=self._sources.missing,
            may_have_more=self._sources.may_have_more,
            origins=self._origins,
        )

    def _may_be_set(self, name: str) -> bool:
        """Return whether a variable may have a value that the files do not show."""
        if self._sources.may_have_more or name in self._unknown:
            return True
        secret = name in SECRET_NAMES and name in self._values
        return secret or bool(SERVICE_VARIABLE.fullmatch(name))

    def _add_from_config_map(self, name: str, reference: Mapping[str, Any]) -> None:
        data = self._config_maps.get((self._namespace, text(reference.get("name"))), {})
        key = text(reference.get("key"))
        if key in data:
            self._values[name] = str(data[key])

    def _forget(self, name: str) -> None:
        self._values.pop(name, None)
        self._origins.pop(name, None)
        self._partial.pop(name, None)
        self._unknown.discard(name)
        self._secret.discard(name)


def _sources(container: Mapping[str, Any], namespace: str, config_maps: ConfigMaps) -> _Sources:
    """Read ``envFrom`` of a container."""
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    missing: list[str] = []
    may_have_more = from_secret = False
    for source in map(mapping, items(container.get("envFrom"))):
        from_secret = from_secret or "secretRef" in source
        reference = at(source, "configMapRef")
        name = text(reference.get("name"))
        data = config_maps.get((namespace, name))
        if data is None:
            may_have_more = True
            if name and not reference.get("optional"):
                missing.append(name)
            continue
        prefix = text(source.get("prefix"))
        values |= {f"{prefix}{key}": str(value) for key, value in data.items()}
        origins |= {f"{prefix}{key}": name for key in data}
    return _Sources(
        values=values,
        missing=tuple(missing),
        may_have_more=may_have_more,
        from_secret=from_secret,
        origins=origins,
    )


def volumes_of(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the volumes of a pod, by name."""
    return {text(volume.get("name")): volume for volume in map(mapping, items(pod.get("volumes")))}


def _files(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    namespace: str,
    config_maps: ConfigMaps,
) -> Iterator[tuple[str, str]]:
    """Yield the path and content of each file that a ConfigMap mounts into a container."""
    volumes = volumes_of(pod)
    for mount in map(mapping, items(container.get("volumeMounts"))):
        volume = at(volumes.get(text(mount.get("name"))), "configMap")
        data = config_maps.get((namespace, text(volume.get("name"))), {})
        # Without `items`, every key is the name of a file.
        paths = {
            text(item.get("key")): text(item.get("path"))
            for item in map(mapping, items(volume.get("items")))
        } or {key: key for key in data}
        root = text(mount.get("mountPath")).rstrip("/")
        sub_path = text(mount.get("subPath"))
        for key, path in paths.items():
            if not isinstance(data.get(key), str):
                continue
            if not sub_path:
                yield f"{root}/{path}", data[key]
            elif sub_path == path:
                yield root, data[key]
