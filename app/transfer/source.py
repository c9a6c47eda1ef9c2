"""The SQLite file that is moved, read while others write it.

Triggers note the key of each row that changes. So what was copied before can be brought up to date, however long ago it
was copied, and whatever has changed, been added or been deleted since.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import time
from typing import Any, NamedTuple

from app.database import leaving
from app.database.engines import open_sqlite
from app.database.leaving import Phase
from app.transfer.columns import Moving, Values

FORGET_AT_ONCE = 5000

Key = tuple[Any, ...]
"""Of a row, as SQLite holds it."""


class Receiver(NamedTuple):
    """A receiver that uses the file, whether it said that it can use PostgreSQL, and why it cannot."""

    name: str
    said: bool
    problem: str | None


class Source:
    """The file; for one thread. Its statements do not wait for others, except those that write.

    Args:
        url: Of the database.
        tables: Those that move.
    """

    def __init__(self, url: str, tables: Sequence[Moving]) -> None:
        self._file = open_sqlite(url)
        self._connection = self._file.connect()
        self._tables = tables
        self._schema = self._schema_version()

    def close(self) -> None:
        """Closes the file."""
        self._file.close(self._connection)

    def token(self) -> str | None:
        """The token of the move that has begun; None if none has."""
        if not self._has(leaving.TABLE):
            return None
        row = self._connection.execute(f"SELECT token FROM {leaving.TABLE}").fetchone()  # noqa: S608
        return None if row is None else str(row[0])

    def is_moved(self) -> bool:
        """Whether all has left the file."""
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        return bool(application == leaving.MOVED_FILE)

    def begin(self, token: str, *, target: str, url: str) -> None:
        """Notes from now on what changes."""
        with self.writing():
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS {leaving.TABLE} "
                "(token TEXT NOT NULL, target TEXT NOT NULL, url TEXT, phase TEXT NOT NULL, beat_at REAL NOT NULL)"
            )
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS {leaving.READY} (name TEXT PRIMARY KEY, problem TEXT)"
            )
            self._connection.execute(
                f"DELETE FROM {leaving.READY} WHERE problem IS NOT NULL "  # noqa: S608
                f"OR NOT EXISTS (SELECT 1 FROM {leaving.TABLE} WHERE url = ?)",
                (url,),
            )
            self._connection.execute(f"DELETE FROM {leaving.TABLE}")  # noqa: S608
            self._connection.execute(
                f"INSERT INTO {leaving.TABLE} VALUES (?, ?, ?, ?, ?)",  # noqa: S608
                (token, target, url, Phase.COPYING.value, time()),
            )
            for table in self._tables:
                for statement in _noting(table):
                    self._connection.execute(statement)
        self._schema = self._schema_version()

    def is_rewritten(self) -> bool:
        """Whether the schema has changed since `begin`, or VACUUM may have numbered the rows anew: both count it up."""
        return self._schema_version() != self._schema

    def give_up(self) -> None:
        """Takes away all that `begin` made."""
        with self.writing():
            for table in self._tables:
                for statement in _no_noting(table):
                    self._connection.execute(statement)
            for name in (leaving.TABLE, leaving.READY):
                self._connection.execute(f"DROP TABLE IF EXISTS {name}")

    def rest(self, *, resting: bool) -> None:
        """Tells workers to end and receivers to prepare, or all to go on as before; call it every second meanwhile."""
        phase = Phase.RESTING if resting else Phase.COPYING
        with self.writing(durable=False):
            self._connection.execute(
                f"UPDATE {leaving.TABLE} SET phase = ?, beat_at = ?",  # noqa: S608
                (phase.value, time()),
            )

    def receivers(self, *, since: str) -> list[Receiver]:
        """The receivers that have given a sign of life since, as SQLite stores the time, and have not ended."""
        found = self._connection.execute(
            f"SELECT name, ready.name IS NOT NULL, problem FROM processes LEFT JOIN {leaving.READY} AS ready "  # noqa: S608
            "USING (name) WHERE kind = 'receiver' AND ended_at IS NULL AND beat_at > ? ORDER BY name",
            (since,),
        )
        return [Receiver(name, bool(said), problem) for name, said, problem in found]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One moment of the file: what others commit meanwhile is not seen."""
        self._file.check()
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[None]:
        """The only transaction that writes, which commits at the end.

        If it need not be durable, others do not wait for the disk meanwhile.
        """
        self._file.check()
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._file.check()
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def count(self, table: Moving) -> int:
        """How many rows a table has."""
        (rows,) = self._connection.execute(f'SELECT count(*) FROM "{table.name}"').fetchone()  # noqa: S608
        return int(rows)

    def rows_after(self, table: Moving, key: Key | None, *, most: int) -> Iterator[Values]:
        """The next rows by their keys, as SQLite holds them."""
        names = ", ".join(table.key)
        where = "" if key is None else f"WHERE ({names}) > ({', '.join('?' * len(table.key))})"
        return self._connection.execute(
            f'SELECT {", ".join(table.selected)} FROM "{table.name}" {where} ORDER BY {names} LIMIT {most}',  # noqa: S608
            key or (),
        )

    def last_change(self, table: Moving) -> int:
        """The number of the last change that is noted; 0 if none is."""
        (number,) = self._connection.execute(f"SELECT coalesce(max(n), 0) FROM {_log(table)}").fetchone()  # noqa: S608
        return int(number)

    def noted(self, table: Moving) -> int:
        """About how many changes are noted, no less."""
        log = _log(table)
        query = f"SELECT coalesce((SELECT max(n) FROM {log}) - (SELECT min(n) FROM {log}) + 1, 0)"  # noqa: S608
        (number,) = self._connection.execute(query).fetchone()
        return int(number)

    def changed_keys(self, table: Moving, until: int) -> Iterator[Key]:
        """The keys that changed, up to the number of a change."""
        names = ", ".join(table.key)
        return self._connection.execute(f"SELECT DISTINCT {names} FROM {_log(table)} WHERE n <= ?", (until,))  # noqa: S608

    def changed_rows(self, table: Moving, until: int, *, up_to: Key | None) -> Iterator[Values]:
        """The rows of these keys that are there; with `up_to`, only those with no greater key."""
        names = ", ".join(table.key)
        same = " AND ".join(f'c."{name}" = t."{name}"' for name in table.key)
        selected = ", ".join(f"t.{each}" for each in table.selected)
        key = ", ".join(f't."{name}"' for name in table.key)
        where = "" if up_to is None else f"WHERE ({key}) <= ({', '.join('?' * len(table.key))})"
        # CROSS JOIN keeps the order of the loops: few rows change, and many are there.
        return self._connection.execute(
            f"SELECT {selected} FROM (SELECT DISTINCT {names} FROM {_log(table)} WHERE n <= ?) AS c "  # noqa: S608
            f'CROSS JOIN "{table.name}" AS t ON {same} {where}',
            (until, *(up_to or ())),
        )

    def forget_changes(self, table: Moving, until: int) -> None:
        """Forgets changes up to this number, a few at a time: others write meanwhile.

        Nothing is deleted after the last one of them: if the table is empty then, SQLite numbers new ones from 1.
        """
        query = f"SELECT coalesce(min(n) - 1, ?) FROM {_log(table)}"  # noqa: S608
        (forgotten,) = self._connection.execute(query, (until,)).fetchone()
        while forgotten < until:
            forgotten = min(forgotten + FORGET_AT_ONCE, until)
            with self.writing(durable=False):  # what is forgotten too late is only copied again
                self._connection.execute(f"DELETE FROM {_log(table)} WHERE n <= ?", (forgotten,))  # noqa: S608

    def mark_moved(self) -> None:
        """Refuses every change from now on; call it in `writing`."""
        for table in self._tables:
            for statement in _no_noting(table):
                self._connection.execute(statement)
            for change in ("INSERT", "UPDATE", "DELETE"):
                self._connection.execute(
                    f'CREATE TRIGGER priohook_moved_{table.name}_{change} BEFORE {change} ON "{table.name}" '
                    f"BEGIN SELECT RAISE(ABORT, '{leaving.REFUSED}'); END"
                )
        self._connection.execute(f"UPDATE {leaving.TABLE} SET phase = ?", (Phase.MOVED.value,))  # noqa: S608
        self._connection.execute(f"PRAGMA application_id = {leaving.MOVED_FILE}")

    def forget_url(self) -> None:
        """Takes the password away, which nobody needs any more."""
        with self.writing():
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.execute(f"UPDATE {leaving.TABLE} SET url = NULL")  # noqa: S608

    def _schema_version(self) -> int:
        (version,) = self._connection.execute("PRAGMA schema_version").fetchone()
        return int(version)

    def _has(self, name: str) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._connection.execute(query, (name,)).fetchone() is not None


def _log(table: Moving) -> str:
    return f"priohook_move_of_{table.name}"


def _noting(table: Moving) -> Iterator[str]:
    """The statements that make the log of a table's changes.

    Each change is a row of its own, so that no trigger can fail.
    """
    names = ", ".join(f'"{name}"' for name in table.key)
    new, old = (", ".join(f'{row}."{name}"' for name in table.key) for row in ("NEW", "OLD"))
    other_key = " OR ".join(f'OLD."{name}" IS NOT NEW."{name}"' for name in table.key)
    log = _log(table)
    insert = f"INSERT INTO {log} ({names})"
    yield f"CREATE TABLE IF NOT EXISTS {log} (n INTEGER PRIMARY KEY, {names})"
    bodies = {
        "INSERT": f"{insert} VALUES ({new});",
        "UPDATE": f"{insert} VALUES ({new}); {insert} SELECT {old} WHERE {other_key};",
        "DELETE": f"{insert} VALUES ({old});",
    }
    for change, body in bodies.items():
        yield f'CREATE TRIGGER IF NOT EXISTS {log}_{change} AFTER {change} ON "{table.name}" BEGIN {body} END'


def _no_noting(table: Moving) -> Iterator[str]:
    for change in ("INSERT", "UPDATE", "DELETE"):
        yield f"DROP TRIGGER IF EXISTS {_log(table)}_{change}"
    yield f"DROP TABLE IF EXISTS {_log(table)}"
