"""The application: one table of URLs, the door of each, and what lives as long as the process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from app.auth.basic import BasicDoor
from app.auth.clients import Clients
from app.auth.limits import FailureLimit
from app.database import SchemaNotCurrent, check_schema, engine_for, is_sqlite
from app.events.postgres import PostgresWriter
from app.events.sqlite import SQLiteWriter
from app.events.store import EventStore, Writer
from app.problems import Unavailable
from app.receiver import endpoint as receiver
from app.settings import Scope, Settings, SettingsProblem
from app.telemetry.logs import LogWriter, logging_to
from app.telemetry.middleware import RequestLine

READY_WITHIN = 2.0  # seconds; whoever asks does not wait much longer


class State(receiver.State):
    """What the lifespan gives to every request."""

    engine: AsyncEngine


class NotReady(Unavailable):
    """The database is away, or its schema is not the one this release needs."""


class Application(Router):
    """The URL table behind one middleware.

    Starlette's own application has three more, and its router tries one pattern after the other: together a quarter of
    what a request costs. A path without parameters is looked up instead.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        lifespan: Callable[["Application"], AbstractAsyncContextManager[State]],
        log: LogWriter,
    ) -> None:
        # A webhook that is redirected is not answered 200, and is retried for seven days.
        super().__init__(
            routes, redirect_slashes=False, lifespan=lifespan, middleware=[Middleware(RequestLine, log=log)]
        )
        paths = [route.path for route in routes]
        self._by_path = {route.path: route for route in routes if paths.count(route.path) == 1}

    async def app(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Hands over to the route."""
        scope["app"] = self
        route = self._by_path.get(scope.get("path", ""))
        if route is None:
            await super().app(scope, receive, send)
        else:
            await route.handle(scope, receive, send)


def create_app(settings: Settings, *, clients: Clients, log: LogWriter) -> Application:
    """The application of one process; nothing is opened before its lifespan starts.

    Raises:
        SettingsProblem: there is no client, so that nobody could come in.
    """
    if not clients:
        raise SettingsProblem(
            "No client is configured: `priohook clients new prioticket` prints an entry for `clients`."
        )

    @asynccontextmanager
    async def lifespan(_: Application) -> AsyncIterator[State]:
        with log.running(), logging_to(log):
            async with engine_for(settings.database_url) as engine:
                await check_schema(engine)
                async with _store(settings).running() as events:
                    yield {"events": events, "engine": engine}

    failures = FailureLimit()

    def basic(scope: Scope) -> Middleware:
        return Middleware(BasicDoor, clients=clients, failures=failures, scope=scope)

    receive = receiver.Receiver(
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        on_unprocessable=settings.on_unprocessable,
    )
    routes = [
        Route("/webhooks/prioticket", receive, methods=["POST"], middleware=[basic(Scope.SEND)]),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
    ]
    return Application(routes, lifespan=lifespan, log=log)


async def healthz(_: Request) -> Response:
    """The process is alive, whatever its database does."""
    return JSONResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """The database answers and its schema is current."""
    engine: AsyncEngine = request.state.engine
    try:
        async with asyncio.timeout(READY_WITHIN):
            await check_schema(engine)
    except SchemaNotCurrent as error:
        raise NotReady("The schema is not current.", str(error)) from None
    except (SQLAlchemyError, asyncpg.PostgresError, OSError, TimeoutError):
        raise NotReady("The database does not answer.", "Events are answered 503 until it does.") from None
    return JSONResponse({"status": "ready"})


def _store(settings: Settings) -> EventStore:
    url = settings.database_url
    writer: Writer = SQLiteWriter(url) if is_sqlite(url) else PostgresWriter(url, timeout=settings.commit_timeout)
    return EventStore(
        writer,
        max_batch=settings.commit_max_batch,
        max_waiting=settings.max_waiting_events,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout=settings.commit_timeout,
    )
