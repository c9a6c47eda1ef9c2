"""The process of the page of metrics, which `serve` and `worker` keep beside themselves: `python -m app.cli.page`."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory

import uvicorn
from starlette.applications import Starlette

from app.alarms.gauges import TYPES
from app.api.metrics import create_page
from app.auth.first_start import complete
from app.cli.streams import outlive_output
from app.server.beside import ENDS_WITHIN
from app.server.connection import Protocol
from app.server.connections import Connections
from app.server.head import LARGEST_HEAD_BYTES
from app.server.heartbeat import beating
from app.server.processes import ending_with, exit_when_told
from app.server.server import Server, listen
from app.settings.model import Settings
from app.settings.values import host_and_port
from app.telemetry.logs import logging_to, stderr_writer
from app.telemetry.meter import Meter
from app.telemetry.snapshots import Publisher

NICENESS = 10
MOST_CONNECTIONS = 16
"""If a new one needs room, the one that has waited longest is dropped; without one that waits, the new one gets 503."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where the page is asked for, and where the processes write what it is made from."""

    listener: socket
    folder: Path


@contextmanager
def metrics_for(settings: Settings) -> Iterator[Metrics | None]:
    """Listens, if the settings say where, and makes the folder of the snapshots; removes it at the end.

    Raises:
        CannotListen: another process listens there.
    """
    if settings.metrics is None:
        yield None
        return
    choose = "Set `metrics` to another address, for one process with PRIOHOOK_METRICS."
    listener = listen(*host_and_port(settings.metrics), choose=choose)
    with listener, TemporaryDirectory(prefix="priohook-metrics-", ignore_cleanup_errors=True) as folder:
        yield Metrics(listener, Path(folder))


def publisher_for(settings: Settings, folder: Path, *, process: str) -> Publisher:
    """Counts what a process does, and writes it into the folder."""
    return Publisher(Meter(types=TYPES, destinations=settings.destinations), folder, process=process)


def main(line: int, listener: int, folder: Path) -> None:
    """Shows the page until the process at the other end of `line` ends."""
    exit_when_told()
    outlive_output()
    ending_with(line, within=ENDS_WITHIN)
    settings = complete(Settings.load())
    os.nice(NICENESS)
    log = stderr_writer(settings.log_format)
    page = create_page(settings, folder)
    attributes = {
        "paths": (),
        "log": log,
        "most_bytes": LARGEST_HEAD_BYTES,
        "open": Connections(most=MOST_CONNECTIONS, most_of_address=MOST_CONNECTIONS),
    }
    config = uvicorn.Config(
        _beating(page, line),
        http=type("PageProtocol", (Protocol,), attributes),
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    with log.running(), logging_to(log):
        Server(config, started=lambda _: None).run([socket(fileno=listener)])


def _beating(page: Starlette, line: int) -> Starlette:
    """The page, which tells the other process that it lives."""
    inner = page.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[object]:
        async with inner(app) as state, beating(dict, line=line):
            yield state

    page.router.lifespan_context = lifespan  # type: ignore[assignment] # a state is a mapping
    return page


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
