"""Who may come in: what `priohook clients list` and the console show of the clients."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth.clients import Client, Validity, client_from
from app.events.queries import last_events
from app.settings.model import Settings
from app.telemetry.uses import Use, client_uses

STATES = {Validity.VALID: "valid", Validity.NOT_BEGUN: "not yet valid", Validity.ENDED: "expired"}


class LastRefusal(BaseModel):
    """When, why and from where a client was last refused."""

    at: datetime
    status: int | None
    reason: str | None
    address: str | None


class ClientShown(BaseModel):
    """A client, without its secret and the digest of it."""

    name: str
    username: str
    scopes: str
    state: str
    source: str | None
    not_before: datetime | None
    not_after: datetime | None
    last_event_at: datetime | None
    last_success_at: datetime | None
    last_refusal: LastRefusal | None


class Heard(NamedTuple):
    """When each client's last event arrived, and its use; by name."""

    last_events: Mapping[str, datetime]
    uses: Mapping[str, Use]


async def heard(connection: AsyncConnection) -> Heard:
    """What the database knows of the clients; of events it looks at the newest 10,000."""
    return Heard(await last_events(connection), await client_uses(connection))


def shown_clients(settings: Settings, sources: Mapping[str, str], known: Heard, *, now: datetime) -> list[ClientShown]:
    """All clients, in the order of the settings.

    Args:
        settings: Complete, with what is kept beside a SQLite database.
        sources: Where each client comes from.
        known: What the database knows of them.
        now: The time.
    """
    return [_shown(client_from(name, entry), sources.get(name), known, now) for name, entry in settings.clients.items()]


def _shown(client: Client, source: str | None, known: Heard, now: datetime) -> ClientShown:
    use = known.uses.get(client.name, Use(client.name))
    refusal = None
    if use.refused_at is not None:
        refusal = LastRefusal(
            at=use.refused_at, status=use.refused_status, reason=use.refused_reason, address=use.refused_address
        )
    return ClientShown(
        name=client.name,
        username=client.username,
        scopes=" ".join(sorted(client.scopes)),
        state=STATES[client.validity(now)],
        source=source,
        not_before=client.not_before,
        not_after=client.not_after,
        last_event_at=known.last_events.get(client.name),
        last_success_at=use.succeeded_at,
        last_refusal=refusal,
    )
