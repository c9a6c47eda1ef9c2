"""The keys that sign tokens: configured, or made at a first start on SQLite and kept beside the database."""

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.auth.clients import new_secret
from app.auth.kept import keep, kept_path, read_kept
from app.settings.keys import TokenKeys
from app.settings.model import Settings, SettingsProblem, describe


def token_keys(settings: Settings) -> tuple[bytes, ...]:
    """The keys as bytes; the first one signs."""
    return tuple(key.get_secret_value().encode() for key in settings.token_keys)


def make_first_key(settings: Settings) -> None:
    """Makes a key beside a SQLite database, unless there is one; on PostgreSQL several receivers must share one."""
    path = kept_path(settings, "keys")
    if path is not None and not settings.token_keys and not path.exists():
        keep(path, f"token_keys = {json.dumps([new_key()])}\n")


def kept_keys(settings: Settings) -> TokenKeys:
    """The keys beside the database, if there are any.

    Raises:
        SettingsProblem: their file cannot be used.
    """
    path = kept_path(settings, "keys")
    return _read(path) if path is not None and path.exists() else ()


def new_key() -> str:
    """A key of 384 random bits, more than HS256 needs, made of letters, digits, `-` and `_`."""
    return new_secret() + new_secret()


def _read(path: Path) -> TokenKeys:
    try:
        keys = TypeAdapter(TokenKeys).validate_python(read_kept(path, "token_keys") or [])
    except ValidationError as error:
        raise SettingsProblem(f"{path}: {describe(error)}") from None
    if not keys:
        raise SettingsProblem(f"{path} holds no token_keys. Move it away to have it made again.")
    return keys
