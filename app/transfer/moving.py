"""Copies, verifies and switches.

Every step takes one table at one moment of the SQLite file: in one transaction of PostgreSQL, first what has changed
since is brought up to date, then more rows are copied or compared. So what was copied is always as it was at one
moment, and neither a unique index nor a comparison meets rows of two. A step that was interrupted has done nothing.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import asyncpg

from app.database.away import is_away
from app.transfer import target
from app.transfer.columns import Moving, Values
from app.transfer.source import Key, Source
from app.transfer.target import TransferProblem, batches

ROWS_AT_ONCE = 10_000
SPARE = 1.0
"""Seconds that PostgreSQL may take to answer, beyond what a switch should take."""

NO_VALUE = (ValueError, OverflowError, TypeError, AttributeError)
"""What a value raises that is not of its column's type. SQLite lets another program write such."""

Progress = Callable[[int], None]
"""Gets the number of rows of each step."""


class Differs(TransferProblem):
    """PostgreSQL does not hold what SQLite does."""

    def __init__(self, table: Moving, what: str) -> None:
        super().__init__(
            f"The copy is wrong: {table.name} {what}. Something else has written into PostgreSQL, or a disk fails. "
            "Nothing was switched: the SQLite file is whole, and counts. Empty the PostgreSQL database, and begin anew."
        )


class TooSlow(Exception):
    """The last changes took longer than events may wait; nothing was switched."""


class Transfer:
    """A move that has begun, at both ends.

    Args:
        source: The SQLite file.
        connection: To PostgreSQL, used by nothing else.
        tables: Those that move.
    """

    def __init__(self, source: Source, connection: asyncpg.Connection, tables: Sequence[Moving]) -> None:
        self._source = source
        self._connection = connection
        self._tables = tables

    async def copy(self, progress: Progress) -> None:
        """Copies what has not been copied yet; may be interrupted at any time, and called again."""
        for table in self._tables:
            copied = False
            while not copied:
                copied = await self._copy_more(table, progress)
                await self.catch_up(more_than=ROWS_AT_ONCE)

    async def verify(self, progress: Progress) -> None:
        """Compares every row, by each of its values or their SHA-256, and the number of rows.

        Raises:
            Differs: a row is missing or different, or there is one more.
        """
        for table in self._tables:
            key: Key | None = None
            ended = False
            while not ended:
                key, ended = await self._verify_more(table, key, progress)
                await self.catch_up(more_than=ROWS_AT_ONCE)

    async def analyze(self) -> None:
        """Lets PostgreSQL know what the tables hold, as it plans by that."""
        for table in self._tables:
            await self._connection.execute(f'ANALYZE "{table.name}"')

    async def catch_up(self, *, more_than: int = 0) -> int:
        """Brings every table up to date, as far as it is copied, of which so many changes are noted; their number.

        What is noted does not grow with the time that the other tables take.
        """
        changes = 0
        for table in self._tables:
            if self._source.noted(table) <= more_than:
                continue
            key, copied = await target.place_of(self._connection, table)
            with self._source.reading():
                last = self._source.last_change(table)
                if copied or key is not None:
                    async with self._connection.transaction():
                        changes += await self._apply(table, last, up_to=None if copied else key)
            self._source.forget_changes(table, last)
        return changes

    async def switch(self, *, within: float) -> None:
        """Copies the last changes while nobody can write, and marks the file as moved.

        PostgreSQL commits first. If this process ends before SQLite commits too, the file still counts, and the move
        goes on.

        Raises:
            TooSlow: it took longer than `within` seconds, or another process held the file's lock.
            TransferProblem: PostgreSQL did not answer.
        """
        latest = within + SPARE
        try:
            with self._source.writing(), self._given_up_after(latest):
                self._require_same_rows()
                async with self._connection.transaction(), asyncio.timeout(within):  # not its COMMIT
                    for table in self._tables:
                        if last := self._source.last_change(table):
                            await self._apply(table, last, up_to=None)
                    await target.set_triggers(self._connection, self._tables, on=True)
                    await target.number_on(self._connection)
                self._source.mark_moved()
        except TimeoutError as error:
            raise TooSlow from error
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise TooSlow from error

    @contextmanager
    def _given_up_after(self, seconds: float) -> Iterator[None]:
        """Ends the connection if it takes longer: nobody can write meanwhile.

        A COMMIT may wait for ever for a standby, and a ROLLBACK for a host that is gone.
        """
        ended: list[float] = []

        def give_up() -> None:
            ended.append(seconds)
            self._connection.terminate()

        gives_up = asyncio.get_running_loop().call_later(seconds, give_up)
        try:
            yield
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not ended:
                raise
            raise TransferProblem(
                f"PostgreSQL did not answer within {seconds:g} seconds: does a commit wait for a standby there? "
                "Nothing was switched. Run the command again when it answers."
            ) from error
        finally:
            gives_up.cancel()

    def _require_same_rows(self) -> None:
        """Returns if the file's rows still have the numbers and columns that they had when the move began or went on.

        Raises:
            TransferProblem: they may not have.
        """
        if self._source.is_rewritten():
            raise TransferProblem(
                "The SQLite file was vacuumed or migrated meanwhile. Nothing was switched: the file is whole, and "
                "counts. Run the command again: it compares all rows anew."
            )

    async def _copy_more(self, table: Moving, progress: Progress) -> bool:
        """Copies the next rows; whether all are copied."""
        key, copied = await target.place_of(self._connection, table)
        if copied:
            return True
        with self._source.reading():
            self._require_same_rows()
            last = self._source.last_change(table)
            async with self._connection.transaction():
                if key is not None:
                    await self._apply(table, last, up_to=key)
                rows = _Counted(table, self._source.rows_after(table, key, most=ROWS_AT_ONCE))
                await self._insert(table, rows)
                copied = rows.count < ROWS_AT_ONCE
                await target.set_place(self._connection, table, rows.last or key, copied=copied)
        self._source.forget_changes(table, last)
        progress(rows.count)
        return copied

    async def _verify_more(self, table: Moving, key: Key | None, progress: Progress) -> tuple[Key | None, bool]:
        """Compares the next rows; the last of their keys, and whether all were compared."""
        with self._source.reading():
            self._require_same_rows()
            last = self._source.last_change(table)
            async with self._connection.transaction():
                await self._apply(table, last, up_to=None)
                rows = _Counted(table, self._source.rows_after(table, key, most=ROWS_AT_ONCE))
                await self._compare(table, rows)
                ended = rows.count < ROWS_AT_ONCE
                if ended:
                    await self._compare_counts(table)
        self._source.forget_changes(table, last)
        progress(rows.count)
        return rows.last, ended

    async def _apply(self, table: Moving, last: int, *, up_to: Key | None) -> int:
        """Brings the rows up to date that have changed, or those up to a key; the number of the others is not known."""
        if not last:
            return 0
        counted = _Counted(None, self._source.changed_keys(table, last))
        readers = [table.readers[table.columns.index(name)] for name in table.key]
        keys = (tuple(read(part) if read else part for read, part in zip(readers, key, strict=True)) for key in counted)
        await target.delete(self._connection, table, keys)
        rows = self._source.changed_rows(table, last, up_to=up_to)
        await self._insert(table, map(table.read, rows))
        if up_to is None:
            await self._compare(table, map(table.read, self._source.changed_rows(table, last, up_to=None)))
        return counted.count

    async def _insert(self, table: Moving, rows: Iterator[Values]) -> None:
        try:
            await target.insert(self._connection, table, rows)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.OperationalError, *NO_VALUE) as error:
            if not isinstance(error, NO_VALUE) and is_away(error):  # the driver's own errors of a value are of both
                raise
            if hasattr(error, "sqlite_errorcode"):  # only text that is not UTF-8 has none
                raise
            # No cause: its message may quote the row.
            raise TransferProblem(
                f"PostgreSQL does not take a row of {table.name} ({type(error).__name__}). Nothing was switched: the "
                "SQLite file is whole, and counts."
            ) from None

    async def _compare(self, table: Moving, rows: Iterator[Values]) -> None:
        keyed = ((table.key_of(row), table.digest(row)) for row in rows)
        for some in batches(keyed, target.AT_ONCE):
            wanted = dict(some)
            found = await target.find(self._connection, table, list(wanted))
            for key, row in wanted.items():
                if key not in found:
                    raise Differs(table, f"lacks the row {_shown(key)}")
                if found[key] != row:
                    pairs = zip(table.columns, found[key], row, strict=True)
                    names = ", ".join(name for name, theirs, ours in pairs if theirs != ours)
                    raise Differs(table, f"has another {names} in the row {_shown(key)}")

    async def _compare_counts(self, table: Moving) -> None:
        here, there = self._source.count(table), await target.count(self._connection, table)
        if here != there:
            raise Differs(table, f"has {there:,} rows instead of {here:,}")


class _Counted(Iterator[Values]):
    """Rows as they pass, as the driver of PostgreSQL takes them; without a table, as they are.

    Attributes:
        count: How many have passed.
        last: The key of the last one, as SQLite holds it.
    """

    def __init__(self, table: Moving | None, rows: Iterator[Values]) -> None:
        self._table = table
        self._rows = rows
        self.count = 0
        self.last: Key | None = None

    def __next__(self) -> Values:
        row = next(self._rows)
        self.count += 1
        if self._table is None:
            return row
        self.last = self._table.key_of(row)
        return self._table.read(row)


def _shown(key: Values) -> str:
    return ", ".join(value.hex() if isinstance(value, bytes) else str(value) for value in key)
