"""The clients of a first start: on SQLite nobody should have to configure anything to try it."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.auth.clients import new_secret
from app.database import is_sqlite, sqlite_path
from app.settings import ClientSettings, Scope, Settings, SettingsProblem, describe

SCOPES = {
    "prioticket": (Scope.SEND,),
    "admin": (Scope.READ, Scope.REPLAY, Scope.CONSOLE),
}
OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class FirstClients:
    """The clients kept in a file beside the database, and whether this start made them."""

    clients: Mapping[str, ClientSettings]
    path: Path
    made_now: bool


def first_clients(settings: Settings) -> FirstClients | None:
    """The clients beside the database, made if there are none yet; None where the settings have clients.

    Raises:
        SettingsProblem: the database is not SQLite, so that the clients must be configured, or the file is unusable.
    """
    if settings.clients:
        return None
    if not is_sqlite(settings.database_url):
        raise SettingsProblem(
            "No client is configured. `priohook clients new prioticket` prints an entry for the clients table in "
            "priohook.toml; PRIOHOOK_CLIENTS or a secret file works too."
        )
    path = _path(settings)
    made_now = not path.exists()
    if made_now:
        _write(path)
    return FirstClients(_read(path), path, made_now)


def kept_clients(settings: Settings) -> Mapping[str, ClientSettings]:
    """The clients beside the database that an earlier start made; none where there was no such start."""
    if not is_sqlite(settings.database_url) or not _path(settings).exists():
        return {}
    return _read(_path(settings))


def _path(settings: Settings) -> Path:
    database = sqlite_path(settings.database_url)
    return database.with_name(f"{database.stem}-clients.toml")


def _write(path: Path) -> None:
    lines = []
    for name, scopes in SCOPES.items():
        lines += [f"[clients.{name}]", f'secret = "{new_secret()}"', f"scopes = {json.dumps(scopes)}", ""]
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY), "w") as file:
        file.write("\n".join(lines))


def _read(path: Path) -> dict[str, ClientSettings]:
    try:
        content = tomllib.loads(path.read_text())
        clients = TypeAdapter(dict[str, ClientSettings]).validate_python(content.get("clients", {}))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsProblem(
            f"{path} is no TOML: {error}. Correct it, or move it away to have it made again."
        ) from None
    except ValidationError as error:
        raise SettingsProblem(f"{path}: {describe(error)}") from None
    if not clients:
        raise SettingsProblem(f"{path} holds no clients. Move it away to have it made again.")
    return clients
