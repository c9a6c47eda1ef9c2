"""The clients that a first start on SQLite makes, so that priohook can be tried without any configuration.

They are kept beside the database and are valid together with those in the settings, whichever came first.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.auth.clients import client_from, new_secret
from app.auth.kept import keep, kept_path, read_kept
from app.settings.clients import ClientSettings, Scope
from app.settings.model import Settings, SettingsProblem, describe

SCOPES = {
    "prioticket": (Scope.SEND,),
    "admin": (Scope.READ, Scope.REPLAY, Scope.ERASE, Scope.CONSOLE),
}


@dataclass(frozen=True, slots=True)
class FirstClients:
    """The clients kept in a file beside the database, and whether this start made them."""

    clients: Mapping[str, ClientSettings]
    path: Path
    made_now: bool


def first_clients(settings: Settings) -> FirstClients | None:
    """The clients beside the database, made if there are none anywhere; None if all are in the settings.

    Raises:
        SettingsProblem: the file cannot be used, or no client is configured and the database is not SQLite.
    """
    check_clients(settings)
    path = kept_path(settings, "clients")
    if path is None or (settings.clients and not path.exists()):
        return None
    made_now = not path.exists() and keep(path, _made())
    clients = _read(path)
    if not clients and not settings.clients:
        raise SettingsProblem(f"{path} holds no clients. Move it away to have it made again.")
    return FirstClients(clients, path, made_now)


def check_clients(settings: Settings) -> None:
    """Checks that there are clients, or can be.

    Raises:
        SettingsProblem: no client is configured and the database is not SQLite.
    """
    if not settings.clients and kept_path(settings, "clients") is None:
        raise SettingsProblem(
            "No client is configured. `priohook clients new prioticket` prints an entry for the clients table in "
            "priohook.toml; PRIOHOOK_CLIENTS or a secret file works too."
        )


def kept_clients(settings: Settings) -> Mapping[str, ClientSettings]:
    """The clients that an earlier start made beside the database, if there are any."""
    path = kept_path(settings, "clients")
    return _read(path) if path is not None and path.exists() else {}


def with_kept_clients(settings: Settings) -> Settings:
    """The settings with all clients in force: those configured, and those beside the database.

    Raises:
        SettingsProblem: both have a client of the same name, with different entries.
    """
    kept = kept_clients(settings)
    for name in kept.keys() & settings.clients.keys():
        if client_from(name, kept[name]) != client_from(name, settings.clients[name]):
            raise SettingsProblem(
                f"The client {name} is in the settings and in {kept_path(settings, 'clients')}, with different "
                "entries. Remove one of them, or rename it and keep its username with `username`."
            )
    return settings.model_copy(update={"clients": {**settings.clients, **kept}}) if kept else settings


def _made() -> str:
    lines = []
    for name, scopes in SCOPES.items():
        lines += [f"[clients.{name}]", f'secret = "{new_secret()}"', f"scopes = {json.dumps(scopes)}", ""]
    return "\n".join(lines)


def _read(path: Path) -> dict[str, ClientSettings]:
    try:
        return TypeAdapter(dict[str, ClientSettings]).validate_python(read_kept(path, "clients") or {})
    except ValidationError as error:
        raise SettingsProblem(f"{path}: {describe(error)}") from None
