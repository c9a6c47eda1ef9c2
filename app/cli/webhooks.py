"""The commands under `priohook prioticket webhooks`."""

import asyncio
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.clients import clients_from
from app.auth.first_clients import with_kept_clients
from app.cli.account import account, asked
from app.cli.check import check_
from app.cli.confirming import confirm
from app.cli.credentials import credentials, webhook_url
from app.cli.opened import load_settings, opened
from app.cli.output import print_json_lines, say
from app.cli.tables import print_rows
from app.events.queries import copies_of
from app.prioticket import registering
from app.prioticket.client import Prioticket, prioticket_of
from app.prioticket.errors import Refused
from app.prioticket.registering import NotDeleted, RegisteredAlready
from app.prioticket.webhooks import EVENTS, UPCOMING, Webhook, registration, same_url
from app.settings.clients import Scope

SHOWN = ("id", "status", "version", "payload", "events", "url", "created", "created_by")
USER_OF_URL = re.compile(r"(?<=//)[^/?#@]*@")
LOOK_EVERY = 0.5  # seconds between looks for an event
PUBLIC_URL = "public_url in the settings is used by default."


@click.group()
def webhooks() -> None:
    """List, register, delete and test the webhooks of this account."""


@webhooks.command(name="list")
@click.option("--url", help=f"Mark the webhooks with this URL as ours; {PUBLIC_URL}")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, url: str | None, as_json: bool) -> None:
    """List all registered webhooks, and point out disabled ones: Prioticket sends nothing to them."""
    ours = _ours(url)
    listed = asked(Prioticket.webhooks)
    rows = [_row(webhook) | ({"ours": same_url(webhook.url, ours)} if ours else {}) for webhook in listed]
    if as_json:
        print_json_lines(rows)
    else:
        texts = [row | {"events": " ".join(row["events"]), "ours": "ours" if row.get("ours") else ""} for row in rows]
        print_rows(texts, ("ours", *SHOWN) if ours else SHOWN)
    for webhook in listed:
        if not webhook.enabled:
            say(f"Webhook {webhook.id} is disabled: Prioticket sends it nothing. Register it again.", err=True)


@webhooks.command()
@click.option("--url", help=f"The URL of this receiver for Prioticket, with https://; {PUBLIC_URL}")
@click.option("--events", default=" ".join(EVENTS), show_default=True, help="Names, separated by spaces or commas.")
@click.option("--client", help="The client whose credentials Prioticket will send; default: one that may send.")
@click.option("--auth-stdin", is_flag=True, help="Read these credentials, USERNAME:SECRET, from standard input.")
@click.option("--email", help="An address for Prioticket's messages about this webhook.")
@click.option("--no-payload", is_flag=True, help="Ask for notifications without the changed order.")
@click.option(
    "--replace", is_flag=True, help="Register this URL again if it is registered, then delete the old webhooks."
)
@click.option("--no-check", is_flag=True, help="Do not check the URL afterwards.")
def register(*, url: str | None, events: str, replace: bool, no_check: bool, no_payload: bool, **given: Any) -> None:
    """Register this receiver at Prioticket, then check its URL as `priohook check` does. Exit 1 if the check fails."""
    ours = _public(url)
    names = list(dict.fromkeys(events.replace(",", " ").split()))
    username, secret = _credentials(client=given["client"], from_stdin=given["auth_stdin"])
    wanted = registration(ours, names, username=username, secret=secret, payload=not no_payload, email=given["email"])
    for name in names:
        if name in UPCOMING:
            say(f"{name} was announced as upcoming: Prioticket may not send it yet.", err=True)
    try:
        made = asked(lambda client: registering.register(client, wanted, replace=replace))
    except RegisteredAlready as error:
        raise click.ClickException(f"{error} --replace registers it again and then deletes the old one.") from None
    except NotDeleted as error:
        said = f"{error} Run `priohook prioticket webhooks delete {error.old.id}`: until then each event comes twice."
        raise click.ClickException(said) from None
    say(f"webhook_id {made.id}")
    if no_check:
        say(f"Check that it can be reached: `priohook check {ours}`.")
    else:
        say(f"Checking {ours}, as `priohook check` does:")
        click.get_current_context().invoke(
            check_, url=ours, user=f"{username}:{secret}", read_only=False, timeout=15.0, as_json=False
        )


@webhooks.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--url", help="Delete all webhooks with this URL.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
def delete(*, ids: tuple[str, ...], url: str | None, yes: bool) -> None:
    """Delete webhooks: Prioticket then sends nothing more to their URLs."""
    if bool(ids) == bool(url):
        raise click.UsageError("Give either ids or --url.")
    if url:
        wanted = webhook_url(url)
        ids = tuple(webhook.id for webhook in asked(Prioticket.webhooks) if same_url(webhook.url, wanted))
        if not ids:
            raise click.ClickException(f"No webhook with the URL {wanted} is registered.")
    confirm(f"Delete {' '.join(ids)}?", yes=yes)

    async def delete_all(client: Prioticket) -> None:
        for webhook_id in ids:
            await client.delete_webhook(webhook_id)
            say(f"{webhook_id} is deleted.")

    try:
        asked(delete_all)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@webhooks.command()
@click.argument("reference", metavar="ORDER_REF")
@click.option("--event", default="ORDER_UPDATE", show_default=True, help="The event to send a sample of.")
@click.option(
    "--within",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="How many seconds to wait for it.",
)
def test(*, reference: str, event: str, within: float) -> None:
    """Let Prioticket send a sample event of an order, and wait for it in the database. Exit 1 if it does not arrive.

    Prioticket documents samples for version 3.5 of its API only. Version 3.8 may not have them.
    """
    try:
        arrived = asyncio.run(_sample(reference, event, within=within))
    except Refused as error:
        if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS):
            raise
        said = f"{error} Prioticket documents samples for version 3.5 of its API only: this version may not have them."
        raise click.ClickException(said) from None
    if arrived is None:
        raise click.ClickException(
            f"Prioticket took the request, but no event of {reference} arrived within {within:g} seconds. "
            "`priohook prioticket webhooks list` shows what is registered, and `priohook check URL` whether it can be "
            "reached. Version 3.8 of the API may not send samples."
        )
    event_id, seconds = arrived
    say(f"Event {event_id} of {reference} arrived after {seconds:.1f} seconds.")


async def _sample(reference: str, event: str, *, within: float) -> tuple[UUID, float] | None:
    """The event that arrives, or the stored one that it is a copy of, and after how long. None if none arrives."""
    configured = account()
    async with opened(load_settings(), writes=False) as engine:
        before = await _copies(engine, reference)
        async with prioticket_of(configured, told=lambda sentence: say(sentence, err=True)) as client:
            await client.send_sample(event, reference)
        began = monotonic()
        while (waited := monotonic() - began) < within:
            for event_id, copies in (await _copies(engine, reference)).items():
                if copies > before.get(event_id, -1):
                    return event_id, waited
            await asyncio.sleep(LOOK_EVERY)
    return None


async def _copies(engine: AsyncEngine, reference: str) -> Mapping[UUID, int]:
    async with engine.connect() as connection:
        return await copies_of(connection, reference)


def _row(webhook: Webhook) -> dict[str, Any]:
    row = asdict(webhook)
    return row | {"events": list(webhook.events), "url": USER_OF_URL.sub("***@", webhook.url)}


def _ours(url: str | None) -> str | None:
    """The URL of our webhook, as far as it is known."""
    known = url or load_settings().public_url
    return webhook_url(known) if known else None


def _public(url: str | None) -> str:
    """The URL to register. Only a simulated Prioticket, whose API has no TLS either, may send without TLS."""
    full = _ours(url)
    if full is None:
        raise click.UsageError("Give --url, or set public_url: the URL under which Prioticket reaches this receiver.")
    if urlsplit(full).scheme != "https" and urlsplit(account().base_url).scheme == "https":
        raise click.UsageError("Prioticket must reach the receiver by https://: orders hold personal data.")
    return full


def _credentials(*, client: str | None, from_stdin: bool) -> tuple[str, str]:
    """Username and secret that Prioticket will send."""
    settings = with_kept_clients(load_settings())
    if from_stdin:
        username, _, secret = sys.stdin.readline().rstrip("\r\n").partition(":")
        match = clients_from(settings.clients).match(f"{username}:{secret}".encode(), now=datetime.now(UTC))
        if match is None or Scope.SEND not in match.scopes or client not in (None, match.name):
            raise click.ClickException("Standard input has no USERNAME:SECRET of a client that may send.")
        return username, secret
    if client is None:
        return credentials(None)
    chosen = settings.clients.get(client)
    if chosen is None or Scope.SEND not in chosen.scopes:
        raise click.UsageError(f"There is no client {client} with the scope {Scope.SEND}: `priohook clients list`.")
    if chosen.secret is None:
        raise click.UsageError(f"Only a digest of {client}'s secret is kept: give USERNAME:SECRET to --auth-stdin.")
    return chosen.username or client, chosen.secret.get_secret_value()
