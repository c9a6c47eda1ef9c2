from app.deliveries import counts
from app.deliveries.counts import Counts, count_states
from app.deliveries.queries import DeliveryFilter, list_deliveries


async def in_each_state(workers) -> dict[str, str]:
    """Of five references one is delivered, one fails, one is being sent, one waits, and one waits behind that."""
    await workers.register()
    limits = workers.limits._replace(max_in_flight=2)
    for reference in ("delivered", "failing"):
        await workers.store(reference)
    await workers.dispatch()
    turn = await workers.turn(limits=limits)
    ended = [workers.ended(claim, 200 if claim.reference == "delivered" else 500) for claim in turn.claims]
    await workers.turn(*ended, limits=limits)
    await workers.store("in flight")
    await workers.dispatch()
    assert len((await workers.turn(limits=limits)).claims) == 1
    for _ in range(2):
        await workers.store("waiting")
    await workers.dispatch()
    return {str(row.id): row.reference for row in await workers.deliveries()}


async def test_each_state_is_counted(workers):
    await in_each_state(workers)
    async with workers.engine.connect() as connection:
        assert await count_states(connection) == Counts(waiting=2, failing=1, in_flight=1, dead=0, dropped=0)
        assert await count_states(connection, "erp") == Counts(2, 1, 1, 0, None)
        assert await count_states(connection, "crm") == Counts(0, 0, 0, 0, None)


async def test_counts_stop_at_their_bound(workers, monkeypatch):
    monkeypatch.setattr(counts, "MOST", 1)
    await in_each_state(workers)
    async with workers.engine.connect() as connection:
        assert (await count_states(connection)).waiting == 2


async def test_what_waits_and_what_is_being_sent_is_listed(workers):
    references = await in_each_state(workers)
    async with workers.engine.connect() as connection:
        for narrowed, expected in (
            (DeliveryFilter(waiting=True), ["waiting", "waiting"]),
            (DeliveryFilter(in_flight_at=workers.now), ["in flight"]),
            (DeliveryFilter(failing=True), ["failing"]),
            (DeliveryFilter(waiting=True, destination="crm"), []),
            (DeliveryFilter(waiting=True, status="dead"), []),
        ):
            rows = await list_deliveries(connection, narrowed, limit=10)
            assert [references[str(row.id)] for row in rows] == expected
