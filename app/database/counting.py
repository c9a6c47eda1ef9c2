"""Counts that stop at a bound, so that they take milliseconds however many rows there are."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

MOST_COUNTED = 100_000
"""A greater number is `MOST_COUNTED + 1`."""


def counted(query: Select[Any], *, most: int | None = None) -> ColumnElement[int]:
    """How many rows the query has, at most `most + 1` or `MOST_COUNTED + 1`; as a column of another query."""
    some = query.limit((MOST_COUNTED if most is None else most) + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()
