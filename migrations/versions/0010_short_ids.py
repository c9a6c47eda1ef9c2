"""SQLite keeps an id as 16 bytes, not as 32 characters, and the events that wait for dispatch in one tree, not two.

All rows are written again in one transaction. If the process is killed at any point, the old tables are there. Other
processes cannot write meanwhile. The new pages go into the log and then into the file, and so do zeros over the old
ones, in which no guest's name may stay: three times the size of the database must be free. The old pages stay in the
file and take new events.

Does not run beside the previous release, which cannot read these ids. The new tables refuse what it writes, so that it
answers 503 and acknowledges nothing that would be lost. On PostgreSQL nothing changes.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from alembic import op
from alembic.util import CommandError
from sqlalchemy.exc import OperationalError

revision = "0010"
down_revision = "0009"

IDS = {
    "events": ("id",),
    "undispatched": ("event_id",),
    "passed_over": ("event_id",),
    "deliveries": ("id", "event_id", "replay_id"),
    "attempts": ("delivery_id",),
    "replays": ("id", "last_event_id"),
    "replay_events": ("replay_id", "event_id"),
}
LONG, SHORT = "{0} CHAR(32)", "{0} BLOB CHECK (length({0}) = 16)"
ONE_TREE = " WITHOUT ROWID"

NO_OLD_KEYS = 1

ROWS_AT_ONCE = 20_000
TELL_EVERY = 5.0  # seconds
SMALL = 64 * 1024 * 1024  # bytes; a smaller database takes about a second


def upgrade() -> None:
    _mark_old_keys()
    _rewrite(LONG, SHORT, lambda value: bytes.fromhex(value) if isinstance(value, str) else value)


def downgrade() -> None:
    _rewrite(SHORT, LONG, lambda value: value.hex() if isinstance(value, bytes) else value)


def _mark_old_keys() -> None:
    """Notes in the file whether there may be keys of the releases before 0009; from now on only new ones are stored."""
    bind = op.get_bind()
    if bind.dialect.name == "sqlite":
        has_events = bind.exec_driver_sql("SELECT EXISTS (SELECT 1 FROM events)").scalar()
        bind.exec_driver_sql(f"PRAGMA user_version = {0 if has_events else NO_OLD_KEYS}")


def _rewrite(was: str, becomes: str, convert: Callable[[Any], str | bytes | None]) -> None:
    bind = op.get_bind()
    if bind.dialect.name != "sqlite":
        return
    folder = _require_disk()
    # The system's own temporary folder may be a small one in memory; what SQLite sorts for an index may be large.
    with suppress(OperationalError):  # an earlier migration has used temporary storage; new files go there all the same
        bind.exec_driver_sql("PRAGMA temp_store_directory = '{}'".format(str(folder).replace("'", "''")))
    bind.exec_driver_sql("PRAGMA secure_delete = ON")
    driver: Any = bind.connection.dbapi_connection
    driver.create_function("converted", 1, convert, deterministic=True)
    made = bind.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
    for dropped in ("trigger", "view"):  # a table that an operator's own view reads could not be renamed
        for kind, name, _, _ in made:
            if kind == dropped:
                bind.exec_driver_sql(f'DROP {dropped} "{name}"')
    with _progress(sum(_last_row(table) for table in IDS)) as tell:
        for kind, table, _, sql in made:
            if kind == "table" and table in IDS:
                _copy(table, sql, was, becomes, tell)
        for wanted in ("index", "view", "trigger"):
            for kind, _, table, sql in made:
                if kind == wanted and (table in IDS or kind != "index"):
                    bind.exec_driver_sql(sql)
                    tell(0)


def _copy(table: str, sql: str, was: str, becomes: str, tell: Callable[[int], None]) -> None:
    """Makes the table again, with all its rows and in their order."""
    bind = op.get_bind()
    columns = sql[sql.index("(") :].removesuffix(ONE_TREE)
    for name in IDS[table]:
        columns = re.sub(rf"\b{re.escape(was.format(name))}", becomes.format(name), columns)
    if table == "undispatched" and becomes == SHORT:
        columns += ONE_TREE
    bind.exec_driver_sql(f"CREATE TABLE copied {columns}")
    names = [row[1] for row in bind.exec_driver_sql(f"PRAGMA table_info({table})")]
    values = [f"converted({name})" if name in IDS[table] else name for name in names]
    copy = f"INSERT INTO copied ({', '.join(names)}) SELECT {', '.join(values)} FROM {table}"  # noqa: S608
    if sql.endswith(ONE_TREE):
        bind.exec_driver_sql(copy)
    else:
        for first in range(0, _last_row(table), ROWS_AT_ONCE):
            bind.exec_driver_sql(f"{copy} WHERE rowid > {first} AND rowid <= {first + ROWS_AT_ONCE} ORDER BY rowid")
            tell(ROWS_AT_ONCE)
    bind.exec_driver_sql(f"DROP TABLE {table}")
    bind.exec_driver_sql(f"ALTER TABLE copied RENAME TO {table}")


def _last_row(table: str) -> int:
    """The highest number of a row; zero for a table in one tree, whose rows have none."""
    bind = op.get_bind()
    sql = bind.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).scalar_one()
    if sql.endswith(ONE_TREE):
        return 0
    return int(bind.exec_driver_sql(f"SELECT max(rowid) FROM {table}").scalar() or 0)  # noqa: S608


def _require_disk() -> Path:
    """Returns the folder of the database, if its disk has room."""
    bind = op.get_bind()
    path = next(Path(file) for _, name, file in bind.exec_driver_sql("PRAGMA database_list").all() if name == "main")
    sizes = ("page_count", "freelist_count", "page_size")
    pages, unused, page_bytes = (int(bind.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in sizes)
    needed = 3 * (pages - unused) * page_bytes
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        raise CommandError(
            f"rewriting {path.name} needs {needed / 1e6:,.0f} MB of free disk, and {free / 1e6:,.0f} MB are free"
        )
    if needed > 3 * SMALL:
        _say(f"priohook rewrites {path.name}, with up to {needed / 1e6:,.0f} MB more disk. New events wait meanwhile.")
    return path.parent


@contextmanager
def _progress(rows: int) -> Iterator[Callable[[int], None]]:
    """Gives what is called after so many rows; says from time to time how far it is."""
    done, told, began = 0, monotonic(), monotonic()

    def tell(more: int) -> None:
        nonlocal done, told
        done += more
        if monotonic() - told > TELL_EVERY:
            told = monotonic()
            what = f"{done:,} of {rows:,} rows are copied" if done < rows else "all rows are copied, indexes are made"
            _say(f"priohook rewrites the database: {what}.")

    yield tell
    if monotonic() - began > TELL_EVERY:
        _say("priohook has rewritten the database.")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
