"""Which process has a file of the spool: the one that holds the lock on the file itself.

Nobody can remove this lock while its holder lives, as long as the file is there. Linux keeps it (flock) apart from the
locks that SQLite holds on the same file (fcntl). But closing any descriptor of a file drops SQLite's locks on it: so a
holder closes its descriptor after SQLite's connection, and never opens its own file a second time.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

OWNER_ONLY = 0o600
APPLICATION_ID = 0x7072696F  # "prio"; SQLite keeps it in the file's header
APPLICATION_ID_AT = 68  # bytes from the beginning of the file


def lock_new(path: Path) -> int | None:
    """Makes the file and locks it. The descriptor holds the lock; None if another process was faster."""
    return _locked(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, OWNER_ONLY))


def lock(path: Path) -> int | None:
    """Locks the file. The descriptor holds the lock; None if another process has the file, or the file is gone."""
    try:
        return _locked(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return None


def is_of_spool(descriptor: int) -> bool:
    """Whether the file was made as one of the spool. Reads no more than the header, so any file stays as it is."""
    found = os.pread(descriptor, 4, APPLICATION_ID_AT)
    return found == APPLICATION_ID.to_bytes(4, "big")


def is_empty(descriptor: int) -> bool:
    """Whether the file has no bytes: its maker was killed at once."""
    return os.fstat(descriptor).st_size == 0


def remove(path: Path) -> None:
    """Removes a file of the spool. If that fails, it stays, and its events will meet themselves."""
    with suppress(OSError):
        for ending in ("", "-journal", "-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Makes a new file's name durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: Path, descriptor: int) -> int | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):  # its holder has not removed it meanwhile
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
