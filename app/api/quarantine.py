"""POST /api/events/{event_id}/release: a quarantined event, judged again."""

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import Response

from app.api.events import EventPath, NoSuchEvent
from app.events.queries import get_summary
from app.receiver.release import NotReleased, Released, release
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import answer, read_id
from app.web.problems import Problem
from app.web.transactions import DatabaseAway, changing


class StaysQuarantined(Problem):
    """It is not in quarantine, or cannot be accepted; the message says why."""

    status = 409


class Release(BaseModel):
    """What became of it."""

    event_id: UUID = Field(description="The accepted event; of a copy the first one, on which it is counted now.")
    duplicate: bool = Field(description="It is a copy, and stays in quarantine.")


RELEASE = Operation(
    summary="Release an event from quarantine",
    tag="events",
    description="Judges it again by its bytes, whatever its headers said of them; it is delivered if they hold.",
    path=EventPath,
    answers={200: Answer(description="It is accepted, or a copy of what is.", model=Release)},
    problems=(NoSuchEvent, StaysQuarantined, DatabaseAway),
)


class Releasing:
    """The handler.

    Args:
        usernames: By client; a copy is one only among the events of the same username.
        limit: The most bytes after decompression.
    """

    def __init__(self, *, usernames: Mapping[str, str], limit: int) -> None:
        self._usernames = usernames
        self._limit = limit

    async def release(self, request: Request) -> Response:
        """Accepts the event, or says why not."""
        event_id = read_id(request, "event_id")
        if event_id is None:
            raise NoSuchEvent
        try:
            released = await self._release(request, event_id)
        except IntegrityError:  # a copy was accepted meanwhile; now it is found
            released = await self._release(request, event_id)
        return answer(Release(event_id=released.id, duplicate=released.duplicate))

    async def _release(self, request: Request, event_id: UUID) -> Released:
        try:
            async with changing(request.state.engine) as connection:
                if await get_summary(connection, event_id) is None:
                    raise NoSuchEvent
                return await release(
                    connection, event_id, usernames=self._usernames, limit=self._limit, now=datetime.now(UTC)
                )
        except NotReleased as error:
            raise StaysQuarantined(str(error), "It stays as it is.") from None
