from datetime import timedelta

import pytest

from app.prioticket.messages import REACHABLE_ITEMS
from app.reconciliation.listing import Place, TooMany, changed_orders
from app.simulator.sales import stamp
from tests.prioticket.fake import START, Fake

LONG_AGO = START - timedelta(days=400)


def order(number, made):
    at = stamp(made)
    shown = {"order_status": "ORDER_CONFIRMED", "order_distributor_id": "501"}
    return {"order_reference": f"P{number}", "order_created": at, "order_modified": at} | shown


async def listed(fake, place=None, **more):
    async with fake.client() as client:
        pages = changed_orders(client, modified_since=LONG_AGO, place=place or Place(LONG_AGO), now=START, **more)
        return [page async for page in pages]


def references(pages):
    return [item["order_reference"] for page in pages for item in page.page.items]


@pytest.mark.slow
async def test_a_list_that_is_too_long_to_be_reached_is_read_in_parts(monkeypatch):
    fake = Fake()
    many = [
        order(number, START - timedelta(days=100, seconds=number % 3600)) for number in range(REACHABLE_ITEMS + 300)
    ]
    made = sorted(many, key=lambda each: each["order_created"])
    monkeypatch.setattr(fake.book, "newest", lambda: iter(made))
    pages = await listed(fake)
    assert set(references(pages)) == {each["order_reference"] for each in made}
    assert len(references(pages)) < len(made) + 20
    assert pages[-1].next is None


async def test_from_each_place_the_rest_of_the_list_is_read(monkeypatch):
    fake = Fake()
    made = [order(number, START - timedelta(days=9, minutes=-number)) for number in range(450)]
    monkeypatch.setattr(fake.book, "newest", lambda: iter(made))
    pages = await listed(fake)
    assert references(pages) == [each["order_reference"] for each in made]
    for number, page in enumerate(pages[:-1], start=1):
        assert references(await listed(fake, page.next)) == references(pages[number:])


async def test_after_a_part_of_the_list_the_other_parts_follow(monkeypatch):
    fake = Fake()
    made = [order(number, START - timedelta(days=9, minutes=-number)) for number in range(450)]
    monkeypatch.setattr(fake.book, "newest", lambda: iter(made))
    part = Place(LONG_AGO, START - timedelta(days=9, minutes=-200), page=2)
    assert references(await listed(fake, part)) == [f"P{number}" for number in [*range(100, 201), *range(200, 450)]]


async def test_more_orders_of_a_minute_than_can_be_reached_are_told(monkeypatch):
    fake = Fake()
    made = [order(number, START - timedelta(days=100)) for number in range(REACHABLE_ITEMS + 1)]
    monkeypatch.setattr(fake.book, "newest", lambda: iter(made))
    with pytest.raises(TooMany, match="within a minute of 2026-05-0"):
        await listed(fake)
    assert len(fake.paths()) < 30
