import gzip
import json
import zlib

import pytest
from sqlalchemy import insert

from app.database.writing import writing
from app.events.queries import EventBody
from app.events.tables import Event
from app.retention import contacts
from app.retention.contacts import names, pattern_of, search
from tests.events.stores import new_event

JAN = "jan.de-vries+tour@example.com"


def named(body: bytes, contact: str = JAN) -> bool | None:
    event = new_event("a")
    return names(pattern_of(contact), EventBody(event.id, [["content-type", "application/json"]], body))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"email": JAN}).encode(),
        json.dumps({"note": f"Mail\n{JAN}\tor call"}).encode(),
        json.dumps({"email": JAN.upper()}).encode(),
        json.dumps({"email": JAN}).replace("@", r"\u0040").replace("+", r"\u002B").encode(),
        json.dumps({"note": f"<{JAN}>, Jan. Or {JAN}."}).encode(),
        json.dumps({"email": JAN}).encode() + b"\xff",
    ],
)
@pytest.mark.parametrize("coding", [bytes, gzip.compress, zlib.compress], ids=["identity", "gzip", "deflate"])
def test_an_address_is_found_however_it_is_written(content, coding):
    assert named(coding(content)) is True


@pytest.mark.parametrize(
    "other", ["x" + JAN, "x." + JAN, JAN + ".nl", JAN + "x", "tour@example.com", JAN.replace("-", "_")]
)
def test_another_address_is_not_the_address(other):
    assert named(json.dumps({"email": other}).encode()) is False


def test_an_address_of_letters_that_ascii_lacks_is_found():
    assert named(json.dumps({"email": "jürgen@exämple.de"}).encode(), "JÜRGEN@exämple.de") is True


def test_a_body_that_cannot_be_decoded_is_unknown():
    assert named(gzip.compress(b"{}" * 1000)[:-20]) is None


async def test_all_bodies_are_searched_in_batches(engine, monkeypatch):
    monkeypatch.setattr(contacts, "IDS_AT_ONCE", 3)
    monkeypatch.setattr(contacts, "BYTES_AT_ONCE", 100)
    bodies = [json.dumps({"n": n, "email": JAN if n in (0, 3, 9) else "p@example.com"}).encode() for n in range(10)]
    events = [new_event(str(n), body=body) for n, body in enumerate(bodies)]
    async with writing(engine) as connection:
        await connection.execute(insert(Event), [event._asdict() for event in events])
    seen: list[int] = []
    found = await search(engine, JAN, advance=seen.append)
    assert (found.found, found.unreadable, sum(seen)) == ([events[n].id for n in (0, 3, 9)], 0, 10)


async def test_a_search_of_nothing_finds_nothing(engine):
    assert await search(engine, JAN, advance=lambda _: None) == ([], 0)
