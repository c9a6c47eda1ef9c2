"""Compares orders as Prioticket has them with what is stored of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events.queries import get_bodies
from app.events.rows import NOTIFYING
from app.events.tables import Event
from app.prioticket.contents import read_order
from app.prioticket.payloads import state_of
from app.reconciliation.erased import erased

MOST_ALIKE = 20
"""How many events with the version and time of an order are compared with it by their contents, the latest ones."""

MOST_BYTES = 4 * 1024 * 1024
"""How many bytes of bodies are loaded at a time; a single body may be larger."""

OLDEST = datetime.min.replace(tzinfo=UTC)

STORED = (
    select(
        Event.id,
        Event.received_at,
        Event.reference,
        Event.shape,
        Event.order_version,
        Event.order_modified,
        Event.body_bytes,
        Event.fetched_for,
    )
    .where(Event.reference.in_(bindparam("references", expanding=True)), Event.status == literal_column("'accepted'"))
    .order_by(Event.reference, Event.id)
)


class Verdict(StrEnum):
    """What the store has of an order's state at Prioticket.

    Known: this state, or a newer one. Thin: only notifications without payload that arrived after the change. Absent:
    nothing of the order. Outdated: only older states. Altered: its version and time, but with other contents. Two may
    not be fetched, whatever the store has: erased, of which events were erased, and expired, which are older than what
    is kept.
    """

    KNOWN = "known"
    THIN = "thin"
    ABSENT = "absent"
    OUTDATED = "outdated"
    ALTERED = "altered"
    ERASED = "erased"
    EXPIRED = "expired"


MISSING = (Verdict.ABSENT, Verdict.OUTDATED, Verdict.ALTERED)
LEFT = (Verdict.KNOWN, Verdict.ERASED, Verdict.EXPIRED)
"""Of these nothing is fetched."""


class OrderAt(NamedTuple):
    """An order in one of its states.

    Attributes:
        reference: As the column has it.
        at: Its version and time, comparable; what it lacks is lower than what any order has.
    """

    reference: str
    at: tuple[int, datetime]
    order: dict[str, Any]


class Compared(NamedTuple):
    """An order, and what the store has of it.

    Attributes:
        newest_version: The newest version that is stored; None if none is.
        own: Whether an event of it was fetched for the run.
    """

    listed: OrderAt
    verdict: Verdict
    newest_version: int | None
    own: bool


def order_at(order: dict[str, Any]) -> OrderAt | None:
    """The order with its state; None if it has no reference."""
    state = state_of(order)
    return None if state.reference is None else OrderAt(state.reference, _at(state.version, state.modified), order)


async def compare(
    connection: AsyncConnection, listed: Sequence[OrderAt], *, fetched_for: str, kept_since: datetime | None = None
) -> list[Compared]:
    """Each order with its verdict, in the same order.

    Contents are compared too, as a refund may change neither the version nor the time of an order. Loads the headers of
    no event, and bodies in parts of `MOST_BYTES`.

    Args:
        connection: A connection to the database.
        listed: Some hundred orders at most.
        fetched_for: What the run's own events have as `fetched_for`.
        kept_since: States from before are not kept; None if all are.
    """
    wanted = {each.reference: each.at for each in listed}
    held = {reference: _Held() for reference in wanted}
    async with connection.stream(STORED, {"references": sorted(wanted)}) as rows:
        async for row in rows:
            held[row.reference].add(row, wanted[row.reference], fetched_for)
    for reference in await erased(connection, wanted):
        held[reference].erased = True
    alike = await _alike(connection, listed, held)
    return [
        Compared(
            each,
            _verdict(each, found, alike=each.reference in alike, kept_since=kept_since),
            found.newest_version,
            found.own,
        )
        for each in listed
        for found in (held[each.reference],)
    ]


@dataclass(slots=True)
class _Held:
    """What is stored of one order.

    Attributes:
        newest: The version and time of its newest state.
        notified_at: When the last notification without payload arrived.
        alike: Size and id of the events with the version and time that are wanted.
        erased: Whether an event of it was erased.
    """

    newest: tuple[int, datetime] | None = None
    newest_version: int | None = None
    notified_at: datetime | None = None
    alike: list[tuple[int, UUID]] = field(default_factory=list)
    erased: bool = False
    own: bool = False

    def add(self, row: Any, wanted: tuple[int, datetime], fetched_for: str) -> None:
        """Notes an event; they come in order of arrival."""
        self.own |= row.fetched_for == fetched_for
        if row.shape == NOTIFYING[0]:
            self.notified_at = row.received_at
            return
        at = _at(row.order_version, row.order_modified)
        if self.newest is None or at > self.newest:
            self.newest = at
        if row.order_version is not None:
            self.newest_version = max(row.order_version, self.newest_version or row.order_version)
        if at == wanted:
            self.alike.append((row.body_bytes, row.id))
            del self.alike[:-MOST_ALIKE]


def _at(version: int | None, modified: datetime | None) -> tuple[int, datetime]:
    return (-(2**63) if version is None else version, modified or OLDEST)


def is_expired(listed: OrderAt, kept_since: datetime | None) -> bool:
    """Whether an order's state is older than what is kept. Without a time, it is not."""
    return kept_since is not None and OLDEST < listed.at[1] < kept_since


def _verdict(listed: OrderAt, held: _Held, *, alike: bool, kept_since: datetime | None) -> Verdict:
    if alike or (held.newest is not None and held.newest > listed.at):
        return Verdict.KNOWN
    if held.erased:
        return Verdict.ERASED
    if is_expired(listed, kept_since):
        return Verdict.EXPIRED
    if held.notified_at is not None and held.notified_at >= listed.at[1]:
        return Verdict.THIN
    if held.alike:
        return Verdict.ALTERED
    return Verdict.ABSENT if held.newest is None and held.notified_at is None else Verdict.OUTDATED


async def _alike(connection: AsyncConnection, listed: Iterable[OrderAt], held: Mapping[str, _Held]) -> set[str]:
    """The references of which an event has the contents of the listed order.

    The latest event of each is compared first: it is the right one, unless changes arrived in another order.
    """
    orders = {each.reference: each.order for each in listed}
    alike: set[str] = set()
    owner: dict[UUID, str] = {}
    left = {reference: list(held[reference].alike) for reference in orders}
    while left := {reference: events for reference, events in left.items() if events and reference not in alike}:
        batch = []
        for reference, events in left.items():
            size, event_id = events.pop()
            owner[event_id] = reference
            batch.append((size, event_id))
        for ids in _parts(batch):
            for event in await get_bodies(connection, ids):
                if read_order(event.headers, event.body) == orders[owner[event.id]]:
                    alike.add(owner[event.id])
    return alike


def _parts(events: Iterable[tuple[int, UUID]]) -> Iterator[list[UUID]]:
    """The ids in parts of `MOST_BYTES`."""
    ids: list[UUID] = []
    held = 0
    for size, event_id in events:
        if ids and held + size > MOST_BYTES:
            yield ids
            ids, held = [], 0
        ids.append(event_id)
        held += size
    if ids:
        yield ids
