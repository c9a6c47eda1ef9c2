"""GET /api/alarms: which alarms fire, and which fired lately."""

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from app.alarms.kept import Listed, listed_alarms
from app.api.events import KEEP_PRIVATE
from app.api.state import State
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import answer
from app.web.transactions import DatabaseAway, reading

MOST_LISTED = 200


class AlarmsShown(BaseModel):
    """The alarms."""

    firing: list[Listed] = Field(description="Those that fire, the last to start first.")
    ended: list[Listed] = Field(description="Those that ended within 30 days, the last to start first.")


@Operation(
    tag="health",
    description="A worker looks every 15 seconds. At most 200 alarms are listed, those that fire first.",
    answers={200: Answer(description="The alarms.", model=AlarmsShown)},
    problems=(DatabaseAway,),
)
async def show_all(request: Request[State]) -> Response:
    """List alarms."""
    async with reading(request.state["engine"]) as connection:
        listed = await listed_alarms(connection, limit=MOST_LISTED)
    firing = [alarm for alarm in listed if alarm.ended_at is None]
    return answer(AlarmsShown(firing=firing, ended=listed[len(firing) :]), headers=KEEP_PRIVATE)
