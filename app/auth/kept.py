"""The files that a first start on SQLite makes beside the database, for its owner only."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.database.engines import is_sqlite, sqlite_path
from app.settings.files import read_toml
from app.settings.model import Settings, SettingsProblem

NAMES = ("clients", "keys")
OWNER_ONLY = 0o600


def kept_path(settings: Settings, name: str) -> Path | None:
    """Where the file is or would be, such as `priohook-clients.toml`; None where the database is not a file."""
    if not is_sqlite(settings.database_url):
        return None
    database = sqlite_path(settings.database_url)
    return database.with_name(f"{database.stem}-{name}.toml")


def keep(path: Path, content: str) -> bool:
    """Writes the file, mode 0600, and whether it did: one that is there stays as it is."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY)
    except FileExistsError:  # another process was faster
        return False
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
    except BaseException as error:  # a full disk, or a signal
        path.unlink()  # else the next start would take the half for the whole
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    return True


def read_kept(path: Path, table: str) -> Any:
    """What the file holds under its one name.

    Raises:
        SettingsProblem: the file cannot be read, is not TOML, or holds a table that nothing would read.
    """
    try:
        content = read_toml(path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsProblem(
            f"{path} is no TOML: {error}. Correct it, or move it away to have it made again."
        ) from None
    except OSError as error:
        raise SettingsProblem(f"{path} cannot be read: {error.strerror}.") from None
    if others := sorted(content.keys() - {table}):
        raise SettingsProblem(f"{path} holds {', '.join(others)}: only {table} is read from there, so move the rest.")
    return content.get(table)


def ignored_files(settings: Settings) -> Mapping[Path, str]:
    """The files that look as if they counted and do not, with the reason."""
    if not is_sqlite(settings.database_url):
        why = "It belongs to a SQLite database, and database_url names another one: move what it holds to the settings."
        return {file: why for name in NAMES if (file := Path(f"priohook-{name}.toml")).exists()}
    path = kept_path(settings, "keys")
    if settings.token_keys and path is not None and path.exists():
        return {path: "The settings have token_keys: tokens signed by this file's key are invalid."}
    return {}
