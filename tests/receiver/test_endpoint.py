import asyncio

from tests.conftest import WEBHOOK, basic_header, payload

NOTIFICATION = payload("01-notification-order-create")


async def test_an_accepted_event_is_stored_before_its_200(client, stored):
    reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    (event,) = await stored()
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["Event-Id"] == str(event.id)
    assert event.body == NOTIFICATION


async def test_two_copies_in_one_batch_are_stored_once(client, stored):
    posts = (client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header()) for _ in range(20))
    replies = await asyncio.gather(*posts)
    (event,) = await stored()
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.headers["Event-Id"] for reply in replies} == {str(event.id)}
    assert event.duplicates == 19
    assert event.last_duplicate_at is not None
