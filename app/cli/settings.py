"""The command `priohook settings`."""

import json
import os

import click

from app.auth.first_start import complete
from app.auth.in_force import sources_in_force
from app.cli.opened import load_settings
from app.cli.output import say, say_json
from app.settings.origins import unknown_variables
from app.settings.shown import shown_settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def settings(*, as_json: bool) -> None:
    """Print every setting: value, unit, source and meaning. Secrets are masked."""
    completed = complete(load_settings())
    rows = shown_settings(completed, sources_in_force(completed).settings)
    if as_json:
        say_json(
            {row.name: {name: each for name, each in row._asdict().items() if name != "name"} for row in rows}, indent=2
        )
    else:
        for row in rows:
            value = row.value if isinstance(row.value, str) else json.dumps(row.value)
            say(f"{row.name} = {value}{f' {row.unit}' if row.unit else ''}  ({row.source})")
            say(f"    {row.description}")
    for name in unknown_variables(os.environ):
        say(f"priohook: {name} is set, but there is no such setting. Is it misspelt?", err=True)
