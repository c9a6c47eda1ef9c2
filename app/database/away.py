"""What an error of PostgreSQL says: the server is away, it refuses priohook, or one row is bad."""

from ssl import SSLCertVerificationError

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.database.problems import CannotConnect, CommitsWait, DatabaseProblem, ReadOnly

AWAY = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What is raised when the database cannot be reached, or does not do what it should."""

PASSES = ("08", "25006", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE, and one code, that end without a change of settings: the connection is lost, the server takes no
writes, a transaction lost against another, a resource is used up, a lock is held, the server starts, shuts down or
cancels, its disk fails. See PostgreSQL's documentation, appendix A."""

OF_SERVER = (*PASSES, "0A", "25", "26", "28", "3D", "3F", "42", "72", "F0", "HV", "XX")
"""All other classes are about the statement's data. An operator's trigger may raise any code, also one of its own."""


def is_away(error: BaseException) -> bool:
    """Whether the server is away or takes nothing for a while.

    Otherwise it refuses priohook: because of a wrong password, role, database or right, or since it is not set up as it
    must be. A host whose name is not known counts as away: a container that is stopped has no name.
    """
    state = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None)
    if state:
        return str(state).startswith(PASSES)
    if isinstance(error, CannotConnect):
        return not isinstance(error.__cause__, SSLCertVerificationError)
    if isinstance(error, DatabaseProblem):
        return isinstance(error, (ReadOnly, CommitsWait))
    return isinstance(error, (ConnectionError, TimeoutError, PoolTimeout, DBAPIError, asyncpg.InterfaceError))


def is_of_row(error: asyncpg.PostgresError) -> bool:
    """Whether the data that was sent is to blame, and not the server's state or setup."""
    return not str(error.sqlstate or "XX").startswith(OF_SERVER)


def named(error: asyncpg.PostgresError) -> str:
    """The error's class and code; its message may quote a row."""
    return f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
