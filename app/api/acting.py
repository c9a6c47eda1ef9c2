"""Transactions of requests that do something: they commit only with a row of the audit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request

from app.api.state import State
from app.audit.actors import Actor
from app.audit.chain import Act, record, tell
from app.audit.tables import Channel
from app.web.addresses import address_of
from app.web.parameters import Text, read_query
from app.web.transactions import DEADLINE, changing

Reason = Annotated[Text | None, Field(description="Why; the audit keeps it, so name no guest in it.")]


class Why(BaseModel):
    """Why it is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Reason = None


def reason_of(request: Request[State]) -> str | None:
    """The parameter `reason`.

    Raises:
        InvalidParameter: 400.
    """
    return read_query(request, Why).reason


@asynccontextmanager
async def acting(request: Request[State], act: Act, *, within: timedelta = DEADLINE) -> AsyncIterator[AsyncConnection]:
    """A transaction at whose end the action is recorded. If anything is raised in it, nothing was done or recorded.

    Raises:
        DatabaseAway: 503; it may have been done or not.
    """
    actor = Actor(
        channel=request.scope["state"].get("channel", Channel.API),
        client=request.state["client"].name,
        address=address_of(request.scope),
        request_id=request.state["request_id"],
    )
    async with changing(request.state["engine"], within=within) as connection:
        yield connection
        link = await record(connection, actor, act, now=datetime.now(UTC))
    tell(actor, act, link)
