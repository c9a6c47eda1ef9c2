import asyncio
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic

import asyncpg
import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.alarms.leading import leading
from app.database import migrations
from app.database.commits import Left
from app.database.engines import engine_for
from app.database.postgres import connect_postgres
from app.database.problems import CannotConnect, CommitsWait, DatabaseProblem
from app.database.standbys import Standbys, read_standbys
from app.database.writing import writing
from app.deliveries.plans import plan
from app.deliveries.registering import register_in_parts
from app.deliveries.replays import start
from app.deliveries.tables import Destination
from app.deliveries.worker import Worker
from app.events.queries import EventFilter
from app.events.store import StoreUnavailable
from app.receiver.starting import can_start
from app.settings.model import DestinationSettings, Settings
from app.web.transactions import DatabaseAway, changing
from tests import postgres
from tests.deliveries.workers import Workers
from tests.e2e.proxy import through_proxy
from tests.events.stores import locked, new_event, running

pytestmark = pytest.mark.slow

BRIEF = timedelta(seconds=0.5)
POOLED = (b"user", b"database", b"application_name", b"client_encoding", b"datestyle", b"timezone")
"""The startup parameters that pgbouncer takes, of those that anybody sends."""


@pytest.fixture(scope="module")
def own_server() -> Iterator[postgres.Server]:
    """A server whose settings a test may change, with a migrated database."""
    with postgres.server() as server:
        asyncio.run(migrate(server.url()))
        yield server


async def migrate(url: str) -> None:
    async with engine_for(url) as engine:
        await migrations.migrate(engine)


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def value(connection: asyncpg.Connection, query: str) -> object:
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def port_of(url: str) -> int:
    return int(url.rpartition("/")[0].rpartition(":")[2])


@asynccontextmanager
async def changed(url: str, change: str, back: str) -> AsyncIterator[None]:
    """The database with a change, which is taken back at the end."""
    await execute(url, change)
    try:
        yield
    finally:
        await execute(url, back)


@asynccontextmanager
async def read_only(server: postgres.Server) -> AsyncIterator[None]:
    """The server takes no writes, in sessions that are there too: as one that was demoted, or whose disk is full."""
    put = "ALTER SYSTEM SET default_transaction_read_only = on"
    take = "ALTER SYSTEM RESET default_transaction_read_only"
    await execute(server.url(), put, "SELECT pg_reload_conf()")
    try:
        await until(lambda: shows(server.url(), "default_transaction_read_only", "on"))
        yield
    finally:
        # Not in one transaction, which ALTER SYSTEM refuses.
        await execute(server.url(), "SET default_transaction_read_only = off", take, "SELECT pg_reload_conf()")
        await until(lambda: shows(server.url(), "default_transaction_read_only", "off"))


async def shows(url: str, name: str, wanted: str) -> bool:
    return await value(await asyncpg.connect(url), f"SHOW {name}") == wanted


async def until(holds) -> None:
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - the server's doing
            await asyncio.sleep(0.05)


async def backends(url: str) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'priohook' AND datname = current_database()"
    return int(str(await value(await asyncpg.connect(url), query)))


# What is refused


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_in_another_encoding_is_refused(postgres_server_url, encoding):
    drop = "DROP DATABASE IF EXISTS priohook_encoding"
    create = f"CREATE DATABASE priohook_encoding TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
    url = postgres_server_url.rpartition("/")[0] + "/priohook_encoding"
    await execute(postgres_server_url, drop)
    async with changed(postgres_server_url, create, drop):
        with pytest.raises(DatabaseProblem, match=f"encoding is {encoding}.*ENCODING 'UTF8'"):
            await migrate(url)


async def test_a_role_for_which_triggers_do_not_fire_is_refused(postgres_url):
    put, take = (f"ALTER ROLE CURRENT_USER {what} session_replication_role" for what in ("SET", "RESET"))
    async with changed(postgres_url, f"{put} = replica", take):
        with pytest.raises(DatabaseProblem, match="nothing would be delivered"):
            await connect_postgres(postgres_url)


async def test_a_session_that_commits_without_waiting_for_the_disk_is_not_believed(postgres_url, caplog):
    """As a pooler makes it that gives each transaction another connection."""
    weaken = """
        CREATE FUNCTION weaken() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('synchronous_commit', 'off', true); RETURN NULL; END $$;
        CREATE TRIGGER weaken BEFORE INSERT ON events EXECUTE FUNCTION weaken()
    """
    async with changed(postgres_url, weaken, "DROP FUNCTION weaken CASCADE"), running(postgres_url) as store:
        with pytest.raises(StoreUnavailable):
            await store.append(new_event("weak"))
    async with running(postgres_url) as store:
        assert (await store.append(new_event("weak"))).duplicate
    await execute(postgres_url, "TRUNCATE events CASCADE")


async def test_a_session_that_loses_what_it_was_told_is_refused_before_it_commits(postgres_url):
    """As behind a pooler that drops SET; here the list of what can be set lacks one name."""
    lose = """
        CREATE SCHEMA lossy;
        CREATE VIEW lossy.pg_settings AS SELECT * FROM pg_catalog.pg_settings WHERE name <> 'synchronous_commit';
        ALTER ROLE CURRENT_USER SET search_path = lossy, pg_catalog, public;
        ALTER ROLE CURRENT_USER SET synchronous_commit = off
    """
    restore = """
        ALTER ROLE CURRENT_USER RESET search_path;
        ALTER ROLE CURRENT_USER RESET synchronous_commit;
        DROP SCHEMA lossy CASCADE
    """
    async with changed(postgres_url, lose, restore):
        with pytest.raises(DatabaseProblem, match="synchronous_commit=off although it was told otherwise"):
            await connect_postgres(postgres_url)


async def test_a_commit_whose_wait_for_the_standby_was_ended_is_not_acknowledged(own_server):
    url = own_server.url()
    put, take = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "ALTER SYSTEM RESET synchronous_standby_names"
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'priohook'"
    hide, show = (f"ALTER ROLE CURRENT_USER {how} client_min_messages" for how in ("SET", "RESET"))
    async with changed(url, f"{hide} = error", show), running(url) as store:
        await store.append(new_event("before"))
        await execute(url, put, "SELECT pg_reload_conf()")
        watch = await asyncpg.connect(url)
        try:
            appending = asyncio.create_task(store.append(new_event("unreplicated")))
            async with asyncio.timeout(30):
                while (pid := await watch.fetchval(waits)) is None:  # noqa: ASYNC110 - the server's doing
                    await asyncio.sleep(0.02)
            assert not appending.done()
            await watch.execute("SELECT pg_cancel_backend($1)", pid)
            with pytest.raises(StoreUnavailable):
                await appending
        finally:
            await watch.execute(take)
            await watch.execute("SELECT pg_reload_conf()")
            await watch.close()
        assert (await store.append(new_event("after"))).duplicate is False


@asynccontextmanager
async def without_standby(url: str) -> AsyncIterator[asyncpg.Connection]:
    """The server's commits wait for a standby that does not exist. Gives a connection that looks on."""
    watch = await asyncpg.connect(url)
    await watch.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await watch.execute("SELECT pg_reload_conf()")
    await until(lambda: shows(url, "synchronous_standby_names", "nobody"))
    try:
        yield watch
    finally:
        await watch.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await watch.execute("SELECT pg_reload_conf()")
        await watch.close()


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def register(connection: AsyncConnection, name: str) -> None:
    await connection.execute(insert(Destination).values(name=name, since=datetime(2026, 8, 12, tzinfo=UTC)))


async def knows(url: str, name: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM destinations WHERE name = $1", name))
    finally:
        await connection.close()


@pytest.mark.parametrize("given_up_by", ["the deadline of statements", "the deadline of a request", "whoever waits"])
async def test_nobody_sees_a_change_before_the_standby_has_it_also_if_it_is_given_up(own_server, given_up_by):
    url = own_server.url()

    async def change(transaction: AbstractAsyncContextManager[AsyncConnection]) -> None:
        async with transaction as connection:
            await register(connection, given_up_by)

    async with engine_for(url, within=BRIEF if given_up_by.endswith("statements") else None) as engine:
        async with without_standby(url) as watch:
            of_request = given_up_by.endswith("request")
            given_up_change = change(changing(engine, within=BRIEF) if of_request else writing(engine))
            task = asyncio.create_task(given_up_change)
            await until(lambda: watch.fetchval(WAITING))
            if given_up_by.startswith("whoever"):
                task.cancel()
            with pytest.raises((TimeoutError, DatabaseAway, asyncio.CancelledError)) as given_up:
                await task
            if isinstance(given_up.value, DatabaseAway):
                assert "may be made later" in given_up.value.description
            await watch.execute("SELECT pg_sleep(0.5)")  # a cancellation would have come
            assert not await knows(url, given_up_by)
            assert await watch.fetchval(WAITING) == 1
        await until(lambda: knows(url, given_up_by))


async def test_after_a_commit_was_left_others_are_refused_before_they_wait_too(own_server):
    url, left = own_server.url(), Left(after=timedelta(0))

    async def change(connection: asyncpg.Connection, name: str, *before: str) -> None:
        async with connection.transaction():
            for statement in before:
                await connection.execute(statement)
            await connection.execute("INSERT INTO destinations (name, since) VALUES ($1, now())", name)

    async with without_standby(url) as watch:
        connection = await connect_postgres(url, within=BRIEF, left=left)
        with pytest.raises(TimeoutError):
            await change(connection, "left")
        connection = await connect_postgres(url, within=BRIEF, left=left)
        for _ in range(2):
            with pytest.raises(CommitsWait):
                await change(connection, "refused")
        await change(connection, "waits for nothing", "SET LOCAL synchronous_commit = off")
        async with connection.transaction():
            assert await connection.fetchval("SELECT count(*) FROM destinations WHERE name = 'waits for nothing'")
        of_next_process = await connect_postgres(url, within=BRIEF, left=Left(after=timedelta(0)))
        with pytest.raises(CommitsWait):
            await change(of_next_process, "refused")
        await of_next_process.close()
        assert await watch.fetchval(WAITING) == 1
    await until(lambda: knows(url, "left"))
    await change(connection, "after")
    await connection.close()
    assert not await knows(url, "refused")
    assert await knows(url, "waits for nothing")


async def test_a_receiver_with_a_spool_starts_while_commits_wait(own_server, tmp_path):
    url = own_server.url()
    settings = Settings(database_url=url, spool=tmp_path / "spool")
    earlier = await connect_postgres(url, within=BRIEF)
    async with without_standby(url) as watch:
        await earlier.execute("BEGIN; INSERT INTO destinations (name, since) VALUES ('one', now())")
        with pytest.raises(TimeoutError):
            await earlier.execute("COMMIT;")
        await watch.execute("SELECT pg_sleep(5)")
        async with engine_for(url) as engine:
            check = register_in_parts(engine, ["two"], now=datetime.now(UTC))
            assert not await can_start(check, settings)
        assert await watch.fetchval(WAITING) == 1
    await until(lambda: knows(url, "one"))


async def test_a_connection_is_good_for_the_next_transaction_after_one_that_could_not_commit(own_server):
    connection = await connect_postgres(own_server.url())
    transaction = connection.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.execute("SELECT 1 / 0")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await transaction.commit()
    async with connection.transaction():
        assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_a_change_whose_wait_for_the_standby_was_ended_is_not_confirmed(own_server):
    url = own_server.url()

    async def change(engine: AsyncEngine) -> None:
        async with changing(engine) as connection:
            await register(connection, "unreplicated")

    async with engine_for(url) as engine, without_standby(url) as watch:
        task = asyncio.create_task(change(engine))
        await until(lambda: watch.fetchval(WAITING))
        await watch.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        with pytest.raises(DatabaseAway, match="a fail-over may undo the commit"):
            await task


async def test_without_the_standby_workers_start_send_and_end_and_alarms_are_kept(own_server):
    url = own_server.url()
    async with engine_for(url, within=BRIEF) as engine, engine_for(url, of_worker=True) as engine_of_worker:
        workers = Workers(engine)
        await workers.register()
        await workers.store("A")
        async with writing(engine) as connection:
            planned = await plan(connection, EventFilter())
            await start(connection, EventFilter(), destination="erp", rate=100, planned=planned, now=workers.now)
            over = "http://127.0.0.1:1/over"
            await connection.execute(insert(Destination).values(name=over, url=over, since=workers.now))
        nobody = {"erp": DestinationSettings(url="http://127.0.0.1:1/")}

        async def sent() -> bool:
            tried = "SELECT count(DISTINCT attempts > 0 AND replay_id IS NULL) = 2 FROM deliveries"
            return bool(await value(await asyncpg.connect(url), tried))

        async with without_standby(url) as watch:
            async with Worker(engine_of_worker, url, nobody).running():
                await until(sent)
            assert not await knows(url, over)  # the replay to a URL that is over is forgotten
            async with leading(engine) as lead:
                assert lead is not None
                async with lead.writing() as connection:
                    await connection.execute(text("UPDATE destinations SET failures = 0 WHERE name = 'erp'"))
            assert await watch.fetchval(WAITING) == 0


async def test_nobody_sees_an_event_before_the_standby_has_it_and_few_connections_wait(own_server):
    url = own_server.url()
    async with running(url, timeout=BRIEF) as store:
        known = (await store.append(new_event("known"))).id
        async with without_standby(url) as watch:
            for place in range(4):
                with pytest.raises(StoreUnavailable):
                    await store.append(new_event(f"unseen {place}"))
                await asyncio.sleep(2 * BRIEF.total_seconds())  # the statement under way has its own time
            assert await watch.fetchval("SELECT id FROM events ORDER BY id DESC LIMIT 1") == known
            assert await watch.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == 1
        async with asyncio.timeout(30):
            while True:
                with suppress(StoreUnavailable):
                    await store.append(new_event("known later"))
                    break


@pytest.mark.parametrize("seen_by", ["priohook", "plain"])
async def test_the_standbys_that_commits_wait_for_are_counted(own_server, seen_by):
    url = own_server.url()
    await execute(url, "DROP ROLE IF EXISTS plain", "CREATE ROLE plain LOGIN")
    async with engine_for(url.replace("priohook@", f"{seen_by}@")) as engine:
        async with engine.connect() as connection:
            assert await read_standbys(connection) == Standbys(0, 0)
        async with without_standby(url), engine.connect() as connection:
            assert await read_standbys(connection) == Standbys(1, 0)


async def test_a_standby_that_answers_alone_is_not_taken_for_a_primary_that_waits():
    with postgres.server() as server:
        await execute(server.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'")
        server.become_standby()
        async with engine_for(server.url(), writes=False) as engine, engine.connect() as connection:
            standbys = await read_standbys(connection)
    assert standbys == Standbys(1, 0, no_primary=True)
    assert not standbys.are_missing


# What has an end


async def test_a_statement_that_takes_too_long_is_ended_by_the_server_and_the_connection_stays(postgres_url):
    connection = await connect_postgres(postgres_url, within=BRIEF)
    with pytest.raises(asyncpg.QueryCanceledError):
        await connection.execute("SELECT pg_sleep(60)")
    assert await value(connection, "SELECT 1") == 1


async def test_a_locked_table_costs_no_further_connection(postgres_url):
    async with running(postgres_url, timeout=BRIEF) as store, locked(postgres_url):
        before = await backends(postgres_url)
        for place in range(4):
            with pytest.raises(StoreUnavailable):
                await store.append(new_event(str(place)))
        assert await backends(postgres_url) <= before + 1


async def test_a_connection_that_falls_silent_is_given_up_and_the_next_one_works(postgres_url):
    async with through_proxy(postgres_url) as (url, proxy), engine_for(url, within=BRIEF) as engine:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            proxy.stall()
            with pytest.raises((TimeoutError, DBAPIError)):
                await connection.execute(text("SELECT 2"))
        proxy.resume()
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 3")) == 3


async def test_a_server_that_accepts_and_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/nothing?connect_timeout=1"
        began = monotonic()
        with pytest.raises(CannotConnect, match="did not answer in time"):
            await connect_postgres(url)
    assert monotonic() - began < 30


async def test_the_kernel_asks_whether_the_peer_is_still_there(postgres_url):
    connection = await connect_postgres(f"{postgres_url}?keepalives_idle=77")
    sock = connection._transport.get_extra_info("socket")  # noqa: SLF001 - nothing else tells
    asks = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    asks += [sock.getsockopt(socket.IPPROTO_TCP, each) for each in (socket.TCP_KEEPIDLE, socket.TCP_USER_TIMEOUT)]
    await connection.close()
    assert asks == [1, 77, 20_000]


# Which host


async def test_the_server_asks_whether_this_host_is_still_there(postgres_url):
    connection = await connect_postgres(postgres_url)
    shown = [await connection.fetchval(f"SHOW tcp_keepalives_{name}") for name in ("idle", "interval", "count")]
    await connection.close()
    assert shown == ["10", "5", "3"]


async def test_the_server_ends_a_session_that_is_frozen_in_a_transaction(postgres_url):
    names = ("idle_in_transaction_session_timeout", "tcp_user_timeout", "transaction_timeout")
    shown = []
    for within in (BRIEF, None):
        connection = await connect_postgres(postgres_url, within=within)
        shown.append([await connection.fetchval("SELECT current_setting($1, true)", name) for name in names])
        await connection.close()
    assert shown[0] == ["30s", "30000", "1min"]
    assert shown[1][2] == "0"


FREEZE = """
import asyncio, os, signal, sys
from datetime import timedelta
from app.database.postgres import connect_postgres

async def main():
    connection = await connect_postgres(sys.argv[1], within=timedelta(seconds=20))
    await connection.execute("BEGIN; LOCK TABLE destinations")
    fetching = asyncio.create_task(connection.fetch("SELECT repeat('x', 1000000) FROM generate_series(1, 100)"))
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGSTOP)
    await fetching

asyncio.run(main())
"""


@pytest.mark.long
async def test_a_process_that_is_frozen_while_it_reads_loses_its_locks(postgres_url):
    """No timeout of statements ends a server that sends, and a frozen process's kernel answers."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FREEZE, postgres_url)
    try:
        watch = await asyncpg.connect(postgres_url)
        await until(lambda: watch.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'"))
        await watch.execute("SET lock_timeout = '55s'")
        await watch.execute("BEGIN; LOCK TABLE destinations; ROLLBACK")
        await watch.close()
    finally:
        process.kill()
        await process.wait()


async def test_a_store_goes_on_where_writes_are_taken_when_its_host_takes_none_any_more(
    own_server, postgres_server_url
):
    other = postgres_server_url.rpartition("/")[0] + "/priohook_other"
    drop = "DROP DATABASE IF EXISTS priohook_other WITH (FORCE)"
    await execute(postgres_server_url, drop, "CREATE DATABASE priohook_other")
    await execute(own_server.url(), drop, "CREATE DATABASE priohook_other")
    for url in (other, own_server.url("priohook_other")):
        await migrate(url)
    hosts = f"127.0.0.1:{own_server.port},127.0.0.1:{port_of(other)}"
    both = f"postgresql://priohook@/priohook_other?host={hosts}"
    try:
        async with running(both) as store, engine_for(both) as engine:
            await store.append(new_event("first"))
            async with read_only(own_server):
                with suppress(StoreUnavailable):
                    await store.append(new_event("second"))
                await store.append(new_event("second"))
                with suppress(DBAPIError):
                    await touch(engine)
                await touch(engine)
            await execute(other, "ALTER DATABASE priohook_other SET default_transaction_read_only = on")
            await execute(postgres_server_url, TERMINATE)
            with suppress(StoreUnavailable):
                await store.append(new_event("third"))
            await store.append(new_event("third"))
        assert await number(own_server.url("priohook_other")) == 2
        assert await number(other) == 1
    finally:
        await execute(postgres_server_url, drop)


TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'priohook_other'"


async def touch(engine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = version_num"))


async def number(url: str) -> object:
    return await value(await asyncpg.connect(url), "SELECT count(*) FROM events")


async def test_a_database_that_takes_no_writes_is_refused_for_writing_and_can_be_read(own_server):
    async with read_only(own_server):
        with pytest.raises(DatabaseProblem, match="takes no writes"):
            await connect_postgres(own_server.url())
        async with engine_for(own_server.url(), writes=False) as engine, engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    async with engine_for(own_server.url(), writes=False) as engine:
        await touch(engine)


# What the URL says


@pytest.mark.parametrize(
    "query",
    [
        "connect_timeout=10",
        "channel_binding=require",
        "keepalives=1&keepalives_idle=30",
        "gssencmode=disable",
        "target_session_attrs=primary",
        "options=-c%20search_path%3Dpublic",
        "application_name=other",
        "client_encoding=latin1",
        "pgbouncer=true&connection_limit=1",
        "synchronous_commit=off",
        "load_balance_hosts=random",
    ],
)
async def test_what_libpq_knows_and_providers_hand_out_connects(postgres_url, query):
    connection = await connect_postgres(f"{postgres_url}?{query}")
    assert await value(connection, "SHOW synchronous_commit") == "on"


async def test_a_setting_of_the_servers_in_the_url_holds(postgres_url):
    connection = await connect_postgres(f"{postgres_url}?search_path=elsewhere&options=-c%20work_mem%3D9MB")
    assert await connection.fetchval("SHOW search_path") == "elsewhere"
    assert await value(connection, "SHOW work_mem") == "9MB"


async def test_a_role_whose_timeouts_are_too_short_for_anything_changes_nothing(postgres_url):
    names = ("statement_timeout", "lock_timeout", "idle_session_timeout")
    put = ";".join(f"ALTER ROLE CURRENT_USER SET {name} = '500ms'" for name in names)
    take = "SET statement_timeout = 0;" + ";".join(f"ALTER ROLE CURRENT_USER RESET {name}" for name in names)
    watch = await asyncpg.connect(postgres_url)
    await watch.execute(put)
    try:
        connection = await connect_postgres(postgres_url)
        await asyncio.sleep(1)  # the server's own clock
        await connection.execute("SELECT pg_sleep(1)")
        await connection.close()
    finally:
        await watch.execute(take)
        await watch.close()


async def test_a_pooler_that_takes_few_startup_parameters_is_connected_through(postgres_url):
    async with pooler(port_of(postgres_url)) as port:
        connection = await connect_postgres(postgres_url.replace(str(port_of(postgres_url)), str(port)))
        assert await value(connection, "SHOW synchronous_commit") == "on"


@asynccontextmanager
async def pooler(target: int) -> AsyncIterator[int]:
    """Refuses startup parameters as pgbouncer does, then passes on what comes."""

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = await reader.readexactly(4)
        rest = await reader.readexactly(struct.unpack("!I", size)[0] - 4)
        if rest[:4] == struct.pack("!I", 80877103):  # it has no TLS
            writer.write(b"N")
            size = await reader.readexactly(4)
            rest = await reader.readexactly(struct.unpack("!I", size)[0] - 4)
        if any(name and name not in POOLED for name in rest[4:].split(b"\0")[::2]):
            writer.close()
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", target)
        to_server.write(size + rest)
        await asyncio.gather(copy(reader, to_server), copy(from_server, writer))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(65536):
            writer.write(part)
        writer.close()

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_no_user_and_no_account_is_a_sentence(postgres_url, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(DatabaseProblem, match="names no user"):
        await connect_postgres(postgres_url.replace("priohook@", "", 1))


async def test_a_certificate_that_is_not_there_is_named(postgres_url, tmp_path):
    with pytest.raises(FileNotFoundError) as refused:
        await connect_postgres(f"{postgres_url}?sslmode=verify-ca&sslrootcert={tmp_path}/root.crt")
    assert refused.value.filename == f"{tmp_path}/root.crt"
