"""The parts of a manifest that the rules look at. Whatever stands where something else belongs counts as not there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ops_worker.core import pods
from ops_worker.core.pods import NAME_LABEL, OURS, SHELLS, at, items, mapping, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
"""``$(NAME)`` in a value or an argument, and ``$$``, which is a dollar sign."""
SECRETS = ("DATABASE_URL", "PG_PASS", "PGPASSWORD")
"""Variables whose value is never put in elsewhere, so that no fault can quote it."""
SERVICE = re.compile(r"[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[A-Z0-9_]+)?)")
"""Variables that Kubernetes sets for each Service."""
SERVERS = re.compile(
    r"(?<![a-z0-9])(agent|collector|consul|daprd|envoy|exporter|filebeat|fluent(bit|d)?|haproxy"
    r"|memcached|nginx|otelcol|pgbouncer|pgcat|promtail|proxy|redis|sidecar|statsd|tailscale"
    r"|telegraf|traefik|tunnel|vector)"
    r"(?![a-z0-9]|[-_]?(cli|ctl|init|tool))"
)
"""Words in the names of containers and images that run until somebody stops them."""
WAITS = re.compile(r"\bsleep\s+(infinity|inf|[0-9]{6,})|\btail\s+-[fF]|\bwhile\s+(true|:|sleep)")
LEAVES = re.compile(r"\b(break|exit|kill|pkill|killall|timeout)\b|--pid")


class Document(NamedTuple):
    """One object of a file."""

    file: str
    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Its kind."""
        return text(self.content.get("kind"))

    @property
    def name(self) -> str:
        """Its name."""
        return text(at(self.content, "metadata").get("name"))

    @property
    def namespace(self) -> str:
        """Its namespace; empty when it says none."""
        return text(at(self.content, "metadata").get("namespace"))


class Fault(NamedTuple):
    """Something wrong: in which file, object and field, and what it should be."""

    file: str
    subject: str
    field: str
    message: str

    def __str__(self) -> str:
        """One line, whatever the names in it are."""
        return " ".join(f"{self.file}: {self.subject}: {self.field}: {self.message}".split())


class Facts(NamedTuple):
    """What the rules know of the program: its commands' parser, its settings, their defaults and their checks.

    ``parse`` gives what is wrong with arguments, or nothing; ``faults`` the same of settings, by variable.
    """

    parse: Callable[[Sequence[str]], str]
    defaults: Mapping[str, str]
    faults: Callable[[Mapping[str, str]], Sequence[str]]


class Environment(NamedTuple):
    """The variables of a container, as far as the files tell.

    ``told`` holds known values, with ``$(NAME)`` expanded as Kubernetes does. ``partly`` holds
    values in which references to unknown values are left. ``hidden`` are the names of all unknown
    values. ``used`` are the names that are referred to. ``undefined`` are the references that
    Kubernetes leaves as they are: variable and name. ``secrets`` tells whether the password comes
    from a Secret. ``missing`` are the ConfigMaps that are not among the files. ``more`` tells
    whether there may be variables whose names are unknown.
    """

    told: Mapping[str, str]
    partly: Mapping[str, str]
    hidden: frozenset[str]
    used: frozenset[str]
    undefined: tuple[tuple[str, str], ...]
    secrets: bool
    missing: tuple[str, ...]
    more: bool


class Worker(NamedTuple):
    """A container of ours and what it stands in: its pod's spec and labels, the paths of both, its arguments and variables.

    ``run`` is None when its command is another program. ``known`` is false when its arguments
    refer to unknown values. ``files`` holds what ConfigMaps put into its file system, by path.
    ``sole`` is false in a pod that is somebody else's, ``alone`` also beside other containers.
    """

    document: Document
    box: pods.Container
    where: str
    pod: Mapping[str, Any]
    pod_path: str
    labels: Mapping[str, Any]
    run: pods.Invocation | None
    known: bool
    variables: Environment
    files: Mapping[str, str]
    sole: bool
    alone: bool

    @property
    def container(self) -> Mapping[str, Any]:
        """The container itself."""
        return self.box.content

    @property
    def env(self) -> Mapping[str, str]:
        """Its variables whose values are known."""
        return self.variables.told

    @property
    def arguments(self) -> tuple[str, ...]:
        """Its command line, after the program's name."""
        return self.run.arguments if self.run else ()

    @property
    def options(self) -> Mapping[str, str]:
        """Its options with their values, however they are written."""
        words = " ".join(self.arguments).replace("=", " ").split()
        following = zip(words, [*words[1:], ""], strict=False)
        return {word: after for word, after in following if word.startswith("--")}

    @property
    def command(self) -> str:
        """The subcommand that it runs."""
        return self.arguments[0] if self.arguments else ""

    @property
    def endless(self) -> bool:
        """Whether it never ends by itself."""
        loops = "--every" in self.options and "--for" not in self.options
        return loops or self.command == "sidecar"

    @property
    def restarted(self) -> bool:
        """Whether Kubernetes starts it again after it has ended well."""
        return self.box.native or (self.box.main and self.document.kind not in {*JOBS, "Pod"})

    @property
    def scheduled(self) -> bool:
        """Whether its passes are the runs of a CronJob."""
        return self.document.kind == "CronJob" and self.box.main


def number(node: Any) -> float | None:
    """Give a number, from a number or its digits, or None."""
    try:
        return (
            None
            if isinstance(node, bool) or not isinstance(node, (int, float, str))
            else float(node)
        )
    except (ValueError, OverflowError):
        return None


Maps = Mapping[tuple[str, str], Mapping[str, Any]]
"""The data of ConfigMaps, by namespace and name."""
Sources = tuple[dict[str, str], list[str], bool, bool]
JOBS = frozenset({"CronJob", "Job"})
POD_PATHS = {
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
    "PodTemplate": ("template",),
}
TEMPLATE = ("spec", "template")
"""Where most kinds have their pod, also those that Kubernetes itself does not know."""


def pod_template(document: Document) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Give the path of an object's pod template, and the template; empty if it makes no pods."""
    path = POD_PATHS.get(document.kind, TEMPLATE)
    template = at(document.content, *path)
    return path, template if items(at(template, "spec").get("containers")) else {}


def workers(documents: Sequence[Document]) -> Iterator[Worker]:
    """Find the containers that run ops-worker."""
    maps = {
        (one.namespace, one.name): mapping(one.content.get("data"))
        for one in documents
        if one.kind == "ConfigMap"
    }
    for document in documents:
        path, template = pod_template(document)
        labels, pod = at(template, "metadata", "labels"), at(template, "spec")
        found = pods.workers(pod, labels)
        others = [one for one in pods.containers(pod) if one not in found]
        apps = [one for one in others if one.main and not (document.kind in JOBS and serves(one))]
        sole = labels.get(NAME_LABEL) == OURS or (any(one.main for one in found) and not apps)
        pod_path = ".".join((*path, "spec"))
        for box in found:
            variables = _environment(box.content, document.namespace, maps)
            run = pods.invocation(box.content)
            told = [_expanded(word, variables.told) for word in (run.arguments if run else ())]
            left = [name for _, names in told for name in names]
            unknown = {*variables.hidden, *SECRETS}
            yield Worker(
                document=document,
                box=box,
                where=f"{pod_path}.{box.field}[{box.place}]",
                pod=pod,
                pod_path=pod_path,
                labels=labels,
                run=run and run._replace(arguments=tuple(expanded for expanded, _ in told)),
                known=not any(variables.more or one in unknown for one in left),
                variables=variables,
                files=dict(_files(pod, box.content, document.namespace, maps)),
                sole=sole,
                alone=sole and not others,
            )


def serves(box: pods.Container) -> bool:
    """Tell whether a container seems never to end by itself.

    It has a server's name or a readiness probe, or its script waits for ever.
    """
    container = box.content
    words = [str(one) for field in ("command", "args") for one in items(container.get(field))]
    script = " ".join(words)
    if WAITS.search(script):
        return not LEAVES.search(script)
    if words[1:] and words[0].rpartition("/")[2] in SHELLS:
        return False  # nobody here knows what a script does
    program = pods.image_name(container)
    if items(container.get("command")):
        program = words[0].rpartition("/")[2]
    names = f"{box.name} {program}".lower()
    return bool(SERVERS.search(names) or at(container, "readinessProbe"))


def _expanded(value: str, known: Mapping[str, str]) -> tuple[str, list[str]]:
    """Expand ``$(NAME)`` of known variables; give the text, and the names that are left in it."""
    left = []

    def one(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        if match[2] in known and match[2] not in SECRETS:
            return known[match[2]]
        left.append(match[2])
        return match[0]

    return REFERENCE.sub(one, value), left


def _environment(container: Mapping[str, Any], namespace: str, maps: Maps) -> Environment:
    """Read a container's variables in Kubernetes' order: later ones see earlier ones."""
    told, missing, more, from_secret = _sources(container, namespace, maps)
    words = [*items(container.get("command")), *items(container.get("args"))]
    used = {match[2] for word in words for match in REFERENCE.finditer(str(word))}
    partly: dict[str, str] = {}
    hidden: set[str] = set()
    secret: set[str] = set()
    undefined: list[tuple[str, str]] = []
    for variable in map(mapping, items(container.get("env"))):
        name, origin = text(variable.get("name")), at(variable, "valueFrom")
        written = str(variable.get("value") or "")
        value, left = _expanded(written, told)
        unknown = hidden | (told.keys() & set(SECRETS))
        elsewhere = [one for one in left if more or one in unknown or SERVICE.fullmatch(one)]
        undefined += [(name, one) for one in left if one not in elsewhere]
        used |= {match[2] for match in REFERENCE.finditer(written)}
        chosen = at(origin, "configMapKeyRef")
        data = maps.get((namespace, text(chosen.get("name"))), {})
        secretly = bool(elsewhere) and (from_secret or bool(secret & set(elsewhere)))
        _forget(name, told, partly, hidden, secret)
        if elsewhere:
            partly[name] = value
        elif "valueFrom" not in variable:
            told[name] = value
        elif text(chosen.get("key")) in data:
            told[name] = str(data[text(chosen.get("key"))])
        if name not in told:
            hidden.add(name)
        if secretly or "secretKeyRef" in origin:
            secret.add(name)
    return Environment(
        told=told,
        partly=partly,
        hidden=frozenset(hidden),
        used=frozenset(used),
        undefined=tuple(undefined),
        secrets=from_secret or bool(secret & {"DATABASE_URL", "PG_PASS"}),
        missing=tuple(missing),
        more=more,
    )


def _sources(container: Mapping[str, Any], namespace: str, maps: Maps) -> Sources:
    """Read ``envFrom``: values, missing ConfigMaps, whether there may be more, whether a Secret."""
    told: dict[str, str] = {}
    missing: list[str] = []
    more = from_secret = False
    for source in map(mapping, items(container.get("envFrom"))):
        from_secret = from_secret or "secretRef" in source
        name = text(at(source, "configMapRef").get("name"))
        found = maps.get((namespace, name))
        more = more or found is None
        if name and found is None and not at(source, "configMapRef").get("optional"):
            missing.append(name)
        prefix = text(source.get("prefix"))
        told |= {f"{prefix}{key}": str(value) for key, value in (found or {}).items()}
    return told, missing, more, from_secret


def _forget(name: str, *groups: dict[str, str] | set[str]) -> None:
    """Take out what an earlier variable of the same name left."""
    for group in groups:
        if isinstance(group, set):
            group.discard(name)
        else:
            group.pop(name, None)


def _files(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    namespace: str,
    maps: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Iterator[tuple[str, str]]:
    """Give the files that ConfigMaps put into a container: path and content."""
    volumes = {text(one.get("name")): one for one in map(mapping, items(pod.get("volumes")))}
    for mount in map(mapping, items(container.get("volumeMounts"))):
        volume = at(volumes.get(text(mount.get("name"))), "configMap")
        data = maps.get((namespace, text(volume.get("name"))), {})
        chosen = {
            text(one.get("key")): text(one.get("path"))
            for one in map(mapping, items(volume.get("items")))
        }
        root, only = text(mount.get("mountPath")).rstrip("/"), text(mount.get("subPath"))
        for key, path in (chosen or dict(zip(data, data, strict=True))).items():
            if isinstance(data.get(key), str) and only in {"", path}:
                yield root if only else f"{root}/{path}", data[key]
