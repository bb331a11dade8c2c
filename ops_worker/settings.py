"""The settings: the only reader of the environment and of the ``.env`` file.

Each setting is one field with its docstring. ``--help``, docs/settings.md and ``.env.example`` are made from or checked
against these (see ``variables``), so that there is one place to add one. The services are entries of the catalogue.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticUseDefault
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from ops_worker import catalogue, redact
from ops_worker.catalogue import Catalogue, Source, Surroundings
from ops_worker.core.model import Thresholds
from ops_worker.errors import SettingsError
from ops_worker.text import without_password

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ops_worker.core.model import Target

SECRETS = ("DATABASE_URL", "PG_PASS", "HEARTBEAT_URL")
"""Settings whose value is never shown."""
ON, OFF = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def setting(default: Any = None, *, wants: str, only: str = "", **constraints: Any) -> Any:
    """Declare a field: its default, what it wants in words (for the fault), the commands that read it if not all do."""
    return Field(default, json_schema_extra={"wants": wants, "only": only}, **constraints)


def _default_when_empty(value: Any) -> Any:
    if value == "":
        raise PydanticUseDefault
    return value


def _level(value: Any) -> str:
    word = str(value).strip().upper()
    return word if word in LEVELS else "INFO"


def _database_url(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return value
    scheme, _, rest = value.get_secret_value().partition("://")
    # Any other @ is part of a password that was not escaped, of which libpq would take the rest for a host, and print it.
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    misplaced = authority.count("@") > 1 or "@" in path
    if "@" in query and not slash and "@" not in authority:
        misplaced = True  # libpq would take all before it for a user
    if scheme not in {"postgresql", "postgres"} or misplaced:
        raise ValueError("no connection URI")
    return value


def _with_hosts(value: SecretStr | None) -> SecretStr | None:
    """Refuse a URI of which a host is no name or address, or a port is no number.

    Without a host the "port" is the password, which libpq prints.
    """
    if value is not None:
        authority = re.split(r"[/?]", value.get_secret_value().partition("://")[2], maxsplit=1)[0]
        for place in authority.rpartition("@")[2].split(","):
            found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", place)
            if found is None or not _is_server(unquote(found.group(1)).strip("[]")):
                raise ValueError("no host or port")
    return value


def _pg_host(value: str) -> str:
    if not all(map(_is_server, value.split(","))):
        raise ValueError("no host")
    return value


def _is_server(host: str) -> bool:
    """Return whether libpq may take this for a host: a name, an address, or a socket's folder."""
    return host.startswith(("/", "@")) or catalogue.is_host(host)


def _utf8(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        value.get_secret_value().encode()  # raises a ValueError for what is no UTF-8
    return value


def _trimmed(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _without_line_end(value: Any) -> Any:
    # Blanks may be part of a password.
    return value.rstrip("\r\n") if isinstance(value, str) else value


def _http_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None and catalogue.url_problem(value.get_secret_value(), query=True):
        raise ValueError("no URL")
    return value


Text = Annotated[str, BeforeValidator(_default_when_empty)]
HostName = Annotated[str, AfterValidator(_pg_host), BeforeValidator(_default_when_empty)]
Integer = Annotated[int, BeforeValidator(_default_when_empty)]
Seconds = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_default_when_empty)]
HeartbeatUrl = Annotated[
    SecretStr | None,
    AfterValidator(_http_url),
    BeforeValidator(_default_when_empty),
    BeforeValidator(_trimmed),
]
Moment = Annotated[AwareDatetime | None, BeforeValidator(_default_when_empty)]
Switch = Annotated[bool, BeforeValidator(lambda value: str(value).strip().lower() in ON)]
Level = Annotated[str, BeforeValidator(_level)]
DatabaseUrl = Annotated[
    SecretStr | None,
    AfterValidator(_database_url),
    AfterValidator(_with_hosts),
    AfterValidator(_utf8),
    BeforeValidator(_default_when_empty),
    BeforeValidator(_trimmed),
]
Password = Annotated[SecretStr, AfterValidator(_utf8), BeforeValidator(_without_line_end)]


class Doubt(NamedTuple):
    """What a value is taken for that can hardly be meant, and what to set instead."""

    taken: str
    remedy: str


class Settings(BaseSettings):
    """Everything that may be set. Frozen; made by ``load``; the names of the variables are those of the fields in capitals.

    An empty value means the default, except for SYSTEM_ALERT_ENABLED, where only the words that are on are on.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=True,
        validate_default=False,
        alias_generator=str.upper,
        defer_build=True,
    )

    database_url: DatabaseUrl = setting(
        None,
        wants="a connection URI, postgresql://user:password@host:port/database, with any of @/?#% in the password escaped",
    )
    """Connection URI of the database, `postgresql://user:password@host:port/database`; the PG_ variables but PG_ROLE are then ignored."""
    pg_host: HostName = setting("iot-postgres", wants="a host name or address")
    """Host of the database."""
    pg_port: int = setting(5432, wants="a port number, 1 to 65535", ge=1, le=65535)
    """Port of the database."""
    pg_db: Text = setting("iotcloud", wants="the name of a database")
    """Name of the database."""
    pg_user: Text = setting("iot", wants="the name of a login role")
    """Login role."""
    pg_pass: Password = setting("", wants="a password in UTF-8", validate_default=True)
    """Password of the login role; required when DATABASE_URL is empty, and only then."""
    pg_role: Text = setting("", wants="the name of a role that PG_USER is a member of")
    """Role to take on inside every transaction (`pulse_operator` on the platform); empty: none."""
    ops_worker_catalogue: Text = setting(
        "", wants="the path of a TOML file", only="passes sidecar catalogue"
    )
    """File with services and figures of your own, which add to the platform's, replace them by name, or stand alone; empty: none."""
    system_alert_enabled: Switch = setting(
        default=True,
        wants="1, true, yes or on; any other word is off",
        only="passes sidecar",
    )
    """On for 1, true, yes, on in any case; any other word is off, and then the health pass says so and writes nothing."""
    maintenance_until: Moment = setting(
        None,
        wants="a time with its zone, 2026-03-01T12:00:00Z say",
        only="passes sidecar maintenance",
    )
    """Until then no alert opens, while probing and recording go on and alerts still close; so does `ops-worker maintenance start`."""
    alert_after_failures: Integer = setting(
        1, wants="a whole number of passes, at least 1", only="health sidecar", ge=1, le=32767
    )
    """Consecutive unhealthy passes after which a service's alert opens."""
    resolve_after_successes: Integer = setting(
        1, wants="a whole number of passes, at least 1", only="health sidecar", ge=1, le=32767
    )
    """Consecutive healthy passes after which a service's alert closes."""
    health_check_interval: Seconds = setting(
        60.0, wants="a number of seconds, at least 5", only="sidecar", ge=5, le=86400
    )
    """Period of the sidecar's health loop, in seconds, at least 5."""
    metrics_collection_interval: Seconds = setting(
        5.0, wants="a number of seconds, at least 1", only="sidecar", ge=1, le=86400
    )
    """Period of the sidecar's metrics loop, in seconds, at least 1."""
    metrics_buffer_samples: Integer = setting(
        0, wants="a whole number of samples, 0 or more", only="metrics sidecar", ge=0, le=1_000_000
    )
    """Samples that may wait in memory while the database is away, in a loop; 0: one hour's worth."""
    metrics_buffer_mib: Integer = setting(
        32, wants="a whole number of MiB, 1 to 65536", only="metrics sidecar", ge=1, le=65536
    )
    """Memory in MiB that these samples may take, compressed; when it is full, the oldest sample is dropped."""
    sidecar_host: Text = setting("127.0.0.1", wants="an address of this machine", only="sidecar")
    """Address on which the sidecar serves /health, /ready and /metrics; 0.0.0.0 for all, as a pod needs it."""
    sidecar_port: Integer = setting(
        8080, wants="a port number, 0 to 65535", only="sidecar", ge=0, le=65535
    )
    """Port on which the sidecar serves them; 0: it does not."""
    record_own_metrics: Switch = setting(
        default=True,
        wants="1, true, yes or on; any other word is off",
        only="passes sidecar",
    )
    """On: each pass records its own figures (series `ops_worker`), and the health pass the services' `probe_latency_ms`."""
    probe_concurrency: Integer = setting(
        128,
        wants="a whole number of probes, 1 to 1000",
        only="passes sidecar",
        ge=1,
        le=1000,
    )
    """Probes under way at once; fewer where the limit of open files (`ulimit -n`) has no room for them, at three files a probe."""
    shard_count: Integer = setting(
        1, wants="a whole number of shards, 1 to 1000", only="passes", ge=1, le=1000
    )
    """Shards that the services are divided among, by name; each pass has those of one."""
    job_completion_index: Integer = setting(
        0,
        wants="the number of a shard, from 0 to SHARD_COUNT - 1",
        only="passes",
        ge=0,
        le=999,
    )
    """Which of them this pass is, from 0; an Indexed Job sets it. The database's own figures belong to shard 0."""
    confirm_failures: Integer = setting(0, wants="a whole number of times, 0 to 5", ge=0, le=5)
    """Times that a probe without any HTTP answer, or a connection to the database, is made again; 1 in a pod, whose network comes late."""
    confirm_delay: Seconds = setting(1.0, wants="a number of seconds, 0 to 30", ge=0, le=30)
    """Seconds before it is made again, out of PASS_DEADLINE."""
    termination_message_path: Text = setting("", wants="the path of a file", only="passes init-db")
    """File to leave the result in, as one line of JSON, for `kubectl describe pod`; `/dev/termination-log` in a pod; empty: none."""
    job_name: Text = setting("", wants="the name of a Job", only="passes sidecar")
    """Name of the Job that runs the pass; the manifests set it by the downward API. It is in the result and names the Event's CronJob."""
    hostname: Text = setting("", wants="the name of a pod or machine", only="passes sidecar")
    """Name of the pod, which Kubernetes sets; an alert keeps it, with the Job's, as evidence of who saw what opened it."""
    kubernetes_events: Switch = setting(
        default=False, wants="1, true, yes or on; any other word is off", only="passes"
    )
    """On: an alert that opens or closes is also told as an Event on the CronJob; wants the extra `cluster` and the `events` variant."""
    pass_period: Seconds = setting(
        60.0, wants="a number of seconds, 1 to 999999", only="passes", ge=1, le=999_999
    )
    """Seconds from one single pass to the next, as its CronJob's schedule has it: after three of them without one, it counts as stopped."""
    heartbeat_url: HeartbeatUrl = setting(None, wants="an http:// or https:// URL", only="passes")
    """URL that a single pass tells of its start (`/start`), success and failure (`/fail`), as
    healthchecks.io has them; a query stays behind these; empty: nobody."""
    shutdown_grace: Seconds = setting(
        8.0, wants="a number of seconds, 0 to 3600", only="passes sidecar", ge=0, le=3600
    )
    """Seconds that a loop gives its running pass when it is told to stop; keep it below terminationGracePeriodSeconds."""
    pass_deadline: Seconds = setting(
        40.0, wants="a number of seconds, at least 6, at most 86400", ge=6, le=86400
    )
    """Seconds that a pass may take in all before it gives up with exit code 1; keep it below the Job's activeDeadlineSeconds."""
    log_level: Level = setting("INFO", wants="DEBUG, INFO, WARNING, ERROR or CRITICAL")
    """DEBUG, INFO, WARNING, ERROR or CRITICAL; an unknown word is INFO. DEBUG adds the traceback to a failure."""

    _catalogue: Catalogue = PrivateAttr(Catalogue())
    _doubts: dict[str, Doubt] = PrivateAttr({})

    @field_validator("pg_port", mode="wrap")
    @classmethod
    def _ignored_with_url(
        cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        # Kubernetes sets PG_PORT=tcp://... in every pod beside a Service that is called pg.
        ignored = value == "" or info.data.get("database_url") is not None
        return cls.model_fields["pg_port"].default if ignored else check(value)

    @field_validator("pg_pass")
    @classmethod
    def _required_without_url(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        # A DATABASE_URL that failed its own check is not in `data`; its fault is told, this one would only confuse.
        if (
            "database_url" in info.data
            and info.data["database_url"] is None
            and not value.get_secret_value()
        ):
            raise PydanticCustomError("required", "is required when DATABASE_URL is empty")
        return value

    @field_validator("job_completion_index")
    @classmethod
    def _one_of_the_shards(cls, value: int, info: ValidationInfo) -> int:
        if value >= info.data.get("shard_count", value + 1):
            raise ValueError("no such shard")
        return value

    @property
    def catalogue(self) -> Catalogue:
        """The services and figures that are in force."""
        return self._catalogue

    @property
    def doubts(self) -> dict[str, Doubt]:
        """The values that are accepted, though they can hardly be meant, by variable."""
        return self._doubts

    @property
    def targets(self) -> tuple[Target, ...]:
        """The services that are watched, and that are of this shard."""
        if self.shard_count == 1:
            return self._catalogue.targets
        from ops_worker.core.shards import shard_of

        return tuple(
            target
            for target in self._catalogue.targets
            if shard_of(target.name, self.shard_count) == self.job_completion_index
        )

    @property
    def thresholds(self) -> Thresholds:
        """How many passes it takes to open an alert and to close it."""
        return Thresholds(self.alert_after_failures, self.resolve_after_successes)

    @property
    def connection(self) -> dict[str, str | int]:
        """Where and as whom to connect, in libpq's words. Holds the password: to be handed on, never shown."""
        if self.database_url is not None:
            return {"conninfo": self.database_url.get_secret_value()}
        password = self.pg_pass.get_secret_value()
        return {
            "host": self.pg_host,
            "port": self.pg_port,
            "dbname": self.pg_db,
            "user": self.pg_user,
            "password": password,
        }


class _Given(Settings):
    """The settings as others would set them: this process's environment is not read."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls,
        settings_cls: Any,  # noqa: ARG003 - pydantic-settings' signature
        init_settings: Any,
        **_: Any,
    ) -> tuple[Any, ...]:
        return (init_settings,)


def faults(given: Mapping[str, str]) -> list[str]:
    """Give the faults of settings that are for another process: variables by name, as a manifest holds them."""
    try:
        _Given(**given)  # type: ignore[arg-type]  # to be validated
    except ValidationError as error:
        return [_fault(fault) for fault in error.errors(include_url=False)]
    return []


def termination() -> tuple[str, str]:
    """Give where to leave the result, and the Job's name for it, when the settings themselves are at fault."""
    return os.environ.get("TERMINATION_MESSAGE_PATH", ""), os.environ.get("JOB_NAME", "")


def load(env_file: Path | None = None, path: str | None = None) -> Settings:
    """Read the environment, under it the ``.env`` file where there is one, and the catalogue at ``path`` or that they name.

    Raises SettingsError with every fault of their shape: the variable or the entry, its value (never
    a secret's) and what it wants. A value that one service needs and that is unusable is among the
    ``faults`` of its target instead, and costs no other service anything.
    """
    if env_file is not None and not env_file.is_file():
        raise SettingsError([f"--env-file {env_file}: no such file"])
    variables = read_variables(env_file)
    source, wrong = named(variables.get("OPS_WORKER_CATALOGUE", "") if path is None else path)
    found, more = (
        (Catalogue(), [wrong]) if wrong else catalogue.load(source, Surroundings(variables))
    )
    redact.remember(_secrets(variables, found.targets))
    try:
        settings = Settings(_env_file=env_file or ".env")  # type: ignore[call-arg]  # pydantic-settings' own keyword
    except ValidationError as error:
        raise SettingsError(
            [*(_fault(fault) for fault in error.errors(include_url=False)), *more]
        ) from None
    if more:
        raise SettingsError(more)
    settings._catalogue = found  # noqa: SLF001 - no field, which the environment could set
    settings._doubts = _doubts(variables)  # noqa: SLF001
    return settings


def _doubts(variables: Mapping[str, str]) -> dict[str, Doubt]:
    """Find words that a switch or LOG_LEVEL does not know, and what each is taken for."""
    found: dict[str, Doubt] = {}
    for field, one in Settings.model_fields.items():
        word = variables.get(field.upper(), "")
        if one.annotation is bool and word.strip().lower() not in ON | OFF:
            taken = f"{word!r} is neither on nor off, and counts as off"
            found[field.upper()] = Doubt(taken, "set it to true or false")
    level = variables.get("LOG_LEVEL", "")
    if level and level.strip().upper() not in LEVELS:
        taken = f"{level!r} is no level; INFO is taken"
        found["LOG_LEVEL"] = Doubt(taken, f"set it to {', '.join(LEVELS)}")
    return found


def read_variables(env_file: Path | None = None) -> dict[str, str]:
    """Give the environment, over what the ``.env`` file holds. Raises SettingsError when that cannot be read."""
    return read_file(env_file) | dict(os.environ)


def read_file(env_file: Path | None = None) -> dict[str, str]:
    """Give what the ``.env`` file holds; nothing where there is none. Raises SettingsError."""
    try:
        file = DotEnvSettingsSource(
            Settings, env_file=env_file or ".env", case_sensitive=True
        ).env_vars
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{env_file or '.env'} cannot be read: {error}"]) from None
    return {name: value for name, value in file.items() if value is not None}


def named(path: str) -> tuple[Source | None, str]:
    """Read the user's catalogue, where a path names one; or give what is wrong with it."""
    try:
        return (catalogue.read(Path(path)) if path else None), ""
    except (OSError, ValueError) as error:
        return (
            None,
            f"catalogue {path} cannot be read: {(error.strerror if isinstance(error, OSError) else '') or error}",
        )


def _secrets(variables: Mapping[str, str], targets: Iterable[Target]) -> Iterator[str]:
    """Yield every secret of the settings and the services, and the parts that may be quoted alone."""
    yield from (variables.get(name, "").strip() for name in SECRETS)
    for name in ("DATABASE_URL", "HEARTBEAT_URL"):
        yield from redact.of_url(variables.get(name, ""))
    for found in re.findall(r"[?&](?:ssl)?password=([^&#]*)", variables.get("DATABASE_URL", "")):
        yield from (found, unquote(found))
    for target in targets:
        yield from redact.of_target(target)


def _fault(fault: Mapping[str, Any]) -> str:
    location = fault["loc"][0]
    name, field = next(
        (name, field)
        for name, field in Settings.model_fields.items()
        if location in {name, name.upper()}
    )
    variable = name.upper()
    if fault["type"] == "required":
        return f"{variable} is not set, but {fault['msg']}"
    secret = "SecretStr" in str(field.annotation)
    shown = (
        "set to something (not shown)" if secret else repr(without_password(str(fault["input"])))
    )
    extra: Any = field.json_schema_extra
    return f"{variable} is {shown}, but wants {extra['wants']}"
