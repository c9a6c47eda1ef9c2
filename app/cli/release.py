"""The command `priohook events release`, apart from `priohook events list` because only it needs the receiver."""

from datetime import UTC, datetime
from uuid import UUID

import click

from app.auth.first_clients import with_kept_clients
from app.cli.ids import Id
from app.cli.opened import change, load_settings
from app.cli.output import say
from app.events.tables import Event
from app.receiver.release import NotReleased
from app.receiver.release import release as release_event


@click.command()
@click.argument("event_id", metavar="ID", type=Id(Event.id, "event"))
def release(event_id: UUID) -> None:
    """Judge a quarantined event again by its bytes, and accept it if they can be read."""
    settings, now = with_kept_clients(load_settings()), datetime.now(UTC)
    usernames = {name: client.username or name for name, client in settings.clients.items()}
    try:
        released = change(release_event, event_id, usernames=usernames, limit=settings.max_released_bytes, now=now)
    except NotReleased as refusal:
        raise click.ClickException(str(refusal)) from None
    if released.duplicate:
        say(f"It is a copy of event {released.id} and is now counted there.")
    else:
        say(f"Event {released.id} is accepted.")
