"""Whether all is well, judged for whoever shows it."""

from datetime import UTC, datetime

from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncEngine

from app.alarms.findings import Finding, critical
from app.alarms.judgement import judge
from app.alarms.places import spool_folder
from app.alarms.readings import Readings, read
from app.alarms.receiving import spooled
from app.database.clock import ahead
from app.settings.model import Settings
from app.web.transactions import reading


class StatusShown(BaseModel):
    """Whether all is well."""

    well: bool
    findings: list[Finding] = Field(description="What is wrong, in the order of the damage that it does.")
    readings: Readings | None = Field(description="What was read; null if the database could not be read.")


def shown_status(readings: Readings, settings: Settings) -> StatusShown:
    """The judgement of the readings, with them."""
    findings = judge(readings, settings.alarms)
    return StatusShown(well=not findings, findings=findings, readings=readings)


async def judged(engine: AsyncEngine, settings: Settings) -> StatusShown:
    """Whether all is well, and what was read.

    Raises:
        SchemaNotCurrent: this release cannot read the database.
        DatabaseAway: 503.
    """
    async with reading(engine) as connection:
        readings = await read(connection, settings, now=datetime.now(UTC) + await ahead(connection))
    return shown_status(readings, settings)


async def without_database(settings: Settings, what: str, *, is_behind: bool) -> StatusShown:
    """The status if the database cannot be read: why, and what is known without it.

    Args:
        settings: Complete.
        what: Why it cannot be read.
        is_behind: Whether it lacks migrations.
    """
    name, command = ("schema", "priohook migrate") if is_behind else ("database", "priohook settings")
    findings = [critical(name=name, what=what, command=command)]
    if (folder := await spool_folder(settings)) is not None:
        findings += spooled(folder, datetime.now(UTC))
    return StatusShown(well=False, findings=findings, readings=None)
