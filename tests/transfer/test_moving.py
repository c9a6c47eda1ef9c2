import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from threading import Timer

import asyncpg
import pytest
from sqlalchemy import delete, func, make_url, select, text

from app.audit.actors import at_shell
from app.audit.chain import Act, record, verify
from app.audit.tables import Action, Entry, Kind
from app.database.columns import Base
from app.database.engines import engine_for, sqlite_path
from app.database.leaving import Moved, NotComplete, complete
from app.database.problems import DatabaseProblem
from app.database.schema import check_schema
from app.database.writing import writing
from app.events.positions import newest
from app.events.sqlite import SQLiteWriter
from app.events.tables import Event
from app.transfer import moving, target
from app.transfer import source as source_module
from app.transfer.moving import Differs, TooSlow, Transfer
from app.transfer.source import Source
from app.transfer.target import TransferProblem
from tests.events.stores import new_event, running, writer_for
from tests.transfer.conftest import TABLES, TOKEN
from tests.transfer.rows import ROWS, fill

LONG = 600.0  # seconds; a bound that is never met
LITTLE = 5.0  # seconds; enough for a few rows


def nothing(_: int) -> None:
    pass


async def everything(url):
    """All rows of all tables that move, as the program reads them."""
    found = {}
    async with engine_for(url) as engine, engine.connect() as connection:
        for table in TABLES:
            columns = [column for column in Base.metadata.tables[table.name].columns if column.name != "position"]
            rows = await connection.execute(select(*columns))
            found[table.name] = sorted((tuple(row) for row in rows), key=repr)
    return found


async def moved(began):
    async with began() as transfer:
        await transfer.copy(nothing)
        await transfer.verify(nothing)
        await transfer.switch(within=LONG)


async def test_all_rows_of_all_tables_move_whatever_they_hold(filled_url, postgres_url, began):
    await moved(began)
    there = await everything(postgres_url)
    assert there == await everything(filled_url)
    assert all(len(rows) >= ROWS for rows in there.values())


async def test_what_changes_while_it_is_copied_is_as_it_is_at_the_switch(filled_url, postgres_url, began, change):
    async with began() as transfer:
        await transfer.copy(nothing)
        change("UPDATE events SET duplicates = 7, status = 'accepted'")
        change("DELETE FROM deliveries WHERE status = 'dead'")
        change("UPDATE attempts SET number = number + 100 WHERE number = 2")
        await transfer.verify(nothing)
        change("UPDATE destinations SET failures = failures + 1")
        change("DELETE FROM undispatched WHERE event_id = (SELECT min(event_id) FROM undispatched)")
        async with engine_for(filled_url) as engine, engine.begin() as connection:
            await fill(connection, first=100)
        assert await transfer.catch_up() > ROWS
        assert await transfer.catch_up() == 0
        change("UPDATE replays SET made = 1")
        await transfer.switch(within=LONG)
    assert await everything(postgres_url) == await everything(filled_url)


async def test_an_event_that_takes_the_key_of_another_one_meanwhile_is_copied(
    filled_url, postgres_url, began, change, monkeypatch
):
    monkeypatch.setattr(moving, "ROWS_AT_ONCE", 2)
    freed: list[bytes] = []

    def free(_: int) -> None:
        if not freed:
            with closing(sqlite3.connect(sqlite_path(filled_url))) as connection:
                first, last = connection.execute("SELECT min(id), max(id) FROM events").fetchone()
                key = connection.execute("SELECT dedup_key FROM events WHERE id = ?", (first,)).fetchone()[0]
            change("UPDATE events SET dedup_key = id WHERE id = ?", first)
            change("UPDATE events SET dedup_key = ? WHERE id = ?", key, last)
            freed.append(last)

    async with began() as transfer:
        for table in TABLES:  # the others have no such index, and are copied afterwards
            while table.name == "events" and not await transfer._copy_more(table, free):  # noqa: SLF001 - between steps
                pass
        await transfer.copy(nothing)
        await transfer.verify(nothing)
        await transfer.switch(within=LONG)
    assert freed
    assert await everything(postgres_url) == await everything(filled_url)


async def test_a_move_that_is_interrupted_anywhere_goes_on(filled_url, postgres_url, began, change, monkeypatch):
    monkeypatch.setattr(moving, "ROWS_AT_ONCE", 2)
    ended = False
    stops = 0
    while not ended:
        left = 3 + stops

        def stop(_: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise asyncio.CancelledError

        try:
            async with began() as transfer:
                await transfer.copy(stop)
                await transfer.verify(nothing)
                await transfer.switch(within=LONG)
            ended = True
        except asyncio.CancelledError:
            stops += 1
            change("UPDATE events SET duplicates = duplicates - 1")
            change("DELETE FROM attempts WHERE number = (SELECT max(number) FROM attempts)")
    assert stops > 2
    assert await everything(postgres_url) == await everything(filled_url)


async def test_a_move_goes_on_with_a_release_that_has_one_table_more(filled_url, postgres_url, began, tamper):
    async with began() as transfer:
        await transfer.copy(nothing)
    await tamper("DELETE FROM priohook_move WHERE name = 'attempts'")
    await tamper("DELETE FROM attempts")
    async with target.connected(postgres_url) as connection:
        await target.begin(connection, postgres_url, TABLES, TOKEN)
    await moved(began)
    assert await everything(postgres_url) == await everything(filled_url)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET body = body || 'x' WHERE id = (SELECT id FROM events ORDER BY id LIMIT 1)", "another body"),
        ("UPDATE deliveries SET reference = 'another' WHERE status = 'dead'", "another reference"),
        ("DELETE FROM attempts WHERE number = 3", "lacks the row"),
        ("INSERT INTO passed_over VALUES (gen_random_uuid(), 'erp')", f"has {ROWS + 1} rows instead of {ROWS}"),
        ("UPDATE audit SET client = 'nobody' WHERE position = (SELECT max(position) FROM audit)", "another client"),
    ],
)
async def test_a_row_that_differs_is_found(began, tamper, monkeypatch, statement, said):
    monkeypatch.setattr(moving, "ROWS_AT_ONCE", 2)
    async with began() as transfer:
        await transfer.copy(nothing)
        await tamper(statement)
        with pytest.raises(Differs, match=said):
            await transfer.verify(nothing)


async def test_what_changed_last_is_compared_too(began, change, tamper):
    async with began() as transfer:
        await transfer.copy(nothing)
        await transfer.verify(nothing)
        spoils = "BEGIN NEW.duplicates := 99; RETURN NEW; END"
        await tamper(f"CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS '{spoils}'")
        await tamper("CREATE TRIGGER spoils BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION spoil()")
        change("UPDATE events SET duplicates = 1")
        try:
            with pytest.raises(Differs, match="another duplicates"):
                await transfer.switch(within=LONG)
        finally:
            await tamper("DROP FUNCTION spoil CASCADE")


async def test_two_files_that_begin_at_once_do_not_fill_one_database(postgres_url, began):
    async with began():
        async with target.connected(postgres_url) as connection:
            with pytest.raises(TransferProblem, match="Name an empty database"):
                await target.begin(connection, postgres_url, TABLES, "another-move")
        assert await count_of_tokens(postgres_url) == 1


async def count_of_tokens(url: str) -> int:
    async with engine_for(url) as engine, engine.connect() as connection:
        return int(await connection.scalar(text("SELECT count(DISTINCT token) FROM priohook_move")) or 0)


async def test_a_database_that_holds_something_is_refused(postgres_url):
    async with running(postgres_url) as store:
        await store.append(new_event("first"))
    async with target.connected(postgres_url) as connection:
        with pytest.raises(TransferProblem, match="events of the PostgreSQL database is not empty"):
            await target.require_empty(connection, Base.metadata)


async def test_a_text_with_nul_gets_another_character(filled_url, postgres_url, began, change):
    change("UPDATE events SET reference = 'a' || char(0) || 'b'")
    await moved(began)
    async with engine_for(postgres_url) as engine, engine.connect() as connection:
        assert set(await connection.scalars(select(Event.reference))) == {"a\ufffdb"}


async def test_a_value_that_postgresql_cannot_hold_is_named_by_its_table(began, change):
    change("UPDATE events SET duplicates = 3000000000")
    async with began() as transfer:
        with pytest.raises(TransferProblem, match="does not take a row of events"):
            await transfer.copy(nothing)


@pytest.mark.parametrize("value", ["CAST(x'61ff' AS TEXT)", "x'6161'"])
async def test_a_value_that_is_no_text_is_named_by_its_table_and_not_quoted(began, change, value):
    change(f"UPDATE events SET reference = {value}")  # noqa: S608
    async with began() as transfer:
        with pytest.raises(TransferProblem, match="a row of events") as raised:
            await transfer.copy(nothing)
    assert raised.value.__cause__ is None
    assert "aa" not in str(raised.value)


async def test_afterwards_the_file_takes_nothing_and_says_where_all_is(filled_url, began, change):
    await moved(began)
    with pytest.raises(sqlite3.IntegrityError, match="moved to PostgreSQL"):
        change("DELETE FROM events")
    async with engine_for(filled_url) as engine:
        with pytest.raises(Moved, match="was moved to postgresql://"):
            await check_schema(engine)
        with pytest.raises(Moved):
            async with writing(engine) as connection:
                await connection.execute(delete(Event))
    writer = SQLiteWriter(filled_url)
    with pytest.raises(Moved):
        await writer.probe(thorough=False)
    await writer.close()


async def test_nothing_uses_the_new_database_before_it_is_complete(postgres_url, began):
    async with engine_for(postgres_url) as engine:
        async with began() as transfer:
            await transfer.copy(nothing)
            with pytest.raises(NotComplete):
                await check_schema(engine)
            await transfer.switch(within=LONG)
        await complete(engine)
        await check_schema(engine)


async def test_a_move_that_ends_between_the_two_commits_goes_on_from_the_file(
    filled_url, postgres_url, began, change, monkeypatch
):
    def ends(_: Source) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Source, "mark_moved", ends)
        with pytest.raises(KeyboardInterrupt):
            await moved(began)
    change("UPDATE events SET duplicates = 1")
    async with engine_for(filled_url) as engine, engine.begin() as connection:
        await fill(connection, first=100)
    async with engine_for(postgres_url) as engine:
        with pytest.raises(NotComplete):
            await check_schema(engine)
    await moved(began)
    assert await everything(postgres_url) == await everything(filled_url)


async def test_a_switch_that_takes_too_long_leaves_the_file_as_it_was(filled_url, began, change):
    async with began() as transfer:
        await transfer.copy(nothing)
        with pytest.raises(TooSlow):
            await transfer.switch(within=0)
        change("UPDATE events SET duplicates = 1")
        async with engine_for(filled_url) as engine:
            await check_schema(engine)
        await transfer.switch(within=LONG)


async def test_waiting_for_the_lock_of_the_file_does_not_count_as_silence_of_postgresql(filled_url, began, monkeypatch):
    monkeypatch.setattr(moving, "SPARE", 1.0 - LITTLE)
    path = sqlite_path(filled_url)
    async with began() as transfer:
        await transfer.copy(nothing)
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            ends = Timer(1.5, other.execute, ["ROLLBACK"])
            ends.start()
            await transfer.switch(within=LITTLE)
            ends.join()


@pytest.mark.parametrize("statement", ["VACUUM", "ALTER TABLE events ADD COLUMN later TEXT"])
async def test_a_file_whose_rows_may_have_other_numbers_or_columns_by_now_is_compared_anew(
    filled_url, postgres_url, began, statement
):
    async with began() as transfer:
        await transfer.copy(nothing)
        await transfer.verify(nothing)
        with closing(sqlite3.connect(sqlite_path(filled_url), isolation_level=None)) as other:
            other.execute(statement)
        with pytest.raises(TransferProblem, match="Run the command again"):
            await transfer.switch(within=LONG)
    async with began() as transfer:
        await transfer.copy(nothing)
        await transfer.verify(nothing)
        await transfer.switch(within=LONG)
    assert await everything(postgres_url) == await everything(filled_url)


async def test_what_is_noted_of_one_table_does_not_grow_while_others_are_copied_and_compared(
    filled_url, postgres_url, began, change, monkeypatch
):
    monkeypatch.setattr(moving, "ROWS_AT_ONCE", 5)
    noted = []

    def busy(_: int) -> None:
        change("UPDATE events SET duplicates = duplicates - 1")
        change("UPDATE replays SET made = made - 1")
        with closing(sqlite3.connect(sqlite_path(filled_url))) as connection:
            noted.extend(connection.execute("SELECT count(*) FROM priohook_move_of_events").fetchone())
            noted.extend(connection.execute("SELECT count(*) FROM priohook_move_of_replays").fetchone())

    async with began() as transfer:
        await transfer.copy(busy)
        await transfer.verify(busy)
        await transfer.switch(within=LONG)
    assert len(noted) > 10 * ROWS
    assert max(noted) <= 3 * ROWS
    assert await everything(postgres_url) == await everything(filled_url)


async def test_a_copy_of_an_event_from_before_is_the_same_event_afterwards(filled_url, postgres_url, began):
    event = new_event("again", shape="order")
    async with running(filled_url) as store:
        first = await store.append(event)
    await moved(began)
    async with engine_for(postgres_url) as engine:
        await complete(engine)
    async with running(postgres_url) as store:
        again = await store.append(new_event("again", shape="order"))
    assert (again.id, again.duplicate) == (first.id, True)


async def test_a_new_event_comes_after_all_that_were_moved_and_waits_for_its_deliveries(
    filled_url, postgres_url, began
):
    async with engine_for(filled_url) as engine, engine.connect() as connection:
        last = await newest(connection)
    await moved(began)
    writer = writer_for(postgres_url)
    async with engine_for(postgres_url) as engine, engine.connect() as connection:
        assert await newest(connection) == last
        async with running(postgres_url) as store:
            stored = await store.append(new_event("new"))
        assert (await newest(connection)).position == last.position + 1
        waiting = Base.metadata.tables["undispatched"]
        found = select(func.count()).select_from(waiting).where(waiting.c.event_id == stored.id)
        assert await connection.scalar(found) == 1
    await writer.close()


async def test_the_chain_of_the_audit_holds_and_refuses_changes_afterwards(
    sqlite_url, filled_url, postgres_url, began, change
):
    async with engine_for(filled_url) as engine, engine.begin() as connection:
        await connection.exec_driver_sql("DROP TRIGGER audit_forgotten")  # rows of this test that have no chain
        await connection.execute(Entry.__table__.delete())  # type: ignore[attr-defined] # it is a table
        for number in range(3):
            act = Act(action=Action.READ, kind=Kind.EVENT, target=f"é{number}", details={"n": number})
            await record(connection, at_shell(), act, now=datetime.now(UTC))
    await moved(began)
    async with engine_for(postgres_url) as engine, engine.connect() as connection:
        assert (await verify(connection)).rows == 3
    change = await asyncpg.connect(postgres_url)
    with pytest.raises(asyncpg.RaiseError, match="is refused"):
        await change.execute("UPDATE audit SET client = 'nobody'")
    await change.close()


def test_a_move_that_is_given_up_leaves_nothing_in_the_file(filled_url):
    def made():
        with closing(sqlite3.connect(sqlite_path(filled_url))) as connection:
            return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()

    before = made()
    with closing(Source(filled_url, TABLES)) as source:
        source.begin("a-move", target="postgresql://***", url="postgresql://user:secret@host/db")
        assert made() != before
        source.give_up()
    assert made() == before


def test_a_password_is_overwritten_in_the_file_once_nobody_needs_it(filled_url):
    url = f"postgresql://user:hunter2@host/db?application_name={'x' * 500}"
    with closing(Source(filled_url, TABLES)) as source:
        source.begin("a-move", target="postgresql://***", url=url)
    assert b"hunter2" in sqlite_path(filled_url).read_bytes()
    with closing(Source(filled_url, TABLES)) as source:
        with source.writing():
            source.mark_moved()
        source._connection.execute("PRAGMA secure_delete = OFF")  # noqa: SLF001 - Debian's SQLite begins with it on
        source.forget_url()
    assert b"hunter2" not in sqlite_path(filled_url).read_bytes()


async def test_a_change_that_is_made_while_others_are_forgotten_stays_noted(filled_url, change, monkeypatch):
    monkeypatch.setattr(source_module, "FORGET_AT_ONCE", ROWS)
    events = next(table for table in TABLES if table.name == "events")
    late = ["UPDATE events SET duplicates = 2"]

    class Busy(Source):
        @contextmanager
        def writing(self, *, durable=True):
            with super().writing(durable=durable):
                yield
            if noted and late:
                change(late.pop())

    noted = False
    with closing(Busy(filled_url, TABLES)) as source:
        source.begin("a-move", target="postgresql://***", url="")
        change("UPDATE events SET duplicates = 1")
        noted = True
        source.forget_changes(events, source.last_change(events))
        last = source.last_change(events)
        assert not late
        assert len(list(source.changed_keys(events, last))) == ROWS


def test_only_what_is_lost_without_harm_does_not_wait_for_the_disk(filled_url):
    with closing(Source(filled_url, TABLES)) as source:
        connection = source._connection  # noqa: SLF001 - the setting is the connection's
        for durable, synchronous in ((False, 1), (True, 2)):
            with source.writing(durable=durable):
                assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)


def test_nothing_is_committed_into_a_file_that_was_renamed_meanwhile(filled_url):
    path = sqlite_path(filled_url)
    with closing(Source(filled_url, TABLES)) as source:
        source.begin("a-move", target="postgresql://***", url="")
        with pytest.raises(DatabaseProblem, match="is gone"), source.writing():  # noqa: PT012 - raised at its end
            source.mark_moved()
            path.rename(path.with_suffix(".old"))
        path.with_suffix(".old").rename(path)
        assert not source.is_moved()


@asynccontextmanager
async def frozen_at_commit(url: str) -> AsyncIterator[str]:
    """The URL of a way to PostgreSQL on which no COMMIT gets through, and nothing after it."""
    parsed = make_url(url)
    tasks: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with closing(sink):
            while some := await source.read(65536):
                if b"COMMIT" in some:
                    await asyncio.Event().wait()
                sink.write(some)
                await sink.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(parsed.host, parsed.port)
        tasks.update({asyncio.create_task(carry(reader, to_there)), asyncio.create_task(carry(there, writer))})

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield parsed.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_commit_that_never_returns_does_not_keep_others_from_writing(filled_url, postgres_url, began, change):
    async with began() as transfer:
        await transfer.copy(nothing)
        await transfer.verify(nothing)
    change("UPDATE events SET duplicates = 9")
    async with (
        asyncio.timeout(60),
        frozen_at_commit(postgres_url) as frozen_url,
        target.connected(frozen_url) as connection,
    ):
        with closing(Source(filled_url, TABLES)) as source:
            with pytest.raises(TransferProblem, match=r"did not answer .* Nothing was switched"):
                await Transfer(source, connection, TABLES).switch(within=LITTLE)
            change("UPDATE events SET duplicates = 10")
    await moved(began)
    assert await everything(postgres_url) == await everything(filled_url)
