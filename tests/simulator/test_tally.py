from app.simulator.requests import ENDED, Request
from app.simulator.tally import RETRY, Tally

EVENT = Request(kind="event", key=1, body=b"{}")
STALL = Request(kind="stall", key=2, body=b"{}", expected=frozenset((408, ENDED)), kept=True, withheld=1)


def test_each_try_is_counted_by_its_own_answer_and_the_last_one_is_judged():
    tally = Tally()
    tally.answered("event", status=503, seconds=0.1)
    tally.answered(RETRY, status=200, seconds=0.1)
    tally.judged(EVENT, status=200, event_id="a", body="")
    result = tally.as_json()
    assert result["sent"] == {"event": {"503": 1}, "retry": {"200": 1}}
    assert (result["retries"], result["events"], result["unexpected"]) == (1, 1, 0)


def test_a_wrong_answer_is_kept_as_it_came():
    tally = Tally()
    tally.judged(EVENT, status=502, event_id="", body="<h1>\x1b[2JBad")
    assert tally.examples == ["event: 502 instead of 200. <h1>\x1b[2JBad"]


def test_another_id_for_a_copy_is_wrong():
    tally = Tally()
    tally.judged(EVENT, status=200, event_id="a", body="")
    tally.judged(EVENT, status=200, event_id="b", body="")
    assert tally.unexpected == 1


def test_a_connection_that_ends_is_a_right_answer_to_a_stall_and_to_nothing_else():
    tally = Tally()
    tally.judged(STALL, status=ENDED, event_id="", body="")
    assert tally.unexpected == 0
    tally.judged(EVENT, status=ENDED, event_id="", body="ServerDisconnectedError")
    assert tally.examples == ["event: connection ended instead of 200. ServerDisconnectedError"]


def test_only_a_stall_that_was_answered_counts_as_quarantined():
    tally = Tally()
    tally.judged(STALL, status=ENDED, event_id="", body="")
    assert tally.quarantined == 0
    tally.judged(STALL, status=408, event_id="", body="")
    assert tally.quarantined == 1


def test_percentiles_are_of_the_answers_that_came():
    tally = Tally()
    for milliseconds in range(1, 101):
        tally.answered("event", status=200, seconds=milliseconds / 1000)
    tally.answered("event", status=ENDED, seconds=9)
    tally.answered("stall", status=408, seconds=None)
    assert tally.as_json()["latency_ms"] == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
