"""The application: one table of URLs, the door of each, and what lives as long as the process."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route as AnyRoute
from starlette.routing import Router
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from app.api import deliveries, health, orders, quarantine
from app.api import deliveries_description as delivery
from app.api import events as events_api
from app.api import replay as single
from app.api import replays as bulk
from app.api import replays_description as bulk_description
from app.api.turns import InTurn, TooManyRequests, Turns
from app.auth.basic import PROBLEMS as BASIC_PROBLEMS
from app.auth.basic import BasicDoor
from app.auth.bearer import PROBLEMS as BEARER_PROBLEMS
from app.auth.bearer import BearerDoor
from app.auth.clients import clients_from
from app.auth.keys import token_keys
from app.auth.limits import FailureLimit
from app.auth.token_description import TOKEN
from app.auth.token_endpoint import TokenEndpoint
from app.database.engines import STATEMENT, engine_for, is_sqlite, tell_ignored
from app.database.health import Health, watching
from app.database.schema import check_schema
from app.deliveries.wake import Notifier
from app.events.postgres import PostgresWriter
from app.events.sqlite import SQLiteWriter
from app.events.store import EventStore, Writer
from app.receiver import endpoint as receiver
from app.receiver.description import RECEIVE
from app.settings.model import Scope, Settings, SettingsProblem
from app.telemetry.logs import LogWriter, logging_to
from app.telemetry.middleware import RequestLine
from app.web.openapi import page as docs
from app.web.openapi.operations import Door, Route
from app.web.openapi.page import Description
from app.web.problems import MethodNotAllowed


class State(receiver.State, health.State):
    """What the lifespan gives to every request."""

    engine: AsyncEngine
    body_timeout: timedelta


class Application(Router):
    """The URL table behind one middleware.

    Starlette's own application has three more, and its router tries one pattern after the other: together a quarter of
    what a request costs. A path without parameters is looked up instead.
    """

    def __init__(
        self,
        routes: Sequence[AnyRoute],
        *,
        lifespan: Callable[["Application"], AbstractAsyncContextManager[State]],
        log: LogWriter,
    ) -> None:
        # A webhook that is redirected is not answered 200, and is retried for seven days.
        super().__init__(
            routes, redirect_slashes=False, lifespan=lifespan, middleware=[Middleware(RequestLine, log=log)]
        )
        self._by_path: dict[str, list[AnyRoute]] = {}
        for route in routes:
            if "{" not in route.path:
                self._by_path.setdefault(route.path, []).append(route)

    async def app(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Hands over to the route."""
        scope["app"] = self
        here = self._by_path.get(scope.get("path", ""))
        if here is None or scope["type"] != "http":
            await super().app(scope, receive, send)
            return
        for route in here:
            if scope["method"] in (route.methods or ()):
                await route.handle(scope, receive, send)
                return
        allowed = {method for route in here for method in route.methods or ()}
        raise HTTPException(MethodNotAllowed.status, headers={"Allow": ", ".join(allowed)})


def create_app(settings: Settings, *, log: LogWriter) -> Application:
    """The application of one process; nothing is opened before its lifespan starts.

    Args:
        settings: All of them: `first_start.complete` adds what is kept beside a SQLite database.
        log: Where its log lines go.

    Raises:
        SettingsProblem: there is no client, so that nobody could come in, or two have the same credentials.
    """
    clients, keys = clients_from(settings.clients), token_keys(settings)
    if not clients:
        raise SettingsProblem(
            "No client is configured: `priohook clients new prioticket` prints an entry for `clients`."
        )

    @asynccontextmanager
    async def lifespan(_: Application) -> AsyncIterator[State]:
        with log.running(), logging_to(log):
            known = Health()
            # Two engines: whatever holds the API's connections, a balancer must not take the receiver for dead.
            url = settings.database_url
            async with (
                engine_for(url, within=STATEMENT, writes=False) as engine,
                engine_for(url, within=STATEMENT) as looking,
            ):
                tell_ignored(url)
                await check_schema(engine)
                async with (
                    watching(looking, known, commits=True),
                    _notifier(url) as stored,
                    _store(settings, stored, known).running() as events,
                ):
                    yield {
                        "events": events,
                        "engine": engine,
                        "health": known,
                        "body_timeout": settings.body_timeout,
                    }

    failures = FailureLimit()

    def basic(scope: Scope) -> Door:
        door = Middleware(BasicDoor, clients=clients, failures=failures, scope=scope)
        return Door(scheme="basic", scope=scope, problems=BASIC_PROBLEMS, middleware=door)

    receive = receiver.Receiver(
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        on_unprocessable=settings.on_unprocessable,
    )
    turns = Middleware(InTurn, turns=Turns(receiving=receive.is_busy))

    def bearer(scope: Scope) -> Door:
        door = Middleware(BearerDoor, keys=keys, clients=clients, failures=failures, scope=scope)
        problems = (*BEARER_PROBLEMS, TooManyRequests)
        return Door(scheme="bearer", scope=scope, problems=problems, middleware=door, behind=turns)

    token = TokenEndpoint(
        keys=keys,
        clients=clients,
        failures=failures,
        lifetime=settings.token_lifetime,
        body_timeout=settings.body_timeout,
    )
    limit = settings.max_body_bytes
    releasing = quarantine.Releasing(usernames=clients.usernames, limit=limit)
    one = single.SingleReplay(destinations=settings.destinations)
    replays = bulk.BulkReplays(destinations=settings.destinations)
    destinations = deliveries.DestinationControls(configured=settings.destinations)
    read, replay = bearer(Scope.READ), bearer(Scope.REPLAY)
    routes: list[Route] = []
    description = Description(routes)
    routes += [
        Route("POST", "/webhooks/prioticket", receive, RECEIVE, door=basic(Scope.SEND)),
        Route("POST", "/oauth2/token", token, TOKEN, door=Door(scheme="basic")),
        Route("GET", "/api/events", events_api.list_page, events_api.LIST, door=read),
        Route("GET", "/api/events/{event_id}", events_api.show, events_api.SHOW, door=read),
        Route("GET", "/api/events/{event_id}/body", events_api.body, events_api.BODY, door=read),
        Route("POST", "/api/events/{event_id}/replay", one.replay, single.REPLAY, door=replay),
        Route("POST", "/api/events/{event_id}/release", releasing.release, quarantine.RELEASE, door=replay),
        Route("GET", "/api/orders/{reference:path}", orders.show, orders.SHOW, door=read),
        Route("GET", "/api/deliveries", deliveries.list_page, delivery.LIST, door=replay),
        Route("GET", "/api/deliveries/{delivery_id}", deliveries.show, delivery.SHOW, door=replay),
        Route("POST", "/api/deliveries/{delivery_id}/retry", deliveries.retry, delivery.RETRY, door=replay),
        Route("POST", "/api/deliveries/{delivery_id}/drop", deliveries.drop, delivery.DROP, door=replay),
        Route("GET", "/api/destinations", destinations.show_all, delivery.DESTINATIONS, door=replay),
        Route("POST", "/api/destinations/{name:path}/pause", destinations.pause, delivery.PAUSE, door=replay),
        Route("POST", "/api/destinations/{name:path}/resume", destinations.resume, delivery.RESUME, door=replay),
        Route("GET", "/api/replays", bulk.list_page, bulk_description.LIST, door=replay),
        Route("POST", "/api/replays", replays.create, bulk_description.CREATE, door=replay),
        Route("GET", "/api/replays/{replay_id}", bulk.show, bulk_description.SHOW, door=replay),
        Route("POST", "/api/replays/{replay_id}/pause", bulk.pause, bulk_description.PAUSE, door=replay),
        Route("POST", "/api/replays/{replay_id}/resume", bulk.resume, bulk_description.RESUME, door=replay),
        Route("POST", "/api/replays/{replay_id}/cancel", bulk.cancel, bulk_description.CANCEL, door=replay),
        Route("GET", "/healthz", health.healthz, health.ALIVE),
        Route("GET", "/readyz", health.readyz, health.READY),
        Route("GET", "/openapi.json", description.document, docs.DOCUMENT),
        Route("GET", "/docs", description.page, docs.PAGE),
    ]
    routes[:] = [route for route in routes if route.path not in settings.closed_urls]
    return Application(routes, lifespan=lifespan, log=log)


@asynccontextmanager
async def _notifier(url: str) -> AsyncIterator[Callable[[], None]]:
    """What is called after each commit, so that workers look; those of a SQLite file see it themselves."""
    if is_sqlite(url):
        yield lambda: None
        return
    notifier = Notifier(url)
    try:
        yield notifier.stored
    finally:
        await notifier.close()


def _store(settings: Settings, stored: Callable[[], None], known: Health) -> EventStore:
    url = settings.database_url
    writer: Writer = SQLiteWriter(url) if is_sqlite(url) else PostgresWriter(url, timeout=settings.commit_timeout)
    return EventStore(
        writer,
        max_batch=settings.commit_max_batch,
        max_waiting=settings.max_waiting_events,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout=settings.commit_timeout,
        stored=stored,
        health=known,
    )
