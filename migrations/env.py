"""Runs on the connection that `app.database` hands over; the command `alembic` gets the configured database's.

There is no offline mode.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection

from app.database import engine_for
from app.events.tables import Event
from app.settings import Settings


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Event.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_configured() -> None:
    async with engine_for(Settings.load().database_url) as engine, engine.begin() as connection:
        await connection.run_sync(migrate)


given: Connection | None = context.config.attributes.get("connection")
if given is None:
    asyncio.run(migrate_configured())
else:
    migrate(given)
