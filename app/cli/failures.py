"""What a command says when it fails."""

from errno import EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC
from importlib import import_module
from pathlib import Path

from app.cli.output import first_line

OWN_LIMITS = (EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC)
"""Too few processes, file descriptors, memory or disk space."""


def sentence(error: Exception) -> str | None:
    """What went wrong and what to do about it; None if the error is a bug of priohook."""
    if isinstance(error, OSError) and (said := _of_the_system(error)):
        return said
    known = import_module("app.cli.problems")
    if isinstance(error, known.OURS):
        return str(error)
    if isinstance(error, known.OF_MIGRATIONS):
        return f"The schema was not changed: {first_line(error)}."
    if isinstance(error, (ConnectionError, TimeoutError, *known.OF_DATABASES)):
        check = "Check database_url, that the database runs, and what its role may do."
        return f"The database could not be used: {first_line(error)}. {check}"
    return f"The system refused what priohook needs: {first_line(error)}." if isinstance(error, OSError) else None


def _of_the_system(error: OSError) -> str | None:
    try:
        Path.cwd()
    except FileNotFoundError:
        return "The working directory was deleted. Change to a directory that exists, and try again."
    if error.filename is not None:
        return f"{error.filename} could not be used: {error.strerror}."
    if error.errno in OWN_LIMITS:  # nothing more can be imported then
        return f"This process has reached a limit of the system: {error.strerror}."
    return None
