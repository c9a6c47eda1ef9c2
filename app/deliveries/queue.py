"""The queue of one destination: its lock, and the order of each reference.

All code that makes, claims or ends deliveries of a destination first locks the destination's row. So for one
destination all this happens one after the other, whichever worker does it. The lock makes `max_in_flight` and `rate`
count for all workers together. It also keeps this true: of the pending deliveries of one reference, exactly one has a
`due_at`.
"""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    String,
    TableValuedAlias,
    Update,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.database.clock import SharedClock
from app.database.writing import COMMIT_LATER
from app.deliveries.retry import Circuit
from app.deliveries.tables import PENDING, Delivery, Destination, Replay, ReplayStatus
from app.deliveries.transitions import HAS_TIME, UNCLAIMED, WAITS, dropped
from app.deliveries.wake import notify

ORDER = (Delivery.replay_id, Delivery.event_id)
"""The order of the deliveries of one reference, separately for live ones and replays. It is the order of the index."""


class State(NamedTuple):
    """The state of a destination: what turns and operators change in its row."""

    paused_at: datetime | None
    paused_reason: str | None
    failures: int
    failing_since: datetime | None
    probe_at: datetime | None
    next_at: datetime | None
    certificate_until: datetime | None

    @property
    def circuit(self) -> Circuit:
        """The destination's circuit breaker."""
        return Circuit(self.failures, self.failing_since, self.probe_at)


STATE = (
    select(
        Destination.paused_at,
        Destination.paused_reason,
        Destination.failures,
        Destination.failing_since,
        Destination.probe_at,
        Destination.next_at,
        Destination.certificate_until,
    )
    .where(Destination.name == bindparam("name"))
    .with_for_update()
)
BY_INDEX = func.set_config("enable_seqscan", "off", true())
"""Keeps PostgreSQL from reading all of `claims` in this transaction. The table looks small, but until a vacuum it holds
the claims of the last minute; only reads by its index let that index forget them sooner."""

_locked = STATE.cte("locked")
STATE_FOR_TURN = select(*_locked.c, func.clock_timestamp(), COMMIT_LATER, BY_INDEX)
"""The time is that after the wait for the lock, since the rows of the CTE are locked before they are read from it."""


async def lock(connection: AsyncConnection, name: str) -> State | None:
    """Locks the destination's row until the transaction ends and returns its state; None if it is not registered.

    The commit then wakes all workers, since what takes this lock changes deliveries or their destination.
    """
    await notify(connection)
    row = (await connection.execute(STATE, {"name": name})).one_or_none()
    return None if row is None else State(*row)


async def lock_for_turn(connection: AsyncConnection, name: str, clock: SharedClock) -> State | None:
    """Like `lock`, for a worker's own turn, which need not wake other workers and may be lost in a crash.

    The clock hears the time after the wait for the lock. All claims are by this one clock: those of a worker whose own
    is behind would otherwise have run out for the others as soon as they are made.
    """
    shared = connection.dialect.name == "postgresql"
    row = (await connection.execute(STATE_FOR_TURN if shared else STATE, {"name": name})).one_or_none()
    if row is None:
        return None
    if shared:
        clock.hear(row[len(State._fields)])
    return State(*row[: len(State._fields)])


def _promote(wanted: TableValuedAlias, reference: ColumnElement[str]) -> Update:
    here = (Delivery.destination == bindparam("name"), PENDING, Delivery.reference == reference)
    due = select(Delivery.id).where(*here, HAS_TIME).limit(1)
    in_order = select(Delivery.id).where(*here, WAITS).order_by(*ORDER).limit(1)
    live = in_order.where(Delivery.replay_id.is_(None)).scalar_subquery()
    replayed = in_order.where(Delivery.replay_id.is_not(None)).scalar_subquery()
    first = select(func.coalesce(live, replayed)).select_from(wanted).where(due.scalar_subquery().is_(None))
    return update(Delivery).where(Delivery.id.in_(first)).values(due_at=bindparam("at"))


_array = func.unnest(bindparam("given", type_=ARRAY(String))).table_valued(column("reference", String))
_unnested = _array.render_derived(name="wanted")
_json = func.json_each(bindparam("given", type_=String)).table_valued(column("value", String), name="wanted")
PROMOTE = {
    "postgresql": _promote(_unnested, _unnested.c.reference),
    "sqlite": _promote(_json, _json.c.value),
}
"""The same text for any number of references: SQLAlchemy takes milliseconds to compile it."""


async def promote(connection: AsyncConnection, destination: str, references: Collection[str], *, now: datetime) -> None:
    """Makes the first pending delivery of each reference due, unless the reference has one with a `due_at`.

    Live deliveries go before those of replays. Costs a few index look-ups for each reference, however many of its
    deliveries wait.

    Args:
        connection: In a transaction that holds the destination's lock.
        destination: The destination's name.
        references: The references to look at.
        now: The time.
    """
    if not references:
        return
    given: list[str] | str = sorted(references)
    if connection.dialect.name == "sqlite":
        given = json.dumps(given)
    await connection.execute(PROMOTE[connection.dialect.name], {"name": destination, "given": given, "at": now})


async def prefer_live(
    connection: AsyncConnection, destination: str, references: Collection[str], *, now: datetime
) -> None:
    """Lets live deliveries go before those of replays that wait for a retry, since a replay may fail for two days.

    Costs as much as `promote`.
    """
    if not references:
        return
    later = aliased(Delivery)
    pending = (later.destination == destination, later.status == literal_column("'pending'"), later.due_at.is_(None))
    of_this = (*pending, later.reference == Delivery.reference, later.replay_id.is_(None))
    live = select(later.id).where(*of_this).order_by(later.replay_id, later.event_id).limit(1)
    here = (Delivery.destination == destination, PENDING, Delivery.reference.in_(sorted(references)))
    replayed = (Delivery.replay_id.is_not(None), UNCLAIMED, HAS_TIME)
    behind = update(Delivery).where(*here, *replayed, live.scalar_subquery().is_not(None)).values(due_at=None)
    await connection.execute(behind)
    await promote(connection, destination, references, now=now)


async def drop_cancelled(
    connection: AsyncConnection, failed: Sequence[tuple[UUID, UUID | None]], *, now: datetime
) -> None:
    """Drops failed deliveries whose replay was cancelled while they were being sent.

    `prefer_live` then lets the deliveries go on that wait for them.

    Args:
        connection: In a transaction that holds the destination's lock.
        failed: The id of each delivery and of its replay.
        now: The time.
    """
    replays = {replay_id for _, replay_id in failed if replay_id is not None}
    if not replays:
        return
    cancelled = select(Replay.id).where(Replay.id.in_(replays), Replay.status == ReplayStatus.CANCELLED.value)
    ids = [delivery_id for delivery_id, replay_id in failed if replay_id is not None]
    which = update(Delivery).where(Delivery.id.in_(ids), PENDING, Delivery.replay_id.in_(cancelled))
    await connection.execute(which.values(dropped(now=now).values()))
