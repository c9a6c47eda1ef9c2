"""Whether all is well: what is wrong, and what was read. The command, the API and the console show it."""

from datetime import UTC, datetime
from typing import NamedTuple

from app.alarms.findings import Finding, critical
from app.alarms.judgement import judge
from app.alarms.places import spool_folder
from app.alarms.readings import Readings
from app.alarms.receiving import spooled
from app.database.schema import NoDatabase, SchemaNotCurrent, SchemaTooNew
from app.settings.model import Settings


class Judged(NamedTuple):
    """What is wrong, and what was read; None if the database could not be read."""

    findings: list[Finding]
    readings: Readings | None

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def judged(readings: Readings, settings: Settings) -> Judged:
    """The judgement of what was read."""
    return Judged(judge(readings, settings.alarms), readings)


async def judged_without_database(settings: Settings, error: Exception, *, why: str) -> Judged:
    """What is known if the database could not be read.

    Args:
        settings: Complete.
        error: What reading it met.
        why: The same as a sentence.
    """
    name, command = _what_to_type(error)
    findings = [critical(name=name, what=why, command=command)]
    if (folder := await spool_folder(settings)) is not None:
        findings += spooled(folder, datetime.now(UTC))
    return Judged(findings, None)


def _what_to_type(error: Exception) -> tuple[str, str]:
    """The name of the finding and the command."""
    if isinstance(error, NoDatabase):
        return "database", "priohook serve"
    if isinstance(error, SchemaTooNew):
        return "schema", "priohook --version"
    return ("schema", "priohook migrate") if isinstance(error, SchemaNotCurrent) else ("database", "priohook settings")
