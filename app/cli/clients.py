"""The commands under `priohook clients`."""

import json
from base64 import b64encode

import click
from pydantic import ValidationError

from app.auth.clients import digest, new_secret
from app.settings import ClientSettings, Scope, describe


@click.group()
def clients() -> None:
    """Who may come in."""


@clients.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice([str(each) for each in Scope]), help="Repeatable.")
@click.option("--username", help="What it sends before the colon, where that is not NAME.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def new(name: str, scopes: tuple[str, ...], username: str | None, *, as_json: bool) -> None:
    """Make credentials for a client and print them, once. Nothing is saved: paste the entry into priohook.toml."""
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
        click.echo(json.dumps(made | {"webhook_auth": webhook_auth}))
        return
    click.echo(f"username      {user}\nsecret        {secret}\nsha256        {kept}\nwebhook_auth  {webhook_auth}\n")
    click.echo("For priohook.toml:\n")
    click.echo(f"[clients.{_toml_key(name)}]\nsha256 = {json.dumps(kept)}\nscopes = {json.dumps(list(scopes))}")
    if username:
        click.echo(f"username = {json.dumps(username, ensure_ascii=False)}")


def _toml_key(name: str) -> str:
    return (
        name
        if name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        else json.dumps(name, ensure_ascii=False)
    )
