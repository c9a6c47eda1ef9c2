"""Functions as a company might write them, good and bad. They run in a process of their own."""

import asyncio
import functools
import logging
import os
import pickle
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from app.delivered import DeliveredEvent

not_a_function = "text"


def keeps(event: DeliveredEvent) -> str:
    with Path(os.environ["KEPT"]).open("ab") as file:
        pickle.dump(event, file)
    return "whatever it returns is a success"


async def keeps_async(event: DeliveredEvent) -> None:
    await asyncio.sleep(0)
    keeps(event)


@functools.wraps(keeps_async)
def decorated(event: DeliveredEvent) -> Any:
    return keeps_async(event)


class Unprintable(BaseException):
    def __str__(self) -> str:
        raise ValueError


ERRORS = {
    "KeyError": lambda: KeyError("no such order"),
    "TimeoutError": lambda: TimeoutError("the ERP was slow"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "MemoryError": MemoryError,
    "ValueError": lambda: ValueError("\x00 and \ud800"),
    "Unprintable": Unprintable,
}


def raises(event: DeliveredEvent) -> None:
    error = ERRORS[str(event.reference)]()
    raise error


async def raises_async(event: DeliveredEvent) -> None:
    await asyncio.sleep(0)
    raises(event)


def does(event: DeliveredEvent) -> None:
    """Does at once what the reference says."""
    match event.reference:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(9)
        case "leave":
            os.chdir("/")
            os.umask(0)
            os.closerange(0, 3)
        case "log":
            logging.getLogger("tickets").warning("Sold %s", "out")
        case "spin":
            while True:
                pass
        case "hold":
            re.fullmatch("(a+)+b", "a" * 64)
        case "sleep":
            time.sleep(0.3)
        case "forever":
            time.sleep(3600)
        case _:
            keeps(event)


async def does_async(event: DeliveredEvent) -> None:  # noqa: C901 - a list of cases
    loop = asyncio.get_running_loop()
    match event.reference:
        case "block":
            time.sleep(3600)  # noqa: ASYNC251 - as people do
        case "forever":
            await asyncio.sleep(3600)
        case "sleep":
            await asyncio.sleep(0.3)
        case "swallow":
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue
        case "cancel":
            for task in asyncio.all_tasks():
                task.cancel()
        case "stop":
            loop.stop()
        case "task":
            await asyncio.gather(loop.create_task(ends()))
        case _:
            keeps(event)


async def ends() -> None:
    sys.exit("the whole process, please")
