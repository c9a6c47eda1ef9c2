"""Connections to PostgreSQL whose commits may wait for a synchronous standby.

PostgreSQL commits a transaction on its own disk, then waits for the standby before anyone sees the transaction. A
cancellation ends that wait, and everyone sees what a fail-over may lose. So a commit that does not return in time is
left, and never cancelled: its connection is dropped, and the server waits on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from app.database.problems import CommitsWait, NotReplicated

COMMIT = "COMMIT;"
"""As asyncpg's transactions send it."""

LONG = timedelta(seconds=5)
"""A commit that has waited for so long waits for a standby that is not there."""

COMMITS_WAIT = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE wait_event = 'SyncRep' AND usename = current_user AND query_start < clock_timestamp() - {}::interval
)
"""
WOULD_WAIT = f"""
SELECT CASE WHEN current_setting('synchronous_commit') <> 'off' AND ($2 OR pg_current_xact_id_if_assigned() IS NOT NULL)
    THEN ({COMMITS_WAIT.format("$1")}) END
"""
"""Null if the transaction's own commit waits for nothing, as it has only read; `$2` is whether none has begun."""


@dataclass(slots=True)
class Left:
    """What is known of commits that connections to one database have left.

    Attributes:
        after: How long a commit must have waited to count.
        some: Whether one was left that may still wait, at first by an earlier process.
    """

    after: timedelta = LONG
    some: bool = True


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """Leaves commits that take too long, and tells of those that returned too early."""

    left: Left
    _commits = False
    _unreplicated = False

    def begin_watching(self, left: Left) -> None:
        """Call it once, before the first transaction."""
        self.left = left
        self.add_log_listener(_note)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's.

        Raises:
            CommitsWait: for a COMMIT; the transaction was rolled back.
            NotReplicated: for a COMMIT; the transaction is committed, but a fail-over may undo it.
        """
        if query != COMMIT:
            return str(await super().execute(query, *args, timeout=timeout))
        try:
            await self.check_standby()
        except (CommitsWait, asyncpg.PostgresError):
            await super().execute("ROLLBACK;")
            raise
        with self.committing():
            return str(await super().execute(query, timeout=timeout))

    async def check_standby(self) -> None:
        """Returns unless a commit that was left still waits: each further one would cost one more connection.

        A transaction that has begun may commit all the same if its commit would wait for nothing.

        Raises:
            CommitsWait: it does.
        """
        if not self.left.some:
            return
        waits = await self.fetchval(WOULD_WAIT, self.left.after, not self.is_in_transaction())
        if waits:
            raise CommitsWait
        if waits is not None:
            self.left.some = False

    @contextmanager
    def committing(self) -> Iterator[None]:
        """The statement that runs here commits. If it takes too long or is cancelled, the connection is dropped.

        Raises:
            NotReplicated: it returned before the standby had it.
        """
        self._commits, self._unreplicated = True, False
        try:
            yield
        finally:
            self._commits = False
        if self._unreplicated:
            raise NotReplicated

    def _cancel_current_command(self, *waiters: Any) -> None:
        """As asyncpg's, which calls it after a timeout, a cancellation, and a `close` in the middle of a statement."""
        if not self._commits:
            super()._cancel_current_command(*waiters)
            return
        self.left.some = True
        self._loop.call_soon(self.terminate)  # later, since asyncpg has not told the statement's caller yet


def _note(connection: Connection, message: asyncpg.PostgresLogMessage) -> None:
    """Notes the server's warning that a COMMIT returned before the synchronous standby confirmed it."""
    connection._unreplicated |= message.server_source_function == "SyncRepWaitForLSN"  # noqa: SLF001 - this module's own
