"""Where what is in force comes from: the settings, and the files that a first start keeps beside the database."""

from collections.abc import Mapping
from typing import NamedTuple

from app.auth.first_clients import kept_clients
from app.auth.kept import kept_path
from app.settings.model import Settings
from app.settings.origins import client_sources, value_sources


class Sources(NamedTuple):
    """The source of each setting, and of each client."""

    settings: Mapping[str, str]
    clients: Mapping[str, str]


def sources_in_force(settings: Settings) -> Sources:
    """The sources, as they are now.

    Args:
        settings: Complete, with what is kept beside a SQLite database.

    Raises:
        SettingsProblem: a file beside the database cannot be used.
        ValueError: a source cannot be read.
        OSError: likewise.
    """
    values, clients = value_sources(), client_sources()
    if kept := kept_clients(settings):
        path = str(kept_path(settings, "clients"))
        values["clients"] = path if values["clients"] == "default" else f"{values['clients']}, {path}"
        clients |= {name: ", ".join([*filter(None, [clients.get(name)]), path]) for name in kept}
    keys = kept_path(settings, "keys")
    if settings.token_keys and values["token_keys"] == "default" and keys is not None:  # noqa: S105 - a source
        values["token_keys"] = str(keys)
    return Sources(values, clients)
