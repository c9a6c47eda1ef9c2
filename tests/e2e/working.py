"""Workers in processes of their own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import SIGTERM, Signals
from time import monotonic, sleep
from uuid import uuid4

from tests.e2e.conftest import ENDS_WITHIN


class Working:
    """A `priohook worker` in a process of its own."""

    def __init__(
        self, folder: Path, environment: dict[str, str], *, command: Sequence[str] = (sys.executable, "-m", "app")
    ) -> None:
        self._log = (folder / f"worker-{uuid4().hex}").open("a+")
        self._process = subprocess.Popen([*command, "worker"], cwd=folder, env=environment, stderr=self._log, text=True)
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def until_started(self) -> None:
        ends = monotonic() + ENDS_WITHIN
        while "worker_started" not in self.log:
            assert self._process.poll() is None, self.log
            assert monotonic() < ends, self.log
            sleep(0.01)

    def signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def tell(self) -> None:
        """Tells it to end, and does not wait."""
        self._process.send_signal(SIGTERM)

    def end(self) -> int:
        if self._process.poll() is None:
            self.tell()
        return self._process.wait(ENDS_WITHIN)

    def wait(self) -> int:
        return self._process.wait(ENDS_WITHIN)

    def close(self) -> None:
        self.end()
        self._log.close()
