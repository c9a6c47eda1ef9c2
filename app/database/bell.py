"""The bell of a SQLite file: a process that has written rings it, and the file's worker looks for work at once.

It is a datagram socket beside the file. To ring it takes microseconds, needs no lock, and does nothing while no worker
listens. On PostgreSQL, NOTIFY does the same.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket

LONGEST_ADDRESS = 100  # bytes, on any system
LONGEST_WORD = 32  # bytes
OWNER_ONLY = 0o600


def ring(database: Path, waiting: int | None = None) -> None:
    """Tells the worker, if there is one, that something was committed; never waits.

    Args:
        database: The SQLite file.
        waiting: If events were stored: how many more of them wait to be committed.
    """
    with suppress(OSError), socket(AF_UNIX, SOCK_DGRAM) as bell, _address(database) as address:
        bell.setblocking(False)
        bell.sendto(b"" if waiting is None else b"%d" % waiting, address)


@contextmanager
def listening(database: Path, heard: Callable[[int | None], None]) -> Iterator[Callable[[], bool]]:
    """Calls `heard` with the `waiting` of each ring. Yields a function that tells whether the bell can still be rung.

    Only one process can listen.

    Raises:
        OSError: the file system has no sockets.
    """
    loop = asyncio.get_running_loop()

    def hear() -> None:
        with suppress(OSError):  # there is nothing more
            while True:
                word = bell.recv(LONGEST_WORD)
                heard(int(word) if word.isdigit() else None)

    with socket(AF_UNIX, SOCK_DGRAM) as bell, _address(database) as address:
        bell.setblocking(False)
        Path(address).unlink(missing_ok=True)  # left by a worker that was killed
        bell.bind(address)
        Path(address).chmod(OWNER_ONLY)
        loop.add_reader(bell, hear)
        try:
            yield lambda: Path(address).is_socket()
        finally:
            loop.remove_reader(bell)
            Path(address).unlink(missing_ok=True)


@contextmanager
def _address(database: Path) -> Iterator[str]:
    """The bell's path, or a shorter name for it if the path is too long for a socket.

    The bell is beside the file itself, as SQLite's own log is, whatever links lead to the file.
    """
    database = database.resolve()
    path = f"{database}-bell"
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield path
        return
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{database.name}-bell"
    finally:
        os.close(folder)
