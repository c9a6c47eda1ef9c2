"""After an erasure no byte of the guest is left in the database, its log, the spool or the log lines.

The bytes are looked for in the files themselves, and must have been there before.
"""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from app.database.engines import is_sqlite
from app.events.rows import Row
from app.events.spool_file import SpoolFile
from app.settings.clients import Scope
from tests.conftest import WEBHOOK, basic_header, bearer_header
from tests.deliveries.workers import Workers
from tests.events.stores import new_event
from tests.pages import PROJECT

pytestmark = pytest.mark.slow

GUEST = b"Annegret-Quellenhorst"
OFFICER = bearer_header("officer", Scope.READ, Scope.ERASE)


def order(number: int) -> bytes:
    contact = {"contact_name_last": GUEST.decode(), "note": "x" * 500}
    order = {"order_reference": "PRI1", "order_version": number, "order_contacts": [contact]}
    return json.dumps({"data": {"kind": "order", "order": order}}).encode()


async def deliver(workers: Workers) -> None:
    """One answer that repeats the name at once, one after a failure."""
    workers.now = datetime.now(UTC)
    await workers.dispatch()
    idle = workers.limits._replace(max_in_flight=0)
    for status in (500, 200) * 10:
        claims = (await workers.turn()).claims
        answers = [b"no ticket for " + (GUEST if claim.reference == "PRI1" else b"you") for claim in claims]
        told = [{"answer": answer, "error": answer.decode()} for answer in answers]
        ended = [workers.ended(claim, status, **each) for claim, each in zip(claims, told, strict=True)]
        await workers.turn(*ended, limits=idle)
        workers.wait(86400)


async def live(database_url, start, workers, tmp_path) -> None:
    """Orders of the guest arrive, among others, and are delivered; one waits in the spool."""
    spool = None if is_sqlite(database_url) else tmp_path / "spool"
    async with start(database_url, destinations={"erp": {"url": "https://erp.example"}}, spool=spool) as client:
        for number in range(20):
            content, headers = order(number), basic_header() | {"X-Guest": GUEST.decode()}
            if number % 5:
                content, headers = content.replace(b"PRI1", b"PRI2").replace(GUEST, b"Another"), basic_header()
            assert (await client.post(WEBHOOK, content=content, headers=headers)).status_code == 200
        await client.post(WEBHOOK, content=order(1)[:-1], headers=basic_header())  # is quarantined
    await deliver(workers)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_sqlite(database_url, start, workers, tmp_path, log):
    await live(database_url, start, workers, tmp_path)
    await workers.engine.dispose()
    assert GUEST in held(tmp_path)
    await erase(database_url, tmp_path)
    assert GUEST not in held(tmp_path)
    assert GUEST.decode() not in log.getvalue()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_sqlite_over_the_api_after_a_vacuum(database_url, start, workers, tmp_path, log):
    await live(database_url, start, workers, tmp_path)
    await workers.engine.dispose()
    async with start(database_url) as client:
        quarantined = await client.get("/api/events", params={"status": "quarantined"}, headers=OFFICER)
        ids = [each["id"] for each in quarantined.json()["events"]]
        for wanted in ({"reference": "PRI1"}, {"ids": ids}):
            reply = await client.post("/api/erasures", json={**wanted, "now": True}, headers=OFFICER)
            assert reply.status_code == 202, reply.text
            assert not any("log was in use" in each for each in reply.json()["left"])
        assert GUEST not in (tmp_path / "priohook.db-wal").read_bytes()
    async with workers.engine.connect() as connection:
        await connection.exec_driver_sql("VACUUM")
    await workers.engine.dispose()
    assert GUEST not in held(tmp_path)
    assert GUEST.decode() not in log.getvalue()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_after_vacuum_full(database_url, start, workers, tmp_path, log):
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    await live(database_url, start, workers, tmp_path)
    file = SpoolFile.make(spool)
    await file.write([Row(new_event("spooled", reference="PRI1", body=order(99)))])
    await file.close()
    await vacuum(database_url, "ANALYZE", "CHECKPOINT")  # as autovacuum may have done: statistics hold samples of texts
    assert any(GUEST in path.read_bytes() for path in await relations(database_url))
    assert GUEST in held(spool)
    await erase(database_url, tmp_path, spool=spool)
    whole = "VACUUM (FULL, ANALYZE) events, deliveries, attempts"
    await vacuum(database_url, whole, "VACUUM FULL pg_statistic", "CHECKPOINT")
    assert not [path for path in await relations(database_url) if GUEST in path.read_bytes()]
    assert GUEST not in held(spool)
    assert GUEST.decode() not in log.getvalue()


async def erase(database_url: str, folder: Path, *, spool: Path | None = None) -> None:
    """Erases by the order's reference, and what is in quarantine by a word in it, as an operator does."""
    variables = {"PRIOHOOK_DATABASE_URL": database_url} | ({"PRIOHOOK_SPOOL": str(spool)} if spool else {})
    await priohook("erase", "--reference", "PRI1", "--now", "--yes", **variables)
    listed = await priohook("events", "list", "--status", "quarantined", "--json", **variables)
    (folder / "ids").write_text("".join(json.loads(line)["id"] + "\n" for line in listed.splitlines()))
    await priohook("erase", "--ids", str(folder / "ids"), "--yes", **variables)


async def priohook(*arguments: str, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", *arguments),
        env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors
    return output.decode()


def held(folder: Path) -> bytes:
    """All bytes of all files in a folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


async def vacuum(database_url: str, *statements: str) -> None:
    connection = await asyncpg.connect(database_url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def relations(database_url: str) -> list[Path]:
    """The files of the database's tables and indexes."""
    connection = await asyncpg.connect(database_url)
    folder = Path(str(await connection.fetchval("SHOW data_directory")))
    number = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
    await connection.close()
    return [path for path in (folder / "base" / str(number)).iterdir() if path.is_file()]
