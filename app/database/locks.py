"""Locks that one process holds, in files beside a database."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER_ONLY = 0o600  # another user who could open the file could hold the lock


@contextmanager
def locked_file(path: Path) -> Iterator[bool]:
    """Whether no other process holds the lock; if so, none gets it until the end, which may be the process's."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, OWNER_ONLY), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:  # a file system without locks
            raise OSError(error.errno, error.strerror, str(path)) from None
        yield True
