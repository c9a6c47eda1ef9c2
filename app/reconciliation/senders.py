"""In whose name a fetched order is stored."""

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from app.reconciliation.snapshots import client_of
from app.settings.clients import ClientSettings, Scope

USUAL = "prioticket"
"""The name that a first start gives the client that may send."""


async def sender_of(connection: AsyncConnection, reference: str | None, clients: Mapping[str, ClientSettings]) -> str:
    """The client of the order's newest event, or else the first of the clients that may send webhooks now."""
    if reference is not None and (client := await client_of(connection, reference)) is not None:
        return client
    now = datetime.now(UTC)
    for name, configured in clients.items():
        valid = (configured.not_before or now) <= now <= (configured.not_after or now)
        if Scope.SEND in configured.scopes and valid:
            return name
    return USUAL
