"""The commands under `priohook secrets`."""

import click

from app.cli.output import say, say_json
from app.settings.keys import new_signing_secret


@click.group()
def secrets() -> None:
    """Make a secret that signs deliveries."""


@secrets.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def new(*, as_json: bool) -> None:
    """Make a secret and print it once. Nothing is saved: paste it into priohook.toml and give it to the consumer."""
    secret = new_signing_secret()
    if as_json:
        say_json({"secret": secret})
        return
    say(f'For a destination in priohook.toml, and for its consumer:\n\nsecret = "{secret}"')
