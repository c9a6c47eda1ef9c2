from uuid import UUID

import pytest

from app.audit.actors import Actor
from app.audit.chain import Act, record
from app.audit.tables import Action, Channel, Kind
from app.database.writing import writing
from tests.deliveries.workers import NOON

BREAKS_OUT = "\"'><script>alert(1)</script>\u202e"
EVENT = UUID("01987f6e-0000-7000-8000-000000000001")


@pytest.fixture
def did(engine):
    """`await did(action=…, kind=…)` records an action of alice at a shell."""

    async def did(**changes):
        values = {"action": Action.READ, "kind": Kind.EVENT, "target": str(EVENT)} | changes
        actor = Actor(channel=Channel.CLI, client=values.pop("client", "alice@gate"), address="192.0.2.1")
        async with writing(engine) as connection:
            await record(connection, actor, Act(**values), now=NOON)

    return did


async def test_each_action_says_who_what_to_what_and_why_and_leads_there(desk, did):
    await did(
        event_id=EVENT, reference="PRI/1", reason="ticket 4711", details={"bytes": 12, "types": ["A", "B"], "none": []}
    )
    page = await desk.see("/console/audit")
    assert "<bdi>alice@gate</bdi>" in page
    assert "cli from <bdi>192.0.2.1</bdi>" in page
    assert f'href="/console/events/{EVENT}"' in page
    assert 'href="/console/orders/PRI%2F1"' in page or 'href="/console/orders/PRI/1"' in page
    assert "ticket 4711" in page
    assert "<bdi>12</bdi>" in page
    assert "<bdi>A, B</bdi>" in page
    assert "priohook audit verify" in page
    assert "sign in" in page, "that the desk signed in is an action too"


@pytest.mark.parametrize(
    ("kind", "target", "leads_to"),
    [
        (Kind.DELIVERY, str(EVENT), f"/console/deliveries/{EVENT}"),
        (Kind.REPLAY, str(EVENT), f"/console/replays/{EVENT}"),
        (Kind.ORDER, "PRI1", "/console/orders/PRI1"),
        (Kind.DESTINATION, "erp", "/console/destinations/erp"),
    ],
)
async def test_what_was_acted_on_has_a_link(desk, did, kind, target, leads_to):
    await did(kind=kind, target=target, action=Action.PAUSE)
    assert f'href="{leads_to}"' in await desk.see("/console/audit")


async def test_filters_are_those_of_the_api_and_stay_filled_in(desk, did):
    await did(client="alice")
    await did(client="bob", action=Action.ERASE, kind=Kind.ERASURE, target="1")
    page = await desk.see("/console/audit", client="bob", action="erase", channel="cli", kind="", since="2026-08-12")
    assert "<bdi>bob</bdi>" in page
    assert "<bdi>alice</bdi>" not in page
    assert 'value="bob"' in page
    assert '<option value="erase" selected>' in page
    assert "No action matches" in await desk.see("/console/audit", client="nobody")


async def test_there_are_pages(desk, did):
    for number in range(3):
        await did(client=f"client {number}")
    page = await desk.see("/console/audit", limit="2", channel="cli")
    assert "client 2" in page
    assert "client 0" not in page
    assert 'rel="next" href="/console/audit?channel=cli&amp;limit=2&amp;cursor=' in page


async def test_anyone_in_the_console_sees_it(signed_in, did):
    await did()
    assert "alice@gate" in await (await signed_in("onlooker")).see("/console/audit")


async def test_hostile_text_is_shown_as_text(desk, did):
    await did(
        client=BREAKS_OUT,
        reason=BREAKS_OUT,
        details={BREAKS_OUT: BREAKS_OUT, "a": [BREAKS_OUT], "b": {BREAKS_OUT: BREAKS_OUT}},
        reference=BREAKS_OUT,
    )
    await did(kind=Kind.DESTINATION, target=BREAKS_OUT)
    await did(kind=Kind.ORDER, target=BREAKS_OUT)
    page = await desk.see("/console/audit")
    assert "<script>alert" not in page
    assert "\u202e" not in page
