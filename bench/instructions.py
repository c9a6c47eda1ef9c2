"""`python -m bench instructions`: the instructions that an event costs, layer by layer, as callgrind counts them.

The application runs without sockets: requests are fed to 64 connections, whose transports swallow what is written. One
process imports everything and forks for each measurement. A measurement is the difference of two runs, so that neither
the start nor the warm-up counts. Other work on the machine moves none of the figures by more than a percent.

Figures of another Python or processor differ in all layers alike. So a figure is compared with the recorded one after
both were divided by the floor's: bare ASGI on uvicorn, of which nothing is ours.
"""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import uvicorn
import uvloop
from starlette.middleware import Middleware
from starlette.routing import Route
from uvicorn.server import ServerState

from app.alarms.gauges import TYPES
from app.auth.basic import BasicDoor
from app.auth.clients import clients_from
from app.auth.limits import FAILURES, Limit
from app.events.rows import Row
from app.events.store import EventStore
from app.receiver.endpoint import Receiver
from app.server.server import server_for, spare_collector
from app.settings.clients import Scope
from app.settings.model import Settings
from app.telemetry.logs import LogWriter
from app.telemetry.meter import Meter
from app.telemetry.middleware import RequestLine
from app.telemetry.spans import Spans
from app.telemetry.tally import Tally
from app.web.router import Router
from bench.load import KINDS, PASSWORD, PATH, PROJECT, USERNAME, request_for
from bench.targets import PLAIN, Bare, NoStore, plain

RECORDED = Path(__file__).with_suffix(".json")

FLOOR, STARLETTE, CONNECTION = "floor", "Starlette's empty route", "our connection"
TABLE, DOOR, ENDPOINT = "+ table, request line, log", "+ Basic door", "+ endpoint"
HAND_OFF, METRICS = "+ hand-off", "+ metrics"
LAYERS = (FLOOR, STARLETTE, CONNECTION, TABLE, DOOR, ENDPOINT, HAND_OFF, METRICS)
"""From our connection on, each has all that the one before has."""

CONNECTIONS = 64
WARM_UP = 2 * CONNECTIONS  # events
EVENTS = 10 * CONNECTIONS
MOST_MORE = 0.05
"""By how much a figure may exceed the recorded one."""

Figures = Mapping[str, Mapping[str, float]]
"""Thousands of instructions by layer and kind of event."""


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

    protocol: Any

    def __init__(self, requests: Iterator[bytes], ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests = requests
        self._ended = ended

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


@click.command(help=__doc__)
@click.argument("layers", nargs=-1, type=click.Choice(LAYERS), metavar="[LAYER]...")
@click.option("--record", is_flag=True, help=f"Write the figures into {RECORDED.name}.")
def main(layers: Sequence[str], *, record: bool) -> None:
    """Exits with 1 if a figure exceeds the recorded one by more than `MOST_MORE`."""
    recorded: Figures = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    figures = measure([FLOOR, *(layer for layer in layers or LAYERS if layer != FLOOR)])
    click.echo(f"{'thousands of instructions an event':<36}{' / '.join(KINDS)}   recorded")
    for layer, by_kind in figures.items():
        now, before = (" / ".join(f"{each:.0f}" for each in of.values()) for of in (by_kind, recorded.get(layer, {})))
        click.echo(f"{layer:<36}{now:<23}{before}")
    if record:
        RECORDED.write_text(json.dumps({**recorded, **figures}, indent=2) + "\n")
    elif dearer := list(exceeding(figures, recorded)):
        click.echo("\n".join(dearer))
        sys.exit(1)


def measure(layers: Sequence[str]) -> Figures:
    """Thousands of instructions an event, by layer and kind."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        counting = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/%p", f"--log-file={folder}/log.%p")
        command = (*counting, sys.executable, "-m", "bench.instructions", *layers)
        done = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, check=True)
        for layer, kind, *processes in map(json.loads, done.stdout.splitlines()):
            before, after = (_total(Path(folder, str(process))) for process in processes)
            figures.setdefault(layer, {})[kind] = round((after - before) / EVENTS / 1000, 1)
    return figures


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
    settings = Settings(clients={USERNAME: {"secret": PASSWORD, "scopes": [Scope.SEND]}})
    log = LogWriter(io.StringIO(), style="json")
    request = request_for(kind, run_id="0123abcd").replace(b"<time>", b"2026-08-12T10:15:32+02:00")
    numbers = (b"%016d" % number for number in range(WARM_UP + EVENTS))
    # As many are prepared in each run, so that the difference of two has none of it.
    requests = [request.replace(b"<number>", each).replace(b"<reference>", b"PRI" + each) for each in numbers]
    uvloop.run(_answer(_server(layer, settings, log), _store(layer, settings), iter(requests[:events])))
    with log.running():  # only now, since its thread gathers lines by the clock
        pass


async def _answer(config: uvicorn.Config, store: NoStore | EventStore, requests: Iterator[bytes]) -> None:
    loop = asyncio.get_running_loop()
    config.load()
    server = ServerState()
    server.default_headers = [(b"date", b"Wed, 12 Aug 2026 10:15:32 GMT")]
    quiet, ended = iter(range(1, CONNECTIONS)), loop.create_future()

    def end() -> None:
        if next(quiet, None) is None:
            ended.set_result(None)

    protocol: Any = config.http_protocol_class
    async with store.running() if isinstance(store, EventStore) else nullcontext():
        for _ in range(CONNECTIONS):
            transport = Transport(requests, end)
            transport.protocol = protocol(config=config, server_state=server, app_state={"events": store}, _loop=loop)
            transport.protocol.connection_made(transport)
            loop.call_soon(transport.send)
        await ended


def _server(layer: str, settings: Settings, log: LogWriter) -> uvicorn.Config:
    """The server of a layer."""
    if layer in (FLOOR, STARLETTE):
        return plain(PLAIN["floor" if layer == FLOOR else "starlette"]).config
    depth = LAYERS.index(layer)
    receiver = Receiver(
        max_body_bytes=settings.max_body_bytes,
        max_quarantined_bytes=settings.max_quarantined_bytes,
        body_timeout=settings.body_timeout,
        on_unprocessable=settings.on_unprocessable,
    )
    clients = clients_from(settings.clients)
    door = Middleware(BasicDoor, clients=clients, failures=Limit(FAILURES), scope=Scope.SEND)
    route = Route(
        PATH,
        receiver if depth >= LAYERS.index(ENDPOINT) else Bare(),
        methods=["POST"],
        middleware=[door] if depth >= LAYERS.index(DOOR) else [],
    )
    meter = Meter(types=TYPES) if layer == METRICS else None
    line = Middleware(RequestLine, log=log, tally=Tally(), spans=Spans(), meter=meter)
    app = Router([route], lifespan=None, middleware=line)  # type: ignore[arg-type] # it is not begun
    config = server_for(app, settings, log=log, started=lambda _: None, meter=meter).config
    if layer == CONNECTION:
        config.app = Bare()
    return config


def _store(layer: str, settings: Settings) -> NoStore | EventStore:
    """A store that does nothing, or one that hands all events to a writer that does nothing."""
    if layer not in (HAND_OFF, METRICS):
        return NoStore()
    return EventStore(
        NoWriter(),
        max_batch=settings.commit_max_batch,
        max_waiting=settings.max_waiting_events,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout=timedelta(minutes=10),
        meter=Meter(types=TYPES) if layer == METRICS else None,
    )


def _total(counts: Path) -> int:
    """The instructions of a process, from what callgrind wrote."""
    return int(re.findall(r"^(?:totals|summary): (\d+)$", counts.read_text(), re.MULTILINE)[-1])


def _measured(layers: Sequence[str]) -> None:
    """What runs under callgrind: tells for each layer and kind the processes that answered few and many events."""
    spare_collector()
    for layer in layers:
        for kind in KINDS:
            processes = [_child(layer, kind, events) for events in (WARM_UP, WARM_UP + EVENTS)]
            click.echo(json.dumps([layer, kind, *processes]))


def _child(layer: str, kind: str, events: int) -> int | None:
    """The id of a process that has answered that many events."""
    child = get_context("fork").Process(target=run, args=(layer, kind, events))
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(1)
    return child.pid


if __name__ == "__main__":
    _measured(sys.argv[1:])
