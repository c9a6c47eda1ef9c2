"""The command `priohook settings`."""

import json
import os
from datetime import timedelta
from typing import Any

import click
from sqlalchemy.engine import make_url

from app.settings import ClientSettings, DestinationSettings, Settings, unknown_variables, value_sources
from app.values import without_password


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def settings(*, as_json: bool) -> None:
    """Print every setting: value, unit, source and meaning. Secrets are masked."""
    loaded, sources = Settings.load(), value_sources()
    rows = [
        {
            "name": name,
            "value": _shown(name, getattr(loaded, name)),
            "unit": (field.json_schema_extra or {}).get("unit") if isinstance(field.json_schema_extra, dict) else None,
            "source": sources[name],
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        click.echo(json.dumps({row.pop("name"): row for row in rows}, indent=2))
    else:
        for row in rows:
            value = row["value"] if isinstance(row["value"], str) else json.dumps(row["value"])
            click.echo(f"{row['name']} = {value}{' ' + str(row['unit']) if row['unit'] else ''}  ({row['source']})")
            click.echo(f"    {row['description']}")
    for name in unknown_variables(os.environ):
        click.echo(f"priohook: {name} is set and no setting reads it: is it misspelt?", err=True)


def _shown(name: str, value: Any) -> Any:
    if name == "database_url":
        url = make_url(value)
        masked = {key: "***" for key in url.query if "password" in key}  # libpq takes one there too
        return url.update_query_dict(masked).render_as_string(hide_password=True)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if name == "clients":
        return {each: _client(client) for each, client in value.items()}
    if name == "destinations":
        return {each: _destination(destination) for each, destination in value.items()}
    return [str(each) for each in value] if isinstance(value, tuple | frozenset) else value


def _destination(destination: DestinationSettings) -> dict[str, Any]:
    shown = destination.model_dump(mode="json", exclude_defaults=True)
    shown["url"] = without_password(destination.url)
    if destination.headers:
        shown["headers"] = dict.fromkeys(destination.headers, "***")  # they may be credentials
    return shown | {"timeout": destination.timeout.total_seconds()}


def _client(client: ClientSettings) -> dict[str, Any]:
    return client.model_dump(mode="json", exclude_none=True, exclude={"sha256"})  # pydantic masks the secret
