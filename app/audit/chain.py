"""The chain: rows are appended one after the other, and each has the hash of its content and of the row before it.

A row that is changed, inserted or removed breaks the chain at that place. But somebody who can rewrite all later rows
can make a new chain. So positions are also logged with their hashes, and `priohook audit verify` prints the last one.
A hash that was kept elsewhere proves that nothing before it was changed.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import takewhile
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.actors import Actor
from app.audit.tables import Action, Checkpoint, Entry, Kind

logger = logging.getLogger(__name__)

AUDIT_LOCK = 7_092_717_267
"""An arbitrary number, the same in all processes: on PostgreSQL two rows cannot be appended at once."""

BEGINNING = bytes(32)
"""What the first row has in the place of the hash before it."""

LONGEST_TEXT = 1000  # characters
ROWS_AT_ONCE = 1000

HASHED = tuple(column.name for column in Entry.__table__.columns if column.name != "hash")


@dataclass(slots=True, kw_only=True)
class Act:
    """What is done. The columns of the table `audit` explain the fields; code adds to it while it is done."""

    action: Action
    kind: Kind
    target: str | None = None
    event_id: UUID | None = None
    reference: str | None = None
    reason: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """JSON values."""


class Link(NamedTuple):
    """A position of the chain, and the hash there."""

    position: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"


class Broken(Exception):
    """The chain does not hold; the text names the first row that is wrong."""


class Verified(NamedTuple):
    """A chain that holds.

    Attributes:
        rows: How many rows there are.
        first: The position of the first one; None if there are none.
        last: The last one; None if there are none.
    """

    rows: int
    first: int | None
    last: Link | None


async def record(connection: AsyncConnection, actor: Actor, act: Act, *, now: datetime) -> Link:
    """Appends a row in the transaction of the action. Does not commit.

    Call it last in the transaction, which holds the lock of the audit from here on. A transaction that asks for another
    lock after this one can get into a deadlock.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(AUDIT_LOCK)))
    last = await _last(connection)
    values = {
        "position": last.position + 1,
        "at": now.astimezone(UTC),
        "channel": actor.channel.value,
        "client": _text(actor.client),
        "address": _text(actor.address),
        "action": act.action.value,
        "kind": act.kind.value,
        "target": _text(act.target),
        "event_id": act.event_id,
        "reference": _text(act.reference),
        "reason": _text(act.reason),
        "request_id": actor.request_id,
        "details": json.dumps(act.details, sort_keys=True, default=str) if act.details else None,
    }
    link = Link(last.position + 1, _hash(last.hash, values))
    await connection.execute(insert(Entry), values | {"hash": link.hash})
    return link


def tell(actor: Actor, act: Act, link: Link) -> None:
    """Logs an action whose transaction has committed. Its reason may name a person, and is not logged."""
    fields = {
        "action": act.action.value,
        "kind": act.kind.value,
        "target": act.target,
        "client": actor.client,
        "channel": actor.channel.value,
        "address": actor.address,
        "request_id": actor.request_id,
        "position": link.position,
        "hash": link.hash.hex(),
    }
    logger.info("action", extra={"fields": fields})


async def verify(connection: AsyncConnection, *, expected: Link | None = None) -> Verified:
    """Checks all rows in constant memory.

    Args:
        connection: A connection to the database.
        expected: A position and hash from before, which the chain must still have.

    Raises:
        Broken: a row was changed, inserted or removed.
    """
    first, last, count = None, Link(0, BEGINNING), 0
    while True:
        query = select(Entry.__table__).where(Entry.position > last.position).order_by(Entry.position)
        found = (await connection.execute(query.limit(ROWS_AT_ONCE))).mappings()
        rows: list[dict[str, Any]] = [{**row} for row in found]
        for row in rows:
            if first is None:
                first = row["position"]
                last = await _before(connection, first)
            if row["position"] != last.position + 1:
                raise Broken(f"Row {last.position + 1} is missing.")
            if row["hash"] != _hash(last.hash, row):
                raise Broken(f"Row {row['position']} was changed, or its hash was: {_described(row)}.")
            last, count = Link(row["position"], row["hash"]), count + 1
            if expected is not None and expected.position == last.position and expected.hash != last.hash:
                raise Broken(f"Row {last.position} has another hash than expected: it or an earlier row was rewritten.")
        if len(rows) < ROWS_AT_ONCE:
            break
    if expected is not None and first is not None and expected.position < first:
        await _require_deleted(connection, expected, first)
    if expected is not None and expected.position > last.position:
        raise Broken(f"Row {last.position + 1} is missing: the audit ends before row {expected.position}.")
    return Verified(count, first, last if count else None)


async def forget(connection: AsyncConnection, *, before: datetime, most: int, now: datetime) -> int:
    """Deletes up to `most` of the oldest rows, all older than `before`; returns how many. Does not commit.

    The newest row stays. The last deleted one leaves its position and hash, so that the rest can be verified.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(AUDIT_LOCK)))
    oldest = select(Entry.position, Entry.at, Entry.hash).order_by(Entry.position).limit(most + 1)
    rows = (await connection.execute(oldest)).all()[:-1]
    gone = list(takewhile(lambda row: row.at < before, rows))
    if gone:
        last = gone[-1]
        await connection.execute(insert(Checkpoint), {"position": last.position, "hash": last.hash, "at": now})
        await connection.execute(delete(Entry).where(Entry.position <= last.position))
    return len(gone)


async def _last(connection: AsyncConnection) -> Link:
    query = select(Entry.position, Entry.hash).order_by(Entry.position.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return Link(0, BEGINNING) if row is None else Link(*row)


async def _before(connection: AsyncConnection, first: int) -> Link:
    """The link before the first row that is there.

    Raises:
        Broken: older rows were removed, and not by retention.
    """
    if first == 1:
        return Link(0, BEGINNING)
    query = select(Checkpoint.position, Checkpoint.hash).where(Checkpoint.position == first - 1)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        newest = await connection.scalar(select(func.max(Checkpoint.position)).where(Checkpoint.position < first))
        raise Broken(f"Row {(newest or 0) + 1} is missing.")
    return Link(*row)


async def _require_deleted(connection: AsyncConnection, expected: Link, first: int) -> None:
    """Returns if retention deleted the expected row, last of some, and kept its hash.

    Raises:
        Broken: it did not, so nothing says whether the row had that hash.
    """
    query = select(Checkpoint.hash).where(Checkpoint.position == expected.position)
    if await connection.scalar(query) != expected.hash:
        raise Broken(
            f"Row {expected.position} is missing, and its hash cannot be compared: the audit begins with row {first}. "
            "If retention deleted it, expect a later row."
        )


def _hash(previous: bytes, row: Mapping[str, Any]) -> bytes:
    content = [_hashed(row[name]) for name in HASHED]
    return sha256(previous + json.dumps(content, separators=(",", ":")).encode()).digest()


def _hashed(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return str(value) if isinstance(value, UUID) else value


def _text(value: str | None) -> str | None:
    """The text as both databases take it, and bounded."""
    if value is None:
        return None
    return value.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")[:LONGEST_TEXT]


def _described(row: Mapping[str, Any]) -> str:
    return f"{row['action']} by {row['client']} at {row['at']:%Y-%m-%d %H:%M:%S}"
