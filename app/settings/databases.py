"""The URL of the database, as people write it."""

import re
from typing import Annotated

from pydantic import AfterValidator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

AT_IN_PASSWORD = re.compile(r"(?<=[^/])@(?=[^/?#]*@)")
"""Each @ of a URL except the last, which ends the password: SQLAlchemy would end it at the first."""


def _with_driver(url: str) -> str:
    try:
        parsed = make_url(url if url.startswith("sqlite") else AT_IN_PASSWORD.sub("%40", url))
    except (ArgumentError, ValueError):  # SQLAlchemy's own ValueError shows what it took for the port
        raise ValueError(
            "is not a valid URL; write sqlite+aiosqlite:///file.db or postgresql://user:password@host/db"
        ) from None
    backend = parsed.get_backend_name()
    if backend in ("postgresql", "postgres"):
        if "@" in f"{parsed.host}{parsed.database}":  # part of a password, which would be shown and not be used
            raise ValueError("has an @ after its host: write @ and / in a password as %40 and %2F")
        return parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    if backend != "sqlite":
        raise ValueError(f"names {backend}; priohook runs on sqlite and on postgresql")
    if parsed.database in (None, "", ":memory:") or parsed.query:
        raise ValueError("must name a plain SQLite file: a database in memory would be lost at the end")
    return parsed.set(drivername="sqlite+aiosqlite").render_as_string(hide_password=False)


DatabaseURL = Annotated[str, AfterValidator(_with_driver)]
"""With the driver that priohook uses."""
