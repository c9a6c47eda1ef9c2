"""Enrichment: after a notification without payload, a worker fetches its order and stores it as an event.

None of this is in the path of a 200. While Prioticket is down, snapshots are late or missing, and events are not.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engines import is_sqlite
from app.database.surviving import surviving
from app.database.writing import writing
from app.events.fetches import FetchStatus, is_uuid
from app.events.ids import go_on_after, made_at
from app.prioticket.client import Prioticket
from app.prioticket.errors import NotFound, PrioticketError
from app.prioticket.messages import FetchedOrder
from app.prioticket.payloads import parse_payload
from app.reconciliation import fetching
from app.reconciliation.erased import OrderErased, refuse_erased
from app.reconciliation.fetching import Claim
from app.reconciliation.snapshots import Cause, store_snapshot
from app.reconciliation.verdicts import GIVE_UP_AFTER, Verdict, again_when_stale, is_stale, verdict, wait_after
from app.settings.prioticket import PrioticketSettings

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5  # seconds; shorter than a fetch waits after its notification
FORGET_EVERY = 60.0  # seconds
MOST_AT_ONCE = 8
MARGIN = timedelta(seconds=5)
"""How much longer than an attempt a claim lasts, as the order must be stored too."""

LONGEST_ERROR = 1000  # characters
STALE = "The order is older than its notification."
NO_PAYMENT = "Prioticket has no payment with this id, or this account may not see it"
OFF = "prioticket.enrich was switched off."


class Enricher:
    """Makes the fetches of one worker; use as `async with enricher.running()`.

    Args:
        engine: The database.
        url: The database's URL.
        client: The account at Prioticket.
        settings: The same account.
        usernames: By client of the receiver.
        stored: Called after an event was stored.
        now: The clock.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        url: str,
        client: Prioticket,
        settings: PrioticketSettings,
        *,
        usernames: Mapping[str, str],
        stored: Callable[[int], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._alone = is_sqlite(url)
        self._client = client
        self._rate = settings.rate
        self._within = 2 * settings.timeout
        self._usernames = usernames
        self._stored = stored
        self._now = now
        self._name = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: set[asyncio.Task[FetchedOrder]] = set()
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Fetches. At the end, other workers may make the fetches that are under way."""
        if self._alone:  # SQLite has one worker: all claims are those of workers that have ended
            async with writing(self._engine) as connection:
                await fetching.give_back(connection, None, now=self._now())
        looking = asyncio.create_task(surviving(self._look))
        forgetting = asyncio.create_task(surviving(self._forget))
        try:
            yield
        finally:
            self._ended.set()
            for asking in self._asking:
                asking.cancel()
            work = (looking, forgetting, *self._tasks)
            # Not cancelled at once: a transaction that is cancelled could leave a SQLite file locked.
            _, late = await asyncio.wait(work, timeout=MARGIN.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            with suppress(Exception):  # otherwise they wait until their claims end
                async with writing(self._engine) as connection:
                    await fetching.give_back(connection, self._name, now=self._now())

    async def step(self) -> bool:
        """Begins one fetch, if one may be made now; whether it did."""
        now = self._now()
        async with self._engine.connect() as connection:
            at = await fetching.next_at(connection, now=now)
        if at is None or at > now or len(self._tasks) >= MOST_AT_ONCE:
            return False
        async with writing(self._engine) as connection:
            lease = self._within + MARGIN
            claim = await fetching.claim(connection, worker=self._name, rate=self._rate, lease=lease, now=self._now())
        if claim is None or self._ended.is_set():
            return False
        task = asyncio.create_task(self._make(claim))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def settled(self) -> None:
        """Returns when no fetch is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _look(self) -> None:
        while not self._ended.is_set():
            began = await self.step()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_EVERY, 1 / self._rate) if began else LOOK_EVERY):
                    await self._ended.wait()

    async def _forget(self) -> None:
        while not self._ended.is_set():
            async with writing(self._engine) as connection:
                await fetching.forget_old(connection, now=self._now())
            with suppress(TimeoutError):
                async with asyncio.timeout(FORGET_EVERY):
                    await self._ended.wait()

    async def _make(self, claim: Claim) -> None:
        try:
            await self._fetch(claim)
        except Exception:  # its claim ends, and then it is made again
            logger.exception("fetch_failed", extra={"fields": {"reference": claim.reference}})

    async def _fetch(self, claim: Claim) -> None:
        asking = asyncio.create_task(self._order(claim.reference))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            async with asyncio.timeout(self._within.total_seconds()):
                fetched = await asking
        except asyncio.CancelledError:
            if not self._ended.is_set():
                raise
        except TimeoutError:
            seconds = self._within.total_seconds()
            await self._fail(claim, TimeoutError(f"Prioticket gave no order within {seconds:g} seconds."))
        except (PrioticketError, ValueError, OrderErased) as error:
            await self._fail(claim, error)
        else:
            try:
                await self._store(claim, fetched)
            except OrderErased as error:  # while Prioticket was asked
                await self._fail(claim, error)

    async def _order(self, reference: str) -> FetchedOrder:
        """The order of a reference, which may be the id of a payment.

        Raises:
            OrderErased: events of the order were erased.
        """
        await self._refuse_erased(reference)
        if is_uuid(reference):
            payments = await self._client.payments(reference)
            of_orders = (payment.get("payment_order_reference") for payment in payments)
            found = next((each for each in of_orders if isinstance(each, str) and each), None)
            if found is None:
                raise NotFound(200, {}, what=NO_PAYMENT)
            await self._refuse_erased(found)
            reference = found
        return await self._client.order(reference)

    async def _refuse_erased(self, reference: str) -> None:
        async with self._engine.connect() as connection:
            await refuse_erased(connection, reference)

    async def _store(self, claim: Claim, fetched: FetchedOrder) -> None:
        now, cause = self._now(), claim.cause
        modified = parse_payload(fetched.body).order_modified
        later = again_when_stale(claim.stale, modified=modified, announced=cause.announced)
        stale = is_stale(modified, cause.announced)
        async with writing(self._engine) as connection:
            if not await fetching.is_held(connection, claim):
                return
            since = await fetching.resumed(connection)
            if later is not None:
                await fetching.again(connection, claim, STALE, stale=True, at=now + later)
            else:
                go_on_after(cause.event_id)  # the order of a reference is the order of ids
                why = Cause(cause.event_id, event_name=cause.type)
                snapshot = await store_snapshot(
                    connection, fetched, why, client=cause.client, usernames=self._usernames
                )
                error = STALE if stale else None
                await fetching.done(connection, claim, snapshot.id, new=snapshot.new, error=error, now=now)
        if since is not None:
            logger.warning("fetching_resumed", extra={"fields": {"seconds": int((now - since).total_seconds())}})
        if later is None:
            self._stored(0)
            stored = {"reference": claim.reference, "event_id": str(snapshot.id), "new": snapshot.new, "stale": stale}
            logger.info("order_fetched", extra={"fields": stored})

    async def _fail(self, claim: Claim, error: Exception) -> None:
        now, text, verdict_ = self._now(), str(error)[:LONGEST_ERROR], verdict(error)
        dead = verdict_ is Verdict.WAITS and now - made_at(claim.id) > GIVE_UP_AFTER
        stops = False
        async with writing(self._engine) as connection:
            if not await fetching.is_held(connection, claim):
                return
            if verdict_ is Verdict.STOPS:
                stops = await fetching.stopped(connection, now=now)
                await fetching.again(connection, claim, text, stale=False, at=now)
            elif verdict_ is Verdict.REFUSED or dead:
                status = FetchStatus.DEAD if dead else FetchStatus.REFUSED
                await fetching.failed(connection, claim, status, text, now=now)
            else:
                await fetching.again(connection, claim, text, stale=False, at=now + wait_after(claim.attempts))
        if stops:
            logger.warning("fetching_stopped", extra={"fields": {"reason": text}})
        if verdict_ is Verdict.REFUSED or dead:
            self._stored(0)
            fields = {"reference": claim.reference, "event_id": str(claim.cause.event_id), "reason": text}
            logger.warning("fetch_given_up", extra={"fields": fields})


async def give_up_fetches(engine: AsyncEngine) -> None:
    """Ends the fetches that wait, if `enrich` was switched off: destinations may wait for them."""
    async with engine.connect() as connection:
        if await fetching.next_at(connection, now=datetime.now(UTC)) is None:
            return
    given_up = fetching.MOST_AT_ONCE
    while given_up == fetching.MOST_AT_ONCE:
        async with writing(engine) as connection:
            given_up = await fetching.give_up(connection, OFF, now=datetime.now(UTC))
