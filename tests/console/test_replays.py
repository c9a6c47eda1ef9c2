import re
from urllib.parse import quote

import pytest
from sqlalchemy import update

from app.database.writing import writing
from app.deliveries.tables import Delivery
from tests.conftest import bearer_header

PLAN = {"plan": "true", "to": "erp"}
BREAKS_OUT = "\"'><script>alert(1)</script>\u202e"


@pytest.fixture
async def three(workers):
    """Two events of one type, one of another, and one in quarantine that is left out."""
    await workers.store(status="quarantined", reason="400", type=None)
    for each in ("ORDER_CREATE", "ORDER_CANCEL", "ORDER_CREATE"):
        await workers.store("A", type=each)


async def started(desk, **fields) -> str:
    """The address of a replay that was started by the page."""
    reply = await desk.send("/console/replays/new?to=erp&rate=10", events="3", **fields)
    return str(reply.headers["Location"]).partition("?")[0]


async def audited(desk):
    """The newest action."""
    return (await desk.client.get("/api/audit?limit=1", headers=bearer_header())).json()["actions"][0]


async def test_without_replays_the_list_says_what_one_is(desk):
    page = await desk.see("/console/replays")
    assert "Nothing has been replayed yet" in page
    assert 'href="/console/replays/new"' in page


async def test_the_form_is_filled_in_from_the_address_and_counts_nothing(desk, three):
    page = await desk.see("/console/replays/new", type="ORDER_CANCEL", since="2026-08-12", to="new")
    assert 'value="ORDER_CANCEL"' in page
    assert 'value="2026-08-12T00:00:00+00:00"' in page
    assert "<option selected>new</option>" in page
    assert "The plan" not in page


async def test_a_time_may_be_written_as_an_age(desk, three):
    page = await desk.see("/console/replays/new", since="9999d", **PLAN)
    assert "<strong>3</strong> to <bdi>erp</bdi>" in page
    assert re.search(r"priohook replay --since 19\S+ --until 20\S+ --to erp", page)
    page = await desk.see("/console/replays/new", until="9999d", **PLAN)
    assert "<strong>0</strong> to <bdi>erp</bdi>" in page
    assert "since is invalid" in await desk.see("/console/replays/new", status=400, since="1y", **PLAN)


async def test_the_plan_says_how_many_which_and_what_is_left_out(desk, three):
    page = await desk.see("/console/replays/new", rate="0.02", **PLAN)
    assert "<strong>3</strong> to <bdi>erp</bdi>" in page
    assert "2 min at 0.02 a second" in page
    assert re.search(
        r"ORDER_CREATE</bdi></td><td class=\"number\">2<.*ORDER_CANCEL</bdi></td><td class=\"number\">1<",
        page,
        re.DOTALL,
    )
    assert "1 quarantined event" in page
    assert "Replay 3 events to" in page
    assert re.search(r"priohook replay --until 20\S+ --to erp --rate 0.02", page)


async def test_a_plan_of_nothing_offers_nothing(desk, three):
    page = await desk.see("/console/replays/new", type="NOTHING", **PLAN)
    assert "Widen the filter" in page
    assert 'name="events"' not in page


async def test_quarantined_events_are_to_be_released_first(desk, three):
    page = await desk.see("/console/replays/new?plan=true&to=erp&status=quarantined", status=409)
    assert "Release them first" in page


async def test_a_replay_is_started_and_the_audit_says_by_whom_and_why(desk, three):
    at = await started(desk, reason="the gate was down")
    page = await desk.see(at)
    assert "Replay to <bdi>erp</bdi>" in page
    assert "0 of 3" in page
    done = await audited(desk)
    assert (done["action"], done["channel"], done["client"], done["reason"]) == (
        "replay", "console", "desk", "the gate was down"
    )  # fmt: skip
    assert at.endswith(done["target"])


async def test_if_other_events_match_than_were_planned_nothing_is_started(desk, three):
    reply = await desk.send("/console/replays/new?to=erp", status=409, events="2")
    assert "3 events instead of 2" in reply.text
    assert "Nothing has been replayed yet" in await desk.see("/console/replays")


@pytest.fixture
async def many(workers):
    """More events than are replayed without typing their number."""
    for _ in range(2):
        await workers.store("A", type="ORDER_CREATE")


@pytest.mark.parametrize(("typed", "status"), [(None, 422), ("1", 422), ("2", 303), (" 2,", 303)])
async def test_the_number_of_many_events_must_be_typed(desk, many, monkeypatch, typed, status):
    monkeypatch.setattr("app.console.replays.MOST_UNCONFIRMED", 1)
    assert "type the number of events: 2" in await desk.see("/console/replays/new", **PLAN)
    fields = {} if typed is None else {"typed": typed}
    reply = await desk.send("/console/replays/new?to=erp", status=status, events="2", **fields)
    assert ("not the number of events" in reply.text) == (status == 422)


@pytest.mark.parametrize(
    "fields", [{}, {"events": "many"}, {"events": "3", "reason": "a" * 256}, {"events": "3", "x": "1"}]
)
async def test_a_form_that_was_tampered_with_starts_nothing(desk, three, fields):
    await desk.send("/console/replays/new?to=erp", status=422, **fields)
    assert "Nothing has been replayed yet" in await desk.see("/console/replays")


async def test_a_replay_is_paused_resumed_and_cancelled(desk, three):
    at = await started(desk)
    for control, says in (("pause", "The replay is paused."), ("resume", "goes on"), ("cancel", "is cancelled")):
        reply = await desk.send(f"{at}/{control}", reason=f"because {control}")
        page = await desk.see(reply.headers["Location"])
        assert says in page
        done = await audited(desk)
        assert (done["action"], done["kind"], done["reason"]) == (control, "replay", f"because {control}")
    assert "What you can do" not in page
    assert "is cancelled" in (await desk.send(f"{at}/pause", status=409)).text


async def test_what_failed_of_a_replay_is_tried_again_and_nothing_else(desk, workers, three):
    await workers.dispatch()
    at = await started(desk)
    while (await workers.advance()).made:
        workers.wait(1)
    async with writing(workers.engine) as connection:
        dead = {"status": "dead", "due_at": None, "attempts": 20, "finished_at": workers.now}
        await connection.execute(update(Delivery).where(Delivery.reference == "A").values(dead))
    assert "Try 3 dead deliveries again" in await desk.see(at)
    reply = await desk.send(f"{at}/again", reason="repaired")
    page = await desk.see(reply.headers["Location"])
    assert "pending again" in page
    assert "What you can do" in page
    assert "Again for what failed" not in page
    statuses = [(delivery.status, delivery.replay_id is None) for delivery in await workers.deliveries()]
    assert sorted(statuses) == [("dead", True)] * 3 + [("pending", False)] * 3
    done = await audited(desk)
    assert (done["action"], done["target"], done["details"]["replay"]) == ("retry", "erp", at.rpartition("/")[2])


async def test_the_list_says_which_events_and_how_far(desk, workers, three):
    await started(desk)
    while (await workers.advance()).made:
        workers.wait(1)
    page = await desk.see("/console/replays")
    assert "0 of 3" in page
    assert re.search(r'<progress max="3" value="0"', page)
    assert "running" in page


async def test_who_may_not_replay_sees_replays_and_no_button(signed_in, three):
    at = await started(await signed_in("desk"))
    onlooker = await signed_in("onlooker")
    assert "<form method" not in (await onlooker.see(at)).partition("<main")[2]
    assert "/console/replays/new" not in await onlooker.see("/console/replays")
    await onlooker.see("/console/replays/new", status=403)
    for address in ("/console/replays/new?to=erp", f"{at}/pause", f"{at}/cancel"):
        await onlooker.send(address, status=403, events="3")


async def test_hostile_text_is_shown_as_text(desk, workers):
    await workers.store(BREAKS_OUT, type=BREAKS_OUT)
    query = {"type": BREAKS_OUT, "reference": BREAKS_OUT, "client": BREAKS_OUT}
    pages = [await desk.see("/console/replays/new", **PLAN), await desk.see("/console/replays/new", **PLAN | query)]
    address = "&".join(f"{name}={quote(BREAKS_OUT)}" for name in ("type", "reference"))
    reply = await desk.send(f"/console/replays/new?to=erp&{address}", events="1")
    pages += [await desk.see("/console/replays"), await desk.see(reply.headers["Location"])]
    for page in pages:
        assert "<script>alert" not in page
        assert "\u202e" not in re.sub(r'value="[^"]*"', "", page)


@pytest.mark.parametrize("address", ["/console/replays/1", "/console/replays/01987f6e-0000-7000-8000-0000000000ff"])
async def test_a_replay_that_is_not_there_is_404(desk, address):
    await desk.see(address, status=404)
