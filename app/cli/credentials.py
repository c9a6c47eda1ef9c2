"""The credentials and the URL with which `simulate` and `check` call a receiver."""

from datetime import UTC, datetime
from urllib.parse import urlsplit

import click

from app.auth.first_clients import with_kept_clients
from app.cli.opened import load_settings
from app.settings.clients import Scope

URL = "http://127.0.0.1:8000"
PATH = "/webhooks/prioticket"


def credentials(user: str | None) -> tuple[str, str]:
    """Username and password: from `user` (`username:password`), or of a configured client that may send webhooks.

    Raises:
        click.UsageError: there are none.
    """
    if user is not None:
        username, colon, password = user.partition(":")
        if not colon:
            raise click.UsageError("--user takes USERNAME:SECRET, as curl's -u does.")
        return username, password
    now = datetime.now(UTC)
    for name, client in with_kept_clients(load_settings()).clients.items():
        valid = (client.not_before or now) <= now <= (client.not_after or now)
        if client.secret is not None and valid and Scope.SEND in client.scopes:
            return client.username or name, client.secret.get_secret_value()
    raise click.UsageError("No client with a secret in the settings may send. Give --user USERNAME:SECRET.")


def webhook_url(url: str) -> str:
    """The URL, with the webhook's path added if it has none.

    Raises:
        click.UsageError: the URL is invalid, or has credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # wrong brackets or a wrong port
        usable = False
    if not usable or "@" in parts.netloc or parts.query or parts.fragment:
        raise click.UsageError(
            f"The receiver's URL is invalid. Write https://host or https://host:port, with or without {PATH}, and give "
            "credentials with --user."
        )
    return url if parts.path.strip("/") else parts._replace(path=PATH).geturl()
