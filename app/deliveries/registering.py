"""Destinations become known: from then on they get events. What a worker finds out of their settings is noted."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, exists, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.writing import insert_new, writing
from app.deliveries.tables import Destination, PassedOver
from app.events.tables import Undispatched

DISPATCH_LOCK = 7_092_717_264
"""An arbitrary number, the same in all processes. Two dispatchers at once could mix up the order of a reference."""

MOST_PASSED_OVER = 5000
"""How many events one transaction notes as passed over for a destination that is not registered yet."""


async def register(connection: AsyncConnection, names: Iterable[str], *, now: datetime) -> None:
    """Registers destinations. A new one gets only the events that are committed from now on.

    So events that wait for dispatch now are noted as passed over. Times are not compared, since any clock may be wrong.
    """
    wanted = set(names)
    if not wanted - set(await registered(connection)):
        return
    await _wait_for_dispatch(connection)
    for name in sorted(wanted - set(await registered(connection))):
        await insert_new(connection, Destination, [{"name": name, "since": now}])
        await _pass_over(connection, name, most=None)
        of_name = PassedOver.destination == name
        noted = await connection.scalar(select(func.count()).select_from(PassedOver).where(of_name))
        if noted != await connection.scalar(select(func.count()).select_from(Undispatched)):
            # Events with lower ids were committed between the parts.
            left = ~exists().where(of_name, PassedOver.event_id == Undispatched.event_id)
            await _note(connection, select(Undispatched.event_id, literal(name)).where(left))


async def register_in_parts(
    engine: AsyncEngine, names: Iterable[str], *, now: datetime, most: int = MOST_PASSED_OVER
) -> None:
    """`register`, after transactions that note the events that wait, up to `most` each.

    All of a large backlog in one transaction would lock a SQLite file for seconds, and could take longer than
    PostgreSQL may. What was noted until an interruption goes with the dispatch of its event.
    """
    for name in sorted(set(names)):
        noted = most
        while noted == most:
            async with writing(engine) as connection:
                await _wait_for_dispatch(connection)
                known = name in await registered(connection)
                noted = 0 if known else await _pass_over(connection, name, most=most)
    async with writing(engine) as connection:
        await register(connection, names, now=now)


async def _wait_for_dispatch(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(DISPATCH_LOCK)))


async def _pass_over(connection: AsyncConnection, name: str, *, most: int | None) -> int:
    """Notes the first events after those that are noted already."""
    noted = select(PassedOver.event_id).where(PassedOver.destination == name)
    last = await connection.scalar(noted.order_by(PassedOver.event_id.desc()).limit(1))
    events = select(Undispatched.event_id, literal(name)).order_by(Undispatched.event_id).limit(most)
    return await _note(connection, events if last is None else events.where(Undispatched.event_id > last))


async def _note(connection: AsyncConnection, events: Select[UUID, str]) -> int:
    return (await connection.execute(insert(PassedOver).from_select(["event_id", "destination"], events))).rowcount


async def registered(connection: AsyncConnection) -> Sequence[str]:
    """All destinations except those of replays to a URL, which get no live events."""
    return (await connection.scalars(select(Destination.name).where(Destination.url.is_(None)))).all()


async def set_unusable(connection: AsyncConnection, names: Sequence[str], *, reason: str | None) -> None:
    """Notes why a worker cannot use the settings of these destinations, or that it can. Does not commit."""
    changes = Destination.unusable_reason.is_distinct_from(reason)
    await connection.execute(
        update(Destination).where(Destination.name.in_(names), changes).values(unusable_reason=reason)
    )


async def forget_certificates(connection: AsyncConnection, names: Sequence[str]) -> None:
    """Forgets the certificates of destinations that have none any more. Does not commit."""
    has_one = Destination.certificate_until.is_not(None)
    await connection.execute(
        update(Destination).where(Destination.name.in_(names), has_one).values(certificate_until=None)
    )
