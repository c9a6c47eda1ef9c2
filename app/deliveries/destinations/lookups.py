"""Look-ups of one host's addresses, and connections to the first of them that answers."""

import asyncio
import socket
import struct
from contextlib import suppress
from datetime import timedelta
from threading import Thread
from typing import Any

import aiohappyeyeballs

ADDRESSES_KEPT = timedelta(seconds=10)
NEXT_ADDRESS_AFTER = 0.25  # seconds; RFC 8305, section 5

DISCARDING = struct.pack("ii", 1, 0)
"""A value of SO_LINGER: the kernel discards what is still to be sent when a connection is closed, also by the end of
the process. Otherwise it would go on trying for minutes: an event that was given up would arrive, after the network is
back, behind later ones of its order."""

Addresses = list[tuple[Any, ...]]
"""As `getaddrinfo` gives them."""


class Lookup:
    """The addresses of a host, looked up in a thread of its own, at most one at a time.

    asyncio's own look-ups share a few threads. If one name server hung, they would delay all destinations and the
    end of the process.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._found: asyncio.Future[Addresses] | None = None
        self._begun_at = 0.0

    async def connected(self) -> socket.socket:
        """A connection to the first of the addresses that answers; see `DISCARDING`.

        Raises:
            OSError: the host has no address, nobody could be asked for one, or none of them could be connected to.
        """
        opened = await aiohappyeyeballs.start_connection(
            await self.addresses(),
            happy_eyeballs_delay=NEXT_ADDRESS_AFTER,
            interleave=1,
            loop=asyncio.get_running_loop(),
        )
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DISCARDING)
        return opened

    async def addresses(self) -> Addresses:
        """The addresses, at most `ADDRESSES_KEPT` old.

        Raises:
            OSError: the host has none, or nobody could be asked.
        """
        loop = asyncio.get_running_loop()
        found = self._found
        stale = loop.time() - self._begun_at > ADDRESSES_KEPT.total_seconds()
        if found is None or (found.done() and (stale or found.exception() is not None)):
            found = loop.create_future()
            arguments = (self.host, self.port, loop, found)
            try:
                Thread(target=_look_up, args=arguments, name="name-lookup", daemon=True).start()
            except RuntimeError as error:
                raise OSError(str(error)) from None
            self._found, self._begun_at = found, loop.time()
        return await asyncio.shield(found)


def _look_up(host: str, port: int, loop: asyncio.AbstractEventLoop, found: "asyncio.Future[Addresses]") -> None:
    addresses: Addresses = []
    trouble: OSError | None = None
    try:
        addresses = [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        trouble = error
    except UnicodeError as error:  # such as a label of more than 63 characters, in a name that a cluster gives
        trouble = OSError(f"{host} is not the name of a host: {error}")

    def tell() -> None:
        if trouble is None:
            found.set_result(addresses)
        else:
            found.set_exception(trouble)
            found.exception()  # otherwise asyncio logs it if nobody waits for it any more

    with suppress(RuntimeError):  # the worker has ended meanwhile
        loop.call_soon_threadsafe(tell)
