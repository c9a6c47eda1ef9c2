"""What `serve` keeps beside its receivers, each in a process of its own: the worker, and the page of metrics."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from socket import socket, socketpair
from time import monotonic

from app.database import schema
from app.server.heartbeat import Pulse
from app.server.processes import ended_children, read_status
from app.telemetry.logs import LogWriter

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a worker that ended is started again
ENDS_WITHIN = 15.0  # seconds; a worker waits less than this for its attempts


class Beside:
    """A worker in a process of its own, so that no destination and no user's function can slow the receiver.

    A pair of sockets joins the two processes: the kernel closes this end when this process ends, however it ends.
    """

    def __init__(self, log: LogWriter, *, metrics: Path | None = None) -> None:
        """Starts it; `metrics` is the folder of the snapshots of what is counted."""
        self._log = log
        self._metrics = metrics
        self._process: subprocess.Popen[bytes] | None = None
        self._wait = FIRST_WAIT
        self._told = 0.0
        self._hung = False
        self._start()

    def look(self, ended: Iterable[tuple[int, int]] | None = None) -> None:
        """Starts the worker again if it has ended and was not told to, later each time; costs microseconds.

        `ended` are the children that ended, with their status, if the caller has asked the system for them.
        """
        for child, code in ended_children() if ended is None else ended:
            if self._process is not None and child == self._process.pid:
                self._process.returncode = code
        if self._process is not None and self._process.poll() is not None:
            self._over(self._process)
        if self._process is not None and not self._told and not self._hung and not self._pulse.beats():
            self._hung = True
            self._process.kill()
        if self._process is not None and self._told and monotonic() >= self._told + ENDS_WITHIN:
            self._process.kill()
        if self._process is None and not self._told and monotonic() >= self._due:
            self._start()

    @property
    def has_ended(self) -> bool:
        """Whether it was told to end, and has."""
        return bool(self._told) and self._process is None

    def tell(self) -> None:
        """Tells the worker to end; does not wait."""
        if self._told:
            return
        self._told = monotonic()
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """Waits until the worker has ended, at most `ENDS_WITHIN` after it was told."""
        self.tell()
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, self._told + ENDS_WITHIN - monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._over(self._process)

    def _start(self) -> None:
        self._started = monotonic()
        try:
            self._line, self._process = self._joined()
            self._pulse, self._hung = Pulse(self._line), False
        except (OSError, MemoryError) as error:  # no descriptor, process or memory is left: the receiver goes on
            self._put_off()
            self._tell_not_started(str(error) or type(error).__name__, again_in=round(self._due - self._started, 1))

    def _over(self, process: "subprocess.Popen[bytes]") -> None:
        status = read_status(process.returncode)
        self._tell_ended(status)
        self._line.close()
        self._process = None
        self._put_off()

    def _put_off(self) -> None:
        """Sets when to start the next worker: at once after one that lived long, otherwise later each time."""
        if monotonic() - self._started > LONGEST_WAIT:
            self._wait = FIRST_WAIT
        self._due = self._started + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _arguments(self, line: int) -> tuple[list[str], list[int]]:
        """How Python is called, and the descriptors that the process gets; `line` is its end of the pair."""
        counts = ["--snapshots", str(self._metrics)] if self._metrics else []
        return ["-m", "app", "worker", "--beside", str(line), *counts], [line]

    def _tell_not_started(self, error: str, *, again_in: float) -> None:
        self._log.write("worker_not_started", {"error": error, "again_in": again_in}, level="error")

    def _tell_ended(self, status: int | str) -> None:
        last_words = self._pulse.last_words()
        if self._hung or "traceback" in last_words:
            self._log.write("worker_hung", last_words, level="error")
        self._log.write("worker_ended", {"status": status}, level="info" if self._told else "error")

    def _joined(self) -> "tuple[socket, subprocess.Popen[bytes]]":
        """A new process, and the socket that joins it to this one."""
        ours, theirs = socketpair()
        arguments, descriptors = self._arguments(theirs.fileno())
        try:
            process = _started(arguments, descriptors)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours, process


class PageBeside(Beside):
    """The page of metrics in a process of its own, so that no scrape and no slow database delays an answer."""

    def __init__(self, log: LogWriter, listener: socket, metrics: Path) -> None:
        """Starts it; `listener` stays open here, so that a new process can take the place of one that ended."""
        self._listener = listener
        self._folder = str(metrics)
        super().__init__(log)

    def _arguments(self, line: int) -> tuple[list[str], list[int]]:
        listener = self._listener.fileno()
        return ["-m", "app.cli.page", str(line), str(listener), self._folder], [line, listener]

    def _tell_not_started(self, error: str, *, again_in: float) -> None:
        self._log.write("metrics_not_started", {"error": error, "again_in": again_in}, level="error")

    def _tell_ended(self, status: int | str) -> None:
        self._log.write("metrics_ended", {"status": status}, level="info" if self._told else "error")


def _started(arguments: Sequence[str], descriptors: Sequence[int]) -> "subprocess.Popen[bytes]":
    paths = [str(schema.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # Not from the working directory, where a user may have an `app` of their own.
        [sys.executable, "-P", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        process_group=0,  # a terminal's Ctrl-C is for `serve`, which tells the process
    )
