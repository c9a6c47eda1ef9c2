import pytest
from sqlalchemy import update

from app.database.writing import writing
from app.deliveries import operations
from app.deliveries.groups import Alike, count_alike, failure_groups
from app.deliveries.tables import Attempt, AttemptResult, Delivery


@pytest.fixture
async def failed(workers):
    """Of six deliveries two were answered 500, one 404, one had no answer, one was delivered, and one is new."""
    answers = {"A": 500, "B": 500, "C": 404, "D": None, "E": 200}
    for reference in answers:
        await workers.store(reference, type="ORDER_CREATE" if reference == "A" else "ORDER_UPDATE")
    await workers.dispatch()
    turn = await workers.turn()
    error = {404: "Not here.\nSecond line", None: "Connection refused."}
    ended = [
        workers.ended(claim, answers[claim.reference], error=error.get(answers[claim.reference]))
        for claim in turn.claims
    ]
    await workers.turn(*ended, limits=workers.limits._replace(max_in_flight=0))
    await workers.store("F")
    await workers.dispatch()
    return {row.reference: row.id for row in await workers.deliveries()}


async def test_failures_are_grouped_by_how_they_ended(workers, failed, engine):
    async with engine.connect() as connection:
        found = await failure_groups(connection)
        few = await failure_groups(connection, most=1)
        elsewhere = await failure_groups(connection, destination="crm")
    assert {(each.last_result, each.last_status, each.last_error, each.type, each.deliveries) for each in found} == {
        ("refused", 500, None, "ORDER_CREATE", 1),
        ("refused", 500, None, "ORDER_UPDATE", 1),
        ("refused", 404, "Not here.", "ORDER_UPDATE", 1),
        ("unreachable", None, "Connection refused.", "ORDER_UPDATE", 1),
    }
    assert {(each.destination, each.status) for each in found} == {("erp", "pending")}
    assert {each.first for each in found} == {failed[reference] for reference in "ABCD"}
    assert {each.first_at <= each.last_at for each in found} == {True}
    assert len(few) == 1
    assert elsewhere == []


async def test_the_largest_group_comes_first(workers, failed, engine):
    async with writing(engine) as connection:
        await operations.drop(connection, failed["A"], now=workers.now)
        await ends_alike(connection, failed["C"])
        found = await failure_groups(connection)
    assert [each.deliveries for each in found] == [2, 1]
    assert (found[0].first, found[0].last) == (failed["B"], failed["C"])


async def ends_alike(connection, delivery_id):
    """Makes its last attempt end as that of another one did."""
    same = update(Attempt).where(Attempt.delivery_id == delivery_id)
    await connection.execute(same.values(status=500, result=AttemptResult.REFUSED.value, error=None))


async def test_a_group_is_dropped_and_tried_again(workers, failed, engine):
    refused = Alike(result="refused", answered=500)
    async with writing(engine) as connection:
        assert await count_alike(connection, "erp", "pending", refused) == 2
        assert await count_alike(connection, "erp", "pending", refused._replace(type="ORDER_CREATE")) == 1
        assert await count_alike(connection, "erp", "dead", refused) == 0
        assert await operations.drop_pending(connection, "erp", alike=refused, now=workers.now) == 2
    assert {row.reference for row in await workers.deliveries() if row.status == "dropped"} == {"A", "B"}
    async with writing(engine) as connection:
        await connection.execute(update(Delivery).where(Delivery.status == "dropped").values(status="dead"))
        of_type = Alike(type="ORDER_CREATE")
        assert await operations.retry_dead(connection, "erp", alike=of_type, now=workers.now) == 1
        assert await operations.drop_dead(connection, "erp", alike=of_type, now=workers.now) == 0
        assert await operations.drop_dead(connection, "erp", alike=Alike(answered=500), now=workers.now) == 1
