"""What lives as long as the process: its log, its connections to the database, and all that works on them."""

from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import health, plans, replay
from app.api import state as api
from app.api.overview import Overviews
from app.api.turns import Turns
from app.auth.clients import Clients
from app.auth.expiry import telling_of_expiry
from app.database.engines import STATEMENT, engine_for, tell_ignored
from app.database.health import Health, watching
from app.database.schema import check_schema
from app.deliveries.registering import register_in_parts
from app.deliveries.wake import Notifier, waking_readers
from app.events.feed import Feed
from app.events.handover import Handover
from app.receiver import endpoint as receiver
from app.receiver.following import following
from app.receiver.gauges import gauges_of, publishing
from app.receiver.starting import can_start
from app.receiver.storing import store_for
from app.settings.digest import digest_of
from app.settings.model import Settings
from app.telemetry.logs import LogWriter, logging_to
from app.telemetry.processes import Identity, new_name
from app.telemetry.reporting import Reporter
from app.telemetry.snapshots import Publisher
from app.telemetry.spans import Spans
from app.telemetry.tally import Tally
from app.web.router import Router


class State(receiver.State, health.State, api.State):
    """What the lifespan gives to every request."""


@dataclass(frozen=True, kw_only=True)
class Lifespan:
    """The lifespan of an application; the arguments of `create_app`, and what it made of them."""

    settings: Settings
    clients: Clients
    log: LogWriter
    tally: Tally
    spans: Spans
    turns: Turns
    known: Health
    publisher: Publisher | None
    handover: Handover | None

    @asynccontextmanager
    async def running(self, router: Router) -> AsyncIterator[State]:
        """Opens everything, and closes it at the end."""
        log, handover = self.log, self.handover
        with log.running(), logging_to(log):
            async with self.spans.running(), telling_of_expiry(self.clients), AsyncExitStack() as stack:
                state = await stack.enter_async_context(self._opened(self.settings, handover))
                told = (state.update, router.replace_state)
                async with (
                    publishing(self.publisher, state, log),
                    following(handover, self.settings, self._opened, self.known, before=stack, told=told),
                ):
                    yield state

    @asynccontextmanager
    async def _opened(self, settings: Settings, handover: Handover | None = None) -> AsyncIterator[State]:
        """All that uses the database."""
        now = datetime.now(UTC)
        identity = Identity.of_this_process("receiver", name=new_name(), settings=digest_of(settings), now=now)
        if handover is not None:
            handover.name = identity.name
        known, log, url = self.known, self.log, settings.database_url
        meter = self.publisher.meter if self.publisher else None
        # Even if the API uses all its connections, a balancer must not take the receiver for dead. The stream must
        # not read a standby.
        async with (
            engine_for(url, within=STATEMENT, writes=False) as engine,
            engine_for(url, within=STATEMENT) as looking,
            engine_for(url, within=STATEMENT) as followed,
        ):
            tell_ignored(url)
            check = partial(_check, engine, settings)
            before = None if await can_start(check(), settings) else check
            async with (
                watching(looking, known, commits=True),
                Feed(followed, waking=partial(waking_readers, url)).running() as feed,
                Notifier(url).running() as notifier,
                store_for(
                    settings, partial(_tell, notifier, feed), known, before=before, meter=meter, handover=handover
                ).running() as store,
                Reporter(looking, identity, tally=self.tally, gauges=partial(gauges_of, store, known, log)).running(),
                Overviews(engine, settings).running() as overviews,
            ):
                yield {
                    "events": store,
                    "engine": engine,
                    "health": known,
                    "body_timeout": settings.body_timeout,
                    "max_released_bytes": settings.max_released_bytes,
                    "settings": settings,
                    "destinations": settings.destinations,
                    "spool": settings.spool,
                    "usernames": self.clients.usernames,
                    "plans": Semaphore(plans.MOST_PLANS),
                    "waits": Semaphore(replay.MOST_WAITING),
                    "feed": feed,
                    "overviews": overviews,
                    "turns": self.turns,
                }


async def _check(engine: AsyncEngine, settings: Settings) -> None:
    await check_schema(engine)
    if settings.spool is not None:  # `serve` may not have been able to
        await register_in_parts(engine, settings.destinations, now=datetime.now(UTC))


def _tell(notifier: Notifier, feed: Feed, waiting: int) -> None:
    """After each commit, lets workers and the stream look for events."""
    notifier.stored(waiting)
    feed.wake()
