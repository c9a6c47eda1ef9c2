"""The commands under `priohook prioticket`, which ask Prioticket's API."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from app.auth.clients import clients_from
from app.auth.first_clients import with_kept_clients
from app.cli.check import check_
from app.cli.credentials import credentials, webhook_url
from app.cli.deliveries import confirm
from app.cli.opened import load_settings
from app.cli.output import print_fields, print_json_lines, print_rows, say, write_body
from app.prioticket import registering
from app.prioticket.client import Prioticket, prioticket_of
from app.prioticket.registering import NotDeleted, RegisteredAlready
from app.prioticket.webhooks import EVENTS, UPCOMING, Webhook, registration, same_url
from app.settings.clients import Scope
from app.settings.prioticket import PrioticketSettings

Result = TypeVar("Result")

SHOWN = ("id", "status", "version", "payload", "events", "url", "created", "created_by")
BOOKING = ("booking_reference", "booking_status", "booking_travel_date", "product_title")
ORDER = (
    "order_reference",
    "order_external_reference",
    "order_status",
    "order_version",
    "order_created",
    "order_modified",
)
USER_OF_URL = re.compile(r"(?<=//)[^/?#@]*@")


@click.group()
def prioticket() -> None:
    """Register webhooks at Prioticket, and show orders as Prioticket has them."""


@prioticket.group()
def webhooks() -> None:
    """List, register and delete the webhooks of this account."""


@webhooks.command(name="list")
@click.option("--url", help="Mark the webhooks with this URL as ours.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, url: str | None, as_json: bool) -> None:
    """List all registered webhooks, and point out disabled ones: Prioticket sends nothing to them."""
    ours = webhook_url(url) if url else None
    listed = _asked(Prioticket.webhooks)
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
@click.option("--url", required=True, help="The public URL of this receiver, with https://.")
@click.option("--events", default=" ".join(EVENTS), show_default=True, help="Names, separated by spaces or commas.")
@click.option("--client", help="The client whose credentials Prioticket will send; default: one that may send.")
@click.option("--auth-stdin", is_flag=True, help="Read these credentials, USERNAME:SECRET, from standard input.")
@click.option("--email", help="An address for Prioticket's messages about this webhook.")
@click.option("--no-payload", is_flag=True, help="Ask for notifications without the changed order.")
@click.option(
    "--replace", is_flag=True, help="Register this URL again if it is registered, then delete the old webhooks."
)
@click.option("--no-check", is_flag=True, help="Do not check the URL afterwards.")
def register(*, url: str, events: str, replace: bool, no_check: bool, no_payload: bool, **given: Any) -> None:
    """Register this receiver at Prioticket, then check its URL as `priohook check` does. Exit 1 if the check fails."""
    url = _public(url)
    names = list(dict.fromkeys(events.replace(",", " ").split()))
    username, secret = _credentials(client=given["client"], from_stdin=given["auth_stdin"])
    asked = registration(url, names, username=username, secret=secret, payload=not no_payload, email=given["email"])
    for name in names:
        if name in UPCOMING:
            say(f"{name} was announced as upcoming: Prioticket may not send it yet.", err=True)
    try:
        made = _asked(lambda account: registering.register(account, asked, replace=replace))
    except RegisteredAlready as error:
        raise click.ClickException(f"{error} --replace registers it again and then deletes the old one.") from None
    except NotDeleted as error:
        said = f"{error} Run `priohook prioticket webhooks delete {error.old.id}`: until then each event comes twice."
        raise click.ClickException(said) from None
    say(f"webhook_id {made.id}")
    if no_check:
        say(f"Check that it can be reached: `priohook check {url}`.")
    else:
        say(f"Checking {url}, as `priohook check` does:")
        click.get_current_context().invoke(
            check_, url=url, user=f"{username}:{secret}", read_only=False, timeout=15.0, as_json=False
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
        ids = tuple(webhook.id for webhook in _asked(Prioticket.webhooks) if same_url(webhook.url, wanted))
        if not ids:
            raise click.ClickException(f"No webhook with the URL {wanted} is registered.")
    confirm(f"Delete {' '.join(ids)}?", yes=yes)

    async def delete_all(client: Prioticket) -> None:
        for webhook_id in ids:
            await client.delete_webhook(webhook_id)
            say(f"{webhook_id} is deleted.")

    try:
        _asked(delete_all)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@prioticket.command()
@click.argument("reference")
@click.option("--version", type=click.IntRange(0), help="The order as it was at this version.")
@click.option("--json", "as_json", is_flag=True, help="The exact bytes of Prioticket's answer.")
def order(*, reference: str, version: int | None, as_json: bool) -> None:
    """Show an order as Prioticket has it now. Nothing is stored."""
    try:
        fetched = _asked(lambda client: client.order(reference, version=version))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        write_body(fetched.body)
        return
    print_fields({name: fetched.order.get(name) for name in ORDER})
    booked = fetched.order.get("order_bookings")
    bookings = [each for each in booked if isinstance(each, dict)] if isinstance(booked, list) else []
    say()
    print_rows(({name: booking.get(name) for name in BOOKING} for booking in bookings), BOOKING)


def _asked(question: Callable[[Prioticket], Awaitable[Result]]) -> Result:
    """Prioticket's answer to a question. Standard error tells of waits."""
    configured = account()

    async def answer() -> Result:
        async with prioticket_of(configured, told=lambda sentence: say(sentence, err=True)) as client:
            return await question(client)

    return asyncio.run(answer())


def account() -> PrioticketSettings:
    """The configured account.

    Raises:
        click.UsageError: there is none.
    """
    configured = load_settings().prioticket
    if configured is None:
        raise click.UsageError(
            "Prioticket's API is not configured: set base_url, client_id and client_secret of [prioticket] in "
            "priohook.toml, or PRIOHOOK_PRIOTICKET__BASE_URL and so on."
        )
    return configured


def _row(webhook: Webhook) -> dict[str, Any]:
    row = asdict(webhook)
    return row | {"events": list(webhook.events), "url": USER_OF_URL.sub("***@", webhook.url)}


def _public(url: str) -> str:
    """The URL to register. Only a simulated Prioticket, whose API has no TLS either, may send without TLS."""
    full = webhook_url(url)
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
