"""The settings. Only this module reads settings from the environment and the ``.env`` file.

Every setting is one field. The docstring of the field is the public documentation of the setting:
``--help`` and docs/settings.md are generated from it (see ``variables``), and a test compares
``.env.example`` with it. URLs of services are not settings. They are entries of the catalogue.
"""

from __future__ import annotations

import os
import re
import stat
from functools import cache, cached_property
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
from ops_worker.core.installations import NAME_PATTERN
from ops_worker.core.model import Thresholds
from ops_worker.errors import SettingsError
from ops_worker.text import without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ops_worker.core.model import Target

SECRET_VARIABLES = ("DATABASE_URL", "PG_PASS", "HEARTBEAT_URL")
"""Settings whose value is never shown."""
MAX_SECRET_BYTES = 1 << 16
"""The largest size of a secret's file, in bytes: 64 KiB. A larger file is not a secret."""
ON = frozenset({"1", "true", "yes", "on"})
OFF = frozenset({"0", "false", "no", "off", ""})
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def setting(default: Any = None, *, wants: str, only: str = "", **constraints: Any) -> Any:
    """Declare a field of ``Settings``.

    ``wants`` describes the accepted values, for error messages. ``only`` lists the commands whose
    work depends on the setting; empty means all commands that load the settings. ``check`` is not
    listed, because it reports every setting. A test compares ``only`` with the modules of the
    commands.
    """
    return Field(default, json_schema_extra={"wants": wants, "only": only}, **constraints)


def _default_when_empty(value: Any) -> Any:
    if value == "":
        raise PydanticUseDefault
    return value


def _level(value: Any) -> str:
    word = str(value).strip().upper()
    return word if word in LEVELS else "INFO"


def _database_url(value: SecretStr | None) -> SecretStr | None:
    """Refuse a value that is not a connection URI, or that has an unescaped @ in the password.

    libpq would mistake the part of the password after that @ for a host, and print it.
    """
    if value is None:
        return value
    scheme, _, after_scheme = value.get_secret_value().partition("://")
    if scheme not in {"postgresql", "postgres"}:
        raise ValueError("not a connection URI")
    before_query, _, query = after_scheme.partition("?")
    authority, slash, path = before_query.partition("/")
    if authority.count("@") > 1 or "@" in path:
        raise ValueError("an unescaped @")
    # libpq would mistake everything before an @ in the query for a user.
    if "@" in query and not slash and "@" not in authority:
        raise ValueError("an unescaped @")
    return value


def _with_valid_hosts(value: SecretStr | None) -> SecretStr | None:
    """Refuse a URI with a host that is not a name or address, or a port that is not a number.

    In a URI without a host, the password is in the place of the port, and libpq prints it.
    """
    if value is None:
        return value
    uri = value.get_secret_value()
    authority = re.split(r"[/?]", uri.partition("://")[2], maxsplit=1)[0]
    for place in authority.rpartition("@")[2].split(","):
        match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", place)
        if match is None or not _is_server(unquote(match.group(1)).strip("[]")):
            raise ValueError("not a host or port")
    return value


def _pg_host(value: str) -> str:
    if not all(map(_is_server, value.split(","))):
        raise ValueError("not a host")
    return value


def _is_server(host: str) -> bool:
    """Return whether libpq accepts this as a host: a name, an address or a socket directory."""
    return host.startswith(("/", "@")) or catalogue.is_host(host)


def _utf8(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        value.get_secret_value().encode()  # raises a ValueError if it is not UTF-8
    return value


def _trimmed(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _without_line_end(value: Any) -> Any:
    # Spaces may be part of a password.
    return value.rstrip("\r\n") if isinstance(value, str) else value


def _http_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None and catalogue.url_problem(value.get_secret_value(), query=True):
        raise ValueError("not a URL")
    return value


def _http_urls(value: SecretStr | None) -> SecretStr | None:
    """Refuse a list of base URLs if an item is not a base URL."""
    if value is not None and any(map(catalogue.url_problem, _items(value.get_secret_value()))):
        raise ValueError("not a list of URLs")
    return value


def _items(text: str) -> tuple[str, ...]:
    """Return the items of a list separated by commas, without empty items and duplicates."""
    return tuple(dict.fromkeys(filter(None, (item.strip() for item in text.split(",")))))


def _runbook_url(value: str) -> str:
    url, _, _ = value.partition("#")
    if catalogue.url_problem(url, query=True):
        raise ValueError("not a URL")
    return value


def _labels(value: str) -> str:
    from ops_worker.core.notify import parse_labels

    parse_labels(value)
    return value


Text = Annotated[str, BeforeValidator(_default_when_empty)]
HostName = Annotated[str, AfterValidator(_pg_host), BeforeValidator(_default_when_empty)]
InstallationName = Annotated[str, BeforeValidator(_default_when_empty), BeforeValidator(_trimmed)]
Integer = Annotated[int, BeforeValidator(_default_when_empty)]
Seconds = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_default_when_empty)]
HeartbeatUrl = Annotated[
    SecretStr | None,
    AfterValidator(_http_url),
    BeforeValidator(_default_when_empty),
    BeforeValidator(_trimmed),
]
AlertmanagerUrls = Annotated[
    SecretStr | None,
    AfterValidator(_http_urls),
    BeforeValidator(_default_when_empty),
    BeforeValidator(_trimmed),
]
RunbookUrl = Annotated[
    str,
    AfterValidator(_runbook_url),
    BeforeValidator(_default_when_empty),
    BeforeValidator(_trimmed),
]
Labels = Annotated[str, AfterValidator(_labels), BeforeValidator(_default_when_empty)]
Time = Annotated[AwareDatetime | None, BeforeValidator(_default_when_empty)]
Switch = Annotated[bool, BeforeValidator(lambda value: str(value).strip().lower() in ON)]
Level = Annotated[str, BeforeValidator(_level)]
DatabaseUrl = Annotated[
    SecretStr | None,
    AfterValidator(_database_url),
    AfterValidator(_with_valid_hosts),
    AfterValidator(_utf8),
    BeforeValidator(_default_when_empty),
    BeforeValidator(_trimmed),
]
Password = Annotated[SecretStr, AfterValidator(_utf8), BeforeValidator(_without_line_end)]


class Doubt(NamedTuple):
    """How a probably mistaken value is understood, and what to set instead."""

    taken: str
    remedy: str


class Settings(BaseSettings):
    """All settings. ``load`` creates them. They never change.

    The variable of a field is its name in capital letters. An empty value means the default. For a
    switch, it means off.
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
        wants="a connection URI, postgresql://user:password@host:port/database, "
        "with any of @/?#% in the password percent-encoded",
    )
    """Connection URI of the database, `postgresql://user:password@host:port/database`. If it is
    set, all PG_ variables except PG_ROLE are ignored."""
    database_url_file: Text = setting("", wants="the path of a file")
    """File with the connection URI of the database. If it is set, DATABASE_URL is ignored. It is
    read again for each new connection, so it may change while a loop runs."""
    pg_host: HostName = setting("iot-postgres", wants="a host name or address")
    """Host name or address of the database."""
    pg_port: int = setting(5432, wants="a port number, 1 to 65535", ge=1, le=65535)
    """TCP port of the database."""
    pg_db: Text = setting("iotcloud", wants="the name of a database")
    """Name of the database."""
    pg_user: Text = setting("iot", wants="the name of a login role")
    """Role that logs in to the database."""
    pg_pass_file: Text = setting("", wants="the path of a file")
    """File with the password of PG_USER. If it is set, PG_PASS is ignored. It is read again for
    each new connection, so the password may change while a loop runs."""
    pg_pass: Password = setting("", wants="a password in UTF-8", validate_default=True)
    """Password of PG_USER. Required if DATABASE_URL, DATABASE_URL_FILE and PG_PASS_FILE are
    empty."""
    pg_role: Text = setting("", wants="the name of a role that PG_USER is a member of")
    """Role that every transaction takes on with SET LOCAL ROLE; on the platform `pulse_operator`.
    Empty: transactions run as the login role."""
    installation: InstallationName = setting(
        "ops-worker",
        wants="1 to 63 letters, digits, dots, - and _; the first and last one is a letter or digit",
        only="",
        pattern=NAME_PATTERN,
    )
    """Name of this installation. Give each installation its own name if several use one database:
    each then has its own passes, locks, alerts of the worker and history. All passes of one
    installation have the same name (docs/operations.md)."""
    ops_worker_catalogue: Text = setting(
        "",
        wants="the path of a TOML file",
        only="passes sidecar status explain history report alerts maintenance catalogue",
    )
    """TOML file with your own services and figures (docs/catalogue.md). They are added to the
    platform's and replace those of the same name. Empty: only the platform's are used."""
    system_alert_enabled: Switch = setting(
        default=True,
        wants="1, true, yes or on; any other word is off",
        only="passes sidecar explain",
    )
    """Turns the health pass on or off. 1, true, yes and on mean on, in upper or lower case. Any
    other word means off: the health pass then probes nothing, writes nothing and says so."""
    maintenance_until: Time = setting(
        None,
        wants="a time with its zone, for example 2026-03-01T12:00:00Z",
        only="passes sidecar status explain report maintenance",
    )
    """End of a maintenance of all services, as a time with its zone. Until then no alert opens.
    Services are still probed and recorded, and alerts still close. `ops-worker maintenance start`
    does the same without a change of settings."""
    alert_after_failures: Integer = setting(
        1,
        wants="a whole number of passes, 1 to 32767",
        only="health sidecar explain",
        ge=1,
        le=32767,
    )
    """Number of consecutive unhealthy passes after which the alert of a service opens. With 2 or
    more, one failed probe does not open an alert."""
    resolve_after_successes: Integer = setting(
        1,
        wants="a whole number of passes, 1 to 32767",
        only="health sidecar explain",
        ge=1,
        le=32767,
    )
    """Number of consecutive healthy passes after which the alert of a service closes. With 2 or
    more, a service that fails again and again keeps one alert open."""
    doubt_passes: Integer = setting(
        0, wants="a whole number of passes, 0 to 1000", only="passes sidecar explain", ge=0, le=1000
    )
    """Number of consecutive passes that may be blind. A pass is blind if it could probe no service,
    or if no service gave a sign of life although more than one host is monitored. A blind pass
    changes no state and no alert of a service, and opens the alert of the worker itself. After this
    number of blind passes, a pass believes what it sees. 0: no pass is ever blind."""
    health_check_interval: Seconds = setting(
        60.0, wants="a number of seconds, 5 to 86400", only="sidecar", ge=5, le=86400
    )
    """Interval of the sidecar's health loop in seconds, at least 5."""
    metrics_collection_interval: Seconds = setting(
        5.0, wants="a number of seconds, 1 to 86400", only="sidecar", ge=1, le=86400
    )
    """Interval of the sidecar's metrics loop in seconds, at least 1."""
    rollup_interval: Seconds = setting(
        3600.0, wants="a number of seconds, 60 to 86400", only="sidecar", ge=60, le=86400
    )
    """Interval of the sidecar's rollup loop in seconds, at least 60."""
    history_days: Integer = setting(
        400, wants="a whole number of days, 0 to 9000", only="rollup sidecar", ge=0, le=9000
    )
    """Number of days for which the rollup pass keeps hours, days and states that are over. What is
    older is removed in small steps. 0: nothing is removed."""
    samples_days: Integer = setting(
        0,
        wants="a whole number of days, 0 to 9000",
        only="rollup sidecar init-db",
        ge=0,
        le=9000,
    )
    """Number of days for which the rollup pass keeps samples in a plain table `system_metrics`.
    Older ones are removed in small steps, after they were rolled up. Set it to 7 where
    `ops-worker init-db --standalone` created the table and TimescaleDB is not installed. A
    hypertable is never changed: its own policy removes samples. 0: nothing is removed."""
    metrics_buffer_samples: Integer = setting(
        0, wants="a whole number of samples, 0 to 1000000", only="metrics sidecar", ge=0, le=10**6
    )
    """Number of samples that a metrics loop keeps in memory while the database is not available.
    0: the number of samples in one hour."""
    metrics_buffer_mib: Integer = setting(
        32, wants="a whole number of MiB, 1 to 65536", only="metrics sidecar", ge=1, le=65536
    )
    """Memory in MiB that the buffered samples of a metrics loop may use, compressed. When it is
    full, the oldest sample is dropped."""
    sidecar_host: Text = setting("127.0.0.1", wants="an address of this machine", only="sidecar")
    """Address on which the sidecar serves /health, /ready and /metrics. With the default, only this
    machine can reach it. In a pod, set 0.0.0.0 (all addresses)."""
    sidecar_port: Integer = setting(
        8080, wants="a port number, 0 to 65535", only="sidecar", ge=0, le=65535
    )
    """TCP port on which the sidecar serves /health, /ready and /metrics. 0: it serves none of
    them."""
    record_own_metrics: Switch = setting(
        default=True,
        wants="1, true, yes or on; any other word is off",
        only="passes sidecar explain alerts",
    )
    """Turns self-metrics on or off. If on, every pass records self-metrics (series `ops_worker`),
    and the health pass records `probe_latency_ms` of every service that answered and
    `certificate_days_left` of every service with `certificate_days`. If off, no alert opens when
    another pass stops. Empty means off."""
    probe_concurrency: Integer = setting(
        128,
        wants="a whole number of probes, 1 to 1000",
        only="passes sidecar",
        ge=1,
        le=1000,
    )
    """Maximum number of probes at the same time. It is reduced if the limit of open files (`ulimit
    -n`) is too low: a probe needs up to three open files."""
    shard_count: Integer = setting(
        1, wants="a whole number of shards, 1 to 1000", only="passes sidecar", ge=1, le=1000
    )
    """Number of shards. The services are divided among them by name, and each pass has the
    services of one shard."""
    job_completion_index: Integer = setting(
        0,
        wants="the number of a shard, from 0 to SHARD_COUNT - 1",
        only="passes sidecar",
        ge=0,
        le=999,
    )
    """Number of the shard of this pass, from 0. An Indexed Job sets it. The pass of shard 0 also
    measures the figures of the database."""
    confirm_failures: Integer = setting(
        0, wants="a whole number of times, 0 to 5", only="passes sidecar init-db", ge=0, le=5
    )
    """Number of times that a probe without an HTTP answer, or a failed connection to the database,
    is repeated. In a pod, set 1: its network may not be ready when the process starts."""
    confirm_delay: Seconds = setting(
        1.0, wants="a number of seconds, 0 to 30", only="passes sidecar init-db", ge=0, le=30
    )
    """Seconds before a probe or a connection is repeated. They are a part of PASS_DEADLINE."""
    termination_message_path: Text = setting("", wants="the path of a file")
    """File to which the result of a pass, or the failure of a command that uses the database, is
    written as one line of JSON, for `kubectl describe pod`. In a pod, set `/dev/termination-log`.
    Empty: no file is written."""
    job_name: Text = setting("", wants="the name of a Job")
    """Name of the Job that runs the pass. The manifests set it through the downward API. It is
    shown in the result, and names the CronJob for Events."""
    hostname: Text = setting("", wants="the name of a pod or machine", only="passes sidecar")
    """Name of the pod. Kubernetes sets it. An alert stores it with the name of the Job, as evidence
    of which pass opened the alert."""
    kubernetes_events: Switch = setting(
        default=False, wants="1, true, yes or on; any other word is off", only="passes"
    )
    """Turns Kubernetes Events on or off. If on, an alert that opens or closes is also reported as
    an Event on the CronJob. This needs the extra `cluster` and the component `events` of the
    manifests."""
    pass_period: Seconds = setting(
        60.0, wants="a number of seconds, 1 to 999999", only="passes", ge=1, le=999_999
    )
    """Seconds from one single pass to the next, as in the schedule of the CronJob. If no pass is
    recorded for three periods, and at least 90 s, the pass counts as stopped. The period of the
    rollup pass is at least 3600."""
    heartbeat_url: HeartbeatUrl = setting(None, wants="an http:// or https:// URL", only="passes")
    """URL to which a single pass reports its start (`/start`), success and failure (`/fail`), as
    healthchecks.io defines them. A query stays at the end of the URL. Empty: no reports."""
    alertmanager_url: AlertmanagerUrls = setting(
        None,
        wants="http:// or https:// URLs without a query, separated by commas",
        only="health sidecar",
    )
    """Base URLs of Alertmanagers, separated by commas. After each health pass, all of them receive
    the system alerts that are open or were closed a short time ago (docs/alertmanager.md). A URL
    with `user:password@` uses Basic authentication. Empty: no alerts are sent."""
    alertmanager_token_file: Text = setting("", wants="the path of a file", only="health sidecar")
    """File with a bearer token for the Alertmanagers whose URL has no user. It is read again for
    each post. Empty: no token is sent."""
    alertmanager_ca: Text = setting("", wants="the path of a PEM file", only="health sidecar")
    """PEM file with the certificate authorities to trust for the Alertmanagers. Empty: the default
    authorities."""
    alert_labels: Labels = setting(
        "",
        wants="name=value,name=value; a name has letters, digits and _, and is none of alertname, "
        "service, severity and source",
        only="health sidecar",
    )
    """Further labels of every alert that an Alertmanager receives, as `name=value,name=value`.
    Labels identify an alert: after a change, an alert that is open counts as a new one there."""
    alert_runbook_url: RunbookUrl = setting(
        "", wants="an http:// or https:// URL", only="health sidecar"
    )
    """URL of your instructions for alerts. An Alertmanager receives it as the annotation
    `runbook_url`. Empty: no annotation is sent."""
    shutdown_grace: Seconds = setting(
        8.0, wants="a number of seconds, 0 to 3600", only="passes sidecar", ge=0, le=3600
    )
    """Seconds that a loop waits for its current pass after a signal to stop. It must be less than
    terminationGracePeriodSeconds of the pod."""
    pass_deadline: Seconds = setting(40.0, wants="a number of seconds, 6 to 86400", ge=6, le=86400)
    """Longest duration of a pass in seconds. Then the pass ends with exit code 1. In a loop, the
    connection is cut instead. It must be less than activeDeadlineSeconds of the Job, so that the
    pass can still report the reason."""
    log_level: Level = setting("INFO", wants="DEBUG, INFO, WARNING, ERROR or CRITICAL")
    """Lowest level of log messages: DEBUG, INFO, WARNING, ERROR or CRITICAL. Any other word means
    INFO. With DEBUG, a failure is logged with its traceback."""

    _catalogue: Catalogue = PrivateAttr(Catalogue())
    _doubts: dict[str, Doubt] = PrivateAttr({})

    @field_validator("pg_port", mode="wrap")
    @classmethod
    def _ignored_with_url(
        cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        # Kubernetes sets PG_PORT=tcp://... in every pod if there is a Service with the name pg.
        if value == "" or _has_url(info.data):
            return cls.model_fields["pg_port"].default
        return check(value)

    @field_validator("pg_pass")
    @classmethod
    def _required_without_url(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        # An invalid DATABASE_URL is not in `data`. It is reported already, so a second fault about
        # PG_PASS would only confuse.
        is_needed = "database_url" in info.data and not _has_url(info.data)
        if is_needed and not value.get_secret_value() and not info.data.get("pg_pass_file"):
            raise PydanticCustomError("required", "it is required if DATABASE_URL is empty")
        return value

    @field_validator("job_completion_index")
    @classmethod
    def _below_shard_count(cls, value: int, info: ValidationInfo) -> int:
        # An invalid SHARD_COUNT is not in `data`. It is reported already.
        if "shard_count" in info.data and value >= info.data["shard_count"]:
            raise ValueError("not a shard")
        return value

    @property
    def catalogue(self) -> Catalogue:
        """The services and figures in force."""
        return self._catalogue

    @property
    def doubts(self) -> dict[str, Doubt]:
        """The values that are accepted but probably a mistake, by variable."""
        return self._doubts

    @property
    def targets(self) -> tuple[Target, ...]:
        """The monitored services of this shard."""
        if self.shard_count == 1:
            return self._catalogue.targets
        from ops_worker.core.shards import shard_of

        return tuple(
            target
            for target in self._catalogue.targets
            if shard_of(target.name, self.shard_count) == self.job_completion_index
        )

    @property
    def shard(self) -> str:
        """The shard of this pass and the number of shards: "0/1" if there is only one shard."""
        return f"{self.job_completion_index}/{self.shard_count}"

    @cached_property
    def config(self) -> tuple[str, dict[str, Any]]:
        """The hash of the configuration that decides verdicts and alerts, and its document.

        The document has no secrets.
        """
        from ops_worker.core.ledger import config_hash, config_of

        document = config_of(self.targets, self.thresholds)
        return config_hash(document), document

    @property
    def thresholds(self) -> Thresholds:
        """The numbers of consecutive passes that open and close an alert."""
        return Thresholds(self.alert_after_failures, self.resolve_after_successes)

    @property
    def alertmanager_urls(self) -> tuple[str, ...]:
        """The base URLs of the Alertmanagers. They may contain passwords: never show them."""
        if self.alertmanager_url is None:
            return ()
        return _items(self.alertmanager_url.get_secret_value())

    @property
    def connection(self) -> dict[str, str | int]:
        """The connection parameters for libpq. They contain the password: never show them.

        The file with the URI or the password is read at each access. Raises SettingsError if the
        file cannot be read or used.
        """
        if self.database_url_file:
            return {"conninfo": _read_database_url(self.database_url_file)}
        if self.database_url is not None:
            return {"conninfo": self.database_url.get_secret_value()}
        password = self.pg_pass.get_secret_value()
        if self.pg_pass_file:
            password = _read_secret("PG_PASS_FILE", self.pg_pass_file)
        return {
            "host": self.pg_host,
            "port": self.pg_port,
            "dbname": self.pg_db,
            "user": self.pg_user,
            "password": password,
        }

    @property
    def changing_connection(self) -> Callable[[], dict[str, str | int]] | None:
        """A function that returns the current connection parameters; None if they cannot change."""
        if self.database_url_file or (self.pg_pass_file and self.database_url is None):
            return lambda: self.connection
        return None


def _has_url(values: Mapping[str, Any]) -> bool:
    """Return whether the validated fields have a connection URI or its file."""
    return values.get("database_url") is not None or bool(values.get("database_url_file"))


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking. A pipe would block until another process writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_secret(variable: str, path: str) -> str:
    """Return the content of a file that a variable names, without the line end.

    Raises SettingsError. Its message does not show the path, because a person may have set the
    secret itself instead of a path.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SettingsError([f"{variable}: it does not name a regular file"])
            data = file.read(MAX_SECRET_BYTES + 1)
        secret = data.decode().rstrip("\r\n")
    except OSError as error:
        raise SettingsError([f"{variable}: the file cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{variable}: the file is not UTF-8"]) from None
    except ValueError:  # the path contains a NUL
        raise SettingsError([f"{variable}: it is not a valid path"]) from None
    if len(data) > MAX_SECRET_BYTES or "\0" in secret:
        raise SettingsError([f"{variable}: the file is not a secret of at most 64 KiB of text"])
    if not secret:
        raise SettingsError([f"{variable}: the file is empty"])
    redact.remember([secret])
    return secret


def _read_database_url(path: str) -> str:
    """Return the connection URI in a file. Raises SettingsError if the content is not a URI."""
    url = _read_secret("DATABASE_URL_FILE", path).strip()
    redact.remember(_secrets_of_database_url(url))
    try:
        _with_valid_hosts(_database_url(SecretStr(url)))
    except ValueError:
        extra: Any = Settings.model_fields["database_url"].json_schema_extra
        fault = "DATABASE_URL_FILE: the file has an invalid value (not shown)"
        raise SettingsError([f"{fault}; expected {extra['wants']}"]) from None
    return url


def faults(variables: Mapping[str, str]) -> list[str]:
    """Return the faults in the variables of another process, for example from a manifest."""
    try:
        _explicit_settings()(**variables)  # type: ignore[arg-type]  # to be validated
    except ValidationError as error:
        return _faults(error)
    return []


@cache
def _explicit_settings() -> type[Settings]:
    """Return a class of settings that takes only arguments and reads no environment and no file.

    The class is created when it is needed, because creating it costs a pass milliseconds.
    """

    class Explicit(Settings):
        """Settings from arguments only."""

        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls,
            settings_cls: Any,  # noqa: ARG003 - pydantic-settings' signature
            init_settings: Any,
            **_: Any,
        ) -> tuple[Any, ...]:
            """Return the only source: the values that are passed."""
            return (init_settings,)

    return Explicit


def pass_period(variables: Mapping[str, str]) -> float:
    """Return PASS_PERIOD in seconds, even if the other settings are not complete."""
    default: float = Settings.model_fields["pass_period"].default
    try:
        return float(variables.get("PASS_PERIOD", "")) or default
    except ValueError:
        return default


def termination_variables() -> tuple[str, str]:
    """Return TERMINATION_MESSAGE_PATH and JOB_NAME, unchecked.

    A process with invalid settings uses them to report the faults.
    """
    return os.environ.get("TERMINATION_MESSAGE_PATH", ""), os.environ.get("JOB_NAME", "")


def load(env_file: Path | None = None, path: str | None = None) -> Settings:
    """Read the settings and the catalogue.

    The environment wins over the ``.env`` file. ``path`` is the file of the catalogue; None means
    the file of OPS_WORKER_CATALOGUE.

    Raises SettingsError with every fault of the settings and of the shape of the catalogue: the
    variable or entry, its value (unless it is a secret) and the accepted values. A value that only
    one service needs may be missing or unusable without an error. It is in the ``faults`` of the
    target.
    """
    if env_file is not None and not env_file.is_file():
        raise SettingsError([f"--env-file {env_file}: no such file"])
    variables = read_variables(env_file)
    if path is None:
        path = variables.get("OPS_WORKER_CATALOGUE", "")
    in_force, catalogue_faults = load_catalogue(path, variables)
    redact.remember(_secrets(variables, in_force.targets))
    try:
        # _env_file is a keyword of pydantic-settings, not a field.
        settings = Settings(_env_file=env_file or ".env")  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError([*_faults(error), *catalogue_faults]) from None
    if catalogue_faults:
        raise SettingsError(catalogue_faults)
    settings._catalogue = in_force  # noqa: SLF001 - not a field, so that no variable can set it
    settings._doubts = _doubts(variables)  # noqa: SLF001
    return settings


def _doubts(variables: Mapping[str, str]) -> dict[str, Doubt]:
    """Return the unknown words in switches and LOG_LEVEL, and how each is understood."""
    doubts: dict[str, Doubt] = {}
    for name, field in Settings.model_fields.items():
        word = variables.get(name.upper(), "")
        if field.annotation is bool and word.strip().lower() not in ON | OFF:
            taken = f"{word!r} is neither on nor off, and counts as off"
            doubts[name.upper()] = Doubt(taken, "set it to true or false")
    level = variables.get("LOG_LEVEL", "")
    if level and level.strip().upper() not in LEVELS:
        taken = f"{level!r} is not a log level; INFO is used"
        doubts["LOG_LEVEL"] = Doubt(taken, f"set it to {', '.join(LEVELS)}")
    return doubts


def read_variables(env_file: Path | None = None) -> dict[str, str]:
    """Return the variables of the ``.env`` file and of the environment. The environment wins.

    Raises SettingsError if the file cannot be read.
    """
    return read_env_file(env_file) | dict(os.environ)


def read_env_file(env_file: Path | None = None) -> dict[str, str]:
    """Return the variables of the ``.env`` file; empty if there is no file.

    Raises SettingsError if the file cannot be read.
    """
    file = env_file or ".env"
    try:
        variables = DotEnvSettingsSource(Settings, env_file=file, case_sensitive=True).env_vars
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file} cannot be read: {error}"]) from None
    return {name: value for name, value in variables.items() if value is not None}


def load_catalogue(path: str, variables: Mapping[str, str]) -> tuple[Catalogue, list[str]]:
    """Load the catalogue with the user's file at ``path``, if it is set; return its faults, too."""
    source, fault = read_user_catalogue(path)
    if fault:
        return Catalogue(), [fault]
    return catalogue.load(source, Surroundings(variables))


def read_user_catalogue(path: str) -> tuple[Source | None, str]:
    """Read the user's catalogue; return the file and an error.

    The file is None if it cannot be read or if the path is empty. The error is empty if there is
    none.
    """
    if not path:
        return None, ""
    try:
        return catalogue.read(Path(path)), ""
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    return None, f"catalogue {path} cannot be read: {reason}"


def _secrets(variables: Mapping[str, str], targets: Iterable[Target]) -> Iterator[str]:
    """Yield all secrets of the settings and services, and their parts that may be quoted alone."""
    for name in SECRET_VARIABLES:
        yield variables.get(name, "").strip()
    yield from _secrets_of_database_url(variables.get("DATABASE_URL", ""))
    yield from redact.of_url(variables.get("HEARTBEAT_URL", ""))
    for item in _items(variables.get("ALERTMANAGER_URL", "")):
        yield from redact.of_url(item)
    for target in targets:
        yield from redact.of_target(target)


def _secrets_of_database_url(url: str) -> Iterator[str]:
    """Yield the secrets of a connection URI: its login, and the passwords of its query."""
    yield from redact.of_url(url)
    for password in re.findall(r"[?&](?:ssl)?password=([^&#]*)", url):
        yield from (password, unquote(password))


def _faults(error: ValidationError) -> list[str]:
    return [_fault(details) for details in error.errors(include_url=False)]


def _fault(details: Mapping[str, Any]) -> str:
    """Describe an error of pydantic: the variable, its value unless secret, the accepted values."""
    location = details["loc"][0]
    name = next(name for name in Settings.model_fields if location in {name, name.upper()})
    field = Settings.model_fields[name]
    variable = name.upper()
    if details["type"] == "required":
        return f"{variable} is not set; {details['msg']}"
    extra: Any = field.json_schema_extra
    if "SecretStr" in str(field.annotation):
        return f"{variable} has an invalid value (not shown); expected {extra['wants']}"
    value = without_password(str(details["input"]))
    return f"{variable} is {value!r}; expected {extra['wants']}"
