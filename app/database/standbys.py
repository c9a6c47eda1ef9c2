"""What PostgreSQL's synchronous standbys promise for an acknowledged event."""

import re
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.commits import COMMITS_WAIT, LONG
from app.database.problems import CommitsWait

COUNT = re.compile(r"\s*(?:(?:first|any)\s+)?(\d+)\s*\(", re.IGNORECASE)
"""How `synchronous_standby_names` begins if it gives a number. A list alone means one of them:
https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES"""

WAIT_LONG = text(COMMITS_WAIT.format(f"'{LONG.total_seconds():g} seconds'"))
LOOK = text("""
SELECT current_setting('synchronous_standby_names') AS names, count(pid) AS connected, count(sync_state) AS seen,
    count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS synchronous, pg_is_in_recovery() AS in_recovery
FROM pg_stat_replication
""")


@dataclass(frozen=True, slots=True)
class Standbys:
    """The standbys that a commit waits for."""

    wanted: int
    """How many must have a commit before it returns."""
    synchronous: int | None
    """How many there are; None if this role may not see it, as it is not in `pg_monitor`."""
    no_primary: bool = False
    """Whether only a standby answers. It does not know for whom the primary waits, or waited."""

    @property
    def are_missing(self) -> bool:
        """Whether commits wait, because there are too few."""
        return not self.no_primary and self.synchronous is not None and self.synchronous < self.wanted


async def read_standbys(connection: AsyncConnection) -> Standbys | None:
    """The standbys; None for SQLite."""
    if connection.dialect.name == "sqlite":
        return None
    names, connected, seen, synchronous, in_recovery = (await connection.execute(LOOK)).one()
    return Standbys(wanted(names), synchronous if seen or not connected else None, no_primary=in_recovery)


async def refuse_while_commits_wait(connection: AsyncConnection) -> None:
    """Returns unless commits wait for a standby: the next one would too, its locks held and its outcome unknown.

    Call it first in the transaction: another one that waits may hold the locks that are needed later.

    Raises:
        CommitsWait: they do.
    """
    if connection.dialect.name == "postgresql" and await connection.scalar(WAIT_LONG):
        raise CommitsWait


def wanted(names: str) -> int:
    """How many standbys a value of `synchronous_standby_names` asks for."""
    if given := COUNT.match(names):
        return int(given[1])
    return 1 if names.strip() else 0


def promised(standbys: Standbys) -> str:
    """What they promise, in words."""
    machines = "machine" if standbys.wanted == 1 else f"{standbys.wanted} machines"
    if standbys.no_primary:
        return "unknown: no primary answers, and this is read from a standby"
    if not standbys.wanted:
        return "none is synchronous: with PostgreSQL's machine, acknowledged events can be lost"
    if standbys.synchronous is None:
        return f"each commit waits for {standbys.wanted}; whether they are there, only a role in pg_monitor sees"
    if standbys.are_missing:
        return f"COMMITS WAIT for {standbys.wanted} synchronous, but there are {standbys.synchronous}"
    return f"{standbys.synchronous} synchronous: an acknowledged event survives the loss of any {machines}"
