"""The SQLite database of a spool file, with what its transactions say about the disk."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.database.engines import open_sqlite_file
from app.database.sqlite import is_damage
from app.events.sqlite import BAD_ROW, CHECKPOINT_BYTES

logger = logging.getLogger(__name__)


class SpoolDatabase:
    """The database, open until `close`; for one thread at a time.

    Attributes:
        connection: Begins and commits nothing by itself.
        problem: Why the last transaction failed; None if it succeeded.
        damage: The error of a transaction that met a damaged page.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file = open_sqlite_file(path)
        self.problem: str | None = None
        self.damage: Exception | None = None
        self.connection = self._file.connect()
        self.connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")

    def close(self) -> None:
        """Closes the connection."""
        with suppress(sqlite3.Error):
            self._file.close(self.connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits at the end, if the files are still those that were opened."""
        connection = self.connection
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
            self.failed(error)
            raise
        self.problem = None

    def failed(self, error: Exception) -> None:
        """Notes why events cannot be written."""
        if is_damage(error):
            self.damage = error
        if self.problem is None:
            fields = {"file": self._name, "error": f"{type(error).__name__}: {error}"}
            logger.warning("spool_failed", extra={"fields": fields})
        self.problem = f"The spool takes no events: {error}"

    def shrink(self, *, all_deleted: bool) -> None:
        """Gives the space of deleted events back, so that no free page holds names and addresses."""
        with suppress(sqlite3.Error):
            if all_deleted:
                self.connection.execute("PRAGMA incremental_vacuum").fetchall()
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
