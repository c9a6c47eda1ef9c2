"""One file of the spool: a SQLite database with the events that one receiver acknowledged while PostgreSQL was away.

Only one process uses a file: the one that holds its lock. A file whose lock is free belongs to nobody.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import UUID

from app.events.ids import new_id
from app.events.rows import COLUMNS, Row
from app.events.spool_contents import NAMES, not_of_spool
from app.events.spool_database import SpoolDatabase
from app.events.spool_lock import is_empty, is_of_spool, lock, lock_new, remove, sync
from app.events.spool_problems import SpoolProblem, problems
from app.events.spool_reading import Reader
from app.events.spool_rows import CREATE, ERASE, FORGET, OWN_COLUMNS, REFUSE, Kept, create, size_of, store
from app.events.sqlite import BAD_ROW
from app.events.store import BadRow

Given = ParamSpec("Given")
Result = TypeVar("Result")


class SpoolFile:
    """A file of the spool, open and locked by this process. `make` and `adopt` open one.

    Attributes:
        path: The file.
        newest: The greatest id in the file when it was opened.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.newest: UUID | None = None
        self._lock = lock
        self._events = 0
        self._bytes = 0
        self._passed_over: set[int] = set()  # positions of events that are not moved any more
        self._undeleted: dict[int, int] = {}  # of these, what was moved: with how many duplicates
        self._database = SpoolDatabase(path)
        self._reader = Reader(path, self._database.connection)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def make(cls, folder: Path) -> "SpoolFile":
        """A new file.

        Raises:
            SpoolProblem: it cannot be made.
        """
        path = folder / f"spool-{new_id()}.db"
        with problems(path):
            held = lock_new(path)
            if held is None:
                raise SpoolProblem(f"Another process took {path.name}.")
            try:
                create(path)
                made = cls(path, held)
                sync(folder)
            except BaseException:
                remove(path)  # on a full disk it is tried again and again
                os.close(held)
                raise
        return made

    @classmethod
    def adopt(cls, path: Path) -> "SpoolFile | None":
        """A file that another process left; None if a process still has it, or it is gone.

        Raises:
            SpoolProblem: it cannot be read, or is another file, which stays as it is.
        """
        with problems(path):
            held = lock(path)
            if held is None:
                return None
            try:
                if is_of_spool(held):
                    return cls(path, held)
            except BaseException:
                os.close(held)
                raise
            if empty := is_empty(held) and path.match(NAMES):
                remove(path)
            os.close(held)
            if empty:
                return None
            raise SpoolProblem(not_of_spool(path))

    @property
    def problem(self) -> str | None:
        """Why the last write failed; None if it succeeded."""
        return self._database.problem

    @property
    def events(self) -> int:
        """How many events are to be moved."""
        return self._events

    @property
    def size(self) -> int:
        """About how many bytes the events to move take."""
        return self._bytes

    @property
    def unreadable(self) -> int:
        """How many events were found on damaged pages."""
        return self._reader.unreadable

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

        They can be read from a removed file too, while this process has it open. Events on damaged pages are left out.
        """
        return await self._run(self._oldest)

    async def forget(self, moved: Sequence[Kept]) -> None:
        """Deletes events that are in the database now. If a copy of an event came meanwhile, the event stays.

        Deleting takes space in SQLite's log. If the disk is full, the events are deleted later. After a kill they are
        moved again, which changes nothing.
        """
        await self._run(self._forget, moved)

    async def pass_over(self, kept: Kept, *, why: str) -> None:
        """Leaves an event in the file until a restart: the database refuses it."""
        await self._run(self._pass_over, kept, why)

    async def erase(self, ids: Sequence[UUID]) -> None:
        """Deletes events that are never to be stored, so that the file holds no byte of them. Close the file then."""
        await self._run(self._erase, ids)

    async def close(self) -> None:
        """Closes the file, and removes it if all its events were moved. Otherwise another process may adopt it."""
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._end)

    async def _run(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        def run() -> Result:
            with problems(self.path):
                return work(*given, **named)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _end(self) -> None:
        empty = False
        if self._undeleted:
            self._forget(())
        with suppress(sqlite3.Error):
            (rows,) = self._database.connection.execute("SELECT count(*) FROM spooled").fetchone()
            empty = rows == len(self._undeleted)
        self._database.close()
        if empty:
            remove(self.path)
        os.close(self._lock)

    def _prepare(self) -> None:
        connection = self._database.connection
        connection.execute(CREATE)  # again: its maker may have been killed
        unknown = {row[1] for row in connection.execute("PRAGMA table_info(spooled)")} - {*OWN_COLUMNS, *COLUMNS}
        if unknown:
            raise SpoolProblem(f"{self.path.name} was made by a newer release. Start that release to move its events.")
        self._events, self._bytes, self.newest = self._reader.size()

    def _trust(self) -> None:
        """Raises if a page was found damaged: an event that an intact page takes now may be lost later."""
        damage = self._database.damage or self._reader.damage
        if damage is not None:
            self._database.failed(damage)
            problem = SpoolProblem(f"{self.path.name} is damaged: {damage}")
            raise problem from damage

    def _write(self, rows: Sequence[Row]) -> dict[bytes, UUID]:
        self._trust()
        try:
            with self._database.transaction() as connection:
                ids, new = store(connection, rows)
        except BAD_ROW as error:
            raise BadRow(type(error).__name__) from None  # its message may quote the row
        self._events += len(new)
        self._bytes += sum(map(size_of, new))
        return ids

    def _probe(self, _: bool) -> None:  # noqa: FBT001 - an executor passes by position
        self._trust()
        with self._database.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {1 - version}")

    def _oldest(self) -> list[Kept]:
        found = self._reader.oldest(without=self._passed_over)
        if not found:  # a commit that seemed to fail may have counted less than it kept
            self._events = self._bytes = 0
        return found

    def _pass_over(self, kept: Kept, why: str) -> None:
        self._passed_over.add(kept.position)
        self._events -= 1
        self._bytes -= size_of(kept.row.event)
        with suppress(sqlite3.Error, OSError), self._database.transaction() as connection:
            connection.execute(REFUSE, (why, kept.position))

    def _erase(self, ids: Sequence[UUID]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(ERASE, [(event_id.bytes,) for event_id in ids])
        self._database.connection.execute("VACUUM")
        self._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _forget(self, moved: Sequence[Kept]) -> None:
        late = []  # copies came meanwhile
        again = {} if self._reader.damage else dict(self._undeleted)  # a damaged page takes no deletion later either
        try:
            with self._database.transaction() as connection:
                connection.executemany(FORGET, again.items())
                for kept in moved:
                    deleted = connection.execute(FORGET, (kept.position, kept.row.duplicates)).rowcount
                    if not deleted:
                        late.append(kept.position)
        except (sqlite3.DatabaseError, OSError):  # the transaction has logged it
            self._passed_over.update(kept.position for kept in moved)
            self._undeleted |= {kept.position: kept.row.duplicates for kept in moved}
            late = []
        else:
            self._passed_over.difference_update(again)
            self._undeleted = {} if again else self._undeleted
        for kept in moved:
            if kept.position not in late:
                self._events -= 1
                self._bytes -= size_of(kept.row.event)
        if not self._events:
            self._database.shrink(all_deleted=not self._passed_over)
