"""The transport of a connection: it drops what is written too late, and notices a peer that stops reading."""

import fcntl
import struct
import termios
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable
from datetime import timedelta

LEAST_TAKEN_BYTES = 16 * 1024
"""The least that a peer must take within the patience, unless less is left: otherwise a peer that takes a byte now and
then would be kept for ever."""


class Wire:
    """A transport that drops what is written too late, and calls `stalled` when its peer stops reading.

    asyncio's own transports drop it too, but uvloop's raise `RuntimeError` once the connection is lost. uvicorn tells
    only the last of several pipelined requests of the loss, so the answers to the others would be logged as bugs.
    """

    def __init__(
        self, transport: Transport, loop: AbstractEventLoop, *, patience: timedelta, stalled: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._patience = patience.total_seconds()
        self._stalled = stalled
        self._timer: TimerHandle | None = None
        self._written = 0
        self._taken = 0  # when the timer was started
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Sends."""
        self._written += len(data)
        try:
            self._transport.write(data)
        except RuntimeError:
            if not self._transport.is_closing():
                raise

    def close(self) -> None:
        """Closes once the peer has taken what was written."""
        self._transport.close()
        self.watch()

    def pause_reading(self) -> None:
        """Stops reading."""
        self._unless_lost(self._transport.pause_reading)

    def resume_reading(self) -> None:
        """Reads again."""
        self._unless_lost(self._transport.resume_reading)

    def watch(self) -> None:
        """Calls `stalled` if the peer stops reading before it has taken everything."""
        if self._timer is None and self._transport.get_write_buffer_size():
            self._taken = self._taken_by_peer()
            self._timer = self._loop.call_later(self._patience, self._look)

    def hurry(self, patience: timedelta) -> None:
        """Watches with less patience from now on."""
        self._patience = patience.total_seconds()
        self.forget()
        self.watch()

    def forget(self) -> None:
        """Stops watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._transport.get_write_buffer_size() and self._taken_by_peer() - self._taken < LEAST_TAKEN_BYTES:
            self._stalled()
        else:
            self.watch()

    def _taken_by_peer(self) -> int:
        """How many bytes the peer's system has acknowledged; our own may buffer megabytes that it never reads."""
        queued = 0
        try:
            answer = fcntl.ioctl(self.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
            queued = struct.unpack("i", answer)[0]
        except (OSError, ValueError):  # a system that does not tell, or a descriptor that is closed
            pass
        return self._written - self._transport.get_write_buffer_size() - queued

    def _unless_lost(self, call: Callable[..., None], *arguments: bytes) -> None:
        try:
            call(*arguments)
        except RuntimeError:
            if not self._transport.is_closing():
                raise
