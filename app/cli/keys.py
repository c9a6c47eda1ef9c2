"""The commands under `priohook keys`."""

import json

import click

from app.auth.keys import new_key
from app.cli.output import say, say_json


@click.group()
def keys() -> None:
    """Make a key that signs tokens."""


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def new(*, as_json: bool) -> None:
    """Make a key and print it once. Nothing is saved: paste the line into priohook.toml of every receiver."""
    made = {"token_keys": [new_key()]}
    if as_json:
        say_json(made)
        return
    say(f"For priohook.toml:\n\ntoken_keys = {json.dumps(made['token_keys'])}")
