"""The command `priohook events release`, apart from `priohook events list` because only it needs the receiver."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import click

from app.auth.first_clients import with_kept_clients
from app.cli.opened import changing, load_settings
from app.cli.output import say
from app.receiver.release import NotReleased, Released
from app.receiver.release import release as release_event


@click.command()
@click.argument("event_id", metavar="ID", type=click.UUID)
def release(event_id: UUID) -> None:
    """Judge a quarantined event again by its bytes, and accept it if they can be read."""
    try:
        released = asyncio.run(_release(event_id))
    except NotReleased as refusal:
        raise click.ClickException(str(refusal)) from None
    if released.duplicate:
        say(f"It is a copy of event {released.id} and is now counted there.")
    else:
        say(f"Event {released.id} is accepted.")


async def _release(event_id: UUID) -> Released:
    settings = with_kept_clients(load_settings())
    usernames = {name: client.username or name for name, client in settings.clients.items()}
    async with changing() as connection:
        return await release_event(
            connection, event_id, usernames=usernames, limit=settings.max_body_bytes, now=datetime.now(UTC)
        )
