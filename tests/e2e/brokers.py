"""Message brokers as child processes, with folders and ports of their own."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from time import monotonic, sleep

STARTS_WITHIN = 120.0  # seconds; a bound for a slow machine, never waited for

NATS = """
listen: 127.0.0.1:{port}
max_payload: {max_payload}
jetstream {{ store_dir: "{folder}/jetstream" }}
{more}
"""


class NATSServer:
    """A nats-server with JetStream, whose streams are files.

    Args:
        folder: Its own.
        more: What else its configuration says.
        max_payload: Bytes.
    """

    def __init__(self, folder: Path, *, more: str = "", max_payload: int = 1 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._config = folder / "nats.conf"
        self._config.write_text(NATS.format(port=self.port, folder=folder, more=more, max_payload=max_payload))
        self._log = folder / "nats.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["nats-server", "-c", self._config], stdout=log, stderr=log)  # noqa: S607
        until(lambda: listens(self.port), self._log)

    def freeze(self) -> None:
        self._process.send_signal(SIGSTOP)
        until(lambda: set(_states(self._process.pid)) == {"T"})

    def thaw(self) -> None:
        self._process.send_signal(SIGCONT)

    def kill(self) -> None:
        self._process.send_signal(SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()


def _states(pid: int) -> list[str]:
    """The state of each thread, a letter."""
    stats = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return [each.rpartition(")")[2].split()[0] for each in stats]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def until(true: Callable[[], bool], log: Path | None = None) -> None:
    """Waits until `true()` is true."""
    ends = monotonic() + STARTS_WITHIN
    while not true():
        assert monotonic() < ends, log.read_text() if log else ""
        sleep(0.02)
