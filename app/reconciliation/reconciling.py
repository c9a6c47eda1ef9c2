"""Finds what never arrived: compares the orders that changed at Prioticket with the store, and fetches the missing."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from time import monotonic
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.writing import writing
from app.prioticket.client import Prioticket
from app.prioticket.errors import CredentialsRefused, Refused, Unreadable
from app.prioticket.messages import FetchedOrder, Page
from app.reconciliation.comparing import LEFT, MISSING, Compared, OrderAt, Verdict, compare, is_expired, order_at
from app.reconciliation.erased import OrderErased
from app.reconciliation.listing import changed_orders
from app.reconciliation.runs import Counts, Run, finish, save
from app.reconciliation.snapshots import Snapshot

EARLIER = timedelta(minutes=10)
"""How much earlier than asked for the list begins: clocks differ, and notifications take their time."""

NEVER_AGAIN = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
)
"""Refusals that the next order would get too: they end a run, which can be resumed."""

MOST_VERSIONS = 100
"""How many versions before the present one are fetched at most, the latest ones."""

Keep = Callable[[Run, FetchedOrder], Awaitable[Snapshot]]
"""Stores a fetched order as an event of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An order that was missing or thin.

    Attributes:
        event_id: The event that was stored; None if none was.
        error: Why it could not be fetched.
    """

    reference: str
    order_status: object
    order_version: object
    order_modified: object
    verdict: Verdict
    event_id: UUID | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """Carries out runs.

    Attributes:
        engine: The database.
        client: The account at Prioticket.
        keep: Stores a fetched order; None stores nothing, and fetches nothing either.
        thin: Whether thin orders are fetched too.
        keeps: How long accepted events are kept; None for ever. Older states are not fetched.
        settle: Orders that were modified less than so long before the run are left to the next one: their webhooks may
            be on their way.
        found: Is told each finding.
        read: Is told each page that was read, and what was found so far.
        ended: Whether to end after the order in hand.
        now: The clock.
    """

    engine: AsyncEngine
    client: Prioticket
    keep: Keep | None
    thin: bool = False
    keeps: timedelta | None = None
    settle: timedelta = timedelta(0)
    found: Callable[[Finding], None] = lambda _: None
    read: Callable[[Page, Counts], None] = lambda _, __: None
    ended: Callable[[], bool] = lambda: False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def reconcile(self, run: Run) -> tuple[Counts, bool]:
        """What the run has found, and whether it is complete; otherwise it can be resumed.

        Raises:
            PrioticketError: the list could not be read to its end; the run can be resumed.
        """
        return await _Work(self, run).done()


@dataclass(slots=True)
class _Work:
    """One run under way."""

    ours: Reconciler
    run: Run
    counts: Counts = field(init=False)
    began: float = field(default_factory=monotonic)
    sent_before: int = 0

    def __post_init__(self) -> None:
        self.counts = replace(self.run.counts)
        self.sent_before = self.ours.client.requests

    async def done(self) -> tuple[Counts, bool]:
        until = self.run.asked.until
        if self.ours.settle:
            until = self.run.started_at - self.ours.settle
        pages = changed_orders(
            self.ours.client,
            modified_since=self.run.asked.since - EARLIER,
            place=self.run.place,
            now=self.run.started_at,
        )
        before: frozenset[str] = frozenset()
        resumed = self.run.resumed
        async for listed in pages:
            orders = [order for item in listed.page.items if (order := order_at(item)) is not None]
            new = [each for each in orders if each.reference not in before and (until is None or each.at[1] <= until)]
            for compared in await self._compared(new):
                if self.ours.ended():
                    return self._counted(), False
                await self._take(compared, resumed=resumed)
            before, resumed = frozenset(each.reference for each in orders), False
            self.ours.read(listed.page, self._counted())
            if self.ours.keep is not None and listed.next is not None:
                async with writing(self.ours.engine) as connection:
                    await save(connection, self.run, place=listed.next, counts=self._counted())
        if self.ours.keep is not None:
            async with writing(self.ours.engine) as connection:
                await finish(connection, self.run, self._counted(), now=datetime.now(UTC))
        return self._counted(), True

    async def _compared(self, orders: list[OrderAt]) -> list[Compared]:
        async with self.ours.engine.connect() as connection:
            return await compare(connection, orders, fetched_for=self.run.fetched_for, kept_since=self._kept_since())

    def _kept_since(self) -> datetime | None:
        """Later than the oldest event that is stored: an event arrives after its change, but clocks differ."""
        return None if self.ours.keeps is None else self.ours.now() - self.ours.keeps + EARLIER

    async def _take(self, compared: Compared, *, resumed: bool) -> None:
        """Counts an order, and fetches it if it is missing."""
        if compared.own and compared.verdict is Verdict.KNOWN:
            if resumed:  # fetched just before the interruption, which came before it was counted
                self._count(Verdict.ABSENT)
                self.counts.fetched += 1
            return
        if compared.verdict in MISSING or (compared.verdict is Verdict.THIN and self.ours.thin):
            await self._fetch(compared)
        else:
            self._count(compared.verdict)

    async def _fetch(self, compared: Compared) -> None:
        if self.ours.keep is None:
            self._count(compared.verdict)
            self._found(compared)
            return
        reference = str(compared.listed.order["order_reference"])
        try:
            fetched = await self.ours.client.order(reference)
        except (Refused, Unreadable, ValueError) as error:
            self._refused(compared, error)
            return
        # It may have arrived meanwhile, and the list may show an order otherwise than an answer with this order alone.
        order = order_at(fetched.order)
        if order is not None and (verdict := (await self._compared([order]))[0].verdict) in LEFT:
            self._count(verdict)
            return
        try:
            await self._keep_versions(compared, reference)
            stored = await self.ours.keep(self.run, fetched)
        except OrderErased:  # at this moment
            self._count(Verdict.ERASED)
            return
        if not stored.new:  # it has arrived at this moment
            self._count(Verdict.KNOWN)
            return
        self._count(compared.verdict)
        self.counts.fetched += 1
        self._found(compared, event_id=stored.id)

    async def _keep_versions(self, compared: Compared, reference: str) -> None:
        """Fetches the versions after the newest one that is stored and before the present one."""
        if not self.run.asked.versions or self.ours.keep is None:
            return
        present = compared.listed.at[0]
        for version in range(max((compared.newest_version or 0) + 1, present - MOST_VERSIONS), present):
            try:
                fetched = await self.ours.client.order(reference, version=version)
            except (Refused, Unreadable) as error:
                self._raise_if_final(error)
                self.counts.refused += 1
                continue
            order = order_at(fetched.order)
            if order is not None and is_expired(order, self._kept_since()):
                continue
            stored = await self.ours.keep(self.run, fetched)
            self.counts.fetched += stored.new

    def _refused(self, compared: Compared, error: Exception) -> None:
        self._raise_if_final(error)
        self._count(compared.verdict)
        self.counts.refused += 1
        self._found(compared, error=str(error))

    def _raise_if_final(self, error: Exception) -> None:
        if isinstance(error, CredentialsRefused) or (isinstance(error, Refused) and error.status in NEVER_AGAIN):
            raise error

    def _count(self, verdict: Verdict) -> None:
        self.counts.listed += 1
        self.counts.known += verdict is Verdict.KNOWN
        self.counts.thin += verdict is Verdict.THIN
        self.counts.missing += verdict in MISSING
        self.counts.altered += verdict is Verdict.ALTERED
        self.counts.erased += verdict is Verdict.ERASED
        self.counts.expired += verdict is Verdict.EXPIRED

    def _found(self, compared: Compared, *, event_id: UUID | None = None, error: str | None = None) -> None:
        order = compared.listed.order
        self.ours.found(
            Finding(
                reference=compared.listed.reference,
                order_status=order.get("order_status"),
                order_version=order.get("order_version"),
                order_modified=order.get("order_modified"),
                verdict=compared.verdict,
                event_id=event_id,
                error=error,
            )
        )

    def _counted(self) -> Counts:
        """The counts until now, those before a resumption included."""
        before = self.run.counts
        return replace(
            self.counts,
            requests=before.requests + self.ours.client.requests - self.sent_before,
            seconds=round(before.seconds + monotonic() - self.began, 3),
        )
