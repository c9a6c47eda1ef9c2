"""Runs against the simulated Prioticket, and what its webhooks would have brought."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.writing import writing
from app.events.rows import NewEvent
from app.events.tables import Event
from app.prioticket.contents import read_order
from app.prioticket.identity import accepted_key
from app.prioticket.payloads import parse_payload
from app.reconciliation.keeping import Keeper
from app.reconciliation.reconciling import Finding, Reconciler
from app.reconciliation.runs import Asked, Counts, Run, begin, new_run
from app.settings.clients import ClientSettings
from app.simulator.bodies import body_of
from app.simulator.orders import Step
from app.simulator.sales import stamp
from tests.conftest import CLIENTS
from tests.events.stores import new_event, running
from tests.prioticket.fake import START, Fake

DAY = timedelta(days=1)


def clients() -> dict[str, ClientSettings]:
    return {name: ClientSettings.model_validate(each) for name, each in CLIENTS.items()}


def webhook_of(step: Step, *, shape: str = "order", received_at: datetime | None = None) -> NewEvent:
    """The event that a webhook of this step is."""
    body = body_of(step.event, step.order, created=stamp(step.at), shape=shape, random=Random(1))  # noqa: S311 - it makes ids up
    payload = parse_payload(body)
    times = {} if received_at is None else {"received_at": received_at}
    key = accepted_key("prioticket", body, payload)
    return new_event(uuid4().hex, body=body, dedup_key=key, **payload.columns(), **times)


def lived(fake: Fake, steps: int, *, between: float = 1.0) -> list[Step]:
    """The next steps of the orders; some seconds pass between them."""
    done = []
    for _ in range(steps):
        fake.seconds += between
        done.append(fake.book.advance())
    return done


def changes(fake: Fake, reference: str) -> Step:
    """The next step of one order; others take theirs meanwhile."""
    return next(step for _ in range(2000) for step in lived(fake, 1) if step.reference == reference)


async def receive(url: str, events: Iterable[NewEvent]) -> None:
    async with running(url) as store:
        for event in events:
            await store.append(event)


async def reconcile(
    fake: Fake,
    engine: AsyncEngine,
    *,
    dry_run: bool = False,
    ended: Callable[[], bool] = lambda: False,
    since: datetime = START - DAY,
    asked: dict[str, Any] | None = None,
    account: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Counts, bool, list[Finding]]:
    """A run; or what is left of the one before, if that was interrupted."""
    wanted = Asked(since=since, **asked or {})
    if dry_run:
        run = new_run(wanted, now=fake.now())
    else:
        async with writing(engine) as connection:
            run = await begin(connection, wanted, now=fake.now())
    return await go_on(fake, engine, run, dry_run=dry_run, ended=ended, account=account or {}, **options)


async def go_on(
    fake: Fake, engine: AsyncEngine, run: Run, *, dry_run: bool, account: dict[str, Any], **options: Any
) -> tuple[Counts, bool, list[Finding]]:
    found: list[Finding] = []
    keep = None if dry_run else Keeper(engine, clients()).keep
    async with fake.client(**account) as client:
        reconciler = Reconciler(engine=engine, client=client, keep=keep, found=found.append, **options)
        counts, complete = await reconciler.reconcile(run)
    return counts, complete, found


async def stored_orders(engine: AsyncEngine) -> dict[str, dict[str, Any]]:
    """The newest state of each order in the store."""
    async with engine.connect() as connection:
        rows = await events(connection)
    newest: dict[str, tuple[Any, dict[str, Any]]] = {}
    for row in rows:
        order = read_order(row.headers, row.body)
        if order is None:
            continue
        place = (row.order_version, row.order_modified, row.id)
        if row.reference not in newest or place > newest[row.reference][0]:
            newest[row.reference] = (place, order)
    return {reference: order for reference, (_, order) in newest.items()}


async def events(connection: Any) -> Sequence[Any]:
    query = select(*Event.__table__.columns).order_by(Event.id)
    return list((await connection.execute(query)).all())


def newest_of(fake: Fake) -> dict[str, dict[str, Any]]:
    return {order["order_reference"]: order for order in fake.book.newest()}
