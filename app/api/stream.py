"""GET /api/events/stream: events as they are committed, as Server-Sent Events.

WHATWG HTML, "Server-sent events". A block with an `id` and without `data` tells the client how far it has come without
being an event.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.events import EventChoice, EventSummary
from app.api.state import State
from app.events.feed import MOST_LISTENERS, MOST_OF_CLIENT, Feed, FeedNotReady, Listener, TooManyListeners
from app.events.ids import id_floor
from app.events.positions import Place, Placed, found, stored_after, stored_until
from app.events.queries import ListedEvent
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import InvalidParameter, Text, read_query
from app.web.problems import Problem
from app.web.transactions import DatabaseAway, reading

HEARTBEAT = timedelta(seconds=15)
RETRY = timedelta(seconds=2)
PAGE = 200
PAGES = "the stream"
"""Whose turn a page is. One is read at a time, so the requests of its client that wait must not keep it waiting."""

PLACE = re.compile(r"([ph])(\d{1,18})-([0-9a-f]{32})", re.ASCII)
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
MEDIA_TYPE = "text/event-stream"


class StreamQuery(EventChoice):
    """Which events the stream has."""

    q: Annotated[
        Text | None,
        Field(
            description=(
                "A part of a reference, type, event name or notification id, or the beginning of an event id; case "
                "does not matter."
            )
        ),
    ] = None

    def matches(self, event: ListedEvent) -> bool:
        """Whether the event fulfils all filters."""
        return (
            self.type in (None, event.type, event.event_name)
            and self.reference in (None, event.reference)
            and self.status in (None, event.status)
            and self.client in (None, event.client)
            and (self.since is None or event.id >= id_floor(self.since))
            and (self.until is None or event.id < id_floor(self.until))
            and (self.q is None or _has(event, self.q.lower()))
        )


def _has(event: ListedEvent, part: str) -> bool:
    texts = (event.reference, event.type, event.event_name, event.notification_id)
    digits = part.replace("-", "")
    return any(part in text.lower() for text in texts if text) or (len(digits) >= 8 and event.id.hex.startswith(digits))  # noqa: PLR2004 - as in `app.events.search`


@Operation(
    tag="events",
    description=(
        "Server-Sent Events that never end by themselves. Each `data` is an event without headers and body, as in "
        "`/api/events`, in the order in which events were committed. The header `Last-Event-ID` resumes after the "
        "event whose `id` it names, without a gap or a copy. Without it the stream begins with what `since` selects, "
        "sorted by id, or else with the next event. An event that is released from quarantine does not come again. "
        f"Every {HEARTBEAT.total_seconds():g} seconds a comment follows, and the `id` of how far the stream has come. "
        "The stream ends when its token does, when the receiver ends, and when its client reads too slowly: connect "
        f"again to resume. At most {MOST_LISTENERS} can follow each process of a receiver, of one client "
        f"{MOST_OF_CLIENT}."
    ),
    headers={"Last-Event-ID": "The last `id` that came: the stream goes on after it."},
    query=StreamQuery,
    answers={
        200: Answer(
            description="The events, without an end.",
            media_type=MEDIA_TYPE,
            headers={"X-Accel-Buffering": "`no`, so that nginx passes each event on at once."},
        )
    },
    problems=(InvalidParameter, TooManyListeners, FeedNotReady, DatabaseAway),
)
async def stream(request: Request[State]) -> Response:
    """Follow events as they are committed."""
    query, place = read_query(request, StreamQuery), _place(request)
    if request.method == "HEAD":
        return Response(headers=HEADERS, media_type=MEDIA_TYPE)
    feed: Feed = request.state["feed"]
    listener = await feed.admit(request.state["client"].name)
    try:
        if place is not None:
            async with reading(feed.engine) as connection:
                place = await found(connection, place, head=feed.head)
        elif query.since is not None:
            place = Place(feed.head.position, older=True)
        else:
            place = feed.head
        return EventStream(request, query, place, listener)
    except BaseException:
        feed.leave(listener)
        raise


def _place(request: Request[State]) -> Place | None:
    """What the header `Last-Event-ID` says.

    Raises:
        InvalidParameter: 400.
    """
    value = request.headers.get("last-event-id")
    if not value:
        return None
    if not (match := PLACE.fullmatch(value)):
        raise InvalidParameter(
            "The header Last-Event-ID is invalid.", "Send the last id of this stream unchanged, or leave it out."
        )
    return Place(int(match[2]), UUID(hex=match[3]), older=match[1] == "h")


def _text(place: Place) -> str:
    return f"{'h' if place.older else 'p'}{place.position}-{place.id.hex}"


class EventStream(Response):
    """The answer. At its end the listener leaves."""

    def __init__(self, request: Request[State], query: StreamQuery, place: Place, listener: Listener) -> None:
        super().__init__(headers=HEADERS, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._feed: Feed = request.state["feed"]
        self._turns = request.state["turns"]
        self._client = request.state["client"]
        self._ends_at = request.state["token_ends_at"]
        self._query = query
        self._place = place
        self._listener = listener
        request.scope["state"]["end"] = listener.end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        sending, gone = asyncio.create_task(self._send(send)), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            self._feed.leave(self._listener)
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for block in self._blocks():
                await send(_body(block, more=True))
        except Problem:  # the database went away: the client resumes
            pass
        await send(_body(b"", more=False))

    async def _blocks(self) -> AsyncIterator[bytes]:
        yield b"retry: %d\nid: %s\n\n" % (RETRY / timedelta(milliseconds=1), _text(self._place).encode())
        while self._goes_on() and (self._place.older or self._place.position < self._feed.head.position):
            yield await self._page()
        self._listener.begin(self._place.position)
        heartbeat_at = _loop_time() + HEARTBEAT.total_seconds()
        while self._goes_on():
            left = (self._ends_at - datetime.now(UTC)).total_seconds()
            block = self._rendered(await self._listener.take(min(left, heartbeat_at - _loop_time())))
            if _loop_time() >= heartbeat_at:
                heartbeat_at += HEARTBEAT.total_seconds()
                block += b":\nid: %s\n\n" % _text(self._place).encode()
            if block:
                yield block

    def _goes_on(self) -> bool:
        now = datetime.now(UTC)
        return not self._listener.ended and now < self._ends_at and self._client.valid_at(now)

    async def _page(self) -> bytes:
        """The next page of what was stored before the client came."""
        place, narrowed, head = self._place, self._query.narrowed(), self._feed.head
        async with self._feed.paging, self._turns.turn(PAGES), reading(self._feed.engine) as connection:
            if not place.older:
                rows = await stored_after(connection, place.position, limit=PAGE, until=head.position)
            else:
                # No index has the client: as in `search_events`, each page looks at a limited number of events.
                rows = await stored_until(connection, place, replace(narrowed, client=None), limit=PAGE)
        block = self._rendered(rows)
        if place.older and len(rows) < PAGE:
            self._place = Place(place.position)
        elif not place.older and not rows:
            self._place = head
        elif block:
            return block
        return block + b"id: %s\n\n" % _text(self._place).encode()

    def _rendered(self, rows: list[Placed]) -> bytes:
        blocks = []
        for row in rows:
            older = self._place.older
            position = self._place.position if older else row.position or 0
            self._place = Place(position, row.event.id, older=older)
            if self._query.matches(row.event):
                if row.rendered is None:
                    row.rendered = EventSummary.model_validate(row.event).model_dump_json().encode()
                blocks.append(b"id: %s\ndata: %s\n\n" % (_text(self._place).encode(), row.rendered))
        return b"".join(blocks)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _body(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
