"""The parts of a manifest that the rules look at. Whatever stands where something else belongs counts as not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

OURS = "ops-worker"
NAME_LABEL = "app.kubernetes.io/name"
NEEDS_PASSWORD = frozenset({"health", "metrics", "sidecar", "init-db"})


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


class Worker(NamedTuple):
    """A container of ours and what it stands in: its pod's spec and labels, the paths of both, its arguments and variables.

    ``env`` holds what is told in plain text; ``hidden`` what comes from elsewhere; ``secrets`` whether the password comes
    from a Secret; ``missing`` the ConfigMaps that are not among the files. ``files`` holds what ConfigMaps put into its file
    system, by path. ``sole`` is false in a pod that is somebody else's.
    """

    document: Document
    container: Mapping[str, Any]
    where: str
    pod: Mapping[str, Any]
    pod_path: str
    labels: Mapping[str, Any]
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    hidden: frozenset[str]
    secrets: bool
    missing: tuple[str, ...]
    files: Mapping[str, str]
    sole: bool

    @property
    def options(self) -> Mapping[str, str]:
        """Its options with their values, however they are written."""
        words = " ".join(self.arguments).replace("=", " ").split()
        return {word: after for word, after in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}

    @property
    def command(self) -> str:
        """The subcommand that it runs."""
        return self.arguments[0] if self.arguments else ""


def mapping(node: Any) -> Mapping[str, Any]:
    """Give a mapping, or an empty one for anything else."""
    return node if isinstance(node, dict) else {}


def items(node: Any) -> list[Any]:
    """Give a list, or an empty one for anything else."""
    return node if isinstance(node, list) else []


def text(node: Any) -> str:
    """Give a string, or an empty one for anything else."""
    return node if isinstance(node, str) else ""


def number(node: Any) -> float | None:
    """Give a number, from a number or its digits, or None."""
    try:
        return None if isinstance(node, bool) or not isinstance(node, (int, float, str)) else float(node)
    except (ValueError, OverflowError):
        return None


def at(node: Any, *path: str) -> Mapping[str, Any]:
    """Follow the keys to a mapping; an empty one where the way ends."""
    for key in path:
        node = mapping(node).get(key)
    return mapping(node)


POD_PATHS = {
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Job": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Pod": (),
}


def workers(documents: Sequence[Document]) -> Iterator[Worker]:
    """Find the containers that run ops-worker."""
    maps = {(one.namespace, one.name): mapping(one.content.get("data")) for one in documents if one.kind == "ConfigMap"}
    for document in documents:
        path = POD_PATHS.get(document.kind)
        if path is None:
            continue
        template = at(document.content, *path)
        labels, pod = at(template, "metadata", "labels"), at(template, "spec")
        boxes = [mapping(one) for one in items(pod.get("containers"))]
        sole = labels.get(NAME_LABEL) == OURS or bool(boxes and all(_image(one) == OURS for one in boxes))
        pod_path = ".".join((*path, "spec"))
        for field in ("initContainers", "containers"):
            for index, container in enumerate(map(mapping, items(pod.get(field)))):
                if sole or _image(container) == OURS:
                    where = f"{pod_path}.{field}[{index}]"
                    yield _worker(document, container, where, pod, pod_path, labels, maps, sole=sole)


def _image(container: Mapping[str, Any]) -> str:
    return text(container.get("image")).rpartition("/")[2].partition("@")[0].partition(":")[0]


def _worker(  # noqa: PLR0913, PLR0917 - what is known at that point
    document: Document,
    container: Mapping[str, Any],
    where: str,
    pod: Mapping[str, Any],
    pod_path: str,
    labels: Mapping[str, Any],
    maps: Mapping[tuple[str, str], Mapping[str, Any]],
    *,
    sole: bool,
) -> Worker:
    env: dict[str, str] = {}
    hidden: set[str] = set()
    missing: list[str] = []
    secrets = False
    for source in map(mapping, items(container.get("envFrom"))):
        secrets = secrets or "secretRef" in source
        if name := text(at(source, "configMapRef").get("name")):
            found = maps.get((document.namespace, name))
            if found is None and not at(source, "configMapRef").get("optional"):
                missing.append(name)
            env |= {text(source.get("prefix")) + str(key): str(value) for key, value in (found or {}).items()}
    for variable in map(mapping, items(container.get("env"))):
        name, reference = text(variable.get("name")), at(variable, "valueFrom", "configMapKeyRef")
        env.pop(name, None)
        data = maps.get((document.namespace, text(reference.get("name"))), {})
        if "valueFrom" not in variable:
            env[name] = str(variable.get("value") or "")
        elif text(reference.get("key")) in data:
            env[name] = str(data[text(reference.get("key"))])
        else:
            hidden.add(name)
            secrets = secrets or (name in {"DATABASE_URL", "PG_PASS"} and bool(at(variable, "valueFrom", "secretKeyRef")))
    arguments = tuple(str(one) for one in items(container.get("args")))
    files = dict(_files(pod, container, document.namespace, maps))
    return Worker(
        document, container, where, pod, pod_path, labels, arguments, env, frozenset(hidden), secrets, tuple(missing), files, sole
    )


def _files(
    pod: Mapping[str, Any], container: Mapping[str, Any], namespace: str, maps: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Give the files that ConfigMaps put into a container: path and content."""
    volumes = {text(one.get("name")): one for one in map(mapping, items(pod.get("volumes")))}
    for mount in map(mapping, items(container.get("volumeMounts"))):
        volume = at(volumes.get(text(mount.get("name"))), "configMap")
        data = maps.get((namespace, text(volume.get("name"))), {})
        chosen = {text(one.get("key")): text(one.get("path")) for one in map(mapping, items(volume.get("items")))}
        root, only = text(mount.get("mountPath")).rstrip("/"), text(mount.get("subPath"))
        for key, path in (chosen or dict(zip(data, data, strict=True))).items():
            if isinstance(data.get(key), str) and only in {"", path}:
                yield root if only else f"{root}/{path}", data[key]
