"""The application: one table of URLs, the door of each, and what lives as long as the process."""

import logging
from asyncio import Semaphore
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route as AnyRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from app.api import (
    alarms,
    audit,
    deliveries,
    destinations,
    erasures,
    events,
    groups,
    health,
    orders,
    plans,
    quarantine,
    replay,
    replays,
    status,
    stream,
)
from app.api import state as api
from app.api.overview import Overviews
from app.api.turns import InTurn, TooManyRequests, Turns
from app.auth.basic import PROBLEMS as BASIC_PROBLEMS
from app.auth.basic import BasicDoor
from app.auth.bearer import PROBLEMS as BEARER_PROBLEMS
from app.auth.bearer import BearerDoor
from app.auth.clients import clients_from
from app.auth.expiry import telling_of_expiry
from app.auth.keys import token_keys
from app.auth.limits import FAILURES, Limit
from app.auth.token_endpoint import TokenEndpoint
from app.auth.token_errors import TokenDoor, TokenError
from app.console import alarms as alarm_pages
from app.console import audit as audit_page
from app.console import deliveries as delivery_pages
from app.console import destinations as destination_pages
from app.console import erasures as erasure_pages
from app.console import events as event_pages
from app.console import finding, now, pages, runbooks, signing
from app.console import groups as group_pages
from app.console import orders as order_pages
from app.console import quarantine as refused_pages
from app.console import replays as replay_pages
from app.console import settings as settings_pages
from app.console.door import SIGN_IN, OpenDoor, SessionDoor
from app.console.pages import Page
from app.database.away import is_away
from app.database.engines import STATEMENT, engine_for, is_sqlite, tell_ignored
from app.database.health import Health, watching
from app.database.schema import check_schema
from app.deliveries.registering import register_in_parts
from app.deliveries.wake import Notifier, waking
from app.events.feed import Feed
from app.events.handover import Handover
from app.events.store import EventStore
from app.receiver import endpoint as receiver
from app.receiver.following import following
from app.receiver.storing import store_for
from app.settings.clients import Scope
from app.settings.digest import digest_of
from app.settings.model import Settings, SettingsProblem
from app.telemetry.logs import LogWriter, logging_to
from app.telemetry.meter import Meter
from app.telemetry.middleware import RequestLine
from app.telemetry.processes import Gauges, Identity, new_name
from app.telemetry.reporting import Reporter
from app.telemetry.snapshots import Gauges as Measured
from app.telemetry.snapshots import Publisher, connections_of
from app.telemetry.spans import Spans
from app.telemetry.tally import Tally
from app.web.openapi.operations import Door, Route
from app.web.openapi.page import Description
from app.web.problems import MethodNotAllowed

logger = logging.getLogger(__name__)


class State(receiver.State, health.State, api.State):
    """What the lifespan gives to every request."""


class Application(Router):
    """The URL table, and one middleware around it.

    Starlette's own application has three more, and its router tries one pattern after another: together a quarter of
    what a request costs. Here a path without parameters is looked up in a dictionary.
    """

    def __init__(
        self,
        routes: Sequence[AnyRoute],
        *,
        lifespan: Callable[["Application"], AbstractAsyncContextManager[State]],
        log: LogWriter,
        tally: Tally,
        spans: Spans,
        meter: Meter | None = None,
    ) -> None:
        # A webhook that is redirected is not answered 200, and is retried for seven days.
        super().__init__(
            routes,
            redirect_slashes=False,
            lifespan=lifespan,
            middleware=[Middleware(RequestLine, log=log, tally=tally, spans=spans, meter=meter)],
        )
        self._state: MutableMapping[str, Any] = {}
        self._by_path: dict[str, dict[str, ASGIApp]] = {}
        for route in routes:
            if "{" not in route.path:
                self._by_path.setdefault(route.path, {}).update(dict.fromkeys(route.methods or (), route.app))

    async def lifespan(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Remembers the state that the server copies for each request."""
        self._state = scope.get("state", {})
        await super().lifespan(scope, receive, send)

    def replace_state(self, state: State) -> None:
        """Gives another state to every request from now on."""
        self._state.update(state)

    def app(self, scope: ASGIScope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override] # awaited
        """Calls the handler of the route."""
        scope["app"] = self
        by_method = self._by_path.get(scope.get("path", ""))
        if by_method is None or scope["type"] != "http":
            return super().app(scope, receive, send)
        if (endpoint := by_method.get(scope["method"])) is not None:
            return endpoint(scope, receive, send)
        raise HTTPException(MethodNotAllowed.status, headers={"Allow": ", ".join(by_method)})


def create_app(
    settings: Settings,
    *,
    log: LogWriter,
    publisher: Publisher | None = None,
    known: Health | None = None,
    handover: Handover | None = None,
) -> Application:
    """The application of one process; nothing is opened before its lifespan starts.

    Args:
        settings: As `first_start.complete` gives them, with what is kept beside a SQLite database.
        log: Where its log lines go.
        publisher: Counts for the metrics, if they are wanted.
        known: What `/readyz` tells, for a server that knows when it ends.
        handover: Lets it go on with PostgreSQL when its SQLite file is moved there; without it, it refuses events then.

    Raises:
        SettingsProblem: no client is configured, or two clients have the same credentials.
    """
    clients, keys = clients_from(settings.clients), token_keys(settings)
    tally, spans, known = Tally(), Spans(), known or Health()
    meter = publisher.meter if publisher else None
    if not clients:
        raise SettingsProblem(
            "No client is configured: `priohook clients new prioticket` prints an entry for `clients`."
        )

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[State]:
        with log.running(), logging_to(log):
            async with spans.running(), telling_of_expiry(clients), AsyncExitStack() as stack:
                state = await stack.enter_async_context(opened(settings, handover))
                async with (
                    _publishing(publisher, state, log),
                    following(
                        handover, settings, opened, known, before=stack, told=(state.update, application.replace_state)
                    ),
                ):
                    yield state

    @asynccontextmanager
    async def opened(settings: Settings, handover: Handover | None = None) -> AsyncIterator[State]:
        """All that uses the database."""
        now = datetime.now(UTC)
        identity = Identity.of_this_process("receiver", name=new_name(), settings=digest_of(settings), now=now)
        if handover is not None:
            handover.name = identity.name
        # Even if the API uses all its connections, a balancer must not take the receiver for dead. The stream must
        # not read a standby.
        url = settings.database_url
        async with (
            engine_for(url, within=STATEMENT, writes=False) as engine,
            engine_for(url, within=STATEMENT) as looking,
            engine_for(url, within=STATEMENT) as followed,
        ):
            tell_ignored(url)
            before = partial(_check, engine, settings)
            checked = await can_start(before(), settings)
            async with (
                watching(looking, known, commits=True),
                Feed(followed, waking=partial(_waking, url)).running() as feed,
                _notifier(url, feed) as stored,
                store_for(
                    settings, stored, known, before=None if checked else before, meter=meter, handover=handover
                ).running() as store,
                Reporter(looking, identity, tally=tally, gauges=_gauges(store, known, log)).running(),
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
                    "usernames": clients.usernames,
                    "plans": Semaphore(plans.MOST_PLANS),
                    "waits": Semaphore(replay.MOST_WAITING),
                    "feed": feed,
                    "overviews": overviews,
                    "turns": turns,
                }

    failures = Limit(FAILURES)

    def basic(scope: Scope) -> Door:
        door = Middleware(BasicDoor, clients=clients, failures=failures, scope=scope)
        return Door(scheme="basic", scope=scope, problems=BASIC_PROBLEMS, middleware=door)

    receive = receiver.Receiver(
        max_body_bytes=settings.max_body_bytes,
        max_quarantined_bytes=settings.max_quarantined_bytes,
        body_timeout=settings.body_timeout,
        on_unprocessable=settings.on_unprocessable,
    )
    turns = Turns(receiving=receive.is_busy)
    in_turn = Middleware(InTurn, turns=turns)

    def bearer(scope: Scope) -> Door:
        door = Middleware(BearerDoor, keys=keys, clients=clients, failures=failures, scope=scope)
        problems = (*BEARER_PROBLEMS, TooManyRequests)
        return Door(scheme="bearer", scope=scope, problems=problems, middleware=door, behind=in_turn)

    token = TokenEndpoint(
        keys=keys,
        clients=clients,
        failures=failures,
        lifetime=settings.token_lifetime,
        body_timeout=settings.body_timeout,
    )
    asking = Door(scheme="basic", middleware=Middleware(TokenDoor), errors=TokenError)
    read, replaying = bearer(Scope.READ), bearer(Scope.REPLAY)

    def session(scope: Scope) -> Door:
        door = Middleware(SessionDoor, keys=keys, clients=clients, scope=scope, public_url=settings.public_url)
        return Door(scheme="session", scope=scope, middleware=door, behind=in_turn)

    signs = signing.Signing(
        keys=keys,
        clients=clients,
        failures=failures,
        body_timeout=settings.body_timeout,
        public_url=settings.public_url,
    )
    looking = session(Scope.CONSOLE)
    acting = session(Scope.REPLAY)
    anyone = Door(scheme="session", middleware=Middleware(OpenDoor))
    routes: list[Route] = []
    description = Description(routes)
    routes += [
        Route("POST", "/webhooks/prioticket", receive, door=basic(Scope.SEND)),
        Route("POST", "/oauth2/token", token, door=asking),
        Route("GET", "/api/events", events.list_page, door=read),
        Route("GET", "/api/events/stream", stream.stream, door=read),
        Route("GET", "/api/events/{event_id}", events.show, door=read),
        Route("GET", "/api/events/{event_id}/body", events.body, door=read),
        Route("POST", "/api/events/{event_id}/replay", replay.replay, door=replaying),
        Route("POST", "/api/events/{event_id}/release", quarantine.release_event, door=replaying),
        Route("GET", "/api/orders/{reference:path}", orders.show, door=read),
        Route("GET", "/api/deliveries", deliveries.list_page, door=replaying),
        Route("GET", "/api/deliveries/groups", groups.list_groups, door=replaying),
        Route("GET", "/api/deliveries/{delivery_id}", deliveries.show, door=replaying),
        Route("POST", "/api/deliveries/{delivery_id}/retry", deliveries.retry, door=replaying),
        Route("POST", "/api/deliveries/{delivery_id}/drop", deliveries.drop, door=replaying),
        Route("GET", "/api/destinations", destinations.show_all, door=replaying),
        Route("POST", "/api/destinations/{name:path}/pause", destinations.pause, door=replaying),
        Route("POST", "/api/destinations/{name:path}/resume", destinations.resume, door=replaying),
        Route("GET", "/api/replays", replays.list_page, door=replaying),
        Route("POST", "/api/replays", plans.create, door=replaying),
        Route("GET", "/api/replays/{replay_id}", replays.show, door=replaying),
        Route("POST", "/api/replays/{replay_id}/pause", replays.pause, door=replaying),
        Route("POST", "/api/replays/{replay_id}/resume", replays.resume, door=replaying),
        Route("POST", "/api/replays/{replay_id}/cancel", replays.cancel, door=replaying),
        Route("GET", "/api/status", status.show, door=read),
        Route("GET", "/api/alarms", alarms.show_all, door=read),
        Route("POST", "/api/erasures", erasures.erase_events, door=bearer(Scope.ERASE)),
        Route("GET", "/api/audit", audit.list_page, door=read),
        Route("GET", "/healthz", health.healthz),
        Route("GET", "/readyz", health.readyz),
        Route("GET", "/openapi.json", description.document),
        Route("GET", "/docs", description.page),
    ]
    routes[:] = [route for route in routes if route.path not in settings.closed_urls]
    console = [
        Page("GET", SIGN_IN, signs.ask, door=anyone),
        Page("POST", SIGN_IN, signs.sign_in, door=anyone),
        Page("POST", "/console/sign-out", signing.sign_out, door=looking),
        Page("GET", "/console/static/{digest}/{name}", pages.asset),
        Page("GET", "/console", now.show, door=looking),
        Page("GET", "/console/stream", stream.stream, door=looking),
        Page("GET", "/console/find", finding.find, door=looking),
        Page("GET", "/console/orders/{reference:path}", order_pages.show, door=looking),
        Page("POST", "/console/orders/{reference:path}", order_pages.replay, door=acting),
        Page("GET", "/console/events", event_pages.list_page, door=looking),
        Page("GET", "/console/replays", replay_pages.list_page, door=looking),
        Page("GET", "/console/replays/new", replay_pages.new, door=acting),
        Page("POST", "/console/replays/new", replay_pages.start, door=acting),
        Page("GET", "/console/replays/{replay_id}", replay_pages.show, door=looking),
        Page("POST", "/console/replays/{replay_id}/pause", replay_pages.pause, door=acting),
        Page("POST", "/console/replays/{replay_id}/resume", replay_pages.resume, door=acting),
        Page("POST", "/console/replays/{replay_id}/cancel", replay_pages.cancel, door=acting),
        Page("POST", "/console/replays/{replay_id}/again", replay_pages.again, door=acting),
        Page("GET", "/console/audit", audit_page.list_page, door=looking),
        Page("GET", "/console/alarms", alarm_pages.show, door=looking),
        Page("GET", "/console/settings", settings_pages.show, door=looking),
        Page("GET", "/console/runbooks", runbooks.show, door=looking),
        Page("GET", "/console/events/{event_id}", event_pages.show, door=looking),
        Page("GET", "/console/events/{event_id}/body", events.body, door=session(Scope.READ)),
        Page("POST", "/console/events/{event_id}/replay", event_pages.replay, door=acting),
        Page("POST", "/console/events/{event_id}/release", refused_pages.release, door=acting),
        Page("POST", "/console/quarantine", refused_pages.release_alike, door=acting),
        Page("POST", "/console/erasures", erasure_pages.erase, door=session(Scope.ERASE)),
        Page("GET", "/console/deliveries", delivery_pages.list_page, door=looking),
        Page("GET", "/console/deliveries/groups", group_pages.list_page, door=looking),
        Page("GET", "/console/deliveries/group", group_pages.show, door=looking),
        Page("POST", "/console/deliveries/group/retry", group_pages.retry, door=acting),
        Page("POST", "/console/deliveries/group/drop", group_pages.drop, door=acting),
        Page("GET", "/console/deliveries/{delivery_id}", delivery_pages.show, door=looking),
        Page("POST", "/console/deliveries/{delivery_id}/retry", delivery_pages.retry, door=acting),
        Page("POST", "/console/deliveries/{delivery_id}/drop", delivery_pages.drop, door=acting),
        Page("GET", "/console/destinations", destination_pages.list_page, door=looking),
        Page("GET", "/console/destinations/{name:path}", destination_pages.show, door=looking),
        Page("POST", "/console/destinations/{name:path}/pause", destination_pages.pause, door=acting),
        Page("POST", "/console/destinations/{name:path}/resume", destination_pages.resume, door=acting),
        Page("POST", "/console/destinations/{name:path}/test", destination_pages.test, door=acting),
        Page("GET", "/console/{path:path}", pages.nothing, door=looking),
    ]
    return Application([*routes, *console], lifespan=lifespan, log=log, tally=tally, spans=spans, meter=meter)


def _gauges(store: EventStore, known: Health, log: LogWriter) -> Callable[[], Gauges]:
    """What a receiver says of itself every few seconds."""

    def gauges() -> Gauges:
        spool = known.spool
        return Gauges(
            waiting_events=store.events,
            spooled_events=spool.events if spool else None,
            spooled_bytes=spool.size if spool else None,
            log_lines_dropped=log.dropped,
        )

    return gauges


@asynccontextmanager
async def _publishing(publisher: Publisher | None, state: State, log: LogWriter) -> AsyncIterator[None]:
    """Publishes what a receiver counts, if it does; `state` may be replaced meanwhile."""
    if publisher is None:
        yield
        return

    def measured() -> Measured:
        now = _gauges(state["events"], state["health"], log)()
        publisher.meter.dropped(now.log_lines_dropped or 0)
        connections = connections_of(state["engine"].pool)
        return {
            ("priohook_waiting_events", ()): now.waiting_events or 0,
            ("priohook_spooled_events", ()): now.spooled_events or 0,
            ("priohook_spooled_bytes", ()): now.spooled_bytes or 0,
        } | {("priohook_database_connections", (publisher.process, of)): n for of, n in connections.items()}

    async with publisher.running(measured):
        yield


@asynccontextmanager
async def _notifier(url: str, feed: Feed) -> AsyncIterator[Callable[[int], None]]:
    """What to call after each commit, so that workers and the stream look for events."""
    notifier = Notifier(url)

    def stored(waiting: int) -> None:
        notifier.stored(waiting)
        feed.wake()

    try:
        yield stored
    finally:
        await notifier.close()


def _waking(url: str, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
    """Calls `wake` when another process stored events. The bell of a SQLite file rings for its worker only."""
    return nullcontext() if is_sqlite(url) else waking(url, events=lambda _: wake(), deliveries=wake)


async def can_start(check: Awaitable[None], settings: Settings) -> bool:
    """Whether the check of the database succeeded. If not, the database is away, and events go to the spool.

    Raises:
        Exception: what the check raised, if there is no spool, or if waiting will not mend the database.
    """
    try:
        await check
    except Exception as error:
        if settings.spool is None or not is_away(error):
            raise
        return False
    return True


async def _check(engine: AsyncEngine, settings: Settings) -> None:
    await check_schema(engine)
    if settings.spool is not None:  # `serve` may not have been able to
        await register_in_parts(engine, settings.destinations, now=datetime.now(UTC))
