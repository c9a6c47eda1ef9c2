"""The process of one function at `python:package.module:function`: imports the function and calls it for a worker.

Whatever a function does to its process (crash it, change its directory, close a stream, keep a lock for ever) harms
only this process. It and the worker talk over a socket; each message follows its length in four bytes:

    worker   (CALL, number, headers, event) · (CANCEL, number) · (END,)                         pickled
    here     [READY] or [UNUSABLE, why] · [RETURNED, number, error, traceback]         JSON
             [ALIVE, number, whether it can be cancelled] · [LOG, logger, level, text, traceback]
"""

import asyncio
import ctypes
import json
import logging
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from inspect import isawaitable, iscoroutinefunction
from pathlib import Path
from threading import Lock, Thread
from typing import Any, cast

from app.delivered import DeliveredEvent
from app.deliveries.destinations import python
from app.prioticket.contents import read_order

CALL, CANCEL, END = "call", "cancel", "end"
READY, UNUSABLE, RETURNED, ALIVE, LOG = "ready", "unusable", "returned", "alive", "log"

FOR_FUNCTIONS = (DeliveredEvent.__module__, python.__name__)
"""The modules of this package that a function's module imports."""

LENGTH = 4  # bytes
MOST_TEXT = 16 * 1024  # characters of one text in a message
PR_SET_PDEATHSIG = 1

START = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from app.deliveries.destinations.calls import main
main()
"""
"""The program of the process. It gets the worker's `sys.path`, as the working directory need not contain `app`."""


def main() -> None:
    """Imports the function that the arguments name, tells the worker whether it can be called, and then calls it."""
    url, descriptor, worker = sys.argv[1:]
    _end_with(int(worker))
    for number in (signal.SIGTERM, signal.SIGINT):  # the worker says when to end, not a terminal or a service manager
        signal.signal(number, lambda *_: None)
    channel = Channel(socket.socket(fileno=int(descriptor)))
    logging.getLogger().addHandler(_Relay(channel))
    logging.getLogger().setLevel(logging.INFO)
    function = _find(url, channel)
    if function is not None:
        channel.send(READY)
        Calls(channel, function).run()


class Channel:
    """The function's end of the socket."""

    def __init__(self, worker: socket.socket) -> None:
        worker.set_inheritable(False)
        self._worker = worker
        self._lock = Lock()

    def send(self, *message: object) -> None:
        """Sends a whole message. Any thread may call it."""
        encoded = json.dumps(message).encode()
        with (
            self._lock,
            suppress(OSError),
        ):  # the worker is gone, or a function closed the socket; reading then ends too
            self._worker.sendall(len(encoded).to_bytes(LENGTH) + encoded)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """The worker's messages, until it is gone."""
        with suppress(OSError), self._worker.makefile("rb") as file:
            while length := file.read(LENGTH):
                yield pickle.loads(file.read(int.from_bytes(length)))  # noqa: S301 - from our own worker


class Calls:
    """Calls the function; each call of a plain function gets a thread."""

    def __init__(self, channel: Channel, function: Callable[[DeliveredEvent], Any]) -> None:
        self._channel = channel
        self._function = function
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[int, asyncio.Task[BaseException | None]] = {}
        self._in_threads: set[int] = set()
        self._ending = False

    def run(self) -> None:
        """Makes the calls that the worker asks for, until it sends `END`."""
        asyncio.set_event_loop(self._loop)
        Thread(target=self._listen, name="worker", daemon=True).start()
        while not self._ending:  # a function may stop the loop, or raise SystemExit in a task
            with suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()

    def _listen(self) -> None:
        try:
            for message in self._channel.messages():
                self._loop.call_soon_threadsafe(self._take, message)
        finally:
            if not self._ending:
                os._exit(1)  # the worker is gone; its deliveries will be tried again

    def _take(self, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == CALL:
            number, headers, event = rest
            task = self._tasks[number] = self._loop.create_task(self._call(number, headers, event))
            task.add_done_callback(partial(self._returned, number))
        elif kind == CANCEL:
            (number,) = rest
            stoppable = number in self._tasks and number not in self._in_threads
            self._channel.send(ALIVE, number, stoppable)
            if stoppable:
                self._tasks[number].cancel()
        else:
            self._ending = True
            self._loop.stop()

    async def _call(self, number: int, headers: list[list[str]], event: Mapping[str, Any]) -> BaseException | None:
        try:
            await self._attempt(number, DeliveredEvent(order=read_order(headers, event["body"]), **event))
        except BaseException as raised:  # noqa: BLE001 - whatever it raises is one attempt's failure
            return raised
        return None

    def _returned(self, number: int, task: asyncio.Task[BaseException | None]) -> None:
        del self._tasks[number]
        error = (
            asyncio.CancelledError() if task.cancelled() else task.result()
        )  # cancelled by another call before it began
        self._channel.send(RETURNED, number, *_described(error))

    async def _attempt(self, number: int, event: DeliveredEvent) -> None:
        if iscoroutinefunction(self._function):
            await self._function(event)
            return
        returned: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()

        def run() -> None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = self._function(event)
            except BaseException as raised:  # noqa: BLE001 - raised again below
                error = raised
            self._loop.call_soon_threadsafe(_resolve, returned, (value, error))

        self._in_threads.add(number)
        # Not a thread of a pool: at its exit Python waits for those, for ever if the function does not return.
        Thread(target=run, name="destination", daemon=True).start()
        try:
            value, error = await returned
        finally:
            self._in_threads.discard(number)
        if error is not None:
            raise error
        if isawaitable(value):  # an async function behind a decorator
            await value


class _Relay(logging.Handler):
    """Sends log records to the worker, which writes them into its log."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        except Exception:  # noqa: BLE001 - as the standard library's handlers: a wrong log call is not a failure
            self.handleError(record)
            return
        self._channel.send(LOG, record.name, record.levelno, text[:MOST_TEXT], trace and trace[-MOST_TEXT:])


def _end_with(worker: int) -> None:
    """Makes the kernel kill this process when the worker ends, even while a function holds Python's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:
        os._exit(1)


def _find(url: str, channel: Channel) -> Callable[[DeliveredEvent], Any] | None:
    _, module_name, name = url.split(":")
    try:
        _make_way()
        function = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        where = "Modules are looked for in the working directory and in PYTHONPATH."
        if module_name.partition(".")[0] == "app":
            where += " Your package `app` needs an `__init__.py`, as priohook's own package has the same name."
        channel.send(UNUSABLE, f"{_sentence(error)}. {where}", None)
    except BaseException as error:  # noqa: BLE001 - whatever a user's module raises when it is imported
        text, trace = _described(error)
        channel.send(UNUSABLE, f"{text} (when it was imported).", trace)
    else:
        if callable(function):
            return cast("Callable[[DeliveredEvent], Any]", function)
        channel.send(UNUSABLE, "it is not a function.", None)
    return None


def _make_way() -> None:
    """If users have a package `app` of their own, makes it the one that is imported.

    The modules in `FOR_FUNCTIONS` can still be imported, since Python finds them among the modules already imported.
    """
    ours = Path(__file__).parents[2]
    spec = PathFinder.find_spec("app", [path for path in sys.path if Path(path, "app").resolve() != ours])
    if spec is None or spec.loader is None:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "app" and name not in FOR_FUNCTIONS]:
        del sys.modules[name]
    module = sys.modules["app"] = module_from_spec(spec)
    spec.loader.exec_module(module)


def _sentence(error: BaseException) -> str:
    return str(error)[:MOST_TEXT].rstrip(".")


def _described(error: BaseException | None) -> Sequence[str | None]:
    """The error as a line of text, and the end of its traceback. The error's own methods may raise too."""
    if error is None:
        return None, None
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - as above
        text = type(error).__name__
    try:
        trace = "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - as above
        trace = ""
    return text[:MOST_TEXT], trace[-MOST_TEXT:]


def _resolve(returned: asyncio.Future[Any], value: Any) -> None:
    if not returned.done():
        returned.set_result(value)
