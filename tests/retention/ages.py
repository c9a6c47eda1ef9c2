"""Pruning at a time that the test decides."""

from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.retention import pruning
from app.retention.cutoffs import Kind
from app.settings.retention import RetentionSettings


async def prune(engine: AsyncEngine, now: datetime, **ages: str) -> Counter[Kind]:
    """`await prune(engine, now, accepted="90d")` deletes without rests and returns how many rows of each kind."""
    return await pruning.prune(engine, RetentionSettings.model_validate(ages), now=now, rests=0.0)


def deleted(counted: Counter[Kind]) -> dict[str, Any]:
    return {str(kind): number for kind, number in counted.items() if number}
