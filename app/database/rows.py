"""Rows of a query as values of a class, whose fields name and type what the query selects."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import KeyedColumnElement

from app.database.columns import Base

Named = TypeVar("Named")


def columns(table: type[Base], kind: type[Any]) -> list[KeyedColumnElement[Any]]:
    """The columns of the table that are fields of a NamedTuple, or of a dataclass by position."""
    return [column for column in table.__table__.columns if column.name in kind.__match_args__]


async def read(connection: AsyncConnection, query: Select[Any], kind: Callable[..., Named]) -> list[Named]:
    """All rows; each selected column fills the field with its name."""
    result = await connection.execute(query)
    names = tuple(result.keys())
    return [kind(**dict(zip(names, row, strict=True))) for row in result]


async def read_one(connection: AsyncConnection, query: Select[Any], kind: Callable[..., Named]) -> Named | None:
    """The first row; None if there is none."""
    return next(iter(await read(connection, query, kind)), None)
