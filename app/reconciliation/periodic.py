"""Reconciles every so often in a worker, beside its deliveries: one worker at a time."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.writing import writing
from app.prioticket.client import Prioticket
from app.prioticket.errors import PrioticketError
from app.reconciliation.alone import alone
from app.reconciliation.keeping import Keeper
from app.reconciliation.reconciling import Reconciler
from app.reconciliation.runs import Asked, begin, fail, last_complete, last_start

logger = logging.getLogger(__name__)

FIRST_SINCE = timedelta(days=1)
"""How far back the first run looks, without a complete run before it."""

SETTLE = timedelta(minutes=2)
"""What changed so lately may still arrive: the next run looks at it."""

LOOK_EVERY = timedelta(minutes=1)
"""How often a worker looks whether a run is due. Another worker, or a person, may have started one."""

LONGEST_REST = timedelta(minutes=15)
"""How long a worker waits at most after a run that failed."""

TROUBLE = (PrioticketError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periodic:
    """Runs that a worker starts.

    Attributes:
        engine: The database.
        client: The account at Prioticket.
        keeper: Stores what is fetched.
        every: How long after the start of a run the next one starts.
        thin: Whether thin orders are fetched too.
        keeps: How long accepted events are kept; None for ever.
    """

    engine: AsyncEngine
    client: Prioticket
    keeper: Keeper
    every: timedelta
    thin: bool = False
    keeps: timedelta | None = None

    async def go_on(self) -> None:
        """Starts runs until it is cancelled. An interrupted run can be resumed by any worker."""
        while True:
            rest = LOOK_EVERY
            try:
                await self.run_if_due(now=datetime.now(UTC))
            except TROUBLE as error:
                rest = min(self.every, LONGEST_REST)
                why = f"{type(error).__name__}: {error}".splitlines()[0]
                logger.warning("reconcile_failed", extra={"fields": {"error": why}})
            except Exception:  # deliveries go on, whatever goes wrong here
                rest = LONGEST_REST
                logger.exception("reconcile_failed")
            await asyncio.sleep(rest.total_seconds())

    async def run_if_due(self, *, now: datetime) -> bool:
        """Carries out a run if it is due and no other process reconciles; returns whether it did."""
        if not await self._due(now):
            return False
        async with alone(self.engine) as mine:
            if not mine or not await self._due(now):  # another worker may have been faster
                return False
            await self._run(now)
        return True

    async def _due(self, now: datetime) -> bool:
        async with self.engine.connect() as connection:
            last = await last_start(connection, now=now)
        return last is None or not last.complete or last.at + self.every <= now

    async def _run(self, now: datetime) -> None:
        async with writing(self.engine) as connection:
            since = await last_complete(connection, now=now) or now - FIRST_SINCE
            run = await begin(connection, Asked(since=since), now=now)
        reconciler = Reconciler(
            engine=self.engine,
            client=self.client,
            keep=self.keeper.keep,
            thin=self.thin,
            keeps=self.keeps,
            settle=SETTLE,
        )
        try:
            counts, _ = await reconciler.reconcile(run)
        except PrioticketError as error:
            async with writing(self.engine) as connection:
                await fail(connection, run, error)
            raise
        fields = {
            "run": str(run.id),
            "listed": counts.listed,
            "known": counts.known,
            "thin": counts.thin,
            "missing": counts.missing,
            "altered": counts.altered,
            "erased": counts.erased,
            "expired": counts.expired,
            "fetched": counts.fetched,
            "refused": counts.refused,
            "requests": counts.requests,
            "seconds": counts.seconds,
        }
        logger.info("reconciled", extra={"fields": fields})
        if counts.missing:
            found = {"run": str(run.id), "missing": counts.missing, "altered": counts.altered}
            logger.warning("orders_missing", extra={"fields": found})
