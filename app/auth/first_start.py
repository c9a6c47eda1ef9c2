"""Adds to the settings what a first start on SQLite keeps beside the database."""

from app.auth.first_clients import with_kept_clients
from app.auth.keys import kept_keys
from app.settings.model import Settings


def complete(settings: Settings) -> Settings:
    """The settings with all valid clients and token keys; makes none.

    Raises:
        SettingsProblem: a file beside the database cannot be used, or its entry for a client differs from the settings.
    """
    clients = with_kept_clients(settings)
    return clients if settings.token_keys else clients.model_copy(update={"token_keys": kept_keys(settings)})
