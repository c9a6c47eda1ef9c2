from app.deliveries.waits import Behind, behind, first_of


async def test_of_each_reference_the_one_that_is_due_goes_first_and_the_next_one_goes_on(workers):
    for reference in ("A", "A", "B", "A", None):
        await workers.store(reference)
    await workers.dispatch()
    rows = await workers.deliveries()
    first_a, second_a, first_b, _, alone = [row.id for row in rows]
    async with workers.engine.connect() as connection:
        assert await first_of(connection, rows) == {("erp", "A"): first_a, ("erp", "B"): first_b}
        assert await first_of(connection, [row for row in rows if row.id == alone]) == {}
        assert await behind(connection, rows[0]) == Behind(second_a, 2)
        assert await behind(connection, rows[2]) == Behind(None, 0)
        assert await behind(connection, rows[-1]) == Behind(None, 0)


async def test_live_deliveries_go_on_before_those_of_a_replay(workers):
    await workers.store("A")
    await workers.dispatch()
    await workers.start()
    workers.wait(10)
    await workers.advance()
    await workers.store("A")
    await workers.dispatch()
    first, live, replayed = await workers.deliveries()
    async with workers.engine.connect() as connection:
        assert (replayed.due_at, await behind(connection, first)) == (None, Behind(live.id, 2))
