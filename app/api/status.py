"""GET /api/status: whether all is well, what is wrong, and what was read to judge that."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.judged import StatusShown, judged
from app.api.state import State
from app.database.schema import SchemaNotCurrent
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import answer
from app.web.transactions import DatabaseAway


@Operation(
    tag="health",
    description="One look at everything: what arrives, what waits, each destination, and what runs. Counts stop at "
    "100,001, which means more than 100,000.",
    answers={200: Answer(description="The status, whether all is well or not.", model=StatusShown)},
    problems=(DatabaseAway,),
)
async def show(request: Request[State]) -> Response:
    """Whether all is well."""
    try:
        return answer(await judged(request.state["engine"], request.state["settings"]))
    except SchemaNotCurrent as error:
        raise DatabaseAway(str(error), "Ask again after the migration.") from None
