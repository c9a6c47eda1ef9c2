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
    """Where the file is or would be, such as `priohook-clients.toml`; None if the database is not a file."""
    if not is_sqlite(settings.database_url):
        return None
    database = sqlite_path(settings.database_url)
    return database.with_name(f"{database.stem}-{name}.toml")


def keep(path: Path, content: str) -> bool:
    """Writes the file with mode 0600, unless it exists already; whether it was written."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY)
    except FileExistsError:  # another process was faster
        return False
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
    except BaseException as error:  # a full disk, or a signal
        path.unlink()  # otherwise the next start would read half a file
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    return True


def read_kept(path: Path, table: str) -> Any:
    """What the file holds in this table, the only one that it may have.

    Raises:
        SettingsProblem: the file cannot be read, is not valid TOML, or holds another table.
    """
    try:
        content = read_toml(path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsProblem(
            f"{path} is not valid TOML: {error}. Correct it, or move it away to have it made again."
        ) from None
    except OSError as error:
        raise SettingsProblem(f"{path} cannot be read: {error.strerror}.") from None
    if others := sorted(content.keys() - {table}):
        raise SettingsProblem(f"{path} holds {', '.join(others)}, but only {table} is read from it: move the rest.")
    return content.get(table)


def ignored_files(settings: Settings) -> Mapping[Path, str]:
    """The files that look as if they were read but are not, each with the reason."""
    if not is_sqlite(settings.database_url):
        why = "It belongs to a SQLite database, but database_url names another: move what it holds to the settings."
        return {file: why for name in NAMES if (file := Path(f"priohook-{name}.toml")).exists()}
    path = kept_path(settings, "keys")
    if settings.token_keys and path is not None and path.exists():
        return {path: "The settings have token_keys: tokens signed with this file's key are invalid."}
    return {}
