"""Destinations at `python:package.module:function`: a function that is called in a process of its own."""

import asyncio
import json
import logging
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from itertools import count
from subprocess import DEVNULL, Popen
from time import monotonic
from typing import Any, Self

from app.deliveries.claims import Claim
from app.deliveries.destinations import calls
from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.settings.model import DestinationSettings, SettingsProblem

logger = logging.getLogger(__name__)

MOST_KEPT = 2 * 1024  # bytes of a traceback
MOST_MESSAGE = 1024 * 1024  # bytes; more than the longest that `calls` sends
IMPORTED_WITHIN = 60.0  # seconds
STARTS_WITHIN = 3.0  # seconds that an attempt waits for a process; with the next two not more than a claim's margin
ANSWERS_WITHIN = 1.5  # seconds in which a process must answer, or it counts as held up
STOPS_WITHIN = 0.5  # seconds in which a cancelled async function must end
ENDS_WITHIN = 1.0  # seconds
LOOK = 1.0  # seconds between checks whether the process still runs
MOMENT = 0.005  # seconds


class PythonDestination:
    """A plain or async function, called once for each attempt. Its process is kept for later calls.

    A call of an async function that takes too long is cancelled. A call of a plain function cannot be cancelled: later
    calls go to a new process, and the old one is killed once no other call runs in it. A process that does not respond
    at all is killed at once.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        self._url = settings.url
        self._timeout = settings.timeout.total_seconds()
        self._callers: set[_Caller] = set()
        self._current: _Caller | None = None
        self._starting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Starts the process, which imports the function."""
        if self._current is None:
            await self._start()

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:  # noqa: ARG002 - the kind's signature
        """Calls the function. If it returns, the outcome is a 200 without an answer."""
        try:
            caller = await self._ready()
        except (SettingsProblem, OSError) as error:
            return Outcome(AttemptResult.UNREACHABLE, error=str(error), counts=False)
        if caller is None:
            why = f"Its process did not start within {STARTS_WITHIN:g} seconds."
            return Outcome(AttemptResult.UNREACHABLE, error=why, counts=False)
        return await caller.call(claim, within=self._timeout)

    async def close(self) -> None:
        """Ends the processes, with whatever still runs in them."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        await asyncio.gather(*(caller.close() for caller in self._callers))

    async def _ready(self) -> "_Caller | None":
        if self._current is None or not self._current.usable:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._start())
            await asyncio.wait({self._starting}, timeout=STARTS_WITHIN)
            if not self._starting.done():
                return None
            self._starting.result()
        return self._current

    async def _start(self) -> None:
        self._callers = {caller for caller in self._callers if not caller.ended}
        caller = await _Caller.started(self._url)
        self._callers.add(caller)
        self._current = caller


class _Caller:
    """A process that calls the function, and the worker's end of the socket to it."""

    def __init__(
        self, url: str, process: Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._url = url
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = count()
        loop = asyncio.get_running_loop()
        self._imported: asyncio.Future[str | None] = loop.create_future()
        self._running: dict[int, asyncio.Future[Outcome]] = {}
        self._stuck: set[int] = set()
        """The running calls that took too long and cannot be cancelled."""
        self._alive: dict[int, asyncio.Future[bool]] = {}
        self._held_up = False
        self._watching = loop.create_task(self._watch())

    @classmethod
    async def started(cls, url: str) -> Self:
        """Starts a process and waits until it has imported the function.

        Raises:
            SettingsProblem: the function cannot be imported, or is not a function.
            OSError: the system allows no other process.
        """
        ours, process = _joined(url)
        reader, writer = await asyncio.open_connection(sock=ours)
        caller = cls(url, process, reader, writer)
        try:
            async with asyncio.timeout(IMPORTED_WITHIN):
                why = await asyncio.shield(caller._imported)
        except TimeoutError:
            why = f"it was not imported within {IMPORTED_WITHIN:g} seconds."
        except BaseException:
            caller._kill()
            raise
        if why is not None:
            await caller.close()
            raise SettingsProblem(f"{url} cannot be used: {why}")
        return caller

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._watching.done()

    @property
    def usable(self) -> bool:
        """Whether the process can take another call."""
        return not (self.ended or self._stuck or self._held_up)

    async def call(self, claim: Claim, *, within: float) -> Outcome:
        """Calls the function, and returns the outcome."""
        number = next(self._numbers)
        returned: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._running[number] = returned
        self._say(calls.CALL, number, claim.headers, _event(claim))
        await asyncio.wait({returned}, timeout=within)
        if returned.done():
            return returned.result()
        await self._stop(number, returned)
        if returned.done() and returned.result().result is AttemptResult.LOST:
            return returned.result()
        return Outcome(AttemptResult.TIMED_OUT, error=f"It did not return within {within:g} seconds.")

    async def close(self) -> None:
        """Lets the process end by itself, and kills it if it does not."""
        self._say(calls.END)
        await asyncio.wait({self._watching}, timeout=ENDS_WITHIN)
        self._kill()
        await self._watching

    async def _stop(self, number: int, returned: asyncio.Future[Outcome]) -> None:
        """Cancels a call. If the call goes on, its process takes no more calls."""
        alive = self._alive[number] = asyncio.get_running_loop().create_future()
        self._say(calls.CANCEL, number)
        await asyncio.wait({alive, returned}, timeout=ANSWERS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        del self._alive[number]
        if not alive.done() and not returned.done():
            self._held_up = True
            self._kill()
            await asyncio.wait({returned})
        elif alive.done() and alive.result():
            await asyncio.wait({returned}, timeout=STOPS_WITHIN)
        if not returned.done():
            self._stuck.add(number)
            self._kill_if_only_stuck()

    def _kill_if_only_stuck(self) -> None:
        if self._stuck and self._stuck >= self._running.keys():
            logger.warning("function_killed", extra={"fields": {"url": self._url, "calls": len(self._stuck)}})
            self._kill()

    def _kill(self) -> None:
        self._process.kill()

    def _say(self, *message: object) -> None:
        encoded = pickle.dumps(message)
        self._writer.write(len(encoded).to_bytes(calls.LENGTH) + encoded)

    async def _watch(self) -> None:
        """Listens until the process ends, then sets the outcome of all calls that ran in it."""
        listening = asyncio.create_task(self._listen())
        while not listening.done() and self._process.poll() is None:  # a child of the process may keep the socket open
            await asyncio.wait({listening}, timeout=LOOK)
        await asyncio.wait({listening}, timeout=ENDS_WITHIN)  # for its last messages
        listening.cancel()
        why = self._reason(await self._status())
        self._writer.close()
        if not self._imported.done():
            self._imported.set_result(f"{why} when it was imported.")
        if self._running.keys() - self._stuck:  # otherwise it was killed for those calls, which is already logged
            fields = {"url": self._url, "error": why, "calls": len(self._running)}
            logger.warning("function_ended", extra={"fields": fields})
        beside = f" with {len(self._running)} calls under way" if len(self._running) > 1 else ""
        for returned in self._running.values():
            returned.set_result(Outcome(AttemptResult.LOST, error=f"{why}{beside}.", counts=not beside))

    async def _status(self) -> int:
        """The exit status of the process, which is killed if it does not end. Polls, so that no thread must wait."""
        ends = monotonic() + ENDS_WITHIN
        while (status := self._process.poll()) is None:
            if monotonic() > ends:
                self._kill()
            await asyncio.sleep(MOMENT)
        return status

    async def _listen(self) -> None:
        with suppress(
            asyncio.IncompleteReadError, OSError, ValueError, TypeError, KeyError
        ):  # the process has ended or sends nonsense
            while True:
                length = int.from_bytes(await self._reader.readexactly(calls.LENGTH))
                if length > MOST_MESSAGE:
                    return
                self._take(*json.loads(await self._reader.readexactly(length)))

    def _take(self, kind: str, *rest: Any) -> None:
        if kind == calls.RETURNED:
            number, error, trace = rest
            self._stuck.discard(number)
            self._running.pop(number).set_result(_outcome(error, trace))
            self._kill_if_only_stuck()
        elif kind == calls.ALIVE:
            number, stoppable = rest
            if number in self._alive:
                self._alive[number].set_result(stoppable)
        elif kind == calls.LOG:
            name, level, text, trace = rest
            fields = {"url": self._url} | ({"traceback": trace} if trace else {})
            logging.getLogger(name).log(level, "%s", text, extra={"fields": fields})
        else:
            why = rest[0] if kind == calls.UNUSABLE else None
            self._imported.set_result(why)

    def _reason(self, status: int) -> str:
        if self._held_up:
            return "It did not return in time and held up its process, which was killed"
        if status < 0:
            with suppress(ValueError):
                return f"The function's process ended with signal {-status} ({signal.Signals(-status).name})"
        return f"The function's process ended with status {status}"


def _joined(url: str) -> tuple[socket.socket, Popen[bytes]]:
    """A new process, and the socket that connects it to this one."""
    ours, theirs = socket.socketpair()
    arguments = [json.dumps(sys.path), url, str(theirs.fileno()), str(os.getpid())]
    with theirs:
        try:
            process = Popen(
                [sys.executable, "-P", "-c", calls.START, *arguments], stdin=DEVNULL, pass_fds=[theirs.fileno()]
            )
        except BaseException:
            ours.close()
            raise
    return ours, process


def _event(claim: Claim) -> dict[str, Any]:
    """The fields of a `DeliveredEvent`, except the order, which the process reads from the body."""
    return {
        "id": claim.event_id,
        "type": claim.type,
        "event_name": claim.event_name,
        "reference": claim.reference,
        "body": claim.body,
        "attempt": claim.attempt,
        "replay": claim.replay_id is not None,
        "superseded": claim.superseded,
        "traceparent": claim.trace,
        "origin": str(claim.origin),
        "cause": claim.cause,
        "snapshot_failed": claim.snapshot_failed,
        "test": claim.test,
    }


def _outcome(error: str | None, trace: str | None) -> Outcome:
    if error is None:
        return Outcome(AttemptResult.DELIVERED, HTTPStatus.OK)
    answer = (trace or "").encode("utf-8", "backslashreplace")
    return Outcome(AttemptResult.REFUSED, error=error[:MOST_KEPT], answer=answer[-MOST_KEPT:])
