"""GET /api/audit: who did what, from where, when and why."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.events import KEEP_PRIVATE
from app.api.state import State
from app.audit.queries import AuditFilter, ListedEntry, list_entries
from app.audit.tables import Action, Channel, Kind
from app.web.openapi.operations import Answer, Operation
from app.web.pagination import LINK, CursorNotUsable, PageQuery, link, next_page
from app.web.parameters import InvalidParameter, Moment, Text, answer, read_query
from app.web.transactions import DatabaseAway, reading


class AuditQuery(PageQuery):
    """Which actions; without a filter, all of them."""

    action: Annotated[Action | None, Field(description="Only this action.")] = None
    kind: Annotated[Kind | None, Field(description="Only actions on things of this kind.")] = None
    target: Annotated[Text | None, Field(description="Only actions on what has this id or name.")] = None
    event_id: Annotated[UUID | None, Field(description="Only actions that concerned this event alone.")] = None
    reference: Annotated[Text | None, Field(description="Only actions that concerned this order alone.")] = None
    client: Annotated[Text | None, Field(description="Only actions of this client.")] = None
    channel: Annotated[Channel | None, Field(description="Only actions that came this way.")] = None
    since: Annotated[Moment | None, Field(description="Done at this time or later; UTC if it has no zone.")] = None
    until: Annotated[Moment | None, Field(description="Done before this time.")] = None

    def narrowed(self) -> AuditFilter:
        """The filters without the page."""
        return AuditFilter(**self.model_dump(exclude={"limit", "cursor"}))


class EntryShown(BaseModel):
    """An action that was done."""

    model_config = ConfigDict(from_attributes=True)

    position: int = Field(description="Its place in the chain, from 1 without gaps.")
    at: datetime
    channel: Channel
    client: str = Field(description="The client's name; at the shell, the user and the host.")
    address: str | None = Field(description="Where it came from.")
    action: Action
    kind: Kind
    target: str | None = Field(description="The id or name of what it was done to.")
    event_id: UUID | None = Field(description="The event that it concerned, if it was exactly one.")
    reference: str | None = Field(description="The order that it concerned, if it was exactly one.")
    reason: str | None = Field(description="Why, in the words of who did it.")
    request_id: str | None
    details: dict[str, Any] = Field(validation_alias="more", description="More about it.")
    hash: str = Field(description="SHA-256 of this row and the hash of the one before it, in hexadecimal digits.")


class AuditPage(BaseModel):
    """Actions, newest first."""

    actions: list[EntryShown]
    next: str | None = Field(description="The next page's address, as in the Link header; null on the last page.")


def shown_entry(entry: ListedEntry) -> EntryShown:
    """The action as the API and the command line show it."""
    names = (name for name in EntryShown.model_fields if name not in ("details", "hash"))
    values = {name: getattr(entry, name) for name in names}
    return EntryShown.model_validate(values | {"more": entry.more, "hash": entry.hash.hex()})


@Operation(
    tag="audit",
    description="Newest first. `priohook audit verify` checks the chain of hashes.",
    query=AuditQuery,
    answers={200: Answer(description="A page.", model=AuditPage, headers=LINK)},
    problems=(InvalidParameter, CursorNotUsable, DatabaseAway),
)
async def list_page(request: Request[State]) -> Response:
    """List actions."""
    page = await listed(request, read_query(request, AuditQuery))
    return answer(page, headers={**KEEP_PRIVATE, **link(page.next)})


async def listed(request: Request[State], query: AuditQuery) -> AuditPage:
    """A page of actions.

    Raises:
        CursorNotUsable: 400.
        DatabaseAway: 503.
    """
    before = query.before()
    async with reading(request.state["engine"]) as connection:
        narrowed, last = query.narrowed(), None if before is None else before.int
        rows = await list_entries(connection, narrowed, limit=query.limit + 1, before=last)
    more = UUID(int=rows[query.limit - 1].position) if len(rows) > query.limit else None
    following = next_page(request.scope["path"], query, more)
    return AuditPage(actions=[shown_entry(row) for row in rows[: query.limit]], next=following)
