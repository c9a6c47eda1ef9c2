"""Every setting: its unit, its default and one sentence. Nothing is read before `Settings()` is called."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
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
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

ENV_PREFIX = "PRIOHOOK_"
CONFIG_VARIABLE = "PRIOHOOK_CONFIG"
SECRETS_FOLDER = Path("/run/secrets")
SHORTEST_SECRET = 16  # characters; a digest without a slow hash is safe only for secrets nobody can guess
UNFIT_FOR_BASIC = re.compile(r"[:\x00-\x1f\x7f]")  # in a username; RFC 7617, section 2


class SettingsProblem(Exception):
    """A setting that cannot be used; the text says which one, where it stands and what to do."""


class Scope(StrEnum):
    """What a client may do."""

    SEND = "webhooks:send"
    READ = "events:read"
    REPLAY = "events:replay"
    CONSOLE = "console"


def _words(value: object) -> object:
    """Lets an environment variable say `events:read events:replay` as well as a JSON list."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else value.split()


def _number(value: object) -> object:
    """An environment variable's `2.5` as a number, which pydantic reads as seconds."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be more than 0 seconds")
    return value


Seconds = Annotated[timedelta, BeforeValidator(_number), AfterValidator(_positive)]


class ClientSettings(BaseModel):
    """One entry of the `clients` table."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secret: SecretStr | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    scopes: Annotated[frozenset[Scope], NoDecode, BeforeValidator(_words)] = Field(min_length=1)
    username: str | None = Field(default=None, min_length=1)
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None

    @field_validator("username")
    @classmethod
    def _fits_basic(cls, username: str | None) -> str | None:
        if username and UNFIT_FOR_BASIC.search(username):
            raise ValueError("must have no colon and no control character: HTTP Basic cannot carry them")
        return username

    @field_validator("secret")
    @classmethod
    def _fits_basic_and_is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret and len(secret.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"must have {SHORTEST_SECRET} characters or more; `priohook clients new NAME` makes one")
        if secret and re.search(r"[\x00-\x1f\x7f]", secret.get_secret_value()):
            raise ValueError("must have no control character: HTTP Basic cannot carry them")
        return secret

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        if (self.secret is None) == (self.sha256 is None):
            raise ValueError("needs exactly one of secret and sha256; `priohook clients new NAME` prints both")
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

    database_url: str = Field(
        default="sqlite+aiosqlite:///priohook.db",
        repr=False,  # it may hold a password
        description="Where events are kept: a SQLite file, or postgresql://user:password@host/database.",
    )
    clients: dict[str, ClientSettings] = Field(
        default={},
        repr=False,
        description="Who may come in, a table by name; `priohook clients new NAME` prints an entry.",
    )
    max_body_bytes: int = Field(
        default=1024 * 1024,
        gt=0,
        le=64 * 1024 * 1024,
        description="The largest body taken, after decompression.",
        json_schema_extra={"unit": "bytes"},
    )
    body_timeout: Seconds = Field(
        default=timedelta(seconds=10),
        description="How long a whole body may take to arrive.",
        json_schema_extra={"unit": "seconds"},
    )
    on_unprocessable: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="The answer to an unusable body: refuse (400, 415, 422) or accept (200); it is kept either way.",
    )
    commit_timeout: Seconds = Field(
        default=timedelta(seconds=5),
        description="How long an event may wait for its commit before its sender is told 503.",
        json_schema_extra={"unit": "seconds"},
    )
    commit_max_batch: int = Field(
        default=256,
        gt=0,
        le=10_000,
        description="The most events that share one commit.",
        json_schema_extra={"unit": "events"},
    )
    max_waiting_events: int = Field(
        default=1024,
        gt=0,
        description="How many events may wait for a commit before the next is answered 503.",
        json_schema_extra={"unit": "events"},
    )
    max_waiting_bytes: int = Field(
        default=32 * 1024 * 1024,
        gt=0,
        description="How many bytes of bodies may wait for a commit before the next event is answered 503.",
        json_schema_extra={"unit": "bytes"},
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_words)] = Field(
        default=(),
        description="Networks whose X-Forwarded-For is believed, such as a balancer's; all others' is ignored.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="How log lines look: auto is text on a terminal and JSON elsewhere."
    )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):  # SQLAlchemy's own ValueError shows what it took for the port
            raise ValueError(
                "is no URL; write sqlite+aiosqlite:///file.db or postgresql://user:password@host/db"
            ) from None
        backend = parsed.get_backend_name()
        if backend in ("postgresql", "postgres"):
            return parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
        if backend != "sqlite":
            raise ValueError(f"names {backend}; priohook runs on sqlite and on postgresql")
        if parsed.database in (None, "", ":memory:") or parsed.query:
            raise ValueError("must name a plain SQLite file: what is in memory only is lost at the end")
        return parsed.set(drivername="sqlite+aiosqlite").render_as_string(hide_password=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the parent's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, *_sources(settings_cls).values()

    @classmethod
    def load(cls) -> "Settings":
        """The settings of this process.

        Raises:
            SettingsProblem: a source cannot be read, or a value is not usable.
        """
        path = config_file()
        if CONFIG_VARIABLE in os.environ and not path.is_file():
            raise SettingsProblem(f"{CONFIG_VARIABLE} names {path}, and there is no such file: correct it or unset it.")
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


def config_file() -> Path:
    """The TOML file that settings come from; it need not exist unless `PRIOHOOK_CONFIG` names it."""
    return Path(os.environ.get(CONFIG_VARIABLE, "priohook.toml"))


def value_sources() -> dict[str, str]:
    """Where each setting's value comes from: `environment`, `secret file`, the TOML file's path or `default`."""
    found = dict.fromkeys(Settings.model_fields, "default")
    for name, source in reversed(_sources(Settings).items()):
        found |= dict.fromkeys(source(), name)
    return found


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The `PRIOHOOK_` variables that no setting reads: likely misspelt, so worth a warning.

    Only a warning, since Kubernetes gives every pod variables such as `PRIOHOOK_SERVICE_HOST` once a service is called
    priohook.
    """
    known = {CONFIG_VARIABLE, *(ENV_PREFIX + name.upper() for name in Settings.model_fields)}
    ours = (name for name in environ if name.upper().startswith(ENV_PREFIX))
    return sorted(name for name in ours if name.upper().split("__")[0] not in known)


def _sources(settings_cls: type[BaseSettings]) -> dict[str, PydanticBaseSettingsSource]:
    """The sources by name, strongest first."""
    return {
        "environment": EnvSettingsSource(settings_cls),
        "secret file": NestedSecretsSettingsSource(
            SecretsSettingsSource(settings_cls, secrets_dir=SECRETS_FOLDER),
            secrets_dir=SECRETS_FOLDER,
            secrets_dir_missing="ok",
            secrets_prefix=ENV_PREFIX.lower(),
            secrets_nested_delimiter="__",
        ),
        str(config_file()): TomlConfigSettingsSource(settings_cls, config_file()),
    }
