import json

import pytest

from tests.cli.conftest import refused_event
from tests.deliveries.workers import Workers


@pytest.fixture
def order(working):
    """An order of two events, of which the first is delivered and the second fails."""

    async def make(workers: Workers):
        await workers.store("PRI1", type="ORDER_CREATE", order_version=1)
        await workers.dispatch()
        (claim,) = (await workers.turn()).claims
        await workers.turn(workers.ended(claim))
        await workers.store("PRI1", type="ORDER_CANCEL", order_version=2)
        await workers.dispatch()
        (claim,) = (await workers.turn()).claims
        await workers.turn(workers.ended(claim, 500))

    working(make)


def test_an_order_is_shown_with_its_events_and_their_deliveries(run, order):
    done = run("orders", "show", "PRI1")
    assert done.status == 0
    told = (
        "PRI1: 2 events\n",
        "ORDER_CREATE  version 1\n",
        "erp: delivered since ",
        "(200)",
        "ORDER_CANCEL  version 2\n",
    )
    places = [done.text.index(each) for each in told]
    assert places == sorted(places)
    assert "erp: pending due " in done.text
    assert "(500)" in done.text


def test_json_has_the_events_and_deliveries_as_their_lists_do(run, order):
    shown = json.loads(run("orders", "show", "PRI1", "--json").text)
    events = [json.loads(line) for line in run("events", "list", "--json").text.splitlines()]
    deliveries = [json.loads(line) for line in run("deliveries", "list", "--json").text.splitlines()]
    assert shown == {
        "reference": "PRI1",
        "events": [event | {"late": False} for event in reversed(events)],
        "deliveries": deliveries,
    }


def test_what_is_quarantined_or_has_copies_says_so(run, fill):
    fill(refused_event("a", b"not json", reference="PRI1"))
    assert "quarantined 415: The content type is not JSON." in run("orders", "show", "PRI1").text


def test_an_unknown_reference_is_status_1(run, fill):
    fill()
    done = run("orders", "show", "nobody")
    assert (done.status, done.written) == (1, b"")
    assert "No event has the reference nobody." in done.errors
