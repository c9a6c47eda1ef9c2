"""Backups of a SQLite file while it is written.

SQLite copies the file in one step, which is one read transaction: the copy is the database at one moment, however many
events are committed meanwhile. In several steps, each commit would begin the copy anew. `VACUUM INTO` would be as
consistent, but it sorts every index again, and may number rows differently.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag
from threading import Thread

from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.engines import open_sqlite, sqlite_path
from app.retention.manifests import (
    BackupProblem,
    Manifest,
    check,
    contents_of,
    digest,
    manifest_path,
    opened_backup,
)
from app.retention.tables import Backup

OWNER_ONLY = 0o600
LOOK_EVERY = 0.2  # seconds


def back_up(url: str, file: Path, *, progress: Callable[[int, int], None]) -> Manifest:
    """Copies the database to a file and writes its manifest beside it; both are on disk when this returns.

    Args:
        url: The SQLite database's.
        file: Must not exist.
        progress: Is called now and then with the bytes that are copied and those to copy.

    Raises:
        BackupProblem: the file exists, or the copy is damaged.
    """
    for path in (file, manifest_path(file)):
        if path.exists():
            raise BackupProblem(f"{path} exists already. Choose another name: an older backup is never written over.")
    if not file.parent.is_dir():
        raise BackupProblem(f"There is no folder {file.parent}.")
    part = file.with_name(f"{file.name}.part")
    with suppress(FileNotFoundError):
        part.unlink()  # of a backup that was interrupted
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY))  # it holds guests' names
    try:
        made_at = datetime.now(UTC)
        _copy(url, part, progress)
        with closing(opened_backup(part)) as connection:
            check(connection, f"The copy of {sqlite_path(url)}")
            contents = contents_of(connection)
        manifest = Manifest(**contents.model_dump(), made_at=made_at, bytes=part.stat().st_size, sha256=digest(part))
        _write(manifest_path(part), manifest.model_dump_json(indent=2).encode() + b"\n")
        sync(part)
        part.rename(file)
        manifest_path(part).rename(manifest_path(file))  # last: without it, the file does not count as a backup
        sync(file.parent)
    except BaseException:
        for path in (part, manifest_path(part)):
            path.unlink(missing_ok=True)
        raise
    return manifest


async def remember(connection: AsyncConnection, file: str, manifest: Manifest) -> None:
    """Stores when the last backup was made. Does not commit."""
    await connection.execute(delete(Backup))
    values = {
        "finished_at": manifest.made_at,
        "file": file,
        "bytes": manifest.bytes,
        "events": manifest.rows.get("events", 0),
        "newest_event_id": manifest.newest_event_id,
    }
    await connection.execute(insert(Backup), values)


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(url: str, part: Path, progress: Callable[[int, int], None]) -> None:
    database = open_sqlite(url)
    source = database.connect()
    done = Flag()
    (pages,), (size,) = (source.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))

    def look() -> None:
        while not done.wait(LOOK_EVERY):
            progress(part.stat().st_size, pages * size)

    watch = Thread(target=look, daemon=True)
    watch.start()
    try:
        with closing(sqlite3.connect(part)) as target:
            source.backup(target)
    finally:
        done.set()
        watch.join()
        database.close(source)


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, OWNER_ONLY), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
