"""One file of the spool: a SQLite database with the events that one receiver acknowledged while PostgreSQL was away.

Only one process uses a file: the one that holds the lock beside it. A file whose lock is free belongs to nobody.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar
from uuid import UUID

from app.database.engines import open_sqlite_file
from app.database.postgres import CannotConnect, DatabaseProblem
from app.database.sqlite import is_damage
from app.events.ids import EPOCH, MICROSECOND, new_id
from app.events.rows import COLUMNS, NewEvent, Row, outlived_keys
from app.events.sqlite import BAD_ROW, CHECKPOINT_BYTES
from app.events.store import BadRow

logger = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result")

NAMES = "spool-*.db"
MOST_AT_ONCE = 256  # events
MOST_BYTES_AT_ONCE = 4 * 1024 * 1024
"""The most bytes of bodies that one transaction moves; a single event may have more."""

ROW_BYTES = 512
"""About what an event takes besides its body and headers."""

OWNER_ONLY = 0o600
TIMES = ("received_at", "order_modified", "last_duplicate_at")
"""Columns that hold microseconds since 1970."""

CREATE = f"""
CREATE TABLE IF NOT EXISTS spooled (
    position INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, {", ".join(COLUMNS)}
)
"""
"""`key` is `dedup_key` while more copies may come, and the id after that. The database always gets `dedup_key`."""

INSERT = f"INSERT INTO spooled (key, {', '.join(COLUMNS)}) VALUES (?{', ?' * len(COLUMNS)})"  # noqa: S608
WITH_KEY = "SELECT id FROM spooled WHERE key = ?"
COUNT_COPIES = "UPDATE spooled SET duplicates = duplicates + ?, last_duplicate_at = ? WHERE key = ?"
FREE_KEY = "UPDATE spooled SET key = id WHERE key = ? AND received_at < ?"
OLDEST = "SELECT * FROM spooled ORDER BY position"
SIZE = "SELECT count(*), coalesce(sum(length(body) + length(headers)), 0) FROM spooled"
FORGET = "DELETE FROM spooled WHERE position = ? AND duplicates = ?"


class SpoolProblem(DatabaseProblem):
    """A file of the spool cannot be used; the text names it and says why."""

    path: Path | None = None
    lasts = False
    """Whether the file was removed or is damaged, so that another one must take its place."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An event of the spool, and its position in the file."""

    position: int
    row: Row


class SpoolFile:
    """A file of the spool, open and locked by this process. `make` and `adopt` open one.

    Attributes:
        path: The file.
        problem: Why the last write failed; None if it succeeded.
        newest: The greatest id in the file when it was opened.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.problem: str | None = None
        self.newest: UUID | None = None
        self._lock = lock
        self._events = 0
        self._bytes = 0
        self._passed_over: set[int] = set()  # positions of events that are not moved any more
        self._undeleted: dict[int, int] = {}  # of these, what was moved: with how many duplicates
        self._file = open_sqlite_file(path)
        self._connection = self._file.connect()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        try:
            self._prepare()
        except BaseException:
            self._close()
            raise

    @classmethod
    def make(cls, folder: Path) -> "SpoolFile":
        """A new file.

        Raises:
            SpoolProblem: it cannot be made.
        """
        path = folder / f"spool-{new_id()}.db"
        with _problems(path):
            lock = _lock(path)
            if lock is None:
                raise SpoolProblem(f"{path.name} is locked by another process.")
            try:
                made = cls(path, lock)
                _sync(folder)
            except BaseException:
                _remove(path)  # on a full disk it is tried again and again
                os.close(lock)
                raise
        return made

    @classmethod
    def adopt(cls, path: Path) -> "SpoolFile | None":
        """A file that another process left; None if a process still has it, or it is gone.

        Raises:
            SpoolProblem: it cannot be read.
        """
        with _problems(path):
            lock = _lock(path)
            if lock is None:
                return None
            if not path.exists():
                _lock_path(path).unlink(missing_ok=True)
                os.close(lock)
                return None
            try:
                return cls(path, lock)
            except BaseException:
                os.close(lock)
                raise

    @property
    def events(self) -> int:
        """How many events are to be moved."""
        return self._events

    @property
    def size(self) -> int:
        """About how many bytes the events to move take."""
        return self._bytes

    @property
    def is_spent(self) -> bool:
        """Whether all events were moved and some could not be deleted: the file itself may fill the disk."""
        return not self._events and bool(self._undeleted)

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        """Implements `Writer.write`. Events are kept in order of their ids, which is that of their arrival."""
        return await self._run(self._write, rows)

    async def probe(self, *, thorough: bool) -> None:
        """Implements `Writer.probe`; every probe commits a page."""
        await self._run(self._probe, thorough)

    async def oldest(self) -> list[Kept]:
        """The events to move next, in order of arrival; no two of them have the same key.

        They can be read from a removed file too, while this process has it open.
        """
        return await self._run(self._oldest)

    async def forget(self, moved: Sequence[Kept]) -> None:
        """Deletes events that are in the database now. If a copy of an event came meanwhile, the event stays.

        Deleting takes space in SQLite's log. If the disk is full, the events are deleted later. After a kill they are
        moved again, which changes nothing.
        """
        await self._run(self._forget, moved)

    async def pass_over(self, kept: Kept) -> None:
        """Leaves an event in the file until a restart: the database refuses it."""
        await self._run(self._pass_over, kept)

    async def close(self) -> None:
        """Closes the file, and removes it if all its events were moved. Otherwise another process may adopt it."""
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._end)

    async def _run(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        def run() -> Result:
            with _problems(self.path):
                return work(*given, **named)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _end(self) -> None:
        empty = False
        if self._undeleted:
            self._forget(())
        with suppress(sqlite3.Error):
            (rows,) = self._connection.execute("SELECT count(*) FROM spooled").fetchone()
            empty = rows == len(self._undeleted)
        self._close()
        if empty:
            _remove(self.path)
        os.close(self._lock)

    def _close(self) -> None:
        with suppress(sqlite3.Error):
            self._file.close(self._connection)

    def _prepare(self) -> None:
        connection = self._connection
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if tables and "spooled" not in tables:  # it would be taken for an empty file, and be removed
            raise SpoolProblem(f"{self.path.name} is a SQLite database, but not a file of the spool.")
        if not tables:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")  # without it, a file in WAL mode keeps the old setting
        connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")
        connection.execute(CREATE)
        unknown = {row[1] for row in connection.execute("PRAGMA table_info(spooled)")} - {"position", "key", *COLUMNS}
        if unknown:
            raise SpoolProblem(f"{self.path.name} was made by a newer release. Start that release to move its events.")
        self._events, size = connection.execute(SIZE).fetchone()
        self._bytes = size + self._events * ROW_BYTES
        (newest,) = connection.execute("SELECT max(id) FROM spooled").fetchone()
        self.newest = newest and UUID(bytes=newest)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            self._file.check()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                self._file.check()
                connection.execute("COMMIT")
                self._file.check()
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except BAD_ROW:
            raise
        except (sqlite3.Error, OSError) as error:
            if self.problem is None:
                fields = {"file": self.path.name, "error": f"{type(error).__name__}: {error}"}
                logger.warning("spool_failed", extra={"fields": fields})
            self.problem = f"The spool takes no events: {error}"
            raise
        self.problem = None

    def _write(self, rows: Sequence[Row]) -> dict[bytes, UUID]:
        ids: dict[bytes, UUID] = {}
        new: list[NewEvent] = []
        try:
            with self._transaction() as connection:
                for key, before in outlived_keys(rows):
                    connection.execute(FREE_KEY, (key, _number(before)))
                for row in sorted(rows, key=lambda row: row.event.id):
                    key = row.event.dedup_key
                    if found := connection.execute(WITH_KEY, (key,)).fetchone():
                        ids[key] = UUID(bytes=found[0])
                        connection.execute(COUNT_COPIES, (row.copies, _number(row.last_copy_at), key))
                        continue
                    ids[key] = row.event.id
                    values = (key, *(_stored(value) for value in row.values()))
                    connection.execute(INSERT, values)
                    new.append(row.event)
        except BAD_ROW as error:
            raise BadRow(type(error).__name__) from None  # its message may quote the row
        self._events += len(new)
        self._bytes += sum(map(_size, new))
        return ids

    def _probe(self, _: bool) -> None:  # noqa: FBT001 - an executor passes by position
        with self._transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {1 - version}")

    def _oldest(self) -> list[Kept]:
        found: list[Kept] = []
        keys: set[bytes] = set()
        size = 0
        cursor = self._connection.execute(OLDEST)
        names = [name for name, *_ in cursor.description]
        for values in cursor:
            kept = _kept(dict(zip(names, values, strict=True)))
            if kept.position in self._passed_over:
                continue
            size += len(kept.row.event.body)
            if found and (size > MOST_BYTES_AT_ONCE or kept.row.event.dedup_key in keys):
                break
            found.append(kept)
            keys.add(kept.row.event.dedup_key)
            if len(found) == MOST_AT_ONCE:
                break
        cursor.close()
        if not found:  # a commit that seemed to fail may have counted less than it kept
            self._events = self._bytes = 0
        return found

    def _pass_over(self, kept: Kept) -> None:
        self._passed_over.add(kept.position)
        self._events -= 1
        self._bytes -= _size(kept.row.event)

    def _forget(self, moved: Sequence[Kept]) -> None:
        late = []  # copies came meanwhile
        try:
            with self._transaction() as connection:
                connection.executemany(FORGET, self._undeleted.items())
                for kept in moved:
                    deleted = connection.execute(FORGET, (kept.position, kept.row.duplicates)).rowcount
                    if not deleted:
                        late.append(kept.position)
        except (sqlite3.OperationalError, OSError):  # the transaction has logged it
            self._passed_over.update(kept.position for kept in moved)
            self._undeleted |= {kept.position: kept.row.duplicates for kept in moved}
            late = []
        else:
            self._passed_over.difference_update(self._undeleted)
            self._undeleted.clear()
        for kept in moved:
            if kept.position not in late:
                self._events -= 1
                self._bytes -= _size(kept.row.event)
        if not self._events:
            self._shrink()

    def _shrink(self) -> None:
        """Gives the space of deleted events back, so that no free page holds names and addresses."""
        with suppress(sqlite3.Error):
            if self._passed_over:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return
            self._connection.execute("PRAGMA incremental_vacuum").fetchall()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def spool_files(folder: Path) -> list[Path]:
    """The files of the spool in a folder, whether a process has them or not, the oldest first."""
    return sorted(folder.glob(NAMES))


class Content(NamedTuple):
    """What a file of the spool holds."""

    file: str
    in_use: bool
    """Whether a process has it, which moves the events by itself."""
    events: int
    bytes: int
    oldest: datetime | None


def content_of(path: Path) -> Content:
    """What a file of the spool holds now. Reads beside the process that has it.

    Raises:
        SpoolProblem: it cannot be read.
    """
    with _problems(path):
        lock = _lock(path)
        if lock is not None:
            os.close(lock)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            events, size = connection.execute(SIZE).fetchone()
            (oldest,) = connection.execute("SELECT min(received_at) FROM spooled").fetchone()
    return Content(
        file=str(path),
        in_use=lock is None,
        events=events,
        bytes=size,
        oldest=None if oldest is None else EPOCH + oldest * MICROSECOND,
    )


@contextmanager
def _problems(path: Path) -> Iterator[None]:
    """Turns every error that a file can cause into a `SpoolProblem`."""
    try:
        yield
    except (DatabaseProblem, CannotConnect) as error:
        problem = error if isinstance(error, SpoolProblem) else SpoolProblem(str(error))
        problem.path, problem.lasts = path, True
        raise problem from error.__cause__
    except (sqlite3.Error, OSError, ValueError, TypeError) as error:
        problem = SpoolProblem(f"{path} could not be used: {type(error).__name__}: {error}")
        problem.path, problem.lasts = path, isinstance(error, sqlite3.Error) and is_damage(error)
        raise problem from error


def _remove(path: Path) -> None:
    """Removes a file of the spool. If that fails, it stays, and its events will meet themselves."""
    with suppress(OSError):
        for ending in ("", "-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)
        _lock_path(path).unlink(missing_ok=True)


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file of the spool, or None if another process has it.

    The lock is a file of its own: closing a descriptor of the database itself would drop the locks that SQLite holds.
    """
    lock_path = _lock_path(path)
    descriptor = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, OWNER_ONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), lock_path.stat()):  # nobody removed it meanwhile
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _sync(folder: Path) -> None:
    """Makes a new file's name durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(event: NewEvent) -> int:
    return len(event.body) + len(event.headers) + ROW_BYTES


def _stored(value: object) -> Any:
    if isinstance(value, UUID):
        return value.bytes
    return _number(value) if isinstance(value, datetime) else value


def _number(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def _kept(values: dict[str, Any]) -> Kept:
    """The event of a row. A column that an older release did not have gets its default."""
    position = values.pop("position")
    del values["key"]
    values["id"] = UUID(bytes=values["id"])
    for name in TIMES:
        values[name] = values[name] if values[name] is None else EPOCH + values[name] * MICROSECOND
    duplicates, last = values.pop("duplicates"), values.pop("last_duplicate_at")
    return Kept(position, Row(NewEvent(**values), duplicates, last))
