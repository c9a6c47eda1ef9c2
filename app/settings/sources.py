"""Where settings come from: environment, secret files and a TOML file, strongest first."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from app.settings.files import read_toml

ENV_PREFIX = "PRIOHOOK_"
CONFIG_VARIABLE = "PRIOHOOK_CONFIG"
SECRETS_FOLDER = Path("/run/secrets")
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Names the folder of what a systemd unit loads by LoadCredential=; systemd.exec(5)."""


class SecretFiles(EnvSettingsSource):
    """The files of both folders that a setting reads, systemd's stronger; other files belong to other services."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, env_ignore_empty=False)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        found: dict[str, str | None] = {}
        prefix = ENV_PREFIX.lower()
        for path in _secret_paths():
            name = path.name.lower()
            setting = name.removeprefix(prefix).partition("__")[0]
            if name.startswith(prefix) and setting in self.settings_cls.model_fields and path.is_file():
                found[name] = _text(path)
        return found


def _secret_paths() -> Iterator[Path]:
    credentials = os.environ.get(CREDENTIALS_VARIABLE)
    for folder in (SECRETS_FOLDER, *([Path(credentials)] if credentials else [])):
        with suppress(OSError):  # there is no such folder, or it is not for us
            yield from sorted(folder.iterdir())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8") from error


def config_file() -> Path:
    """The TOML file that settings come from; it need not exist unless `PRIOHOOK_CONFIG` names it."""
    return Path(os.environ.get(CONFIG_VARIABLE, "priohook.toml"))


def sources(settings_cls: type[BaseSettings]) -> dict[str, PydanticBaseSettingsSource]:
    """The sources by name, strongest first."""
    path = config_file()
    return {
        "environment": EnvSettingsSource(settings_cls),
        "secret file": SecretFiles(settings_cls),
        str(path): InitSettingsSource(settings_cls, read_toml(path) if path.is_file() else {}),
    }
