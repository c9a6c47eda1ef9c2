"""Processes that begin and end together, such as several receivers on one port; and how a process is ended."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from time import monotonic, sleep
from typing import NoReturn

from app.telemetry.logs import LogWriter

SHORTEST_LIFE = 2.0  # seconds; a first process that ends sooner would only end again
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a process that ended too soon is started again
LOOK = 0.1  # seconds between looks at the processes


def ending_signals() -> list[signal.Signals]:
    """The signals that end a process in good order; without SIGHUP if `nohup` lets the process ignore it."""
    wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    return [number for number in wanted if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def exit_when_told() -> None:
    """Makes the signals end this process with status 0, until other code handles them."""

    def end(*_: object) -> NoReturn:
        sys.exit(0)

    for number in ending_signals():
        signal.signal(number, end)


def ending_with(descriptor: int, *, within: float) -> None:
    """Ends this process when the other end of a pipe is closed, as it is when the process there ends, however it ends.

    It sends itself SIGTERM, and exits at once if it still runs `within` seconds later.
    """
    os.set_inheritable(descriptor, False)

    def watch() -> None:
        with suppress(OSError):  # a reset: the other process ended with something unread
            while os.read(descriptor, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(within)
        os._exit(1)

    Thread(target=watch, name="ending-with", daemon=True).start()


def end_within(seconds: float, log: LogWriter) -> None:
    """Ends this process with status 1 if it still runs after so many seconds."""

    def end() -> None:
        sleep(seconds)
        log.write("ended_by_force", {"after": seconds}, level="error")
        sleep(LOOK)  # until the line is written
        os._exit(1)

    with suppress(RuntimeError):  # no thread is left: then it must end by itself
        Thread(target=end, name="end-within", daemon=True).start()


def ended_children() -> list[tuple[int, int]]:
    """The children that ended, with status or negative signal; in process 1 of a container, orphans too."""
    found = []
    with suppress(ChildProcessError):  # there is none
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    return found


def read_status(code: int) -> int | str:
    """A process's exit status, or the name of the signal that ended it, from its negative number."""
    if code >= 0:
        return code
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"


def run_processes(work: Callable[[int], None], *, count: int, within: float, log: LogWriter) -> None:
    """Runs `work(number)` in `count` processes until a signal ends them all; one that dies is started again.

    They end when this process ends, however it ends. Call this before any thread or event loop is started, since those
    do not survive a fork.

    Args:
        within: Seconds that a process may take to end.

    Raises:
        SystemExit: 1, a process ended right after its first start, or failed when it was told to end.
    """
    told = 0

    def end(*_: object) -> None:
        nonlocal told
        told += 1

    for number in ending_signals():
        signal.signal(number, end)
    failed = False
    here, there = os.pipe()

    def begin(number: int) -> None:
        os.close(there)  # else it would hold the pipe open itself
        ending_with(here, within=within)
        work(number)

    places = [_Place(number) for number in range(count)]
    while not told and not failed:
        for place in places:
            place.start(begin, log)
        sleep(LOOK)
        for place, code in _ended(places):
            _say(log, "receiver_ended", {"status": read_status(code)})
            failed = failed or (code != 0 if told else not place.proven)
    if _end(places, lambda: told) or failed:
        sys.exit(1)


@dataclass(slots=True)
class _Place:
    """The place of one process: its number, its child, and when to start the next one."""

    number: int
    child: int = 0
    began: float = 0.0
    due: float = 0.0
    wait: float = FIRST_WAIT
    proven: bool = False
    """Whether one here has lived long enough: from then on, one that ends too soon is started again after a wait."""

    def start(self, begin: Callable[[int], None], log: LogWriter) -> None:
        """Starts the process if there is none and it is time."""
        now = monotonic()
        if self.child or now < self.due:
            return
        self.began = now
        try:
            self.child = _fork(begin, self.number)
        except OSError as error:  # no process or memory is left
            self.ended()
            _say(log, "receiver_not_started", {"error": str(error), "again_in": self.wait})

    def ended(self) -> None:
        """Notes that the process ended, and how long to wait for the next."""
        now = monotonic()
        lived = now - self.began if self.child else 0.0
        self.child = 0
        self.proven = self.proven or lived >= SHORTEST_LIFE
        self.wait = FIRST_WAIT if lived >= SHORTEST_LIFE else min(2 * self.wait, LONGEST_WAIT)
        self.due = now if lived >= SHORTEST_LIFE else now + self.wait


def _end(places: Sequence[_Place], told: Callable[[], int]) -> bool:
    """Ends all processes, and passes on each further signal that came, by the number `told`; whether any failed."""
    failed = False
    passed_on = -1
    while any(place.child for place in places):
        if told() > passed_on:
            passed_on = told()
            for place in places:
                if place.child:
                    os.kill(place.child, signal.SIGTERM)
        sleep(LOOK)
        failed = any(code != 0 for _, code in _ended(places)) or failed
    return failed


def _ended(places: Sequence[_Place]) -> list[tuple[_Place, int]]:
    """The places whose process ended, each with its status or negative signal."""
    found = []
    for child, code in ended_children():
        for place in places:
            if place.child == child:
                place.ended()
                found.append((place, code))
    return found


def _fork(begin: Callable[[int], None], number: int) -> int:
    """The new process's id. A signal that comes early waits until the process can handle it, and ends it with 0."""
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, ending_signals())
    try:
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            exit_when_told()
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            begin(number)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _say(log: LogWriter, event: str, fields: Mapping[str, object]) -> None:
    with log.running():  # not all the time: its thread would not survive a fork
        log.write(event, fields, level="error")
