import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

from app.deliveries.claims import MARGIN, Claim
from app.deliveries.losses import LOST
from app.deliveries.queries import get_delivery, list_attempts
from app.deliveries.retry import FAILURES_TO_OPEN, FIRST_DELAY, LONGEST_DELAY, MOST_ATTEMPTS
from app.deliveries.tables import Attempt, AttemptResult, ReplayStatus
from app.deliveries.turns import HELD_BACK_AFTER
from tests.deliveries.workers import NOON, Workers


async def deliver(workers: Workers, status: int | None = 200, *, worker: str = "one") -> list[int]:
    """Claims what is due, gives each delivery this answer, and returns the attempts."""
    turn = await workers.turn(worker=worker)
    await workers.turn(*(workers.ended(claim, status) for claim in turn.claims), worker=worker)
    return [claim.attempt for claim in turn.claims]


async def until_claimed(workers: Workers, *, worker: str = "one") -> Claim:
    """The next claim of the only delivery, however long it must wait for that."""
    for _ in range(3):
        turn = await workers.turn(worker=worker)
        if turn.claims:
            (claim,) = turn.claims
            return claim
        workers.wait(LONGEST_DELAY.total_seconds())
    raise AssertionError("It was not claimed.")


async def statuses(workers: Workers) -> list[str]:
    return [row.status for row in await workers.deliveries()]


async def test_a_claim_has_all_that_is_to_be_sent(workers):
    event_id = await workers.store("A", type="ORDER_CANCEL", body=b"\x00\xff", headers=b"content-type: a/b\r\nx: y")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    assert (claim.event_id, claim.type, claim.reference, claim.body) == (event_id, "ORDER_CANCEL", "A", b"\x00\xff")
    assert claim.headers == [["content-type", "a/b"], ["x", "y"]]
    assert (claim.attempt, claim.tries, claim.replay_id, claim.superseded) == (1, 1, None, False)


async def test_a_destination_that_nobody_registered_has_nothing_to_send(workers):
    assert (await workers.turn(limits=workers.limits._replace(name="unheard-of")))[:2] == ([], None)


async def test_the_end_of_a_certificate_is_kept_until_another_is_met(workers):
    await workers.store("A")
    await workers.store("B")
    await workers.dispatch()
    first, second = (await workers.turn()).claims
    ends = NOON + timedelta(days=90)
    await workers.turn(workers.ended(first, certificate_until=ends))
    assert (await workers.destination()).certificate_until == ends
    await workers.turn(workers.ended(second, None, error="It closed the connection."))
    assert (await workers.destination()).certificate_until == ends


async def test_one_delivery_of_a_reference_is_in_flight_at_a_time(workers):
    first, second = [await workers.store("A") for _ in range(2)]
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    assert claim.event_id == first
    assert (await workers.turn(worker="two")).claims == []
    (claim,) = (await workers.turn(workers.ended(claim))).claims
    assert claim.event_id == second


async def test_two_workers_together_send_no_more_than_may_be_in_flight(engine):
    workers = Workers(engine, max_in_flight=3)
    await workers.register()
    for reference in "ABCDE":
        await workers.store(reference)
    await workers.dispatch()
    one = (await workers.turn(worker="one")).claims
    assert len(one) == 3
    assert (await workers.turn(worker="two")).claims == []
    await workers.turn(
        workers.ended(one[0]), workers.ended(one[1]), worker="one", limits=workers.limits._replace(max_in_flight=1)
    )
    assert len((await workers.turn(worker="two")).claims) == 2


async def test_no_more_is_sent_than_the_rate_allows(engine):
    workers = Workers(engine, max_in_flight=1000, rate=10)
    await workers.register()
    for _ in range(60):
        await workers.store()
    await workers.dispatch()
    started, times = workers.now, []
    while workers.now - started < timedelta(seconds=4):
        turn = await workers.turn()
        times += [workers.now] * len(turn.claims)
        await workers.turn(
            *(workers.ended(claim) for claim in turn.claims), limits=workers.limits._replace(max_in_flight=0)
        )
        workers.wait(0.08)
    for number, at in enumerate(times, start=1):
        assert number <= (at - started).total_seconds() * 10 + 2
    assert len(times) >= 38


async def test_an_idle_destination_sends_a_tenth_of_a_second_at_once(engine):
    workers = Workers(engine, max_in_flight=1000, rate=50)
    await workers.register()
    await workers.store()
    await workers.dispatch()
    assert await deliver(workers) == [1]
    for _ in range(20):
        await workers.store()
    workers.wait(3600)
    await workers.dispatch()
    turn = await workers.turn()
    assert len(turn.claims) == 6
    assert turn.next_at == workers.now + timedelta(seconds=0.02)


async def test_live_deliveries_go_before_replayed_ones(engine):
    workers = Workers(engine, max_in_flight=1)
    await workers.register()
    await workers.store()
    workers.wait(1)
    await workers.start()
    await workers.advance()
    workers.wait(1)
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    assert claim.replay_id is None


async def test_a_failure_is_tried_again_after_its_delay_and_holds_back_its_own_reference_only(workers):
    await workers.store("A")
    await workers.store("A")
    await workers.store("B")
    await workers.dispatch()
    claims = {claim.reference: claim for claim in (await workers.turn()).claims}
    turn = await workers.turn(workers.ended(claims["A"], 500), workers.ended(claims["B"]))
    assert turn.claims == []
    first, second, other = await workers.deliveries()
    assert (first.status, second.status, other.status) == ("pending", "pending", "delivered")
    assert workers.now <= first.due_at <= workers.now + FIRST_DELAY
    assert turn.next_at == first.due_at
    assert second.due_at is None
    workers.wait(FIRST_DELAY.total_seconds())
    (claim,) = (await workers.turn()).claims
    assert (claim.event_id, claim.attempt) == (first.event_id, 2)


async def test_an_attempt_is_kept_with_its_time_status_error_and_answer(workers):
    await workers.store()
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    ended = workers.ended(claim, 500, answer=b"Oops")._replace(duration=timedelta(seconds=1.5))
    await workers.turn(ended)
    (kept,) = await workers.attempts()
    assert kept[:] == (claim.delivery_id, 1, workers.now, 1500, 500, "refused", None, b"Oops")


async def test_a_first_attempt_that_delivers_is_kept_without_a_row_of_its_own(workers):
    await workers.store()
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    ended = workers.ended(claim, 204, answer=b"Thanks")._replace(duration=timedelta(seconds=1.5))
    await workers.turn(ended)
    (kept,) = await workers.attempts()
    assert kept[:] == (claim.delivery_id, 1, workers.now, 1500, 204, "delivered", None, b"Thanks")
    async with workers.engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Attempt)) == 0


async def test_a_delivery_that_is_sent_and_ends_is_written_twice(workers):
    written: list[str] = []

    def note(_: Any, __: Any, statement: str, ___: Any, ____: Any, _____: Any) -> None:
        written.extend(re.findall(r"^(?:INSERT INTO|UPDATE) (deliveries|attempts)", statement))

    event.listen(workers.engine.sync_engine, "before_cursor_execute", note)
    await workers.store()
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim))
    assert written == ["deliveries", "deliveries"]


@pytest.mark.parametrize("error", ["a \x00 in it", "half a character: \ud800"])
async def test_an_error_that_is_no_text_for_a_database_is_kept_readable(workers, error):
    await workers.store()
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, None, error=error))
    (kept,) = await workers.attempts()
    assert kept.error in ("a \\x00 in it", "half a character: \\ud800")


async def test_retry_after_puts_the_next_attempt_off(workers):
    await workers.store()
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 429, retry_after=timedelta(minutes=7)))
    (row,) = await workers.deliveries()
    assert row.due_at == workers.now + timedelta(minutes=7)


async def test_410_pauses_the_destination_and_keeps_the_delivery(workers):
    event_id = await workers.store("A")
    await workers.store("B")
    await workers.dispatch()
    gone, other = (await workers.turn()).claims
    assert (await workers.turn(workers.ended(gone, 410))).claims == []
    assert (await workers.destination()).paused_reason == f"It answered 410 Gone to event {event_id}."
    await workers.turn(workers.ended(other))
    assert await statuses(workers) == ["pending", "delivered"]
    await workers.pause(paused=False)
    assert [claim.attempt for claim in (await workers.turn()).claims] == [2]


async def test_a_paused_destination_still_records_what_ends(workers):
    await workers.store()
    await workers.store()
    await workers.dispatch()
    claim, _ = (await workers.turn()).claims
    await workers.pause(paused=True)
    assert (await workers.turn(workers.ended(claim))).claims == []
    assert await statuses(workers) == ["delivered", "pending"]


async def test_after_the_last_attempt_a_delivery_is_dead_and_the_next_of_its_reference_goes(workers):
    _, second = [await workers.store("A") for _ in range(2)]
    await workers.dispatch()
    made = []
    while await statuses(workers) == ["pending", "pending"]:
        made += await deliver(workers, 500)
        workers.wait(30_000)
    assert made == list(range(1, MOST_ATTEMPTS + 1))
    assert await statuses(workers) == ["dead", "pending"]
    (claim,) = (await workers.turn()).claims
    assert claim.event_id == second


async def test_a_failing_destination_gets_one_probe_at_a_time_until_it_succeeds(engine):
    workers = Workers(engine, max_in_flight=FAILURES_TO_OPEN)
    await workers.register()
    for _ in range(FAILURES_TO_OPEN):
        await workers.store()
    await workers.dispatch()
    for _ in range(2):
        await deliver(workers, 500)
        workers.wait(30)
    await deliver(workers, 500)
    opened = await workers.destination()
    assert opened.failures >= FAILURES_TO_OPEN
    assert opened.probe_at > workers.now
    workers.wait(14.9)
    assert (await workers.turn())[:2] == ([], opened.probe_at)
    workers.wait(86_400)
    (probe,) = (await workers.turn()).claims
    assert (await workers.turn(worker="two")).claims == []
    assert (await workers.turn(workers.ended(probe, 503))).claims == []
    workers.wait(300)
    (probe,) = (await workers.turn()).claims
    assert len((await workers.turn(workers.ended(probe))).claims) > 1
    assert (await workers.destination()).probe_at is None


async def test_a_lost_claim_comes_back_after_its_end_and_a_delay_and_its_attempt_says_so(workers):
    await workers.store("A")
    await workers.dispatch()
    (lost,) = (await workers.turn(worker="one")).claims
    ends = workers.now + workers.limits.timeout + MARGIN
    assert (await workers.turn(worker="two"))[:2] == ([], ends)
    workers.wait((ends - workers.now).total_seconds())
    await workers.turn(worker="two")
    (attempt,) = await workers.attempts()
    assert (attempt.number, attempt.error, attempt.status, attempt.duration_ms) == (1, LOST, None, None)
    workers.wait(FIRST_DELAY.total_seconds())
    (claim,) = (await workers.turn(worker="two")).claims
    assert (claim.delivery_id, claim.attempt, claim.tries) == (lost.delivery_id, 2, 1)


async def test_lost_claims_back_off_as_failures_do_and_never_make_a_delivery_dead(workers):
    await workers.store("A")
    await workers.dispatch()
    waits = []
    for _ in range(2 * MOST_ATTEMPTS):
        await until_claimed(workers)
        workers.wait(15)
        turn = await workers.turn()
        waits.append((turn.next_at or workers.now) - workers.now)
    assert await statuses(workers) == ["pending"]
    assert max(waits[:1]) <= FIRST_DELAY
    assert max(waits[1:3]) <= 9 * FIRST_DELAY
    assert timedelta(hours=1) < max(waits) <= LONGEST_DELAY


async def test_lost_claims_are_tried_one_at_a_time_until_an_answer_is_known(workers):
    for reference in "ABC":
        await workers.store(reference)
    await workers.dispatch()
    assert len((await workers.turn(worker="one")).claims) == 3
    workers.wait(15)
    await workers.turn(worker="two")
    workers.wait(FIRST_DELAY.total_seconds())
    await workers.store("D")
    await workers.dispatch()
    turn = await workers.turn(worker="two")
    for _ in range(3):
        (claim,) = turn.claims
        assert (await workers.turn(worker="three")).claims == []
        turn = await workers.turn(workers.ended(claim, 500), worker="two")
    assert [claim.reference for claim in turn.claims] == ["D"]
    workers.wait(60)
    turn = await workers.turn(*map(workers.ended, turn.claims), worker="two")
    assert sorted(str(claim.reference) for claim in turn.claims) == ["A", "B", "C"]


async def test_one_that_is_tried_alone_waits_for_what_is_under_way_and_nothing_passes_it(workers):
    await workers.store("A")
    await workers.dispatch()
    (lost,) = (await workers.turn()).claims
    await workers.turn(workers.ended(lost, None, result=AttemptResult.LOST, counts=False))
    await workers.store("B")
    await workers.dispatch()
    (beside,) = (await workers.turn()).claims
    workers.wait(FIRST_DELAY.total_seconds())
    await workers.store("C")
    await workers.dispatch()
    assert (await workers.turn()).claims == []
    (alone,) = (await workers.turn(workers.ended(beside))).claims
    assert alone.reference == "A"
    (after,) = (await workers.turn(workers.ended(alone))).claims
    assert after.reference == "C"


async def test_an_attempt_that_ended_its_process_alone_counts_and_others_do_not(workers):
    await workers.store("A")
    await workers.dispatch()
    for counts in [False] * 5 + [True] * MOST_ATTEMPTS:
        assert await statuses(workers) == ["pending"]
        claim = await until_claimed(workers)
        await workers.turn(workers.ended(claim, None, error="It crashed.", result=AttemptResult.LOST, counts=counts))
    assert await statuses(workers) == ["dead"]
    assert len(await workers.attempts()) == 5 + MOST_ATTEMPTS


async def test_a_lost_claim_of_a_replay_that_was_cancelled_is_dropped_and_the_next_one_goes(workers):
    await workers.store("A")
    workers.wait(1)
    replay_id = await workers.start()
    await workers.advance()
    assert len((await workers.turn(worker="one")).claims) == 1
    await workers.set_replay(replay_id, ReplayStatus.CANCELLED)
    await workers.dispatch()
    workers.wait(15)
    await workers.turn(worker="two")
    live, replayed = await workers.deliveries()
    assert (replayed.status, replayed.claimed_by, replayed.claimed_at, replayed.due_at) == ("dropped", None, None, None)
    assert live.due_at


async def test_a_replay_cancelled_over_a_lost_claim_leaves_nothing_claimed(workers):
    await workers.store("A")
    workers.wait(1)
    replay_id = await workers.start()
    await workers.advance()
    await workers.turn()
    workers.wait(15)
    await workers.set_replay(replay_id, ReplayStatus.CANCELLED)
    (row,) = await workers.deliveries()
    assert (row.status, row.claimed_by, row.claimed_at) == ("dropped", None, None)


async def test_a_success_of_a_claim_that_ran_out_still_counts(workers):
    await workers.store("A")
    await workers.dispatch()
    (late,) = (await workers.turn(worker="one")).claims
    workers.wait(30)
    again = await until_claimed(workers, worker="two")
    await workers.turn(workers.ended(late), worker="one")
    await workers.turn(workers.ended(again, 500), worker="two")
    assert await statuses(workers) == ["delivered"]
    assert [(each.number, each.status) for each in await workers.attempts()] == [(1, 200), (2, 500)]


@pytest.mark.parametrize("again", ["two", "one"], ids=["another worker's", "its own"])
async def test_a_success_of_a_claim_that_ran_out_lets_the_next_event_wait_for_the_attempt_under_way(workers, again):
    for _ in range(2):
        await workers.store("A")
    await workers.dispatch()
    (late,) = (await workers.turn(worker="one")).claims
    workers.wait(30)
    under_way = await until_claimed(workers, worker=again)
    assert (await workers.turn(workers.ended(late), worker="one")).claims == []
    assert (await workers.turn(worker="three")).claims == []
    (second,) = (await workers.turn(workers.ended(under_way), worker=again)).claims
    assert (await statuses(workers), second.attempt) == (["delivered", "pending"], 1)


async def test_a_success_of_a_claim_that_ran_out_counts_at_once_if_nobody_sends_it_again(workers):
    await workers.store("A")
    await workers.dispatch()
    (late,) = (await workers.turn(worker="one")).claims
    workers.wait(30)
    await workers.turn(worker="two")
    await workers.turn(workers.ended(late), worker="one")
    assert await statuses(workers) == ["delivered"]


@pytest.mark.parametrize("again", ["two", "one"], ids=["another worker's", "its own"])
async def test_a_failure_of_a_claim_that_ran_out_does_not_touch_the_next_one(workers, again):
    await workers.store("A")
    await workers.dispatch()
    (late,) = (await workers.turn(worker="one")).claims
    workers.wait(30)
    await until_claimed(workers, worker=again)
    before = await workers.deliveries()
    await workers.turn(workers.ended(late, 500), worker="one")
    assert await workers.deliveries() == before


async def test_a_worker_that_leaves_gives_its_claims_back_at_once(workers):
    await workers.store("A")
    await workers.store("B")
    await workers.dispatch()
    ended, under_way = (await workers.turn(worker="one")).claims
    await workers.leave(workers.ended(ended), worker="one")
    (claim,) = (await workers.turn(worker="two")).claims
    assert (claim.delivery_id, claim.attempt, claim.tries) == (under_way.delivery_id, 2, 1)
    assert await statuses(workers) == ["delivered", "pending"]
    assert [attempt.error for attempt in await workers.attempts()] == [None, LOST]


@pytest.mark.parametrize(
    ("newer", "superseded"),
    [
        ({"order_version": 3}, True),
        ({"order_version": 2, "order_modified": timedelta(seconds=1)}, True),
        ({"order_version": 2, "order_modified": timedelta(0)}, False),
        ({"order_version": 1}, False),
        ({}, False),
    ],
)
async def test_an_event_is_superseded_where_a_newer_version_of_its_order_is_stored(workers, newer, superseded):
    modified = workers.now
    if "order_modified" in newer:
        newer = newer | {"order_modified": modified + newer["order_modified"]}
    await workers.store("A", order_version=2, order_modified=modified)
    await workers.store("A", **newer)
    await workers.store("B", order_version=9)
    await workers.dispatch()
    claim = (await workers.turn()).claims[0]
    assert (claim.reference, claim.superseded) == ("A", superseded)


async def test_a_circuit_that_opens_and_closes_is_told_of_once_each(workers):
    for _ in range(FAILURES_TO_OPEN + 2):
        await workers.store()
    await workers.dispatch()
    claims = (await workers.turn(limits=workers.limits._replace(max_in_flight=100))).claims
    for claim in claims[:-2]:
        await workers.turn(workers.ended(claim, 503))
        workers.wait(5)
    assert workers.news == [("circuit_opened", {"destination": "erp", "failures": FAILURES_TO_OPEN})]
    await workers.turn(workers.ended(claims[-2], 503))
    assert workers.news == []
    await workers.turn(workers.ended(claims[-1]))
    fields = {"destination": "erp", "failures": FAILURES_TO_OPEN + 1, "seconds": 50}
    assert workers.news == [("circuit_closed", fields)]
    await workers.turn()
    assert workers.news == []


async def test_a_delivery_that_dies_as_its_worker_leaves_is_told_of(workers):
    await workers.store("A")
    await workers.dispatch()
    for _ in range(MOST_ATTEMPTS - 1):
        await workers.turn(*(workers.ended(claim, 500) for claim in (await workers.turn()).claims))
        workers.wait(9 * 3600)
    await workers.leave(*(workers.ended(claim, 500) for claim in (await workers.turn()).claims))
    assert [each.event for each in workers.news] == ["delivery_dead"]


async def test_a_delivery_that_dies_is_told_of(workers):
    event_id = await workers.store("A")
    await workers.dispatch()
    told = []
    for attempt in range(1, MOST_ATTEMPTS + 1):
        (claim,) = (await workers.turn()).claims
        await workers.turn(workers.ended(claim, 500))
        told += [each.fields for each in workers.news if each.event == "delivery_dead"]
        assert len(told) == (attempt == MOST_ATTEMPTS)
        workers.wait(9 * 3600)
    (fields,) = told
    assert (fields["event_id"], fields["reference"], fields["attempts"], fields["status"]) == (
        str(event_id),
        "A",
        MOST_ATTEMPTS,
        500,
    )


@pytest.mark.parametrize(("reference", "told_of"), [("A", ["A"]), (None, [])])
async def test_a_delivery_that_holds_back_its_reference_is_told_of_once_after_its_third_failure(
    workers, reference, told_of
):
    await workers.store(reference)
    await workers.dispatch()
    told = []
    for attempt in range(1, 6):
        (claim,) = (await workers.turn()).claims
        await workers.turn(workers.ended(claim, 500))
        told += [each.fields["reference"] for each in workers.news if each.event == "order_held_back"]
        assert told == (told_of if attempt >= HELD_BACK_AFTER else [])
        workers.wait(9 * 3600)


async def test_an_attempt_that_is_recorded_again_after_a_commit_in_doubt_is_kept_once(workers):
    await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    ended = workers.ended(claim, answer=b"thanks")
    await workers.turn(ended)
    await workers.turn(ended)
    async with workers.engine.connect() as connection:
        kept = await list_attempts(connection, claim.delivery_id)
        shown = await get_delivery(connection, claim.delivery_id)
    assert shown is not None
    assert [(attempt.number, attempt.status, attempt.answer) for attempt in kept] == [(1, 200, b"thanks")]
    assert (shown.status, shown.attempts, shown.last_status) == ("delivered", 1, 200)
