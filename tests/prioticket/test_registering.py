import pytest

from app.prioticket.errors import Unavailable
from app.prioticket.registering import NotDeleted, RegisteredAlready, register
from app.prioticket.webhooks import EVENTS, registration, same_url
from tests.prioticket.fake import START, Fake

URL = "https://hooks.example.com/webhooks/prioticket"
ASKED = registration(URL, EVENTS, username="prioticket", secret="swordfish-swordfish", payload=True, email=None)


def ids(fake: Fake) -> list[str]:
    return [webhook["webhook_id"] for webhook in fake.webhooks.all()]


async def test_a_url_that_is_registered_is_not_registered_again():
    fake = Fake()
    fake.webhooks.add(ASKED | {"webhook_url": URL.replace("hooks.", "HOOKS.").replace(".com", ".com:443")}, now=START)
    async with fake.client() as client:
        with pytest.raises(RegisteredAlready, match=ids(fake)[0]):
            await register(client, ASKED, replace=False)
    assert len(fake.webhooks) == 1


async def test_replacing_deletes_the_old_ones_after_the_new_one_is_there():
    fake = Fake()
    old = [fake.webhooks.add(ASKED, now=START)["webhook_id"] for _ in range(2)]
    other = fake.webhooks.add(ASKED | {"webhook_url": "https://other.example/"}, now=START)["webhook_id"]
    async with fake.client() as client:
        made = await register(client, ASKED, replace=True)
    assert ids(fake) == [other, made.id]
    assert fake.paths() == ["GET /webhooks", "POST /webhooks", *(f"DELETE /webhooks/{each}" for each in old)]


@pytest.mark.parametrize("replace", [True, False])
async def test_a_lost_answer_registers_nothing_twice(replace):
    fake = Fake()
    if replace:
        fake.webhooks.add(ASKED, now=START)
    fake.lost_answers = 1
    async with fake.client() as client:
        made = await register(client, ASKED, replace=replace)
    assert ids(fake) == [made.id]
    assert fake.paths().count("POST /webhooks") == 1


@pytest.mark.parametrize("answer", [b"<html>", b'{"data": {"webhook": {}}}'])
async def test_an_answer_that_cannot_be_read_registers_nothing_twice(answer):
    fake = Fake()
    fake.unreadable_posts = [answer]
    async with fake.client() as client:
        made = await register(client, ASKED, replace=False)
    assert ids(fake) == [made.id]


async def test_a_registration_that_was_not_carried_out_is_tried_again():
    fake = Fake()
    fake.refused_posts = 2
    async with fake.client() as client:
        made = await register(client, ASKED, replace=False)
    assert ids(fake) == [made.id]


async def test_it_gives_up_after_three_tries():
    fake = Fake()
    fake.refused_posts = 9
    async with fake.client() as client:
        with pytest.raises(Unavailable):
            await register(client, ASKED, replace=False)
    assert fake.refused_posts == 6


async def test_an_old_one_that_cannot_be_deleted_is_named():
    fake = Fake(faults=["/webhooks/*=503"])
    old = fake.webhooks.add(ASKED, now=START)["webhook_id"]
    async with fake.client() as client:
        with pytest.raises(NotDeleted, match=old):
            await register(client, ASKED, replace=True)
    assert len(fake.webhooks) == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example/x", "https://A.example:443/x", True),
        ("https://a.example", "https://a.example/", True),
        ("https://a.example/x", "https://a.example/y", False),
        ("https://a.example/x", "http://a.example/x", False),
        ("https://a.example/x?a=1", "https://a.example/x", False),
        ("https://a.example:x/", "https://a.example:x/", True),
    ],
)
def test_urls_are_the_same_if_they_lead_to_the_same_place(one, other, same):
    assert same_url(one, other) is same
