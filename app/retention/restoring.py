"""Puts a backup in the place of a SQLite database, if nothing newer is there and nothing uses it."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from app.database.engines import engine_for
from app.database.locks import locked_file
from app.database.migrations import migrate
from app.database.writing import writing
from app.retention.backups import OWNER_ONLY, sync
from app.retention.holding import Standstill, come_to_rest
from app.retention.manifests import BackupProblem, Contents, Manifest, contents_of, digest

SIDE_FILES = ("-wal", "-shm", "-journal")


@contextmanager
def unused(target: Path, manifest: Manifest) -> Iterator[None]:
    """Holds a database that nothing uses and that has nothing newer than the backup, so that it can be replaced.

    Raises:
        BackupProblem: something uses it, or it has something newer; or it cannot be read, so that nobody can tell.
    """
    away = f"To restore all the same, stop priohook and move {target} away, with its -wal and -shm files."
    with locked_file(Path(f"{target.resolve()}-worker")) as alone:
        if not alone:
            raise BackupProblem(f"A worker uses {target}. Stop priohook first.")
        if not target.exists():
            for side in SIDE_FILES:
                if Path(f"{target}{side}").exists():
                    raise BackupProblem(f"There is {target}{side}, but no {target}. {away}")
            yield
            return
        try:
            with closing(sqlite3.connect(target, isolation_level=None, timeout=1)) as connection:
                found = _locked(connection, target)
                if found.is_newer_than(manifest):
                    raise BackupProblem(
                        f"{target} has events, deliveries or erasures that are newer than the backup of "
                        f"{manifest.made_at:%c} UTC. {away}"
                    )
                yield
        except sqlite3.DatabaseError as error:
            raise BackupProblem(f"{target} cannot be read: {error}. {away}") from None


def prepare(
    file: Path,
    target: Path,
    manifest: Manifest,
    wanted_types: Mapping[str, Sequence[str]],
    *,
    deliver_again: bool,
    now: datetime,
) -> tuple[Path, Standstill]:
    """A copy of the backup beside the target, migrated and at a standstill. The caller swaps it in or removes it."""
    copy = target.resolve().with_name(f"{target.name}.restoring-{uuid4().hex[:8]}")
    try:
        _copy(file, copy, manifest)
        standstill = asyncio.run(
            _at_rest(
                f"sqlite+aiosqlite:///{copy}", wanted_types, manifest.made_at, deliver_again=deliver_again, now=now
            )
        )
        with closing(sqlite3.connect(copy)) as connection:  # the last one to close it removes its log
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except BaseException:
        remove(copy)
        raise
    return copy, standstill


def _copy(file: Path, copy: Path, manifest: Manifest) -> None:
    with (
        file.open("rb") as source,
        os.fdopen(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY), "wb") as written,
    ):
        shutil.copyfileobj(source, written, 1024 * 1024)
    if digest(copy) != manifest.sha256:
        raise BackupProblem(f"{file} has changed since it was verified. Try again.")


async def _at_rest(
    url: str, wanted_types: Mapping[str, Sequence[str]], taken_at: datetime, *, deliver_again: bool, now: datetime
) -> Standstill:
    async with engine_for(url) as engine:
        await migrate(engine)
        async with writing(engine) as connection:
            return await come_to_rest(connection, wanted_types, taken_at=taken_at, deliver_again=deliver_again, now=now)


def swap(copy: Path, target: Path, *, now: datetime) -> Path | None:
    """Puts the copy in the target's place, and returns where the file that was there is now.

    Where there are hard links, a database is in that place at every moment: otherwise, if the machine stopped then,
    `serve` would make an empty one. The copy gets the owner and mode of the file that was there, as `root` often
    restores what another user serves.
    """
    place = target.resolve()
    replaced = None
    if place.exists():
        was = place.stat()
        with suppress(PermissionError):  # only root may give files away
            os.chown(copy, was.st_uid, was.st_gid)
        copy.chmod(was.st_mode & 0o777)
        replaced = place.with_name(f"{place.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
        try:
            os.link(place, replaced)
        except OSError:  # a file system without hard links: the place is empty for a moment
            place.rename(replaced)
    sync(copy)
    copy.replace(place)
    sync(place.parent)
    return replaced


def remove(copy: Path) -> None:
    """Removes a copy that is not used."""
    for side in ("", *SIDE_FILES):
        with suppress(FileNotFoundError):
            Path(f"{copy}{side}").unlink()


def _locked(connection: sqlite3.Connection, target: Path) -> Contents:
    """Locks the file against everybody, with all that its log holds in it.

    Leaving WAL needs a lock that no other connection to the file allows, whatever that one does.
    """
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        if mode == "delete":
            connection.execute("BEGIN EXCLUSIVE")
            return contents_of(connection)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
    raise BackupProblem(f"A process uses {target}. Stop priohook first.")
