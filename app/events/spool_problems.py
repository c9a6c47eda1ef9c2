"""What can be wrong with a file of the spool."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.database.problems import CannotConnect, DatabaseProblem
from app.database.sqlite import is_damage


class SpoolProblem(DatabaseProblem):
    """A file of the spool cannot be used; the text names it and says why."""

    path: Path | None = None
    lasts = False
    """Whether the file was removed or is damaged, so that another one must take its place."""


@contextmanager
def problems(path: Path) -> Iterator[None]:
    """Turns every error that a file can cause into a `SpoolProblem`."""
    try:
        yield
    except (DatabaseProblem, CannotConnect) as error:
        problem = error if isinstance(error, SpoolProblem) else SpoolProblem(str(error))
        problem.path, problem.lasts = path, True
        raise problem from error.__cause__
    except (sqlite3.Error, OSError, ValueError, TypeError) as error:
        problem = SpoolProblem(f"{path} could not be used: {type(error).__name__}: {error}")
        problem.path, problem.lasts = path, isinstance(error, sqlite3.Error) and is_damage(error)
        raise problem from error
