"""The heartbeat of a worker: a worker that hangs is ended, and the log says what it was doing.

Once a second the worker's event loop resets a watchdog and tells the process beside it what is under way. The watchdog
is written in C and needs none of Python's locks. If the loop hangs, the watchdog writes where every thread is and ends
the process. If the watchdog cannot run either, for example because the worker was stopped, the process beside it kills
the worker.
"""

import asyncio
import faulthandler
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

BEAT = 1.0  # seconds
HUNG = 30.0  # seconds that the loop may hang; a busy machine delays it for less
KILLED_AFTER = HUNG + 5.0  # seconds without a beat
BEGINS_WITHIN = 180.0  # seconds until the first beat
MOST_WORDS = 64 * 1024  # bytes
STDERR = 2


@asynccontextmanager
async def beating(doing: Callable[[], Any], *, line: int | None, hung: float = HUNG) -> AsyncIterator[None]:
    """Ends this process with status 1 if the event loop hangs.

    Args:
        doing: Gives what is under way, for JSON; the process beside this one logs the last answer.
        line: The socket to that process; without one, the watchdog writes to standard error.
        hung: Seconds that the loop may hang.
    """
    beat = asyncio.create_task(_beat(doing, line=line, hung=hung))
    try:
        yield
    finally:
        beat.cancel()
        faulthandler.cancel_dump_traceback_later()


class Pulse:
    """The heartbeat as the process beside the worker hears it."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._words = b""
        self._heard = monotonic()
        self._patience = BEGINS_WITHIN

    def beats(self) -> bool:
        """Whether the worker was heard lately; costs microseconds."""
        with suppress(OSError):  # there is nothing more, or the worker has ended
            while words := self._line.recv(MOST_WORDS, socket.MSG_DONTWAIT):
                self._words = (self._words + words)[-MOST_WORDS:]
                self._heard, self._patience = monotonic(), KILLED_AFTER
        return monotonic() - self._heard < self._patience

    def last_words(self) -> dict[str, Any]:
        """What was under way at the last beat, and where its threads were when it hung."""
        self.beats()
        beats, end, trace = self._words.decode(errors="replace").rpartition("}\n")
        found: dict[str, Any] = {}
        with suppress(ValueError):  # there was no beat
            found = json.loads(beats.rpartition("\n")[2] + end)
        return found | {"traceback": trace} if trace else found


async def _beat(doing: Callable[[], Any], *, line: int | None, hung: float) -> None:
    while True:
        faulthandler.dump_traceback_later(hung, exit=True, file=STDERR if line is None else line)
        if line is not None:
            words = json.dumps({"doing": doing()}).encode() + b"\n"
            beside = socket.socket(fileno=line)
            with suppress(OSError):  # the other process reads later, or is gone
                beside.send(words, socket.MSG_DONTWAIT)
            beside.detach()
        await asyncio.sleep(BEAT)
