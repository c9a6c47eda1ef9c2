"""Whatever is found at whatever time, each alarm is told once when it starts and once when it ends."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from app.alarms.changes import AGAIN_AFTER, Changes, Firing, changes
from app.alarms.findings import critical

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
HOLD = timedelta(minutes=5)
SECOND = timedelta(seconds=1)
KEYS = [("backlog", "erp"), ("backlog", "gate"), ("silence", None)]

wrong = st.sets(st.sampled_from(KEYS))
forward = st.lists(st.tuples(st.integers(1, 1200), wrong), max_size=60)
jumping = st.lists(st.tuples(st.integers(-(10**7), 10**7), wrong), max_size=60)


class Run:
    """Looks one after another; what fires is all that one look knows of those before."""

    def __init__(self) -> None:
        self.firing: list[Firing] = []
        self.now = NOON
        self.told: list[tuple[str, datetime, tuple[str, str, str]]] = []
        self._ids = count(1)

    def look(self, found) -> Changes:
        findings = [(kind, critical(name=kind, subject=subject, what="w", command="c")) for kind, subject in found]
        made = changes(
            self.firing,
            findings,
            ends_after=lambda _: HOLD,
            now=self.now,
            make_id=lambda: UUID(int=next(self._ids)),
        )
        for stage in ("started", "lasting", "ended"):
            self.told += [(stage, self.now, alarm.key) for alarm in getattr(made, stage)]
        self.firing = [*made.started, *made.lasting, *made.kept]
        return made

    def after(self, seconds, found) -> Changes:
        self.now += timedelta(seconds=seconds)
        return self.look(found)


def test_what_is_wrong_is_told_at_once_and_ends_when_nothing_was_wrong_for_long_enough():
    run = Run()
    (alarm,) = run.look({KEYS[0]}).started
    assert (alarm.kind, alarm.subject, alarm.started_at) == ("backlog", "erp", NOON)
    assert run.after(299, ()).ended == []
    assert run.after(1, ()).ended == [alarm]
    assert run.firing == []


def test_what_comes_and_goes_more_often_is_one_alarm():
    run = Run()
    for number in range(100):
        run.after(60, {KEYS[0]} if number % 3 == 0 else ())
    assert [stage for stage, _, _ in run.told] == ["started"]


def test_what_lasts_is_told_again_each_day():
    run = Run()
    for _ in range(3 * 24 + 1):
        run.look({KEYS[0]})
        run.now += timedelta(hours=1)
    assert [(stage, at - NOON) for stage, at, _ in run.told] == [
        ("started", timedelta(0)),
        *(("lasting", days * AGAIN_AFTER) for days in (1, 2, 3)),
    ]


def test_a_clock_that_is_set_back_by_a_year_delays_neither_the_end_nor_what_is_told_again():
    run = Run()
    run.look({KEYS[0]})
    run.after(-365 * 86400, {KEYS[0]})
    assert run.after(86400, {KEYS[0]}).lasting
    run.after(-365 * 86400, ())
    assert run.after(300, ()).ended


def test_what_is_found_twice_is_one_alarm():
    run = Run()
    made = run.look([KEYS[0], KEYS[0]])
    assert len(made.started) == len(run.firing) == 1
    assert len(run.look([KEYS[0], KEYS[0]]).kept) == 1


def test_what_has_no_beginning_of_its_own_is_wrong_since_it_was_found():
    run = Run()
    (alarm,) = run.look({KEYS[0]}).started
    assert alarm.since == NOON
    assert [kept.since for kept in run.after(20, {KEYS[0]}).kept] == [NOON]


def test_the_newest_words_are_kept():
    run = Run()
    (alarm,) = run.look({KEYS[0]}).started
    finding = critical(name="backlog", subject="erp", what="worse", command="c", since=NOON - HOLD)
    made = changes([alarm], [("backlog", finding)], ends_after=lambda _: HOLD, now=NOON + SECOND)
    assert made.kept == [replace(alarm, what="worse", since=NOON - HOLD, seen_at=NOON + SECOND)]


@given(jumping)
def test_an_alarm_starts_and_ends_in_turn_however_the_clock_jumps(looks):
    run = Run()
    for seconds, found in looks:
        run.after(seconds, found)
        fires = {alarm.key for alarm in run.firing}
        assert len(fires) == len(run.firing)
        assert {(kind, kind, subject or "") for kind, subject in found} <= fires
    for kind, subject in KEYS:
        stages = [stage for stage, _, key in run.told if key == (kind, kind, subject or "") and stage != "lasting"]
        assert stages == ["started", "ended"] * (len(stages) // 2) + ["started"] * (len(stages) % 2)


@given(forward)
def test_flapping_is_told_at_most_once_in_the_time_that_an_alarm_needs_to_end(looks):
    run = Run()
    for seconds, found in looks:
        run.after(seconds, found)
    most = 1 + (run.now - NOON) / HOLD
    assert all(starts <= most for starts in Counter(key for stage, _, key in run.told if stage == "started").values())


@given(jumping)
def test_everything_ends_once_nothing_is_wrong(looks):
    run = Run()
    for seconds, found in looks:
        run.after(seconds, found)
    run.look(())
    run.after(HOLD.total_seconds(), ())
    assert run.firing == []


@given(forward, st.integers(1, 5))
def test_more_looks_at_the_same_moment_as_of_two_workers_tell_nothing_more(looks, times):
    once, more = Run(), Run()
    for seconds, found in looks:
        once.after(seconds, found)
        more.after(seconds, found)
        for _ in range(times):
            made = more.look(found)
            assert made.started == made.lasting == made.ended == []
    assert [told[:2] for told in once.told] == [told[:2] for told in more.told]
