"""Where settings come from: environment, secret files and a TOML file, strongest first."""

import os
from pathlib import Path

from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    TomlConfigSettingsSource,
)

ENV_PREFIX = "PRIOHOOK_"
CONFIG_VARIABLE = "PRIOHOOK_CONFIG"
SECRETS_FOLDER = Path("/run/secrets")


def config_file() -> Path:
    """The TOML file that settings come from; it need not exist unless `PRIOHOOK_CONFIG` names it."""
    return Path(os.environ.get(CONFIG_VARIABLE, "priohook.toml"))


def sources(settings_cls: type[BaseSettings]) -> dict[str, PydanticBaseSettingsSource]:
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
