"""GET /api/events: what arrived, one event, and its exact bytes."""

import re
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Why, acting, reason_of
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.events.arrivals import known_types
from app.events.fetches import FetchStatus, Outcome, outcome_of
from app.events.queries import EventFilter, KeptBytes, SummarizedEvent, get_bodies, get_summary, kept_bytes, list_events
from app.events.search import WINDOW, search_events
from app.events.tables import Origin, Status
from app.web.body import CODINGS, claimed_coding, coding_of
from app.web.etags import CURRENT, TAGGED, has_current, tagged
from app.web.openapi.operations import Answer, Operation
from app.web.pagination import LINK, CursorNotUsable, PageQuery, link, next_page
from app.web.parameters import InvalidParameter, Moment, Text, answer, read_id, read_query
from app.web.problems import NotFound, Problem
from app.web.transactions import DatabaseAway, reading

MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+( *; *[\w.+-]+=([\w.+-]+|\"[\w .+-]*\"))*", re.ASCII)
OPAQUE = "application/octet-stream"
KEEP_PRIVATE = {"Cache-Control": "private, no-cache"}
"""Shared caches must not keep guests' names, and the client's own cache must ask whether they are still there."""


class NoSuchEvent(NotFound):
    """There is no event with this id."""

    def __init__(self) -> None:
        super().__init__("There is no event with this id.", "GET /api/events lists them all.")


class Erased(Problem):
    """The body was erased; the event itself says when."""

    status = 410


class EventChoice(BaseModel):
    """Which events; without a filter, all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Annotated[Text | None, Field(description="Only this type or event name, such as ORDER_CANCEL.")] = None
    reference: Annotated[Text | None, Field(description="Only events of this order or other object.")] = None
    status: Annotated[Status | None, Field(description="Only accepted events, or only quarantined ones.")] = None
    client: Annotated[Text | None, Field(description="Only events that this client sent.")] = None
    since: Annotated[Moment | None, Field(description="Received at this time or later; UTC if it has no zone.")] = None
    until: Annotated[Moment | None, Field(description="Received before this time.")] = None

    def narrowed(self) -> EventFilter:
        """The filter as queries take it."""
        return EventFilter(**{name: getattr(self, name) for name in EventChoice.model_fields})


class EventQuery(EventChoice, PageQuery):
    """A page of these events."""

    q: Annotated[
        Text | None,
        Field(
            description=(
                "A whole event id, reference or notification id, which is always found; or a part of a reference, "
                "type, event name or notification id, or the beginning of an event id."
            )
        ),
    ] = None


class EventSummary(BaseModel):
    """An event without its headers and body."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="A UUIDv7: ids sort by the time of arrival.")
    received_at: datetime
    client: str = Field(description="The client that sent it.")
    status: Status
    reason: str | None = Field(description="Why it is in quarantine.")
    type: str | None = Field(description="What happened; for an order, its bookings decide.")
    event_name: str | None = Field(description="The name under which it was announced, if that is not the type.")
    reference: str | None = Field(description="The reference of the order or other object.")
    order_version: int | None
    order_modified: datetime | None
    notification_id: str | None
    api_version: str | None
    shape: str | None = Field(description="`notification`, `object` or `both`.")
    body_bytes: int = Field(description="The size of the body as it arrived.")
    duplicates: int = Field(description="How many copies arrived later.")
    last_duplicate_at: datetime | None
    released_at: datetime | None = Field(description="When it was judged again.")
    origin: Origin = Field(description="Whether a client sent it, it was fetched from Prioticket's API, or both.")
    cause: UUID | None = Field(description="The notification because of which it was fetched.")
    fetched_for: str | None = Field(description="Why it was fetched, if not because of a notification.")
    erased_at: datetime | None = Field(default=None, description="When its body and headers were erased.")


class FetchOutcome(BaseModel):
    """What became of the fetch of a notification's order."""

    model_config = ConfigDict(from_attributes=True)

    status: FetchStatus
    due_at: datetime = Field(description="When it was or will be fetched.")
    attempts: int
    error: str | None = Field(description="Why the last attempt failed, or why the order is stale.")
    snapshot_id: UUID | None = Field(description="The event that holds the order.")


class EventDetail(EventSummary):
    """An event without its body."""

    address: str | None = Field(description="The address that it came from.")
    request_id: str | None = Field(description="The `X-Request-Id` of the answer, which the log has too.")
    trace: str | None = Field(description="The `traceparent` under which it was received (W3C Trace Context).")
    fetch: FetchOutcome | None = Field(
        default=None, description="Of a notification without payload: the fetch of its order, if it was asked for."
    )

    headers: list[tuple[str, str]] = Field(description="As they arrived, without those that carry credentials.")


class EventPage(BaseModel):
    """Events, newest first."""

    events: list[EventSummary]
    next: str | None = Field(description="The next page's address, as in the Link header; null on the last page.")


@Operation(
    tag="events",
    description=(
        f"Newest first. Without bodies. With `q` or `client`, each page searches {WINDOW} events, so a page may be "
        "short or empty without being the last."
    ),
    query=EventQuery,
    answers={200: Answer(description="A page.", model=EventPage, headers=LINK)},
    problems=(InvalidParameter, CursorNotUsable, DatabaseAway),
)
async def list_page(request: Request[State]) -> Response:
    """List events."""
    page = await listed(request, read_query(request, EventQuery))
    return answer(page, headers={**KEEP_PRIVATE, **link(page.next)})


async def listed(request: Request[State], query: EventQuery) -> EventPage:
    """A page of events.

    Raises:
        CursorNotUsable: 400.
        DatabaseAway: 503.
    """
    before = query.before()
    async with reading(request.state["engine"]) as connection:
        if query.q is None and query.client is None:
            rows = await list_events(connection, query.narrowed(), limit=query.limit + 1, before=before)
            last = rows[query.limit - 1].id if len(rows) > query.limit else None
            rows = rows[: query.limit]
        else:
            rows, last = await search_events(connection, query.q, query.narrowed(), limit=query.limit, before=before)
    following = next_page(request.scope["path"], query, last)
    return EventPage(events=[EventSummary.model_validate(row) for row in rows], next=following)


async def types_of(request: Request[State]) -> list[str]:
    """The types that stored events have.

    Raises:
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        return await known_types(connection)


@Operation(
    tag="events",
    answers={200: Answer(description="The event.", model=EventDetail, headers=TAGGED), 304: CURRENT},
    problems=(NoSuchEvent, DatabaseAway),
)
async def show(request: Request[State]) -> Response:
    """Show an event."""
    async with reading(request.state["engine"]) as connection:
        event = await event_of(connection, read_id(request, "event_id", NoSuchEvent))
    return tagged(request, event.model_dump_json().encode(), "application/json", KEEP_PRIVATE)


async def event_of(connection: AsyncConnection, event_id: UUID) -> EventDetail:
    """One event.

    Raises:
        NoSuchEvent: 404.
    """
    event = await get_summary(connection, event_id)
    if event is None:
        raise NoSuchEvent
    return detail(event, await outcome_of(connection, event_id))


def detail(event: SummarizedEvent, outcome: Outcome | None) -> EventDetail:
    """The event, with what became of the fetch of its order."""
    fetch = None if outcome is None else FetchOutcome.model_validate(outcome)
    return EventDetail.model_validate(event).model_copy(update={"fetch": fetch})


@Operation(
    tag="events",
    description=(
        "The bytes that arrived, as a file. The content type is the one that they came with, or "
        "`application/octet-stream` if that was not valid. A compressed body stays compressed: its content type is "
        "`application/gzip` or `application/octet-stream`, without Content-Encoding, so that nothing decompresses it "
        "on its way. The audit keeps who read it."
    ),
    query=Why,
    answers={
        200: Answer(
            description="The bytes.",
            media_type="*/*",
            headers={
                **TAGGED,
                "Content-Disposition": "A name for the file.",
                "Priohook-Body-Bytes": "The size of the body as it arrived; larger than the file if it was cut.",
            },
        ),
        304: CURRENT,
    },
    problems=(NoSuchEvent, InvalidParameter, Erased, DatabaseAway),
)
async def body(request: Request[State]) -> Response:
    """Download the body of an event."""
    event_id, reason = read_id(request, "event_id", NoSuchEvent), reason_of(request)
    async with reading(request.state["engine"]) as connection:
        event = await kept_bytes(connection, event_id)
    if event is None:
        raise NoSuchEvent
    if event.erased_at is not None:
        raise _erased(event_id)
    headers = {**KEEP_PRIVATE, "ETag": f'"{event_id.hex}"', "Priohook-Body-Bytes": str(event.body_bytes)}
    if has_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    content = b""
    if request.method != "HEAD":  # the bytes never change, so that HEAD and 304 need only their beginning
        content = await _read(request, event_id, event, reason=reason)
    media_type, ending = _kind(event.headers, event.beginning)
    headers["Content-Length"] = str(event.kept)
    headers["Content-Disposition"] = f'attachment; filename="priohook-{event_id}{ending}"'
    headers["Content-Type"] = media_type  # unchanged: Starlette would add a charset to text
    headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return Response(content, headers=headers)


async def _read(request: Request[State], event_id: UUID, event: KeptBytes, *, reason: str | None) -> bytes:
    """The body. That it was read is committed before it goes out."""
    act = Act(action=Action.READ, kind=Kind.EVENT, target=str(event_id), event_id=event_id, reason=reason)
    act.reference = event.reference
    async with acting(request, act) as connection:
        found = await get_bodies(connection, [event_id])
        if not found or len(found[0].body) != event.kept:
            raise _erased(event_id)
    return found[0].body


def _erased(event_id: UUID) -> Erased:
    return Erased("The body of this event was erased.", f"GET /api/events/{event_id} shows what is left of it.")


def _kind(headers: list[list[str]], beginning: bytes) -> tuple[str, str]:
    """The content type under which stored bytes are safe to serve, and the ending of their file's name."""
    types = [value.strip() for name, value in headers if name == "content-type"]
    media_type = types[0] if len(types) == 1 and MEDIA_TYPE.fullmatch(types[0]) else OPAQUE
    ending = ".json" if "json" in media_type.partition(";")[0].lower() else ".bin"
    claimed = claimed_coding(headers)
    coding = coding_of(beginning, claimed)
    if coding == b"gzip":
        return "application/gzip", ending + ".gz"
    known = not claimed or claimed in CODINGS
    return (media_type, ending) if known and not coding else (OPAQUE, ending + ".coded")
