"""The servers that are compared, each in a process of its own: `python -m bench.targets NAME`.

All run on uvicorn with httptools and uvloop and without its access log:

- `floor`: a bare ASGI application that reads the body and answers 200;
- `starlette`: the same as a Starlette route;
- `nostore`: our door, endpoint, log line and queue, with a writer that commits nothing;
- `naive`: our door, endpoint and log line, with a SQLAlchemy session and a commit for each request;
- `batches`: our application, which also tells at `GET /batches` how many commits held how many events.

The receiver itself is `priohook serve`, as it is.
"""

import sys
from asyncio import Semaphore
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast
from uuid import UUID

import click
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from app.application import Application, State
from app.auth.basic import BasicDoor
from app.auth.clients import clients_from
from app.auth.limits import FAILURES, Limit
from app.database import engines
from app.database.health import Health
from app.events.postgres import PostgresWriter
from app.events.sqlite import SQLiteWriter
from app.events.store import EventStore, NewEvent, Row, Stored, Writer
from app.events.tables import Event
from app.receiver.endpoint import Receiver
from app.server.server import Server, listen, server_for
from app.settings.model import Scope, Settings
from app.telemetry.logs import LogWriter, logging_to, stderr_writer

ANSWER = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
Opening = Callable[[Settings, AsyncEngine], AbstractAsyncContextManager[EventStore]]
"""Gives the store of one application, for as long as it runs."""


class NoWriter:
    """A writer that says it committed."""

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        return {row.event.dedup_key: row.event.id for row in rows}

    async def probe(self, *, thorough: bool) -> None:
        """As if it did."""

    async def close(self) -> None:
        """Nothing is open."""


class CountingWriter:
    """Another writer, and how many of its commits held how many events."""

    def __init__(self, writer: Writer, sizes: Counter[int]) -> None:
        self._writer = writer
        self._sizes = sizes

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        self._sizes[len(rows)] += 1
        return await self._writer.write(rows)

    def probe(self, *, thorough: bool) -> Awaitable[None]:
        return self._writer.probe(thorough=thorough)

    async def close(self) -> None:
        await self._writer.close()


class NaiveStore:
    """What one would write first: a session for each request, and a commit. It does not look for copies."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)

    async def append(self, event: NewEvent) -> Stored:
        """As `EventStore.append`."""
        async with self._sessions() as session:
            session.add(Event(**event._asdict()))
            await session.commit()
        return Stored(event.id, duplicate=False)


async def bare(_: ASGIScope, receive: Receive, send: Send) -> None:
    """Reads the body and answers 200."""
    while (await receive()).get("more_body"):
        pass
    await send(ANSWER)
    await send({"type": "http.response.body", "body": b""})


async def noop(request: Request) -> Response:
    """The same for Starlette."""
    await request.body()
    return Response()


def application(settings: Settings, opening: Opening, log: LogWriter, *, further: Sequence[Route] = ()) -> Application:
    """Our application with another store, made of the same pieces as `create_app` makes it."""

    @asynccontextmanager
    async def lifespan(_: Application) -> AsyncIterator[State]:
        async with engines.engine_for(settings.database_url) as engine, opening(settings, engine) as events:
            with log.running(), logging_to(log):
                yield {
                    "events": events,
                    "engine": engine,
                    "health": Health(),
                    "body_timeout": settings.body_timeout,
                    "max_body_bytes": settings.max_body_bytes,
                    "destinations": {},
                    "usernames": {},
                    "plans": Semaphore(1),
                    "waits": Semaphore(1),
                }

    door = Middleware(BasicDoor, clients=clients_from(settings.clients), failures=Limit(FAILURES), scope=Scope.SEND)
    receive = Receiver(
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        on_unprocessable=settings.on_unprocessable,
    )
    webhook = Route("/webhooks/prioticket", receive, methods=["POST"], middleware=[door])
    return Application([webhook, *further], lifespan=lifespan, log=log)


def open_without_writer(settings: Settings, _: AsyncEngine) -> AbstractAsyncContextManager[EventStore]:
    """The queue, in front of nothing."""
    return _store(settings, NoWriter()).running()


@asynccontextmanager
async def open_naive(settings: Settings, engine: AsyncEngine) -> AsyncIterator[EventStore]:
    """The naive store, which has what the endpoint needs of ours.

    On PostgreSQL with an engine as SQLAlchemy makes it: ours asks before each use whether the connection still lives,
    which would make the twin slower than it has to be.
    """
    if engines.is_sqlite(settings.database_url):
        yield cast("EventStore", NaiveStore(engine))
        return
    plain = create_async_engine(settings.database_url)
    yield cast("EventStore", NaiveStore(plain))
    await plain.dispose()


def open_counting(sizes: Counter[int]) -> Opening:
    """Our store, whose commits are counted."""

    def opening(settings: Settings, _: AsyncEngine) -> AbstractAsyncContextManager[EventStore]:
        url = settings.database_url
        sqlite = engines.is_sqlite(url)
        writer: Writer = SQLiteWriter(url) if sqlite else PostgresWriter(url, timeout=settings.commit_timeout)
        return _store(settings, CountingWriter(writer, sizes)).running()

    return opening


def server(name: str, settings: Settings) -> uvicorn.Server:
    """The server of that name, on a free port that it prints."""
    if name == "floor":
        return _plain(bare, lifespan="off")
    if name == "starlette":
        return _plain(Starlette(routes=[Route("/webhooks/prioticket", noop, methods=["POST"])]), lifespan="on")
    log = stderr_writer(settings.log_format)
    if name == "batches":
        sizes: Counter[int] = Counter()

        async def tell(_: Request) -> Response:
            told = JSONResponse(sizes)
            sizes.clear()
            return told

        app = application(settings, open_counting(sizes), log, further=[Route("/batches", tell, methods=["GET"])])
    else:
        app = application(settings, {"nostore": open_without_writer, "naive": open_naive}[name], log)
    return server_for(app, settings, log=log, started=_started)


def _plain(app: ASGIApp, *, lifespan: Any) -> uvicorn.Server:
    """The protocol that comes with uvicorn, and the receiver's settings for all else."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    return Server(config, started=_started)


def _store(settings: Settings, writer: Writer) -> EventStore:
    return EventStore(
        writer,
        max_batch=settings.commit_max_batch,
        max_waiting=settings.max_waiting_events,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout=settings.commit_timeout,
    )


def _started(url: str) -> None:
    click.echo(f"{sys.argv[1]} listens at {url}")


if __name__ == "__main__":
    server(sys.argv[1], Settings.load()).run([listen("127.0.0.1", 0)])
