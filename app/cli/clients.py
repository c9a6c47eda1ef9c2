"""The commands under `priohook clients`."""

import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import asyncpg
import click
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.api.clients import Heard, heard, shown_clients
from app.auth.clients import digest, new_secret
from app.auth.first_clients import with_kept_clients
from app.auth.in_force import sources_in_force
from app.cli.opened import load_settings, read
from app.cli.output import first_line, print_json_lines, say, say_json
from app.cli.tables import print_rows
from app.database.schema import SchemaNotCurrent
from app.settings.clients import ClientSettings, Scope
from app.settings.model import describe

SHOWN = (
    *("name", "username", "scopes", "state", "source", "not_before", "not_after"),
    *("last_event_at", "last_success_at", "last_refusal"),
)
ON_TERMINAL = ("name", "scopes", "state", "not_after", "last_success_at", "last_refusal")


@click.group()
def clients() -> None:
    """Make credentials for clients, and list the clients."""


@clients.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice([str(each) for each in Scope]), help="Repeatable.")
@click.option("--username", help="The username that it sends, if that is not NAME.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def new(name: str, scopes: tuple[str, ...], username: str | None, *, as_json: bool) -> None:
    """Make credentials for a client and print them once. Nothing is saved: paste the entry into priohook.toml."""
    secret, scopes = new_secret(), scopes or (str(Scope.SEND),)
    user = name if username is None else username
    kept = digest(user, secret).hex()
    try:
        ClientSettings.model_validate({"sha256": kept, "scopes": scopes, "username": user})
    except ValidationError as error:
        raise click.BadParameter(describe(error), param_hint="NAME") from None
    credential = f"{user}:{secret}"
    webhook_auth = b64encode(credential.encode()).decode()
    if as_json:
        made = {"name": name, "username": user, "secret": secret, "sha256": kept, "scopes": scopes}
        say_json(made | {"webhook_auth": webhook_auth})
        return
    say(f"username      {user}\nsecret        {secret}\nsha256        {kept}\nwebhook_auth  {webhook_auth}\n")
    say("For priohook.toml:\n")
    say(f"[clients.{_toml_key(name)}]\nsha256 = {json.dumps(kept)}\nscopes = {json.dumps(list(scopes))}")
    if username:
        say(f"username = {_toml_string(username)}")


@clients.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, as_json: bool) -> None:
    """List the clients from all sources. last_event_at takes only the newest 10,000 events into account."""
    rows = _rows()
    if as_json:
        print_json_lines(rows)
    else:
        shown = (row | {"last_refusal": _in_words(row["last_refusal"])} for row in rows)
        print_rows(shown, SHOWN, on_terminal=ON_TERMINAL)


def _rows() -> list[dict[str, Any]]:
    settings = with_kept_clients(load_settings())
    sources = sources_in_force(settings).clients
    rows = shown_clients(settings, sources, _heard(), now=datetime.now(UTC))
    return [row.model_dump() for row in rows]


def _in_words(refusal: dict[str, Any] | None) -> str | None:
    if refusal is None:
        return None
    return f"{refusal['at']:%Y-%m-%d %H:%M} {refusal['status']} {refusal['reason']} {refusal['address']}"


def _heard() -> Heard:
    """What the database knows of the clients; nothing if it cannot be used."""
    try:
        return read(heard)
    except (SchemaNotCurrent, TimeoutError, SQLAlchemyError, asyncpg.PostgresError, OSError) as error:
        say(f"priohook: last_event_at is unknown: {first_line(error)}", err=True)
        return Heard({}, {})


def _toml_key(name: str) -> str:
    return name if name.isascii() and name.replace("-", "").replace("_", "").isalnum() else _toml_string(name)


def _toml_string(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)
