"""The manifest of a backup: what a file must hold to be restored."""

import hashlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from app.database.schema import known_revisions

DATABASE_FILE = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"


class BackupProblem(Exception):
    """A backup cannot be made or used; the text says why and what to do."""


class Contents(BaseModel):
    """What is in a database file."""

    model_config = ConfigDict(frozen=True)

    revision: str | None
    """The last migration that ran."""
    rows: Mapping[str, int]
    """How many rows each table has."""
    newest_event_id: UUID | None
    newest_delivery_id: UUID | None
    last_finished_at: str | None
    """When the last delivery ended, as SQLite stores it."""
    last_erased_at: str | None = None
    """When the last event was erased, as SQLite stores it."""

    def is_newer_than(self, other: "Contents") -> bool:
        """Whether it has an event, a delivery, the end of one or an erasure that the other one was too early for.

        Rows are counted too: while a clock is ahead, it gives ids that are greater than later ones.
        """
        ours = (self.newest_event_id, self.newest_delivery_id, self.last_finished_at, self.last_erased_at)
        theirs = (other.newest_event_id, other.newest_delivery_id, other.last_finished_at, other.last_erased_at)
        return any(
            mine is not None and (its is None or str(mine) > str(its)) for mine, its in zip(ours, theirs, strict=True)
        ) or any(self.rows.get(table, 0) > other.rows.get(table, 0) for table in ("events", "deliveries"))


class Manifest(Contents):
    """Of a backup: its contents, and how to recognize the file."""

    made_at: datetime
    """Everything that was committed before is in the backup."""
    bytes: int
    sha256: str


def manifest_path(file: Path) -> Path:
    """Where the manifest of a backup is."""
    return file.with_name(f"{file.name}.manifest.json")


def contents_of(connection: sqlite3.Connection) -> Contents:
    """Reads all of the file once.

    Raises:
        sqlite3.DatabaseError: it is not a SQLite file, or is damaged.
    """
    tables = [name for (name,) in connection.execute(DATABASE_FILE)]
    counted = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608

    def newest(query: str, table: str) -> UUID | None:
        found = connection.execute(query).fetchone() if table in tables else None
        return UUID(bytes=found[0]) if found and found[0] is not None else None

    revision = connection.execute("SELECT version_num FROM alembic_version").fetchone() if counted else None

    def latest(table: str, column: str) -> str | None:
        there = tables and any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))
        found = connection.execute(f"SELECT max({column}) FROM {table}").fetchone() if there else None  # noqa: S608
        return found[0] if found else None

    return Contents(
        revision=revision[0] if revision else None,
        rows=counted,
        newest_event_id=newest("SELECT max(id) FROM events", "events"),
        newest_delivery_id=newest("SELECT max(id) FROM deliveries", "deliveries"),
        last_finished_at=latest("deliveries", "finished_at"),
        last_erased_at=latest("events", "erased_at"),
    )


def opened_backup(file: Path) -> sqlite3.Connection:
    """A connection that reads a file which nobody writes, and makes no other files beside it."""
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def check(connection: sqlite3.Connection, name: str) -> None:
    """Reads every page.

    Raises:
        BackupProblem: one is damaged.
    """
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise BackupProblem(f"{name} is damaged: {found}")


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_manifest(file: Path) -> Manifest:
    """The manifest of a backup.

    Raises:
        BackupProblem: it is missing or cannot be read.
    """
    path = manifest_path(file)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BackupProblem(f"{path} is missing. `priohook backup` writes it beside the backup: keep both.") from None
    except ValidationError:
        raise BackupProblem(f"{path} is not a manifest of `priohook backup`.") from None


def verify(file: Path, manifest: Manifest) -> None:
    """Returns if the file is the one that the manifest is of, whole, and of a schema that this release can use.

    Raises:
        BackupProblem: it is not.
    """
    if file.stat().st_size != manifest.bytes or digest(file) != manifest.sha256:
        raise BackupProblem(f"{file} is not the file that was backed up: its SHA-256 differs from its manifest's.")
    with closing(opened_backup(file)) as connection:
        check(connection, str(file))
        found = contents_of(connection)
    if found != Contents.model_validate(manifest.model_dump(include=set(Contents.model_fields))):
        raise BackupProblem(f"{file} does not hold the rows that its manifest counts.")
    if manifest.revision not in known_revisions():
        raise BackupProblem(
            f"{file} has the schema {manifest.revision}, which this release does not know. Restore it with the release "
            "that made it, or a newer one."
        )
