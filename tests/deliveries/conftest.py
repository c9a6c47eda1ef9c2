import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.deliveries.workers import Workers


@pytest.fixture
async def workers(engine: AsyncEngine) -> Workers:
    """Workers that know the destination `erp`."""
    workers = Workers(engine)
    await workers.register()
    return workers
