"""GET /api/status: whether all is well, what is wrong, and what was read to judge that."""

from dataclasses import replace
from datetime import UTC, datetime

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from app.alarms.findings import Finding
from app.alarms.judgement import judge
from app.alarms.readings import Readings, read, without_errors
from app.api.state import State
from app.database.clock import ahead
from app.database.schema import SchemaNotCurrent, SchemaTooNew, newer
from app.settings.model import Settings
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import answer
from app.web.transactions import DatabaseAway, reading

ASK_ANOTHER = "Ask a receiver of the newer release."


class StatusShown(BaseModel):
    """Whether all is well."""

    well: bool
    findings: list[Finding] = Field(description="What is wrong, in the order of the damage that it does.")
    readings: Readings | None = Field(description="What was read; null if the database could not be read.")


def shown_status(readings: Readings, settings: Settings) -> StatusShown:
    """The judgement of the readings, with them."""
    findings = judge(readings, settings.alarms)
    return StatusShown(well=not findings, findings=findings, readings=readings)


@Operation(
    tag="health",
    description="One look at everything: what arrives, what waits, each destination, and what runs. Counts stop at "
    "100,001, which means more than 100,000. Errors of consumers are left out: `GET /api/destinations` has them.",
    answers={200: Answer(description="The status, whether all is well or not.", model=StatusShown)},
    problems=(DatabaseAway,),
)
async def show(request: Request[State]) -> Response:
    """Whether all is well."""
    settings = request.state["settings"]
    try:
        async with reading(request.state["engine"]) as connection:
            readings = await read(connection, settings, now=datetime.now(UTC) + await ahead(connection))
    except SchemaTooNew as error:
        raise DatabaseAway(str(error), ASK_ANOTHER) from None
    except SchemaNotCurrent as error:
        raise DatabaseAway(str(error), "Ask again after the migration.") from None
    if readings.schema_is_newer:
        raise DatabaseAway(newer(readings.schema), ASK_ANOTHER)
    here = replace(readings, receiver_at=readings.at)  # a receiver that answers runs, whatever its row says
    return answer(shown_status(without_errors(here), settings))
