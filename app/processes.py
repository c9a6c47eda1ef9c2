"""Several receivers behind one port: forked, watched, and ended together."""

import os
import signal
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

SHORTEST_LIFE = 2.0  # seconds; a process that ends sooner would only end again


def run_processes(work: Callable[[int], None], *, count: int) -> None:
    """Runs `work(number)` in `count` processes until SIGTERM or SIGINT, and starts one that dies anew.

    Call it before any thread or event loop is started: they do not survive a fork.

    Raises:
        SystemExit: 1, a process ended as soon as it had begun, or badly when it was told to end.
    """
    children: dict[int, tuple[int, float]] = {}  # by process id: the number, and when it began
    ending = failed = False

    def end(*_: Any) -> None:
        nonlocal ending
        ending = True
        for child in children:
            os.kill(child, signal.SIGTERM)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, end)
    for number in range(count):
        children[_fork(work, number)] = (number, monotonic())
    while children:
        child, status = os.wait()
        number, began = children.pop(child)
        if ending:
            failed = failed or status != 0
        elif monotonic() - began < SHORTEST_LIFE:
            failed = True
            end()
        else:
            children[_fork(work, number)] = (number, monotonic())
    if failed:
        sys.exit(1)


def _fork(work: Callable[[int], None], number: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_DFL)
        work(number)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
