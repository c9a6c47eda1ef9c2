"""The servers that are compared, each in a process of its own: `python -m bench.targets NAME`.

All run on uvicorn with httptools and uvloop and without its access log:

- `floor`: a bare ASGI application that reads the body and answers 200;
- `starlette`: the same as a Starlette route;
- `nostore`: the receiver, with a store that says it has committed;
- `naive`: the receiver, with a SQLAlchemy session and a commit for each request;
- `commit`: the receiver, which stores the event of a request again and again for some seconds, and tells how fast.

The receiver itself is `priohook serve`, as it is; the twin with FastAPI is in `bench.twin`.
"""

import sys
from os import urandom
from statistics import median
from time import perf_counter
from typing import Any, Literal, Protocol

import click
import uvicorn
from sqlalchemy import event as events
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.application import create_app
from app.database import engines
from app.events.ids import new_id
from app.events.rows import NewEvent, Stored
from app.events.tables import Event
from app.server.server import Server, listen, server_for
from app.settings.model import Settings
from app.telemetry.logs import stderr_writer
from bench.load import PATH

COMMIT_SECONDS = 1.0


class Store(Protocol):
    """What the endpoint needs of a store."""

    async def append(self, event: NewEvent) -> Stored: ...


class NoStore:
    """Says that it has committed."""

    async def append(self, event: NewEvent) -> Stored:
        return Stored(event.id, duplicate=False)


class NaiveStore:
    """What one would write first. It does not look for copies."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)

    async def append(self, event: NewEvent) -> Stored:
        async with self._sessions() as session:
            session.add(Event(**event._asdict()))
            await session.commit()
        return Stored(event.id, duplicate=False)


class RepeatingStore:
    """Appends an event again and again for some seconds, one after the other, and prints the median in ms."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, event: NewEvent) -> Stored:
        taken = []
        ends = perf_counter() + COMMIT_SECONDS
        while (before := perf_counter()) < ends:
            await self._store.append(event._replace(id=new_id(), dedup_key=urandom(16)))
            taken.append(perf_counter() - before)
        click.echo(median(taken) * 1000)
        return Stored(event.id, duplicate=False)


class Bare:
    """Reads the body and answers 200; a class, since Starlette takes a function for a handler of its own kind."""

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def noop(request: Request) -> Response:
    """The same for Starlette."""
    await request.body()
    return Response()


PLAIN: dict[str, ASGIApp] = {"floor": Bare(), "starlette": Starlette(routes=[Route(PATH, noop, methods=["POST"])])}


def plain_engine(url: str) -> AsyncEngine:
    """As durable as ours, and with as many connections as serve it best.

    On SQLite more than one would fight for its lock. On PostgreSQL SQLAlchemy's default is 5 and up to 10 more, which
    it opens and closes again all the time: 16 that stay take a third less of the processors.
    """
    if not engines.is_sqlite(url):
        return create_async_engine(url, pool_size=16, max_overflow=0)
    engine = create_async_engine(url, pool_size=1, max_overflow=0)

    @events.listens_for(engine.sync_engine, "connect")
    def _(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def server(name: str, settings: Settings) -> uvicorn.Server:
    """The server of that name; it prints where it listens."""
    if name in PLAIN:
        return plain(PLAIN[name])
    log = stderr_writer(settings.log_format)
    app = create_app(settings, log=log)
    inner: ASGIApp = app.middleware_stack
    instead = NoStore() if name == "nostore" else NaiveStore(plain_engine(settings.database_url))

    async def with_store(scope: Scope, receive: Receive, send: Send) -> None:
        """Has the handlers find another store."""
        if scope["type"] == "http":
            scope["state"]["events"] = RepeatingStore(scope["state"]["events"]) if name == "commit" else instead
        await inner(scope, receive, send)

    app.middleware_stack = with_store
    return server_for(app, settings, log=log, started=_started)


def plain(app: ASGIApp, *, lifespan: Literal["on", "off"] = "off") -> uvicorn.Server:
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


def _started(url: str) -> None:
    click.echo(f"It listens at {url}")


if __name__ == "__main__":
    server(sys.argv[1], Settings.load()).run([listen("127.0.0.1", 0)])
