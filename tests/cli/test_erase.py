import asyncio
import gzip
import json
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from app.events.rows import Row
from app.events.spool_contents import events_in
from app.events.spool_file import SpoolFile
from app.retention import wiping
from tests.deliveries.workers import Workers
from tests.events.stores import new_event

GUEST = b"Annegret-Quellenhorst"
CONTACT = "annegret@quellenhorst.example"


def body(reference: str = "PRI1", **more: object) -> bytes:
    contact = {"contact_name_last": GUEST.decode(), "contact_email": CONTACT.upper()}
    order = {"order_reference": reference, "order_version": 1, "order_contacts": [contact], **more}
    return json.dumps({"data": {"kind": "order", "order": order}}).encode()


def event(key: str, reference: str = "PRI1", **columns: object):
    return new_event(key, reference=reference, **{"body": body(reference, key=key), **columns})


def receipt_of(done) -> dict[str, object]:
    assert done.status == 0, done.errors
    receipt: dict[str, object] = json.loads(done.text)
    return receipt


def test_an_order_is_erased_and_the_receipt_says_what_was(run, fill):
    first, second, other = fill(event("a"), event("b"), event("c", "PRI2"))
    receipt = receipt_of(run("erase", "--reference", "PRI1", "--yes", "--reason", "ticket 7", "--json"))
    hashes = [sha256(body(key=key)).hexdigest() for key in ("a", "b")]
    assert receipt["bodies"] == [
        {"event_id": str(event_id), "sha256": digest} for event_id, digest in zip((first, second), hashes, strict=True)
    ]
    assert GUEST in run("events", "show", "--body", str(other)).written
    shown = run("events", "show", str(first))
    assert "erased_at" in shown.text
    assert GUEST not in shown.written
    row = json.loads(run("audit", "list", "--action", "erase", "--json").text)
    assert (row["reference"], row["reason"], row["details"]["sha256"]) == ("PRI1", "ticket 7", receipt["sha256"])
    assert run("audit", "verify").status == 0


def test_the_body_of_an_erased_event_is_not_written_into_a_file(run, fill):
    (stored,) = fill(event("a"))
    run("erase", "--reference", "PRI1", "--yes")
    done = run("events", "show", "--body", str(stored))
    assert (done.status, done.written, "was erased" in done.errors) == (1, b"", True)


def test_events_are_erased_by_their_ids(run, fill, tmp_path):
    first, second = fill(event("a"), event("b"))
    ids = tmp_path / "ids"
    ids.write_text(f"{first}\n")
    assert receipt_of(run("erase", "--ids", str(ids), "--yes", "--json"))["events"] == 1
    again = run("erase", "--ids", str(ids), "--yes")
    assert (again.status, again.text) == (0, "All of these events were erased before: 1.\n")
    ids.write_text(f"{second}\n{UUID(int=1)}\n")
    assert run("erase", "--ids", str(ids), "--yes").status == 1
    assert GUEST in run("events", "show", "--body", str(second)).written


def test_a_contact_takes_all_events_of_the_orders_that_name_it(run, fill):
    zipped = gzip.compress(body("PRI2"))
    named, changed, squeezed, other = fill(
        event("a"),
        event("b", body=b'{"order_contacts": [{"contact_name_last": "Another name"}]}'),
        event("c", "PRI2", body=zipped),
        event("d", "PRI3", body=b'{"contact_email": "x%s"}' % CONTACT.encode()),
    )
    receipt = receipt_of(run("erase", "--contact", CONTACT, "--yes", "--json"))
    assert [each["event_id"] for each in receipt["bodies"]] == [str(named), str(changed), str(squeezed)]  # type: ignore[attr-defined]
    assert run("events", "show", "--body", str(other)).written != b""
    assert CONTACT not in run("audit", "list", "--json").text.lower()


@pytest.mark.parametrize("options", [["--reference", "unknown"], ["--contact", "nobody@example.com"]])
def test_nothing_that_fits_is_an_error(run, fill, options):
    fill(event("a"))
    done = run("erase", *options, "--yes")
    assert (done.status, "No event" in done.errors) == (1, True)


@pytest.mark.parametrize("options", [[], ["--reference", "PRI1", "--contact", CONTACT]])
def test_exactly_one_choice_is_needed(run, fill, options):
    fill(event("a"))
    assert run("erase", *options, "--yes").status == 2


def test_without_a_terminal_it_erases_only_with_yes_and_drops_only_with_now(run, working):
    async def undelivered(workers: Workers) -> UUID:
        stored = await workers.store("PRI1", body=body())
        await workers.dispatch()
        return stored

    stored = str(working(undelivered))
    for options in ([], ["--now"], ["--yes"]):
        done = run("erase", "--reference", "PRI1", *options)
        assert (done.status, "--now" in done.errors or "--yes" in done.errors) == (2, True)
        assert GUEST in run("events", "show", "--body", stored).written
    assert receipt_of(run("erase", "--reference", "PRI1", "--now", "--yes", "--json"))["dropped"] == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_large_file_is_not_vacuumed_and_the_receipt_says_so(run, fill, monkeypatch):
    monkeypatch.setattr(wiping, "SMALL", 0)
    fill(event("a"))
    assert "VACUUM" in str(receipt_of(run("erase", "--reference", "PRI1", "--yes", "--json"))["left"])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_waits_in_the_spool_is_moved_and_erased(run, fill, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_SPOOL", str(tmp_path))
    fill()
    waiting, other = event("a"), event("b", "PRI2")
    path = asyncio.run(spooled(tmp_path, waiting, other))
    receipt = receipt_of(run("erase", "--reference", "PRI1", "--yes", "--json"))
    assert receipt["bodies"] == [{"event_id": str(waiting.id), "sha256": sha256(waiting.body).hexdigest()}]
    assert not path.exists()
    assert GUEST in run("events", "show", "--body", str(other.id)).written


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_address_that_only_the_spool_names_takes_all_events_of_its_order(run, fill, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_SPOOL", str(tmp_path))
    nameless = b'{"guest": "Annegret"}'
    (stored, other) = fill(event("a", body=nameless), event("d", "PRI2", body=nameless))
    before, naming = event("b", body=nameless + b" "), event("c")
    asyncio.run(spooled(tmp_path, before, naming))
    receipt = receipt_of(run("erase", "--contact", CONTACT, "--yes", "--json"))
    erased = {body["event_id"] for body in receipt["bodies"]}  # type: ignore[attr-defined]
    assert erased == {str(each) for each in (stored, before.id, naming.id)}
    assert run("events", "show", "--body", str(other)).written == nameless


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_the_database_refuses_is_deleted_from_the_spool(run, fill, tmp_path, monkeypatch, database_url):
    monkeypatch.setenv("PRIOHOOK_SPOOL", str(tmp_path))
    fill()
    refused, other = event("a"), event("b", "PRI2")
    path = asyncio.run(spooled(tmp_path, refused, other))
    execute(database_url, "ALTER TABLE events ADD CONSTRAINT refuse CHECK (client <> 'prioticket') NOT VALID")
    try:
        done = run("erase", "--reference", "PRI1", "--yes", "--json")
    finally:
        execute(database_url, "ALTER TABLE events DROP CONSTRAINT refuse")
    assert (done.status, "were deleted" in done.errors) == (0, True)
    assert [each.id for each in events_in(path)] == [other.id]
    assert b'"key": "a"' not in path.read_bytes()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_a_receiver_has_in_its_spool_is_left_to_it(run, fill, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_SPOOL", str(tmp_path))
    fill(event("b"))

    async def hold() -> None:
        file = SpoolFile.make(tmp_path)
        await file.write([Row(event("a"))])
        done = await asyncio.to_thread(run, "erase", "--reference", "PRI1", "--yes")
        assert (done.status, "which a receiver uses" in done.errors) == (1, True)
        await file.close()

    asyncio.run(hold())


async def spooled(folder: Path, *events) -> Path:
    file = SpoolFile.make(folder)
    await file.write([Row(each) for each in events])
    await file.close()
    return file.path


def execute(url: str, *statements: str) -> None:
    async def go() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(go())
