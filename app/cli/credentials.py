"""The credentials with which a command of ours calls a receiver."""

import click

from app.auth.first_clients import kept_clients
from app.settings import Scope, Settings

URL = "http://127.0.0.1:8000"
PATH = "/webhooks/prioticket"


def credentials(user: str | None) -> tuple[str, str]:
    """Username and password: those given as `username:password`, or a configured client's that may send webhooks.

    Raises:
        click.UsageError: there are none.
    """
    if user is not None:
        username, colon, password = user.partition(":")
        if not colon:
            raise click.UsageError("--user takes USERNAME:SECRET, as curl's -u does.")
        return username, password
    settings = Settings.load()
    clients = settings.clients or kept_clients(settings)
    for name, client in clients.items():
        if client.secret is not None and Scope.SEND in client.scopes:
            return client.username or name, client.secret.get_secret_value()
    raise click.UsageError("No client's secret is configured here: give --user USERNAME:SECRET.")


def webhook_url(url: str) -> str:
    """The URL, with the webhook's path where it has none."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest:
        raise click.UsageError(f"{url} is no URL: write https://host, with or without {PATH}.")
    host, _, path = rest.partition("/")
    return url if path else f"{scheme}://{host}{PATH}"
