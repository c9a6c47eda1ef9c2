"""What a command says when it fails."""

from errno import EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC
from importlib import import_module

from app.cli.output import first_line

OWN_LIMITS = (EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC)
"""Of processes, descriptors, memory and disk."""


def sentence(error: Exception) -> str | None:
    """What went wrong and what to do about it; None if it is a bug of ours."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} could not be used: {error.strerror}."
    if isinstance(error, OSError) and error.errno in OWN_LIMITS:  # no file can be opened, so nothing be imported
        return f"The system gives this process no more: {error.strerror}."
    known = import_module("app.cli.problems")
    if isinstance(error, known.OURS):
        return str(error)
    if isinstance(error, known.OF_MIGRATIONS):
        return f"The schema stays as it is: {first_line(error)}."
    if isinstance(error, (OSError, *known.OF_DATABASES)):  # a connection that fails is one to the database
        return f"The database could not be used: {first_line(error)}. Check database_url and that it runs."
    return None
