"""POST /api/erasures: what stored events hold of a person is erased."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Reason, acting
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.deliveries.operations import BeingSent
from app.events.ids import new_id
from app.retention.erasing import Erased, Undelivered, erase, of_reference, plan
from app.retention.spooled import waiting_in
from app.retention.wiping import empty_log, left
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import BODY_PROBLEMS, Text, answer, read_json
from app.web.problems import NotFound, Problem, Unprocessable
from app.web.transactions import DatabaseAway, reading

MOST_EVENTS = 500
"""How many events one request may erase; the command takes any number."""


class NoSuchEvents(NotFound):
    """No event has this reference, or one of the ids."""


class NotErasedNow(Problem):
    """Something is not delivered yet, is being sent, or waits in the spool; the message says what."""

    status = 409


class ErasureRequest(BaseModel):
    """What to erase: the events of an order, or events by their ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: Annotated[Text | None, Field(description="All events of this order or other object.")] = None
    ids: Annotated[list[UUID] | None, Field(min_length=1, max_length=MOST_EVENTS)] = None
    now: Annotated[bool, Field(description="Whether to drop what is not delivered of these events.")] = False
    reason: Reason = None


class BodyErased(BaseModel):
    """An event whose body is gone."""

    model_config = ConfigDict(from_attributes=True)

    event_id: UUID
    sha256: str = Field(description="The SHA-256 of the body as it was stored, in hexadecimal digits.")


class Receipt(BaseModel):
    """What was erased."""

    erasure_id: UUID = Field(description="The `target` of the action in the audit.")
    erased_at: datetime
    events: int = Field(description="How many events lost their body.")
    erased_before: int = Field(description="How many more of these events had been erased before.")
    bytes: int = Field(description="The size of the bodies together.")
    answers: int = Field(description="How many attempts lost the answer or error that was kept of them.")
    dropped: int = Field(description="How many deliveries were dropped.")
    sha256: str = Field(description="One hash over all bodies, which the audit has too.")
    bodies: list[BodyErased]
    left: list[str] = Field(description="Where bytes of what was erased may still be, a sentence for each place.")


def receipt(erasure_id: UUID, erased: Erased, *, erased_before: int, at: datetime, left: list[str]) -> Receipt:
    """The receipt of an erasure, as the API and the command give it."""
    return Receipt(
        erasure_id=erasure_id,
        erased_at=at,
        erased_before=erased_before,
        bodies=[BodyErased.model_validate(body) for body in erased.bodies],
        left=left,
        **erased.summary(),
    )


@Operation(
    tag="erasures",
    description=(
        "Erases the bodies of these events, their headers but the content type, and what was kept of consumers' "
        "answers. Ids, times, types, references and hashes stay, and a later copy is still a copy. This cannot be "
        "undone. Send either `reference` or `ids`."
    ),
    body=ErasureRequest,
    examples={"an order": {"reference": "PRI26081200417", "reason": "Ticket 4711"}},
    answers={202: Answer(description="It is erased; `left` says where bytes of it may still be.", model=Receipt)},
    problems=(NoSuchEvents, NotErasedNow, *BODY_PROBLEMS, DatabaseAway),
)
async def erase_events(request: Request[State]) -> Response:
    """Erase events."""
    return answer(await erased_now(request, await read_json(request, ErasureRequest)), status=202)


async def erased_now(request: Request[State], wanted: ErasureRequest) -> Receipt:
    """Erases events, and says what was erased.

    Raises:
        Problem: one of those of `erase_events`.
    """
    if (wanted.reference is None) == (wanted.ids is None):
        raise Unprocessable("Send exactly one of reference and ids.")
    engine = request.state["engine"]
    await _not_in_the_spool(request, wanted)  # first: what is moved meanwhile is in the database then
    async with reading(engine) as connection:
        ids = await _ids(connection, wanted)
        planned = await plan(connection, ids)
    if not ids:
        raise NoSuchEvents("No event has this reference.", "GET /api/events?q=… searches for references.")
    if len(planned.events) + planned.erased < len(ids):
        raise NoSuchEvents("One of these ids belongs to no event.", "GET /api/events lists all events.")
    erasure_id, now = new_id(), datetime.now(UTC)
    act = Act(action=Action.ERASE, kind=Kind.ERASURE, target=str(erasure_id), reason=wanted.reason)
    act.reference, act.event_id = wanted.reference, ids[0] if len(ids) == 1 else None
    try:
        async with acting(request, act) as connection:
            erased = await erase(connection, planned.events, drop=wanted.now, now=now)
            act.details = erased.summary()
    except Undelivered as error:
        raise NotErasedNow(str(error), "Wait until they are delivered, or send `now: true` to drop them.") from None
    except BeingSent as error:
        raise NotErasedNow(str(error), "Ask again in a few seconds: nothing was erased.") from None
    places = left(engine, emptied=await empty_log(engine), vacuumed=False)
    return receipt(erasure_id, erased, erased_before=planned.erased, at=now, left=places)


async def _ids(connection: AsyncConnection, wanted: ErasureRequest) -> list[UUID]:
    """The events that are meant.

    Raises:
        Unprocessable: 422, there are too many.
    """
    if wanted.reference is None:
        return sorted(set(wanted.ids or ()))
    ids = await of_reference(connection, wanted.reference, most=MOST_EVENTS + 1)
    if len(ids) > MOST_EVENTS:
        raise Unprocessable(f"It has more than {MOST_EVENTS} events.", "`priohook erase` takes any number.")
    return ids


async def _not_in_the_spool(request: Request[State], wanted: ErasureRequest) -> None:
    """Returns if no file of the spool holds any of them.

    Raises:
        NotErasedNow: 409.
    """
    known = set(wanted.ids or ())
    spooled = await asyncio.to_thread(
        waiting_in,
        request.state["spool"],
        lambda event: event.id in known or (wanted.reference is not None and event.reference == wanted.reference),
    )
    if spooled:
        raise NotErasedNow(
            "Some of these events wait in the spool.", "Ask again when they have been moved to the database."
        )
