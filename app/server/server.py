"""uvicorn as priohook runs it: it says where it listens, and ends in good order with exit status 0."""

import gc
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from socket import AF_INET, AF_INET6, SO_SNDBUF, SOL_SOCKET, create_server, has_dualstack_ipv6, socket
from time import monotonic
from typing import Any

import uvicorn
from starlette.routing import Route, Router

from app.server.connection import Protocol
from app.server.connections import Connections
from app.server.head import LARGEST_HEAD_BYTES
from app.server.memory import Burst, give_back
from app.settings.model import Settings
from app.telemetry.logs import LogWriter
from app.telemetry.meter import Meter

IDLE_TIMEOUT = timedelta(seconds=75)
"""Longer than the 60 s of common balancers, which would otherwise send into a connection that closes."""

SPARE_FILES = 64
"""Open files besides connections: the database's, the log, the program's own."""

SENT_AHEAD_BYTES = 128 * 1024
"""What the system buffers of answers that the peer has not read. Linux doubles it; by default it takes up to 4 MB."""

YOUNG_OBJECTS = 5000
"""After how many new objects the garbage collector runs. 64 requests under way have about as many: with Python's 700 it
would walk them again and again. What a request leaves has no cycles, so little waits for the collector."""

TICKS_OF_LOOK = 5
"""After how many ticks, ten of which are a second, it looks whether a burst is over."""

OVERHEAD = 16
"""How many times the body limit a request may take on the wire: chunks of one byte take six times."""


SAME_SIGNAL = 1.0
"""Seconds within which a second signal is taken for the first one: a supervisor may signal each process of a group, and
the one that started the others passes on what it got."""


class CannotListen(Exception):
    """The server cannot listen at this address; the text says why and what to do."""


class Server(uvicorn.Server):
    """A server that says where it listens, and ends with exit status 0 when it is told to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        started: Callable[[str], None],
        tick: Callable[[], object] = lambda: None,
        ending: Callable[[], None] = lambda: None,
        leaving: Callable[[], None] = lambda: None,
        delay: timedelta = timedelta(0),
    ) -> None:
        super().__init__(config)
        self._started = started
        self._tick = tick
        self._ending = ending
        self._leaving = leaving
        self._delay = delay.total_seconds()
        self._told = 0.0  # when it was told to end, and began to wait
        self._leaves = False
        self._burst = Burst()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Calls `started` with the URL that the server listens at."""
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's, with an exit status of its own
            raise SystemExit(1) from None
        if self.started:
            # Otherwise the garbage collector walks the whole program every second or so, and delays answers by 50 ms.
            spare_collector()
            self._started(url_of(self.servers[0].sockets[0]))

    async def on_tick(self, counter: int) -> bool:
        self._tick()
        if counter % TICKS_OF_LOOK == 0 and self._burst.is_over(len(self.server_state.connections)):
            give_back()
        if self._told and not self._leaves:
            self._leave()
        if self._told and monotonic() >= self._told + self._delay:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends in good order also when the terminal closes, unless `nohup` lets the process ignore that."""
        with super().capture_signals():
            before = signal.getsignal(signal.SIGHUP)
            if before != signal.SIG_IGN:
                signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Ends in good order, at the first signal after the delay and at the second one at once.

        uvicorn would raise the signal again at the end, and exit with its number.
        """
        if self.started and self._delay and not self._told:
            self._told = monotonic()
        elif self.should_exit or monotonic() >= self._told + SAME_SIGNAL:
            super().handle_exit(sig, frame)
        self._captured_signals.clear()

    def _leave(self) -> None:
        """Begins the delay: senders that keep their connections are to open the next one elsewhere."""
        self._leaves = True
        self.config.encoded_headers.append((b"connection", b"close"))
        self._leaving()


def spare_collector() -> None:
    """Lets the garbage collector leave alone what exists now, and look less often at what requests under way hold."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def listen(host: str, port: int, *, choose: str = "Choose another --port or --host.") -> socket:
    """A socket that several processes can accept from; at `::` it takes IPv4 too, whatever the system's default.

    `choose` says what to do if it cannot be had.

    Raises:
        CannotListen: another process listens there, or the address is not one of this machine.
    """
    try:
        listener = create_server(
            (host, port),
            family=AF_INET6 if ":" in host else AF_INET,
            backlog=2048,
            dualstack_ipv6=host == "::" and has_dualstack_ipv6(),
        )
    except OSError as error:
        raise CannotListen(f"The server cannot listen: {error}. {choose}") from None
    listener.setsockopt(SOL_SOCKET, SO_SNDBUF, SENT_AHEAD_BYTES)  # its connections inherit it
    return listener


def url_of(listener: Any) -> str:
    """The URL of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == AF_INET6 else f"http://{host}:{port}"


def server_for(
    app: Router,
    settings: Settings,
    *,
    log: LogWriter,
    started: Callable[[str], None],
    tick: Callable[[], object] = lambda: None,
    ending: Callable[[], None] = lambda: None,
    leaving: Callable[[], None] = lambda: None,
    meter: Meter | None = None,
) -> Server:
    """The server of one process; `.run([listener])` returns after SIGTERM, SIGINT or SIGHUP, once all is answered.

    `started` is called with its URL, `tick` about ten times a second, `leaving` when it is told to end and waits for
    `shutdown_delay`, `ending` when it begins to shut down.
    """
    paths = tuple(route.path_regex for route in app.routes if isinstance(route, Route))
    attributes = {
        "paths": paths,
        "log": log,
        "meter": meter,
        "most_bytes": OVERHEAD * settings.max_released_bytes + LARGEST_HEAD_BYTES,
        "open": _connections(settings),
    }
    proxies = [str(network) for network in settings.trusted_proxies]
    config = uvicorn.Config(
        app.middleware_stack,  # what the router only hands on to
        http=type("BoundProtocol", (Protocol,), attributes),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        timeout_keep_alive=int(IDLE_TIMEOUT.total_seconds()),
        timeout_graceful_shutdown=ends_within(settings),
    )
    return Server(config, started=started, tick=tick, ending=ending, leaving=leaving, delay=settings.shutdown_delay)


def ends_within(settings: Settings) -> int:
    """Seconds after which all that was read is answered: then the server ends, whatever its connections do."""
    commits = settings.commit_timeout * (1 if settings.spool is None else 2)  # the second one into the spool
    return ceil((settings.body_timeout + commits).total_seconds()) + 1


def _connections(settings: Settings) -> Connections:
    """As many connections as configured, or fewer if the system allows fewer open files: SQLite needs some too.

    No address may have more than half of them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = settings.max_connections + SPARE_FILES
    files = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    most = max(2, files - SPARE_FILES)
    return Connections(
        most=most,
        most_of_address=min(settings.max_connections_per_address, most // 2),
        proxies=settings.trusted_proxies,
    )
