"""Stores what a run fetches."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.writing import writing
from app.events.tables import Undispatched
from app.prioticket.messages import FetchedOrder
from app.prioticket.payloads import state_of
from app.reconciliation.runs import Run
from app.reconciliation.senders import sender_of
from app.reconciliation.snapshots import Cause, Snapshot, store_snapshot
from app.settings.clients import ClientSettings


@dataclass(frozen=True, slots=True)
class Keeper:
    """Stores fetched orders as events, in the name of the client that sends the webhooks.

    Attributes:
        engine: The database.
        clients: The configured clients.
    """

    engine: AsyncEngine
    clients: Mapping[str, ClientSettings]

    async def keep(self, run: Run, fetched: FetchedOrder) -> Snapshot:
        """Stores an order that a run fetched, and lets it be delivered if the run asks for that.

        An event that is not delivered is none that waits for dispatch: neither today's destinations nor later ones get
        it, unless a webhook with the same bytes arrives or somebody replays it.
        """
        usernames = {name: client.username or name for name, client in self.clients.items()}
        reference = state_of(fetched.order).reference
        async with writing(self.engine) as connection:
            client = await sender_of(connection, reference, self.clients)
            cause = Cause(fetched_for=run.fetched_for)
            stored = await store_snapshot(connection, fetched, cause, client=client, usernames=usernames)
            if stored.new and not run.asked.deliver:
                await connection.execute(delete(Undispatched).where(Undispatched.event_id == stored.id))
        return stored
