"""The commands under `priohook keys`."""

import json

import click

from app.auth.keys import new_key


@click.group()
def keys() -> None:
    """What signs tokens."""


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def new(*, as_json: bool) -> None:
    """Make a key and print it, once. Nothing is saved: paste the line into priohook.toml of every receiver."""
    made = {"token_keys": [new_key()]}
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"For priohook.toml:\n\ntoken_keys = {json.dumps(made['token_keys'])}")
