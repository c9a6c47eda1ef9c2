"""Sends the deliveries of one destination."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from time import monotonic
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.clock import SharedClock
from app.database.pace import Pace
from app.database.writing import commit_later, writing
from app.deliveries.claims import MARGIN, Claim, Limits
from app.deliveries.destinations.kinds import Kind
from app.deliveries.queue import lock_for_turn
from app.deliveries.results import Ended, Outcome
from app.deliveries.spans import record_spans
from app.deliveries.tables import AttemptResult
from app.deliveries.turns import News, Turn, leave, take_turn
from app.events.ids import made_at
from app.telemetry import traces
from app.telemetry.meter import Meter
from app.telemetry.spans import Spans

logger = logging.getLogger(__name__)

MOST_NAMED = 10
LONG = 1.0  # seconds
HELD_UP = "The worker was held up, and its claim might have run out before the answer: it was not sent."
LONGEST_WAIT = 0.02  # seconds that a transaction waits at most for attempts that are about to end


class Sender:
    """Sends the deliveries of one destination, as many at once as allowed.

    Attempts that end while a transaction runs are recorded together in the next one, as in a group commit. That one
    also waits for others, at most half as long as the last one took: to a consumer that answers at once, half of the
    attempts would otherwise always be under way, and each transaction would be for the other half.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        limits: Limits,
        kind: Kind,
        *,
        worker: str,
        clock: SharedClock | None = None,
        pace: Pace | None = None,
        spans: Spans | None = None,
        meter: Meter | None = None,
        counted_as: str | None = None,
    ) -> None:
        """`counted_as` is the name under which `meter` counts, if not the destination's: that may be a URL."""
        self.limits = limits
        self._meter = meter
        self._counted_as = counted_as or limits.name
        self._engine = engine
        self._kind = kind
        self._worker = worker
        self._clock = clock or SharedClock()
        self._pace = pace
        self._spans = spans or Spans()
        self._sending: set[asyncio.Task[None]] = set()
        self._ended: list[Ended] = []
        self._something = asyncio.Event()
        self._ending = False

    def wake(self, *, probing: bool = False) -> None:
        """Looks for deliveries to send, unless as many as allowed are already being sent."""
        if len(self._sending) < (1 if probing else self.limits.max_in_flight):
            self._something.set()

    def end(self) -> None:
        """Lets `run` return after its transaction. Cancelling the transaction could leave a file locked."""
        self._ending = True
        self._something.set()

    async def run(self) -> None:
        """Sends until it is told to end.

        Raises:
            SettingsProblem: the destination cannot be used.
        """
        await self._kind.open()
        while not self._ending:
            self._something.clear()
            ended, self._ended = self._ended, []
            began = monotonic()
            try:
                async with writing(self._engine, pace=self._pace) as connection:
                    turn, since = await self._take_turn(connection, ended)
            except BaseException:
                self._ended = ended + self._ended  # these outcomes must be recorded by the next transaction
                raise
            took = monotonic() - began
            tell(turn.news)
            until = since + MARGIN.total_seconds()
            for claim in turn.claims:
                task = asyncio.create_task(self._send(claim, until=until), name=str(claim.delivery_id))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            if not self._ended:
                await until_woken(self._something, turn.next_at, now=self._clock.now())
            if self._ended and self._sending:
                await asyncio.wait(self._sending, timeout=min(took / 2, LONGEST_WAIT))

    def under_way(self) -> list[str]:
        """The ids of deliveries that are being sent, `MOST_NAMED` at most."""
        return [task.get_name() for task in islice(self._sending, MOST_NAMED)]

    async def drain(self, *, within: timedelta) -> None:
        """Waits for the attempts under way, records them, and gives up the other claims."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=within.total_seconds())
        for task in self._sending:
            task.cancel()
        try:
            await self._kind.close()  # first, so that no other worker sends what is still being sent
        finally:
            async with writing(self._engine) as connection:
                await commit_later(connection)  # a standby that is away must not keep the destination locked
                await self._clock.look(connection)
                now = self._clock.now()
                news = await leave(connection, self.limits, self._ended, worker=self._worker, now=now)
            tell(news)

    async def _take_turn(self, connection: AsyncConnection, ended: Sequence[Ended]) -> tuple[Turn, float]:
        """The turn, and a moment by `monotonic` before which its claims cannot have begun."""
        since = monotonic()
        state = await lock_for_turn(connection, self.limits.name, self._clock)
        if monotonic() - since > LONG:  # it waited for the lock, or this process was held up since it got the answer
            since = monotonic()
            await self._clock.look(connection)
        turn = await take_turn(connection, self.limits, state, ended, worker=self._worker, now=self._clock.now())
        return turn, since

    async def _send(self, claimed: Claim, *, until: float) -> None:
        """Makes one attempt, unless it is so late that its claim might end before it: another worker may have it then.

        Args:
            claimed: The claim.
            until: When the attempt must have begun, by `monotonic`.
        """
        trace = traces.child(claimed.trace) if claimed.trace else self._spans.begun()
        claim, started, began = claimed._replace(trace=trace), self._clock.now(), monotonic()
        try:
            if began > until:
                outcome = Outcome(AttemptResult.TIMED_OUT, error=HELD_UP, counts=False)
            else:
                outcome = await self._kind.send(claim, now=datetime.now(UTC))
        except Exception as error:  # a bug in the kind must not keep the delivery from its next attempt
            logger.exception("attempt_failed", extra={"fields": {"delivery": str(claim.delivery_id)}})
            outcome = Outcome(AttemptResult.UNREACHABLE, error=f"{type(error).__name__}: {error}")
        ended = Ended(claim, started, timedelta(seconds=monotonic() - began), outcome)
        failed = outcome.result is not AttemptResult.DELIVERED
        logger.log(logging.WARNING if failed else logging.INFO, "attempt", extra={"fields": self._line(ended)})
        if self._spans.recorder is not None:
            record_spans(self._spans.recorder, self.limits.name, ended, parent=claimed.trace)
        if self._meter is not None:
            since_event = max(timedelta(0), self._clock.now() - made_at(claim.event_id))
            delay = None if failed or claim.replay_id else since_event
            self._meter.attempted(self._counted_as, outcome.result.value, ended.duration, delay)
        self._ended.append(ended)
        self._something.set()

    def _line(self, ended: Ended) -> dict[str, Any]:
        claim, outcome = ended.claim, ended.outcome
        line = {
            "destination": self.limits.name,
            "type": claim.type,
            "reference": claim.reference,
            "attempt": claim.attempt,
            "result": outcome.result.value,
            "status": outcome.status,
            "ms": ended.duration // timedelta(milliseconds=1),
            "replay_id": claim.replay_id and str(claim.replay_id),
            "trace": claim.trace and traces.trace_id(claim.trace),
            "event_id": str(claim.event_id),
            "delivery_id": str(claim.delivery_id),
        }
        return line if outcome.error is None else line | {"error": outcome.error}


def tell(news: Sequence[News]) -> None:
    """Logs changes that were committed."""
    for change in news:
        logger.warning(change.event, extra={"fields": change.fields})


async def until_woken(something: asyncio.Event, until: datetime | None, *, now: datetime) -> None:
    """Waits until the event is set, at most until this time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(None if until is None else max(0.0, (until - now).total_seconds())):
            await something.wait()
