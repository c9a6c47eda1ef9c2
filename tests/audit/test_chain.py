import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from app.audit.actors import Actor
from app.audit.chain import Act, Broken, Link, forget, record, verify
from app.audit.queries import AuditFilter, list_entries
from app.audit.tables import Action, Channel, Checkpoint, Entry, Kind
from app.database.engines import engine_for
from app.database.writing import writing

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
ALICE = Actor(channel=Channel.API, client="alice", address="192.0.2.1", request_id="1")
EVENT = UUID("01987f6e-0000-7000-8000-000000000001")


async def append(engine, number: int = 1, **changes) -> Link:
    values: dict[str, Any] = {"action": Action.READ, "kind": Kind.EVENT, "target": str(EVENT), "event_id": EVENT}
    async with writing(engine) as connection:
        act = Act(**values | {"details": {"number": number}, "reason": "asked \0é"} | changes)
        return await record(connection, ALICE, act, now=NOON + timedelta(minutes=number))


@pytest.fixture
async def five(engine):
    return [await append(engine, number) for number in range(1, 6)]


async def verified(engine, expected=None):
    async with engine.connect() as connection:
        return await verify(connection, expected=expected)


async def tamper(engine, *statements):
    """What somebody does who has all rights on the database: the triggers are switched off meanwhile."""
    async with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            made: Any = ()
        else:
            query = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit%'")
            made = (await connection.execute(query)).all()
            for name, _ in made:
                await connection.execute(text(f"DROP TRIGGER {name}"))
        for statement in statements:
            await connection.execute(statement)
        for _, sql in made:
            await connection.execute(text(sql))


async def test_rows_are_numbered_without_gaps_and_each_has_a_hash_of_its_own(engine, five):
    assert [link.position for link in five] == [1, 2, 3, 4, 5]
    assert len({link.hash for link in five}) == 5
    assert await verified(engine) == (5, 1, five[-1])


async def test_an_empty_audit_holds(engine):
    assert await verified(engine) == (0, None, None)


async def test_actions_at_once_are_one_chain(database_url, engine):
    async with engine_for(database_url) as other:
        await asyncio.gather(*(append(each, number) for number in range(10) for each in (engine, other)))
    assert (await verified(engine)).rows == 20


async def test_an_action_that_is_rolled_back_leaves_no_gap(engine, five):
    async with engine.connect() as connection:
        await record(connection, ALICE, Act(action=Action.DROP, kind=Kind.DELIVERY), now=NOON)
        await connection.rollback()
    assert (await append(engine)).position == 6


@pytest.mark.parametrize(
    "change",
    [("client", "bob"), ("details", "{}"), ("reason", None), ("event_id", None), ("at", NOON), ("hash", b"1")],
    ids=lambda change: change[0],
)
async def test_a_changed_row_is_named(engine, five, change):
    await tamper(engine, update(Entry).where(Entry.position == 3).values({change[0]: change[1]}))
    with pytest.raises(Broken, match="Row 3 was changed"):
        await verified(engine)


@pytest.mark.parametrize("position", [1, 3])
async def test_a_removed_row_is_named(engine, five, position):
    await tamper(engine, delete(Entry).where(Entry.position == position))
    with pytest.raises(Broken, match=f"Row {position} is missing"):
        await verified(engine)


async def test_a_row_that_was_put_in_the_place_of_another_is_named(engine, five):
    async with engine.connect() as connection:
        other = (await connection.execute(select(Entry.__table__).where(Entry.position == 2))).mappings().one()
    await tamper(engine, delete(Entry).where(Entry.position == 4), insert(Entry).values({**other, "position": 4}))
    with pytest.raises(Broken, match="Row 4 was changed"):
        await verified(engine)


async def test_a_row_that_was_rewritten_with_a_right_hash_does_not_fit_the_next(engine, five):
    async with engine.connect() as connection:
        later = (await connection.execute(select(Entry.__table__).where(Entry.position > 3))).mappings().all()
    await tamper(engine, delete(Entry).where(Entry.position >= 3))
    await append(engine, 3, reason="another")
    await tamper(engine, *(insert(Entry).values(row) for row in later))
    with pytest.raises(Broken, match="Row 4 was changed"):
        await verified(engine)


async def test_an_end_that_was_cut_off_is_found_by_a_hash_that_was_kept(engine, five):
    await tamper(engine, delete(Entry).where(Entry.position == 5))
    assert (await verified(engine)).rows == 4
    assert (await verified(engine, five[3])).rows == 4
    with pytest.raises(Broken, match="Row 5 is missing"):
        await verified(engine, five[4])


async def test_a_chain_that_was_made_anew_is_found_by_a_hash_that_was_kept(engine, five):
    await tamper(engine, delete(Entry))
    for number in range(1, 6):
        await append(engine, number, reason="another")
    assert (await verified(engine)).rows == 5
    with pytest.raises(Broken, match="Row 4 has another hash"):
        await verified(engine, five[3])


async def test_a_hash_from_before_the_first_row_is_never_taken_as_found(engine, five):
    async with writing(engine) as connection:
        assert await forget(connection, before=NOON + timedelta(minutes=4), most=10, now=NOON) == 3
    assert (await verified(engine, five[3])).rows == 2
    assert (await verified(engine, five[2])).rows == 2, "the checkpoint has its hash"
    for link in (five[1], Link(3, bytes(32))):
        with pytest.raises(Broken, match="the audit begins with row 4"):
            await verified(engine, link)


@pytest.mark.parametrize(
    "statement",
    [
        update(Entry).where(Entry.position == 2).values(client="bob"),
        delete(Entry).where(Entry.position == 2),
        delete(Entry),
        update(Checkpoint).values(position=4),
        delete(Checkpoint),
    ],
    ids=["update", "delete", "delete all", "update checkpoint", "delete checkpoint"],
)
async def test_the_database_refuses_every_change(engine, five, statement):
    async with writing(engine) as connection:
        assert await forget(connection, before=NOON + timedelta(minutes=2), most=10, now=NOON) == 1
    with pytest.raises(DBAPIError, match="priohook: "):
        async with writing(engine) as connection:
            await connection.execute(statement)
    assert (await verified(engine)).rows == 4


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_refuses_to_empty_the_tables(engine, five):
    for table in ("audit", "audit_checkpoints"):
        with pytest.raises(DBAPIError, match="TRUNCATE of audit"):
            async with writing(engine) as connection:
                await connection.execute(text(f"TRUNCATE {table}"))


async def test_what_retention_deletes_leaves_a_chain_that_holds(engine, five):
    async with writing(engine) as connection:
        assert await forget(connection, before=NOON + timedelta(minutes=4), most=2, now=NOON) == 2
    assert await verified(engine) == (3, 3, five[-1])
    async with writing(engine) as connection:
        assert await forget(connection, before=NOON + timedelta(days=1), most=100, now=NOON) == 2
    assert await verified(engine) == (1, 5, five[-1])
    assert (await append(engine)).position == 6
    await tamper(engine, delete(Entry).where(Entry.position == 5))
    with pytest.raises(Broken, match="Row 5 is missing"):
        await verified(engine)


async def test_a_filter_selects_actions_newest_first(engine, five):
    await append(engine, 6, action=Action.DROP, kind=Kind.DELIVERY, target="d", event_id=None, reference="R")
    async with engine.connect() as connection:

        async def positions(limit=10, before=None, **narrowed):
            rows = await list_entries(connection, AuditFilter(**narrowed), limit=limit, before=before)
            return [row.position for row in rows]

        assert await positions() == [6, 5, 4, 3, 2, 1]
        assert await positions(limit=2, before=5) == [4, 3]
        assert await positions(action="drop") == await positions(kind="delivery") == [6]
        assert await positions(reference="R") == [6]
        assert await positions(event_id=EVENT, until=NOON + timedelta(minutes=3)) == [2, 1]
        assert await positions(target="d", since=NOON + timedelta(minutes=6)) == [6]
        assert await positions(client="bob") == await positions(channel="cli") == []
