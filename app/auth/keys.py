"""The keys that sign tokens: configured, or made at a first start on SQLite and kept beside the database."""

import json
import os
import tomllib
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.auth.clients import new_secret
from app.database import is_sqlite, sqlite_path
from app.settings import Settings, SettingsProblem, describe
from app.values import TokenKeys

OWNER_ONLY = 0o600


def token_keys(settings: Settings) -> tuple[bytes, ...]:
    """The keys, the one that signs first; none where several receivers would have to agree and nothing is configured.

    Raises:
        SettingsProblem: the file beside the database is unusable.
    """
    if settings.token_keys:
        return tuple(key.get_secret_value().encode() for key in settings.token_keys)
    if not is_sqlite(settings.database_url):
        return ()
    path = _path(settings)
    if not path.exists():
        _write(path)
    return _read(path)


def new_key() -> str:
    """A key of 384 random bits, more than HS256 takes in, made of letters, digits, `-` and `_`."""
    return new_secret() + new_secret()


def _path(settings: Settings) -> Path:
    database = sqlite_path(settings.database_url)
    return database.with_name(f"{database.stem}-keys.toml")


def _write(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY), "w") as file:
        file.write(f"token_keys = {json.dumps([new_key()])}\n")


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        content = tomllib.loads(path.read_text())
        keys = TypeAdapter(TokenKeys).validate_python(content.get("token_keys", []))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsProblem(
            f"{path} is no TOML: {error}. Correct it, or move it away to have it made again."
        ) from None
    except ValidationError as error:
        raise SettingsProblem(f"{path}: {describe(error)}") from None
    if not keys:
        raise SettingsProblem(f"{path} holds no token_keys. Move it away to have it made again.")
    return tuple(key.get_secret_value().encode() for key in keys)
