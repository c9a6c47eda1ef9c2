"""Migrates on the connection that priohook passes in; the command `alembic` connects to the configured database.

There is no offline mode.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection, text

from app.alarms import tables as alarms  # noqa: F401 - so that Base knows them
from app.audit import tables as audit  # noqa: F401
from app.database import migrations
from app.database.columns import Base
from app.database.engines import engine_for
from app.deliveries import tables as deliveries  # noqa: F401
from app.events import fetches  # noqa: F401
from app.events import tables as events  # noqa: F401
from app.reconciliation import tables as reconciliation  # noqa: F401
from app.retention import tables as retention  # noqa: F401
from app.settings.model import Settings
from app.telemetry import tables as telemetry  # noqa: F401


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":  # in this transaction: an index is made outside of it, and may wait
            milliseconds = int(migrations.LOCK_TIMEOUT.total_seconds() * 1000)
            connection.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))
        context.run_migrations()


async def migrate_configured() -> None:
    async with engine_for(Settings.load().database_url) as engine, engine.connect() as connection:
        await connection.run_sync(migrate)


given: Connection | None = context.config.attributes.get("connection")
if given is None:
    asyncio.run(migrate_configured())
else:
    migrate(given)
