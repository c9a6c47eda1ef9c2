"""Every setting: its unit, its default and one sentence. Nothing is read before `Settings()` is called."""

import os
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.settings.alarms import AlarmChannel, AlarmSettings
from app.settings.brokers import OPTIONS, SCHEMES, broker_target, fit_broker
from app.settings.clients import ClientSettings
from app.settings.databases import DatabaseURL
from app.settings.keys import TokenKeys, fit_signing, secrets
from app.settings.prioticket import PrioticketSettings
from app.settings.retention import RetentionSettings
from app.settings.sources import CONFIG_VARIABLE, ENV_PREFIX, config_file, sources
from app.settings.urls import PublicURL, http_target
from app.settings.values import (
    Bytes,
    Delay,
    Events,
    Headers,
    Listens,
    OpenConnections,
    OpenURLs,
    Seconds,
    Timeout,
    words,
)

DESTINATION_URL = r"^((https?|nats|tls|amqps?|kafka(\+ssl)?)://[^\s/]+|python:[\w.]+:\w+$)"


class SettingsProblem(Exception):
    """A setting that cannot be used; the text says which one, where it is and what to do."""


class DestinationSettings(BaseModel):
    """One entry of the `destinations` table."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(pattern=DESTINATION_URL, repr=False)  # it may hold a password
    events: Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)] = Field(default=("*",), min_length=1)
    """Globs on the type."""
    secret: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(secrets), AfterValidator(fit_signing)] = ()
    """Signing secrets as Standard Webhooks writes them; several while rotating."""
    headers: Headers = {}
    timeout: Timeout = timedelta(seconds=10)
    """For one attempt."""
    max_in_flight: int = Field(default=8, gt=0, le=1000)
    rate: float | None = Field(default=None, gt=0)
    """Attempts a second."""
    thin: Literal["both", "snapshot", "notification"] = "both"
    """With `prioticket.enrich`: whether it gets a notification without payload, the order fetched for it, or both."""
    subject: str | None = None
    """At NATS: where messages go, with the event's `{type}` and `{reference}`."""
    exchange: str | None = None
    """Of AMQP; by default the exchange without a name, where a routing key is the name of a queue."""
    routing_key: str | None = None
    """At AMQP: where messages go, with the event's `{type}` and `{reference}`."""
    topic: str | None = None
    """At Kafka: where records go, with the event's `{type}`; the reference is their key."""

    @field_validator("url")
    @classmethod
    def _can_be_sent_to(cls, url: str) -> str:
        if url.partition(":")[0] in SCHEMES:
            broker_target(url)
        elif not url.startswith("python:"):
            http_target(url)
        return url

    @model_validator(mode="after")
    def _fits_its_broker(self) -> Self:
        fit_broker(self.url, {name: getattr(self, name) for name in OPTIONS})
        return self

    @model_validator(mode="after")
    def _only_http_has_headers(self) -> Self:
        if self.url.startswith("python:") and (self.headers or self.secret):
            raise ValueError("a function is called with the event: it takes no headers and no secret")
        if "@" in urlsplit(self.url).netloc and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("has credentials in its URL and an Authorization header: keep one of the two")
        return self


class Settings(BaseSettings):
    """All settings of one process, from the environment, secret files and a TOML file, strongest first."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: DatabaseURL = Field(
        default="sqlite+aiosqlite:///priohook.db",
        repr=False,  # it may hold a password
        description="Where events are kept: a SQLite file, or postgresql://user:password@host/database.",
    )
    clients: dict[str, ClientSettings] = Field(
        default={},
        repr=False,
        description="Who may send requests, a table by name; `priohook clients new NAME` prints an entry.",
    )
    public_url: PublicURL | None = Field(
        default=None,
        description="The URL at which Prioticket reaches this receiver, with https://; the path of webhooks is added.",
    )
    destinations: dict[str, DestinationSettings] = Field(default={}, description="Where events go, a table by name.")
    prioticket: PrioticketSettings | None = Field(
        default=None, description="Prioticket's API and your account there, a table; see docs/prioticket.md."
    )
    retention: RetentionSettings | None = Field(
        default=None,
        description=(
            'How long what is stored is kept, a table of ages such as "90d"; without it everything is kept. See '
            "docs/retention.md."
        ),
    )
    alarms: AlarmSettings | None = Field(
        default=None,
        description="What is told when it goes wrong, tables by name such as `silence`; see docs/alarms.md.",
    )
    alarm_channels: dict[str, AlarmChannel] = Field(
        default={}, description="Where alarms are told, a table by name; see docs/alarms.md."
    )
    max_body_bytes: Bytes = Field(
        default=1024 * 1024, le=64 * 1024 * 1024, description="The largest body that is accepted, after decompression."
    )
    max_quarantined_bytes: Bytes = Field(
        default=4 * 1024 * 1024,
        le=64 * 1024 * 1024,
        description=(
            "The largest body over `max_body_bytes` that is kept whole in quarantine and can be released; of a larger "
            "one, 64 KiB are kept."
        ),
    )
    body_timeout: Seconds = Field(
        default=timedelta(seconds=10), description="How long a whole body may take to arrive."
    )
    on_unprocessable: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="The answer to an unusable body: refuse (400, 415, 422) or accept (200); it is kept either way.",
    )
    commit_timeout: Seconds = Field(
        default=timedelta(seconds=5),
        description="How long an event may wait for its commit before its sender is answered 503.",
    )
    commit_max_batch: Events = Field(default=256, le=10_000, description="The most events that share one commit.")
    max_waiting_events: Events = Field(
        default=1024, description="How many events may wait for a commit before the next is answered 503."
    )
    spool: Path | None = Field(
        default=None,
        description="A folder on a durable local disk: events go there while PostgreSQL is away, and are answered 200.",
    )
    spool_max_bytes: Bytes = Field(
        default=1024**3,
        description="How much a receiver may keep in the spool, besides what others left, before it answers 503.",
    )
    max_waiting_bytes: Bytes = Field(
        default=32 * 1024 * 1024,
        description="How many bytes of bodies may wait for a commit before the next event is answered 503.",
    )
    token_lifetime: Seconds = Field(
        default=timedelta(hours=1), description="How long a token of /oauth2/token is valid."
    )
    token_keys: TokenKeys = Field(
        default=(),
        description="One or two keys for tokens: the first signs, both are accepted; `priohook keys new` makes one.",
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(words)] = Field(
        default=(), description="Networks of proxies whose X-Forwarded-For is trusted; from anyone else it is ignored."
    )
    max_connections: OpenConnections = Field(
        default=4096,
        description="How many connections a receiver keeps open; fewer if the system allows fewer open files.",
    )
    max_connections_per_address: OpenConnections = Field(
        default=2048,
        description="How many of these connections one address may have; trusted_proxies may have them all.",
    )
    closed_urls: OpenURLs = Field(
        default=frozenset(), description="URLs to switch off, any of /docs and /openapi.json: they answer 404."
    )
    shutdown_delay: Delay = Field(
        default=timedelta(0),
        description=(
            "How long a receiver that is told to end still accepts events while /readyz answers 503, so that balancers "
            "leave it out first."
        ),
    )
    metrics: Listens | None = Field(
        default=None,
        description=(
            "host:port at which GET /metrics answers for Prometheus, apart from the public port; a worker on the same "
            "host needs one of its own. See docs/metrics.md."
        ),
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="How log lines look: auto is text on a terminal and JSON elsewhere."
    )

    @property
    def max_released_bytes(self) -> int:
        """The largest body, decoded, that can be released from quarantine: a person has decided to accept it."""
        return max(self.max_body_bytes, self.max_quarantined_bytes)

    @model_validator(mode="after")
    def _spool_needs_postgresql(self) -> Self:
        if self.spool is not None and self.database_url.startswith("sqlite"):
            raise ValueError("spool works with PostgreSQL only: a SQLite file is never away. Remove it")
        return self

    @model_validator(mode="after")
    def _snapshots_need_fetches(self) -> Self:
        enrich = self.prioticket is not None and self.prioticket.enrich
        for name, destination in self.destinations.items():
            if destination.thin == "snapshot" and not enrich:
                raise ValueError(
                    f'thin = "snapshot" of the destination {name} needs enrich = true in [prioticket]: without it no '
                    "order is fetched"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the parent's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, *sources(settings_cls).values()

    @classmethod
    def load(cls) -> "Settings":
        """The settings of this process.

        Raises:
            SettingsProblem: a source cannot be read, or a value cannot be used.
        """
        path = config_file()
        if CONFIG_VARIABLE in os.environ and not path.is_file():
            raise SettingsProblem(f"{CONFIG_VARIABLE} names {path}, but there is no such file: correct it or unset it.")
        try:
            return cls()
        except ValidationError as error:
            raise SettingsProblem(describe(error)) from None
        except (SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            why = error.__cause__ or "see the file"
            raise SettingsProblem(f"Settings could not be read: {error}: {why} (the TOML file is {path}).") from None


def describe(error: ValidationError) -> str:
    """One line for each value that cannot be used, without the value, which may be a secret."""
    lines = (f"  {'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}" for each in error.errors())
    return "These settings cannot be used:\n" + "\n".join(lines)
