"""The worker that `serve` keeps beside its receivers, in a process of its own."""

import os
import subprocess
import sys
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

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._wait = FIRST_WAIT
        self._told = 0.0
        self._hung = False
        self._start()

    def look(self) -> None:
        """Starts the worker again if it has ended, later each time; costs microseconds."""
        for child, code in ended_children():
            if self._process is not None and child == self._process.pid:
                self._process.returncode = code
                self._over(self._process)
        if self._process is not None and not self._told and not self._hung and not self._pulse.beats():
            self._hung = True
            self._process.kill()
        if self._process is None and monotonic() >= self._due:
            self._start()

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
            self._line, self._process = _joined()
            self._pulse, self._hung = Pulse(self._line), False
        except (OSError, MemoryError) as error:  # no descriptor, process or memory is left: the receiver goes on
            self._put_off()
            fields = {"error": str(error) or type(error).__name__, "again_in": round(self._due - self._started, 1)}
            self._log.write("worker_not_started", fields, level="error")

    def _over(self, process: "subprocess.Popen[bytes]") -> None:
        status = read_status(process.returncode)
        last_words = self._pulse.last_words()
        if self._hung or "traceback" in last_words:
            self._log.write("worker_hung", last_words, level="error")
        self._log.write("worker_ended", {"status": status}, level="info" if self._told else "error")
        self._line.close()
        self._process = None
        self._put_off()

    def _put_off(self) -> None:
        """Sets when to start the next worker: at once after one that lived long, otherwise later each time."""
        if monotonic() - self._started > LONGEST_WAIT:
            self._wait = FIRST_WAIT
        self._due = self._started + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def _joined() -> "tuple[socket, subprocess.Popen[bytes]]":
    """A new worker, and the socket that joins it to this process."""
    ours, theirs = socketpair()
    paths = [str(schema.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        process = subprocess.Popen(
            # Not from the working directory, where a user may have an `app` of their own.
            [sys.executable, "-P", "-m", "app", "worker", "--beside", str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,  # a terminal's Ctrl-C is for `serve`, which tells the worker
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, process
