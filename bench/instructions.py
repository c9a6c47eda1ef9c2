"""`python -m bench instructions`: the instructions that an event costs, layer by layer, as callgrind counts them.

The application runs without sockets: requests are fed to 64 connections, whose transports swallow what is written. One
process imports everything and forks for each measurement. A measurement is the difference of two runs, so that neither
the start nor the warm-up counts. Other work on the machine moves none of the figures by more than a percent.

Figures of another Python or processor differ in all layers alike. So a figure is compared with the recorded one after
both were divided by the floor's: bare ASGI on uvicorn, of which nothing is ours.
"""

import argparse
import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from asyncio import AbstractEventLoop
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from app.alarms.gauges import TYPES
from app.application import Application
from app.auth.basic import BasicDoor
from app.auth.clients import clients_from
from app.auth.limits import FAILURES, Limit
from app.events.rows import NewEvent, Row, Stored
from app.events.store import EventStore
from app.receiver.endpoint import Receiver
from app.server.server import server_for, spare_collector
from app.settings.clients import Scope as ClientScope
from app.settings.model import Settings
from app.telemetry.logs import LogWriter
from app.telemetry.meter import Meter
from app.telemetry.spans import Spans
from app.telemetry.tally import Tally

PROJECT = Path(__file__).parent.parent
RECORDED = Path(__file__).with_suffix(".json")
PATH = "/webhooks/prioticket"
SAMPLES = {"notification": "01-notification-order-create", "order": "08-order-payload-confirmed"}
REFERENCE = b"PRI26081200417"
CREDENTIAL = ("prioticket", "a-secret-that-only-the-benchmark-knows")

CONNECTIONS = 64
WARM_UP = 2 * CONNECTIONS  # events
EVENTS = 10 * CONNECTIONS
MOST_MORE = 0.05
"""By how much a figure may exceed the recorded one."""

Figures = Mapping[str, Mapping[str, float]]
"""Thousands of instructions by layer and kind of event."""


class Bare:
    """Reads the body and answers 200."""

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def empty(request: Request) -> Response:
    """The same for Starlette."""
    await request.body()
    return Response()


class Swallow:
    """A store that says it stored."""

    async def append(self, event: NewEvent) -> Stored:
        return Stored(event.id, duplicate=False)


class NoWriter:
    """A writer that says it committed."""

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        return {row.event.dedup_key: row.event.id for row in rows}

    async def probe(self, *, thorough: bool) -> None:
        """As if it did."""

    async def close(self) -> None:
        """Nothing is open."""


class Transport:
    """The transport of a connection that sends its next request as soon as one is answered."""

    def __init__(self, loop: AbstractEventLoop, requests: Iterator[bytes], ended: Callable[[], None]) -> None:
        self._loop = loop
        self._requests = requests
        self._ended = ended
        self.protocol: Any = None

    def write(self, written: bytes) -> None:
        if written.startswith(b"HTTP/1.1 200 "):
            self._loop.call_soon(self.send)
        elif written:
            raise RuntimeError(f"not 200: {written!r}")

    def send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._ended()
        else:
            self.protocol.data_received(request)

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.1", 40_000), "sockname": ("192.0.2.2", 8000)}.get(name)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing more comes anyway."""

    resume_reading = close = abort = pause_reading


def floor(settings: Settings, log: LogWriter) -> uvicorn.Config:  # noqa: ARG001 - as all layers
    """A bare ASGI application on uvicorn."""
    return _plain(Bare())


def starlette(settings: Settings, log: LogWriter) -> uvicorn.Config:  # noqa: ARG001
    """A route of Starlette's that does nothing, on uvicorn."""
    return _plain(Starlette(routes=[Route(PATH, empty, methods=["POST"])]))


def connection(settings: Settings, log: LogWriter) -> uvicorn.Config:
    """Our connection, with a bare ASGI application."""
    config = _ours(Bare(), settings, log)
    config.app = Bare()
    return config


def table(settings: Settings, log: LogWriter) -> uvicorn.Config:
    """And the table of URLs, the request line and its log line."""
    return _ours(Bare(), settings, log)


def door(settings: Settings, log: LogWriter) -> uvicorn.Config:
    """And the door: HTTP Basic."""
    return _ours(Bare(), settings, log, _door(settings))


def endpoint(settings: Settings, log: LogWriter, *, meter: Meter | None = None) -> uvicorn.Config:
    """And the endpoint, before a store that does nothing; with a real one, the hand-off to the writer."""
    receiver = Receiver(
        max_body_bytes=settings.max_body_bytes,
        max_quarantined_bytes=settings.max_quarantined_bytes,
        body_timeout=settings.body_timeout,
        on_unprocessable=settings.on_unprocessable,
    )
    return _ours(receiver, settings, log, _door(settings), meter=meter)


def metrics(settings: Settings, log: LogWriter) -> uvicorn.Config:
    """And what is counted for the metrics."""
    return endpoint(settings, log, meter=Meter(types=TYPES))


FLOOR = "floor"
LAYERS: dict[str, Callable[[Settings, LogWriter], uvicorn.Config]] = {
    FLOOR: floor,
    "Starlette's empty route": starlette,
    "our connection": connection,
    "+ table, request line, log": table,
    "+ Basic door": door,
    "+ endpoint": endpoint,
    "+ hand-off": endpoint,
    "+ metrics": metrics,
}


STORED = ("+ hand-off", "+ metrics")


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 where a figure exceeds the recorded one by more than `MOST_MORE`."""
    parser = argparse.ArgumentParser(prog="python -m bench instructions", description=__doc__)
    parser.add_argument("layers", nargs="*", metavar="LAYER", help=f"of {', '.join(LAYERS)}; default all")
    parser.add_argument("--record", action="store_true", help=f"write the figures into {RECORDED.name}")
    given = parser.parse_args(arguments)
    if unknown := set(given.layers) - set(LAYERS):
        parser.error(f"There is no layer {', '.join(sorted(unknown))}: choose of {', '.join(LAYERS)}.")
    recorded: Figures = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    figures = measure([FLOOR, *(layer for layer in given.layers or LAYERS if layer != FLOOR)])
    sys.stdout.write(f"{'thousands of instructions an event':<36}{' / '.join(SAMPLES)}   recorded\n")
    for layer, by_kind in figures.items():
        before = " / ".join(f"{each:.0f}" for each in recorded.get(layer, {}).values())
        sys.stdout.write(f"{layer:<36}{' / '.join(f'{each:.0f}' for each in by_kind.values()):<23}{before}\n")
    if given.record:
        RECORDED.write_text(json.dumps({**recorded, **figures}, indent=2) + "\n")
        return 0
    dearer = list(exceeding(figures, recorded))
    for sentence in dearer:
        sys.stdout.write(f"{sentence}\n")
    return 1 if dearer else 0


def measure(layers: Sequence[str]) -> Figures:
    """Thousands of instructions an event, by layer and kind.

    Raises:
        RuntimeError: valgrind is missing, or a run failed.
    """
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        counted = [f"--callgrind-out-file={folder}/%p", f"--log-file={folder}/log.%p", "--tool=callgrind"]
        try:
            done = subprocess.run(
                [  # noqa: S607 - wherever it is installed
                    "valgrind",
                    *counted,
                    sys.executable,
                    "-m",
                    "bench.instructions",
                    *layers,
                ],
                cwd=PROJECT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise RuntimeError("The program valgrind is not installed.") from None
        if done.returncode:
            raise RuntimeError(f"The measured process failed: {done.stderr[-2000:]}")
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        totals = {(layer, kind, events): _total(Path(folder, str(process))) for layer, kind, events, process in runs}
    return {
        layer: {
            kind: round((totals[layer, kind, WARM_UP + EVENTS] - totals[layer, kind, WARM_UP]) / EVENTS / 1000, 1)
            for kind in SAMPLES
        }
        for layer in layers
    }


def exceeding(figures: Figures, recorded: Figures) -> Iterator[str]:
    """A sentence for each figure that exceeds the recorded one by more than `MOST_MORE`, both in terms of the floor."""
    for layer, by_kind in recorded.items():
        for kind, before in by_kind.items():
            now = figures.get(layer, {}).get(kind)
            bound = before * figures[FLOOR][kind] / recorded[FLOOR][kind] * (1 + MOST_MORE)
            if now is not None and now > bound:
                yield f"{layer}: {now:.0f} thousand instructions for each {kind}, more than {bound:.0f}."


def run(layer: str, kind: str, events: int) -> None:
    """Answers that many events."""
    secret = {"secret": CREDENTIAL[1], "scopes": ["webhooks:send"]}
    settings = Settings(clients={CREDENTIAL[0]: secret})
    log = LogWriter(io.StringIO(), style="json")
    # As many are prepared in each run, so that the difference of two has none of it.
    requests = iter(_requests(kind)[:events])
    uvloop.run(_answer(LAYERS[layer](settings, log), _store(layer, settings), requests))
    with log.running():  # only now, since its thread gathers lines by the clock
        pass


async def _answer(config: uvicorn.Config, store: Swallow | EventStore, requests: Iterator[bytes]) -> None:
    loop = asyncio.get_running_loop()
    config.load()
    server = ServerState()
    server.default_headers = [(b"date", b"Wed, 12 Aug 2026 10:15:32 GMT")]
    quiet, ended = 0, loop.create_future()

    def end() -> None:
        nonlocal quiet
        quiet += 1
        if quiet == CONNECTIONS:
            ended.set_result(None)

    protocol: Any = config.http_protocol_class
    async with store.running() if isinstance(store, EventStore) else nullcontext():
        for _ in range(CONNECTIONS):
            transport = Transport(loop, requests, end)
            transport.protocol = protocol(config=config, server_state=server, app_state={"events": store}, _loop=loop)
            transport.protocol.connection_made(transport)
            loop.call_soon(transport.send)
        await ended


def _requests(kind: str) -> list[bytes]:
    body = (PROJECT / "tests" / "payloads" / f"{SAMPLES[kind]}.json").read_bytes()
    credential = b64encode(":".join(CREDENTIAL).encode()).decode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Prioticket\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nAuthorization: Basic {credential}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    return [head + body.replace(REFERENCE, b"PRI%011d" % number) for number in range(WARM_UP + EVENTS)]


def _plain(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(app, http="httptools", ws="none", log_config=None, access_log=False)


def _ours(
    endpoint: ASGIApp,
    settings: Settings,
    log: LogWriter,
    middleware: Sequence[Middleware] = (),
    *,
    meter: Meter | None = None,
) -> uvicorn.Config:
    route = Route(PATH, endpoint, methods=["POST"], middleware=middleware)
    app = Application([route], lifespan=None, log=log, tally=Tally(), spans=Spans(), meter=meter)  # type: ignore[arg-type] # it is not begun
    return server_for(app, settings, log=log, started=lambda _: None, meter=meter).config


def _door(settings: Settings) -> list[Middleware]:
    clients = clients_from(settings.clients)
    return [Middleware(BasicDoor, clients=clients, failures=Limit(FAILURES), scope=ClientScope.SEND)]


def _store(layer: str, settings: Settings) -> Swallow | EventStore:
    if layer not in STORED:
        return Swallow()
    return EventStore(
        NoWriter(),
        max_batch=settings.commit_max_batch,
        max_waiting=settings.max_waiting_events,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout=timedelta(minutes=10),
        meter=Meter(types=TYPES) if layer == "+ metrics" else None,
    )


def _total(counts: Path) -> int:
    """The instructions of a process, from what callgrind wrote."""
    found = re.search(r"^(?:totals|summary): (\d+)$", counts.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{counts} has no total.")
    return int(found[1])


def _measured(layers: Sequence[str]) -> None:
    """What runs under callgrind: each run in a child, told with its process id."""
    spare_collector()
    for layer in layers:
        for kind in SAMPLES:
            for events in (WARM_UP, WARM_UP + EVENTS):
                child = os.fork()
                if child == 0:
                    status = 1
                    try:
                        run(layer, kind, events)
                        status = 0
                    finally:
                        os._exit(status)
                if os.waitpid(child, 0)[1]:
                    sys.exit(1)
                sys.stdout.write(json.dumps([layer, kind, events, child]) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    _measured(sys.argv[1:])
