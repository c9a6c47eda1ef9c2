import asyncio
import shutil
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Row, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import columns, engines
from app.deliveries.dispatch import Dispatcher
from app.deliveries.plans import NotReplayable
from app.deliveries.retry import MOST_ATTEMPTS
from app.deliveries.tables import AttemptResult, ReplayStatus
from tests.deliveries.workers import ALL, Workers

pytestmark = pytest.mark.slow

NAMES = st.sampled_from(["one", "two"])
MOST_IN_FLIGHT = 2
ROUNDS = 400


class Deliveries(RuleBasedStateMachine):
    """Two workers, a few references, replays, crashes and pauses. All invariants hold after each step."""

    def __init__(self, open_engine: Callable[[], Awaitable[AsyncEngine]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engine = self.run(open_engine())
        self.workers = Workers(self.engine, max_in_flight=MOST_IN_FLIGHT)
        self.run(self.workers.register())
        self.dispatcher = Dispatcher(ALL, most=1)
        self.events: dict[Any, str | None] = {}
        self.flying: dict[str, list[Any]] = {"one": [], "two": []}
        self.ended: dict[str, list[Any]] = {"one": [], "two": []}
        self.arrived: dict[str, list[Any]] = defaultdict(list)
        self.lives = {"one": 1, "two": 1}

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(references=st.lists(st.sampled_from([None, "A", "B"]), min_size=1, max_size=5), dispatched=st.booleans())
    def store(self, references: list[str | None], dispatched: bool) -> None:  # noqa: FBT001 - Hypothesis gives it
        for reference in references:
            self.events[self.run(self.workers.store(reference))] = reference
        if dispatched:
            self.dispatch(250)

    @rule(most=st.sampled_from([1, 250]))
    def dispatch(self, most: int) -> None:
        self.run(self.workers.dispatch(most=most))

    @rule()
    def dispatch_needed(self) -> None:
        """A worker dispatches only what the destination needs next."""
        self.run(self.workers.dispatch_needed(self.dispatcher))

    @rule(name=NAMES)
    def take_turn(self, name: str) -> None:
        ended, self.ended[name] = self.ended[name], []
        turn = self.run(self.workers.turn(*ended, worker=self._worker(name)))
        self.flying[name] += turn.claims
        for each in ended:
            if each.outcome.status == 200 and each.claim.reference and each.claim.replay_id is None:
                arrived = self.arrived[each.claim.reference]
                assert each.claim.event_id in arrived or each.claim.event_id > max(arrived, default=UUID(int=0))
                arrived.append(each.claim.event_id)

    @rule(name=NAMES, status=st.sampled_from([200, 200, 200, 500]))
    def work(self, name: str, status: int) -> None:
        self.take_turn(name)
        self.ended[name] += [self.workers.ended(claim, status) for claim in self.flying[name]]
        self.flying[name] = []
        self.take_turn(name)

    @precondition(lambda self: any(self.flying.values()))
    @rule(pick=st.randoms(use_true_random=False), status=st.sampled_from([200, 200, 500, None, 410]))
    def answer(self, pick: Any, status: int | None) -> None:
        name = pick.choice([name for name, claims in self.flying.items() if claims])
        claim = self.flying[name].pop(pick.randrange(len(self.flying[name])))
        self.ended[name].append(self.workers.ended(claim, status))

    @precondition(lambda self: any(self.flying.values()))
    @rule(pick=st.randoms(use_true_random=False))
    def lose_process(self, pick: Any) -> None:
        """A function ends its process with all calls in it. If only one call ran, that one is to blame."""
        name = pick.choice([name for name, claims in self.flying.items() if claims])
        claims, self.flying[name] = self.flying[name], []
        ends = {"error": "It crashed.", "result": AttemptResult.LOST, "counts": len(claims) == 1}
        self.ended[name] += [self.workers.ended(claim, None, **ends) for claim in claims]

    @rule(name=NAMES, status=st.sampled_from([200, 500]))
    def stall(self, name: str, status: int) -> None:
        """A worker's attempts last longer than its claims, and end after the other worker has taken over."""
        self.take_turn(name)
        self.workers.wait(30)
        self.take_turn("two" if name == "one" else "one")
        self.ended[name] += [self.workers.ended(claim, status) for claim in self.flying[name]]
        self.flying[name] = []
        self.take_turn(name)

    @rule(name=NAMES)
    def crash(self, name: str) -> None:
        self.flying[name], self.ended[name] = [], []
        self.lives[name] += 1

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        self.run(self.workers.leave(*self.ended[name], worker=self._worker(name)))
        self.crash(name)

    @rule(seconds=st.sampled_from([1, 20, 60, 600, 30000]))
    def time_passes(self, seconds: float) -> None:
        self.workers.wait(seconds)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:  # noqa: FBT001 - and here
        self.run(self.workers.pause(paused=paused))

    @rule(rate=st.sampled_from([0.1, 2, 100]))
    def start_replay(self, rate: float) -> None:
        self.run(self.workers.start(rate=rate))
        self.advance()

    @rule()
    def advance(self) -> None:
        self.run(self.workers.advance())

    @rule(
        pick=st.randoms(use_true_random=False),
        status=st.sampled_from([ReplayStatus.PAUSED, ReplayStatus.RUNNING, ReplayStatus.CANCELLED]),
    )
    def change_replay(self, pick: Any, status: ReplayStatus) -> None:
        replays = self.run(self.workers.replays())
        going_on = [each for each in replays if each.status in ("running", "paused")]
        if not replays:
            return
        one = pick.choice(going_on or replays)
        try:
            self.run(self.workers.set_replay(one.id, status))
        except NotReplayable:
            assert one.status in ("done", "cancelled")

    @invariant()
    def all_is_in_order(self) -> None:
        rows, now = self.run(self.workers.deliveries()), self.workers.now
        each_reference_has_one_delivery_that_may_go(rows)
        no_more_is_in_flight_than_may(rows, now)
        live_deliveries_end_in_the_order_of_arrival(rows)
        attempts = self.run(self.workers.attempts())
        attempts_are_counted_without_gaps(rows, attempts)
        no_delivery_is_dead_of_what_others_did(rows, attempts)
        live = [row.event_id for row in rows if row.replay_id is None]
        assert sorted(live + self.run(self.workers.undispatched())) == sorted(self.events), "an event is forgotten"

    def teardown(self) -> None:
        try:
            self._recover()
        finally:
            self.run(self.engine.dispose())
            self.runner.close()

    def _recover(self) -> None:
        """Once all is well and time passes, everything is delivered."""
        self.pause(paused=False)
        for each in self.run(self.workers.replays()):
            if each.status == "paused":
                self.run(self.workers.set_replay(each.id, ReplayStatus.RUNNING))
        for name in self.flying:
            self.crash(name)
        for _ in range(ROUNDS):
            self.workers.wait(600)
            self.dispatch_needed()
            self.advance()
            self.take_turn("one")
            self.ended["one"] = [self.workers.ended(claim) for claim in self.flying["one"]]
            self.flying["one"] = []
            running = any(each.status == "running" for each in self.run(self.workers.replays()))
            if not running and not self.ended["one"] and not self._pending():
                break
        assert not self._pending()
        assert not self.run(self.workers.undispatched())
        self.all_is_in_order()

    def _worker(self, name: str) -> str:
        return f"{name}-{self.lives[name]}"

    def _pending(self) -> list[Any]:
        return [row for row in self.run(self.workers.deliveries()) if row.status == "pending"]


def each_reference_has_one_delivery_that_may_go(rows: Sequence[Row[Any]]) -> None:
    may_go: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.status != "pending":
            assert (row.due_at, row.claimed_by, row.claimed_at) == (None, None, None)
            assert row.finished_at
        elif row.reference is None:
            assert row.due_at
        else:
            may_go[row.reference] += row.due_at is not None
    assert set(may_go.values()) <= {1}


def no_more_is_in_flight_than_may(rows: Sequence[Row[Any]], now: datetime) -> None:
    flying = [row for row in rows if row.claimed_by and row.due_at > now]
    assert len(flying) <= MOST_IN_FLIGHT
    assert len(flying) == 1 or not any(row.lost for row in flying), "what may end its process is not alone"
    references = [row.reference for row in flying if row.reference]
    assert len(references) == len(set(references))


def live_deliveries_end_in_the_order_of_arrival(rows: Sequence[Row[Any]]) -> None:
    waits = set()
    for row in rows:
        if row.replay_id is None and row.reference is not None:
            assert row.reference not in waits or row.status == "pending"
            waits |= {row.reference} if row.status == "pending" else set()


def attempts_are_counted_without_gaps(rows: Sequence[Row[Any]], attempts: Sequence[Row[Any]]) -> None:
    numbers: dict[Any, list[int]] = defaultdict(list)
    for attempt in attempts:
        numbers[attempt.delivery_id].append(attempt.number)
    for row in rows:
        recorded = numbers[row.id]
        assert recorded == list(range(1, len(recorded) + 1))
        # A success of a claim that had run out ends a delivery while another worker tries it, and may then be lost.
        under_way = [row.claimed_by is not None] if row.status == "pending" else [False, True]
        assert row.attempts - len(recorded) in under_way


def no_delivery_is_dead_of_what_others_did(rows: Sequence[Row[Any]], attempts: Sequence[Row[Any]]) -> None:
    known = Counter(attempt.delivery_id for attempt in attempts if attempt.duration_ms is not None)
    for row in rows:
        assert row.status != "dead" or known[row.id] >= row.attempts - row.attempts_before == MOST_ATTEMPTS
        assert row.status != "pending" or row.attempts - row.attempts_before <= MOST_ATTEMPTS


def test_whatever_happens_on_sqlite_each_event_arrives_in_order(tmp_path, migrated_sqlite):
    async def open_engine() -> AsyncEngine:
        for old in tmp_path.glob("machine.db*"):
            old.unlink()
        shutil.copy(migrated_sqlite, tmp_path / "machine.db")
        engine = engines.open_engine(f"sqlite+aiosqlite:///{tmp_path / 'machine.db'}")
        event.listen(engine.sync_engine, "connect", _without_fsync)
        return engine

    run(open_engine, max_examples=30, stateful_step_count=50)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_whatever_happens_on_postgresql_each_event_arrives_in_order(database_url):
    async def open_engine() -> AsyncEngine:
        engine = engines.open_engine(database_url)
        async with engine.begin() as connection:
            for table in columns.Base.metadata.tables:
                await connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - our own names; TRUNCATE is slow
        return engine

    run(open_engine, max_examples=6, stateful_step_count=30)


def run(open_engine: Callable[[], Awaitable[AsyncEngine]], **bounds: int) -> None:
    machine: Any = lambda: Deliveries(open_engine)  # noqa: E731 - it is called like a class
    run_state_machine_as_test(machine, settings=settings(**bounds))  # type: ignore[arg-type] # integers they are


def _without_fsync(connection: Any, _: object) -> None:
    connection.cursor().execute("PRAGMA synchronous = OFF")
