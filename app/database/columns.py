"""What all tables share: the base, and columns that behave the same on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import DateTime, Dialect, LargeBinary, MetaData, String, Uuid
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

SQLITE_INSTANT = len("2026-08-12 10:15:00.123456")


def sqlite_instant(value: datetime) -> str:
    """An instant as SQLite stores it: in UTC, 26 characters for any year, so that texts sort as times do."""
    return value.astimezone(UTC).isoformat(" ", "microseconds")[:SQLITE_INSTANT]


class _SQLiteDateTime(sqlite.DATETIME):
    """Reads what `sqlite_instant` writes, and years before 1000 as earlier releases wrote them, not padded."""

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], str | None]:  # noqa: ARG002
        return lambda value: None if value is None else sqlite_instant(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], datetime | None]:  # noqa: ARG002
        return lambda value: None if value is None else datetime.fromisoformat(value.rjust(SQLITE_INSTANT, "0"))


class UTCDateTime(TypeDecorator[datetime]):
    """An instant: aware in, aware and in UTC out, on both databases."""

    impl = DateTime(timezone=True).with_variant(_SQLiteDateTime(), "sqlite")  # type: ignore[no-untyped-call] # SQLAlchemy's
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone is not an instant")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class _SQLiteId(TypeDecorator[UUID]):
    """The 16 bytes of an id, which sort as ids do."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        return None if value is None else value.bytes

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> UUID | None:  # noqa: ARG002
        return None if value is None else UUID(bytes=value)


class ComparedId(TypeDecorator[UUID]):
    """An id in a `cast`, of which both databases find the lowest: PostgreSQL before 18 has no min() of UUIDs."""

    impl = String().with_variant(LargeBinary(), "sqlite")
    cache_ok = True

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> UUID | None:  # noqa: ARG002
        if value is None:
            return None
        return UUID(bytes=value) if isinstance(value, bytes) else UUID(value)


class Base(DeclarativeBase):
    """The base of every table: one naming convention, so that migrations can name what they drop."""

    type_annotation_map = {UUID: Uuid().with_variant(_SQLiteId(), "sqlite")}  # noqa: RUF012 - as SQLAlchemy wants it
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
