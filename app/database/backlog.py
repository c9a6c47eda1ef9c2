"""What a receiver tells the other processes that write to its SQLite file: whether events wait to be stored."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Backlog:
    """A lock on an empty file beside the database. It is the kernel's, so a receiver that dies leaves none behind."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + "-backlog")
        self._descriptor: int | None = None
        self._told = False

    def tell(self, events: int) -> None:
        """Says whether events wait, of whose number it hears. On a file system without such locks nobody gives way."""
        waiting = events > 0
        if waiting == self._told:
            return
        with suppress(OSError):  # somebody looks just now: it is told after the next commit
            if self._descriptor is None:
                self._descriptor = self._open(os.O_CREAT)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB if waiting else fcntl.LOCK_UN)
            self._told = waiting

    def is_told(self) -> bool:
        """Whether events of any receiver wait."""
        try:
            descriptor = self._open()
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)  # and gives the lock back
        return False

    def close(self) -> None:
        """Nothing waits any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._told = None, False

    def _open(self, more: int = 0) -> int:
        return os.open(self._path, os.O_RDWR | more, 0o600)
