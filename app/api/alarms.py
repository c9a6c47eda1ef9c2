"""GET /api/alarms: which alarms fire, and which fired lately."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.alarms.kept import Listed, listed_alarms, notices_of
from app.alarms.tables import Stage
from app.api.events import KEEP_PRIVATE
from app.api.state import State
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import answer
from app.web.transactions import DatabaseAway, reading

MOST_LISTED = 200


class NoticeShown(BaseModel):
    """What one channel is told of an alarm."""

    model_config = ConfigDict(from_attributes=True)

    alarm_id: UUID
    channel: str
    stage: Stage = Field(description="Whether it says that the alarm started, lasts or ended.")
    made_at: datetime
    due_at: datetime | None = Field(description="When it is tried next; null if it was told or given up.")
    attempts: int
    told_at: datetime | None
    error: str | None = Field(description="Why it could not be told the last time.")


class AlarmsShown(BaseModel):
    """The alarms."""

    firing: list[Listed] = Field(description="Those that fire, the last to start first.")
    ended: list[Listed] = Field(description="Those that ended within 30 days, the last to start first.")
    notices: list[NoticeShown] = Field(description="What the channels are told of them, the newest first.")


@Operation(
    tag="health",
    description="A worker looks every 15 seconds. At most 200 alarms are listed, those that fire first.",
    answers={200: Answer(description="The alarms.", model=AlarmsShown)},
    problems=(DatabaseAway,),
)
async def show_all(request: Request[State]) -> Response:
    """List alarms."""
    return answer(await listed(request), headers=KEEP_PRIVATE)


async def listed(request: Request[State]) -> AlarmsShown:
    """The alarms, and what the channels are told of them.

    Raises:
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        alarms = await listed_alarms(connection, limit=MOST_LISTED)
        notices = await notices_of(connection, [alarm.id for alarm in alarms])
    firing = [alarm for alarm in alarms if alarm.ended_at is None]
    told = [NoticeShown.model_validate(notice) for notice in notices]
    return AlarmsShown(firing=firing, ended=alarms[len(firing) :], notices=told)
