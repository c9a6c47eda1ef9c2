"""Checks the open files of a SQLite database: whether they are still those at their paths, and whole."""

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from app.database.leaving import MOVED, REFUSED, Moved
from app.database.problems import DatabaseProblem

SQLITE_BUSY = timedelta(seconds=5)
"""How long a write waits for another process's write, such as `priohook events release` beside `serve`."""

DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class DamagedFile(DatabaseProblem):
    """SQLite found a page that it cannot have written; the text says what to do."""


class SQLiteFile:
    """The files that the connections of one engine have open: the database, its log `-wal` and the log's index `-shm`.

    Before each transaction and each commit it checks that they are still those at their paths. A commit into a removed
    file would be lost, and SQLite would mix the old log with a backup that was put in the file's place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        beside = path.resolve()  # SQLite makes them beside the file, not beside a link to it
        self.log = beside.with_name(beside.name + "-wal")
        self._side_paths = self.log, beside.with_name(beside.name + "-shm")
        self._database = _identity(path)
        self._side_files: list[tuple[int, int] | None] = []
        self._connections: set[int] = set()

    def guard(self, engine: Engine) -> None:
        """Checks the files whenever the engine uses them from now on."""
        event.listen(engine, "do_connect", lambda *_: self.check())
        event.listen(engine, "connect", lambda connection, _: self._opened(connection))
        event.listen(engine, "close", lambda connection, _: self._closed(connection))
        event.listen(engine, "begin", lambda _: self.check())
        event.listen(engine, "commit", lambda _: self.check())
        event.listen(engine, "handle_error", self._named, retval=True)

    def connect(self) -> sqlite3.Connection:
        """A connection to the driver itself, for one thread at a time; begins and commits nothing by itself.

        Its user calls `check` before each transaction and each commit, and `close` at the end.
        """
        self.check()
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._opened(connection)
        return connection

    def close(self, connection: sqlite3.Connection) -> None:
        """Closes what `connect` gave."""
        connection.close()
        self._closed(connection)

    def damage(self, error: BaseException | None) -> DamagedFile | None:
        """What to say if an error of the driver's means that the file is damaged."""
        if is_damage(error):
            return DamagedFile(
                f"{self._path.name} is damaged ({error}). Stop priohook, keep a copy of the file, and restore a backup "
                f"or save what can be read: sqlite3 {self._path.name} .recover | sqlite3 saved.db"
            )
        return None

    def check(self) -> None:
        """Returns if the files are those that were opened; costs microseconds.

        Raises:
            DatabaseProblem: they are not. Once they are put back, they are used again.
        """
        now = _identity(self._path)
        if now is None:
            raise DatabaseProblem(
                f"{self._path.name} is gone. Put the same file back, or stop priohook, put a backup in its place and "
                "start priohook."
            )
        if now != self._database:
            self._leave_log()
            raise DatabaseProblem(
                f"{self._path.name} was replaced by another file. Restart priohook to use the new file."
            )
        if self._connections and self._side_files != [_identity(path) for path in self._side_paths]:
            raise DatabaseProblem(f"{self._path.name}-wal or {self._path.name}-shm was removed. Restart priohook.")

    def _opened(self, connection: Any) -> None:
        prepare(connection)
        if not self._connections:  # without a connection, SQLite itself may have removed them
            self._side_files = [_identity(path) for path in self._side_paths]
        self._connections.add(id(connection))

    def _closed(self, connection: Any) -> None:
        self._connections.discard(id(connection))

    def _leave_log(self) -> None:
        """Removes the log of the file that was replaced: SQLite would copy it into the new file."""
        for path, opened in zip(self._side_paths, self._side_files, strict=False):
            if opened is not None and _identity(path) == opened:
                path.unlink(missing_ok=True)

    def _named(self, context: ExceptionContext) -> Exception | None:
        error = context.original_exception
        return Moved(MOVED) if str(error) == REFUSED else self.damage(error)


def is_damage(error: BaseException | None) -> bool:
    """Whether an error of the driver's means that the file is damaged."""
    return isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


def prepare(connection: Any) -> None:
    """WAL lets readers and the writer pass each other; FULL makes COMMIT return after fsync.

    A new file is made so that its free pages can be given back to the disk.
    """
    cursor = connection.cursor()
    cursor.execute("PRAGMA page_count")
    if cursor.fetchone()[0] == 0:
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    cursor.execute(busy_timeout(SQLITE_BUSY))
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA schema_version")  # the first read opens the log, which `SQLiteFile` looks at
    cursor.fetchall()
    cursor.close()


def busy_timeout(within: timedelta) -> str:
    """The statement that says how long a connection waits for another one's lock."""
    return f"PRAGMA busy_timeout = {int(within.total_seconds() * 1000)}"


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path, whatever it is called."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
