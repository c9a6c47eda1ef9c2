"""GET /api/status: whether all is well, what is wrong, and what was read to judge that."""

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.alarms.findings import Finding
from app.alarms.judged import judged
from app.alarms.readings import Readings, without_errors
from app.api.overview import read_here
from app.api.state import State
from app.database.schema import SchemaNotCurrent, SchemaTooNew, newer
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import answer
from app.web.transactions import DatabaseAway

ASK_ANOTHER = "Ask a receiver of the newer release."


class StatusShown(BaseModel):
    """Whether all is well."""

    model_config = ConfigDict(from_attributes=True)

    well: bool
    findings: list[Finding] = Field(description="What is wrong, in the order of the damage that it does.")
    readings: Readings | None = Field(description="What was read; null if the database could not be read.")


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
        readings = await read_here(request.state["engine"], settings)
    except SchemaTooNew as error:
        raise DatabaseAway(str(error), ASK_ANOTHER) from None
    except SchemaNotCurrent as error:
        raise DatabaseAway(str(error), "Ask again after the migration.") from None
    if readings.schema_is_newer:
        raise DatabaseAway(newer(readings.schema), ASK_ANOTHER)
    return answer(StatusShown.model_validate(judged(without_errors(readings), settings)))
