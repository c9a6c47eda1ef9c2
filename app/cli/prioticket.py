"""The commands under `priohook prioticket`, which ask Prioticket's API."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import click

from app.auth.first_clients import with_kept_clients
from app.cli.account import account
from app.cli.lazy import LazyGroup
from app.cli.opened import load_settings, opened
from app.cli.output import print_fields, say, write_body
from app.cli.tables import print_rows
from app.database.writing import writing
from app.prioticket.client import prioticket_of
from app.prioticket.messages import FetchedOrder
from app.reconciliation.erased import OrderErased, refuse_erased
from app.reconciliation.senders import sender_of
from app.reconciliation.snapshots import Cause, Snapshot, store_snapshot

BOOKING = ("booking_reference", "booking_status", "booking_travel_date", "product_title")
ORDER = (
    "order_reference",
    "order_external_reference",
    "order_status",
    "order_version",
    "order_created",
    "order_modified",
)
FETCHED_FOR = "prioticket order --store"
WEBHOOKS = ("app.cli.webhooks:webhooks", "List, register, delete and test the webhooks of this account.")


@click.group(cls=LazyGroup, lazy={"webhooks": WEBHOOKS})
def prioticket() -> None:
    """Register webhooks at Prioticket, and show orders as Prioticket has them."""


@prioticket.command()
@click.argument("reference")
@click.option("--version", type=click.IntRange(0), help="The order as it was at this version.")
@click.option("--store", is_flag=True, help="Store the order as an event, which is delivered as any other.")
@click.option("--json", "as_json", is_flag=True, help="The exact bytes of Prioticket's answer.")
def order(*, reference: str, version: int | None, store: bool, as_json: bool) -> None:
    """Show an order as Prioticket has it now, and with --store keep it."""
    try:
        fetched, stored = asyncio.run(_fetched(reference, version=version, store=store))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OrderErased as error:
        raise click.ClickException(f"{error} Without --store it is only shown.") from None
    if stored is not None:
        said = f"It is stored as event {stored.id}." if stored.new else f"Event {stored.id} has it already."
        say(said, err=True)
    if as_json:
        write_body(fetched.body)
        return
    print_fields({name: fetched.order.get(name) for name in ORDER})
    booked = fetched.order.get("order_bookings")
    bookings = [each for each in booked if isinstance(each, dict)] if isinstance(booked, list) else []
    say()
    print_rows(({name: booking.get(name) for name in BOOKING} for booking in bookings), BOOKING)


async def _fetched(reference: str, *, version: int | None, store: bool) -> tuple[FetchedOrder, Snapshot | None]:
    configured, settings = account(), with_kept_clients(load_settings())
    async with AsyncExitStack() as stack:
        # Before Prioticket is asked: it must be there to store anything.
        engine = await stack.enter_async_context(opened(settings)) if store else None
        if engine is not None:
            async with engine.connect() as connection:
                await refuse_erased(connection, reference)
        told = partial(say, err=True)
        client = await stack.enter_async_context(prioticket_of(configured, told=told))
        fetched = await client.order(reference, version=version)
        if engine is None:
            return fetched, None
        usernames = {name: each.username or name for name, each in settings.clients.items()}
        async with writing(engine) as connection:
            sender = await sender_of(connection, reference, settings.clients)
            cause = Cause(fetched_for=FETCHED_FOR)
            return fetched, await store_snapshot(connection, fetched, cause, client=sender, usernames=usernames)
