"""Processes that begin and end together: several receivers behind one port, and what belongs to a process."""

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
    """Those that end a process in good order; not SIGHUP where `nohup` has it ignored."""
    wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    return [number for number in wanted if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def exit_when_told() -> None:
    """Makes the signals end this process with status 0, until somebody else handles them."""

    def end(*_: object) -> NoReturn:
        sys.exit(0)

    for number in ending_signals():
        signal.signal(number, end)


def ending_with(descriptor: int, *, within: float) -> None:
    """Ends this process when the other end of a pipe is closed, as it is when the process there ends, however.

    It gets SIGTERM from itself, and is ended at once if it still runs `within` seconds later.
    """
    os.set_inheritable(descriptor, False)

    def watch() -> None:
        with suppress(OSError):  # a reset, where it ended with something unread
            while os.read(descriptor, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(within)
        os._exit(1)

    Thread(target=watch, name="ending-with", daemon=True).start()


def end_within(seconds: float, log: LogWriter) -> None:
    """Ends this process with status 1 if it still runs so many seconds later."""

    def end() -> None:
        sleep(seconds)
        log.write("ended_by_force", {"after": seconds}, level="error")
        sleep(LOOK)  # in which the line is written
        os._exit(1)

    with suppress(RuntimeError):  # no thread is left: then its end is nobody's but its own
        Thread(target=end, name="end-within", daemon=True).start()


def ended_children() -> list[tuple[int, int]]:
    """The children that ended, with status or negative signal, and orphans that process 1 of a container inherited."""
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
    """Runs `work(number)` in `count` processes until a signal ends them all, and starts one that dies anew.

    They end when this process does, however that comes about. Call it before any thread or event loop is started:
    they do not survive a fork.

    Args:
        within: Seconds that a process may take to end.

    Raises:
        SystemExit: 1, a process ended as soon as it had first begun, or badly when it was told to end.
    """
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True

    for number in ending_signals():
        signal.signal(number, end)
    failed = False
    here, there = os.pipe()

    def begin(number: int) -> None:
        os.close(there)  # else it would hold the pipe open itself
        ending_with(here, within=within)
        work(number)

    places = [_Place(number) for number in range(count)]
    while not ending and not failed:
        for place in places:
            place.start(begin, log)
        sleep(LOOK)
        for place, code in _ended(places):
            _say(log, "receiver_ended", {"status": read_status(code)})
            failed = failed or (code != 0 if ending else not place.proven)
    if _end(places) or failed:
        sys.exit(1)


@dataclass(slots=True)
class _Place:
    """One of the processes: which it is, and when to start the next if it has ended."""

    number: int
    child: int = 0
    began: float = 0.0
    due: float = 0.0
    wait: float = FIRST_WAIT
    proven: bool = False
    """Whether one here lived long enough: after that, one that ends sooner is started again later."""

    def start(self, begin: Callable[[int], None], log: LogWriter) -> None:
        """Starts its process if there is none and it is time."""
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
        """Notes that it ended, and how long to wait."""
        now = monotonic()
        lived = now - self.began if self.child else 0.0
        self.child = 0
        self.proven = self.proven or lived >= SHORTEST_LIFE
        self.wait = FIRST_WAIT if lived >= SHORTEST_LIFE else min(2 * self.wait, LONGEST_WAIT)
        self.due = now if lived >= SHORTEST_LIFE else now + self.wait


def _end(places: Sequence[_Place]) -> bool:
    """Ends them all; whether any ended badly."""
    failed = False
    for place in places:
        if place.child:
            os.kill(place.child, signal.SIGTERM)
    while any(place.child for place in places):
        sleep(LOOK)
        failed = any(code != 0 for _, code in _ended(places)) or failed
    return failed


def _ended(places: Sequence[_Place]) -> list[tuple[_Place, int]]:
    """Those whose process ended, with its status or negative signal."""
    found = []
    for child, code in ended_children():
        for place in places:
            if place.child == child:
                place.ended()
                found.append((place, code))
    return found


def _fork(begin: Callable[[int], None], number: int) -> int:
    """The new process's id. A signal that comes before the process handles it waits for that, and ends it with 0."""
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
