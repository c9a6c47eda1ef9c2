"""Workers of one database, for which the test decides the time and the answers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.clock import SharedClock
from app.database.writing import writing
from app.deliveries import replays as replay
from app.deliveries import turns
from app.deliveries.claims import Claim, Limits
from app.deliveries.clocks import set_right
from app.deliveries.dispatch import Dispatcher, dispatch
from app.deliveries.outlook import outlooks
from app.deliveries.plans import plan
from app.deliveries.queries import ATTEMPTS, SHOWN
from app.deliveries.queue import lock_for_turn
from app.deliveries.registering import register
from app.deliveries.replays import Advanced
from app.deliveries.results import Ended, Outcome
from app.deliveries.retry import LONGEST_DELAY, judge
from app.deliveries.tables import Attempt, AttemptResult, Delivery, Destination, Replay, ReplayStatus
from app.deliveries.turns import Turn
from app.events.queries import EventFilter
from app.events.tables import Event, Undispatched
from tests.events.stores import new_event

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
TICK = timedelta(milliseconds=1)
ALL: Mapping[str, Sequence[str]] = {"erp": ["*"]}


class Workers:
    """What workers do, one step for each call. Each event is stored a millisecond after the one before."""

    def __init__(self, engine: AsyncEngine, *, max_in_flight: int = 8, rate: float | None = None) -> None:
        self.engine = engine
        self.now = NOON
        self.limits = Limits("erp", timedelta(seconds=10), max_in_flight, rate)
        self._keys = count()

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def register(self, *names: str) -> None:
        async with writing(self.engine) as connection:
            await register(connection, names or ["erp"], now=self.now)

    async def store(self, reference: str | None = None, **columns: Any) -> UUID:
        """Stores an event as the previous release does, with a plain INSERT."""
        self.now += TICK
        columns = {"type": "ORDER_UPDATE", "received_at": self.now, **columns}
        event = new_event(f"event-{next(self._keys)}", reference=reference, **columns)
        known = {name: value for name, value in event._asdict().items() if value is not None}  # to an older schema too
        async with writing(self.engine) as connection:
            await connection.execute(insert(Event), known)
        return event.id

    async def dispatch(
        self, types: Mapping[str, Sequence[str]] = ALL, *, most: int = 250, thin: Mapping[str, str] | None = None
    ) -> int:
        async with writing(self.engine) as connection:
            return await dispatch(connection, types, most=most, now=self.now, thin=thin)

    async def dispatch_needed(self, dispatcher: Dispatcher) -> int:
        """Dispatches as long as the dispatcher has work, and returns how many events."""
        count = 0
        while True:
            async with self.engine.connect() as connection:
                if not await dispatcher.has_work(connection, now=self.now):
                    return count
            async with writing(self.engine) as connection:
                count += await dispatcher.dispatch(connection, now=self.now)

    async def turn(self, *ended: Ended, worker: str = "one", limits: Limits | None = None) -> Turn:
        async with writing(self.engine) as connection:
            state = await lock_for_turn(connection, "erp", SharedClock())
            turn = await turns.take_turn(connection, limits or self.limits, state, ended, worker=worker, now=self.now)
        self.news = list(turn.news)
        return turn

    async def look(self, *, longest: timedelta = LONGEST_DELAY) -> int:
        """Corrects times as a worker does now and then, and returns for how many deliveries."""
        async with self.engine.connect() as connection:
            found = await outlooks(connection, now=self.now)
        wrong = [outlook.name for outlook in found if outlook.ahead or not longest]
        async with writing(self.engine) as connection:
            return sum([await set_right(connection, name, now=self.now, longest=longest) for name in wrong])

    async def has_work(self) -> bool:
        """Whether a turn has something to do now."""
        async with self.engine.connect() as connection:
            (outlook,) = await outlooks(connection, now=self.now)
        return outlook.at is not None and outlook.at <= self.now

    async def leave(self, *ended: Ended, worker: str = "one") -> None:
        async with writing(self.engine) as connection:
            self.news = await turns.leave(connection, self.limits, ended, worker=worker, now=self.now)

    def ended(self, claim: Claim, status: int | None = 200, **outcome: Any) -> Ended:
        result = AttemptResult.UNREACHABLE if status is None else judge(status)
        return Ended(claim, self.now, timedelta(), Outcome(**{"result": result, "status": status, **outcome}))

    async def start(
        self,
        narrowed: EventFilter | None = None,
        *,
        ids: Sequence[UUID] | None = None,
        rate: float = 1000,
        destination: str = "erp",
    ) -> UUID:
        narrowed = narrowed or EventFilter()
        async with writing(self.engine) as connection:
            planned = await plan(connection, narrowed, ids)
            return await replay.start(
                connection, narrowed, ids=ids, destination=destination, rate=rate, planned=planned, now=self.now + TICK
            )

    async def advance(self) -> Advanced:
        async with writing(self.engine) as connection:
            return await replay.advance(connection, now=self.now)

    async def set_replay(self, replay_id: UUID, status: ReplayStatus) -> None:
        async with writing(self.engine) as connection:
            await replay.set_status(connection, replay_id, status, now=self.now)

    async def pause(self, *, paused: bool) -> None:
        values = {"paused_at": self.now if paused else None, "paused_reason": "By hand." if paused else None}
        async with writing(self.engine) as connection:
            await connection.execute(update(Destination).values(values))

    async def deliveries(self) -> Sequence[Row[Any]]:
        """All deliveries as they are shown, in the order of arrival, live ones before those of replays."""
        order = (Delivery.replay_id.asc().nulls_first(), Delivery.event_id, Delivery.destination)
        return await self._rows(SHOWN.order_by(*order))

    async def attempts(self) -> Sequence[Row[Any]]:
        order = (ATTEMPTS.c.delivery_id, ATTEMPTS.c.number)
        columns = [ATTEMPTS.c[column.name] for column in Attempt.__table__.columns]
        return await self._rows(select(*columns).order_by(*order))

    async def destination(self) -> Row[Any]:
        (row,) = await self._rows(select(*Destination.__table__.columns).where(Destination.name == "erp"))
        return row

    async def replays(self) -> Sequence[Row[Any]]:
        return await self._rows(select(*Replay.__table__.columns).order_by(Replay.id))

    async def undispatched(self) -> list[UUID]:
        return sorted(row.event_id for row in await self._rows(select(Undispatched.event_id)))

    async def _rows(self, query: Any) -> Sequence[Row[Any]]:
        async with self.engine.connect() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
            return rows
