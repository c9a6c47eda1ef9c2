import asyncio

import pytest

from app.api import turns as api_turns
from app.api.turns import InTurn, TooManyRequests, Turns
from app.auth.clients import Client, digest
from app.settings.clients import Scope
from tests.conftest import SECRET

READER = Client(name="reader", username="reader", digest=digest("reader", SECRET), scopes=frozenset([Scope.READ]))
GET = {"type": "http", "method": "GET", "state": {"client": READER}}
PATIENCE = 20.0  # seconds; a bound for a slow machine, never waited for


@pytest.fixture(autouse=True)
async def bounded():
    async with asyncio.timeout(PATIENCE):
        yield


async def receive():
    return {"type": "http.request"}


async def sent(message):
    return None


def idle() -> Turns:
    return Turns(receiving=lambda: False)


async def test_one_request_at_a_time_is_worked_on():
    now, most = 0, 0

    async def app(scope, receive, send):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        await send({"type": "http.response.start"})

    limited = InTurn(app, turns=idle())
    await asyncio.gather(*(limited(GET, receive, sent) for _ in range(20)))
    assert most == 1


async def test_the_next_begins_while_an_answer_is_still_written():
    turns, reads_slowly = idle(), asyncio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start"})

    async def slowly(message):
        await reads_slowly.wait()

    first = asyncio.create_task(InTurn(app, turns=turns)(GET, receive, slowly))
    await asyncio.sleep(0)
    await InTurn(app, turns=turns)(GET, receive, sent)
    assert not first.done()
    reads_slowly.set()
    await first


async def test_a_request_that_fails_or_is_cancelled_ends_its_turn():
    turns, never = idle(), asyncio.Event()

    async def fails(scope, receive, send):
        raise RuntimeError

    async def hangs(scope, receive, send):
        await never.wait()

    with pytest.raises(RuntimeError):
        await InTurn(fails, turns=turns)(GET, receive, sent)
    tasks = [asyncio.create_task(InTurn(hangs, turns=turns)(GET, receive, sent)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    (await turns.begin("reader"))()


async def test_a_request_that_changes_something_waits_for_no_turn():
    turns = idle()
    await turns.begin("reader")

    async def app(scope, receive, send):
        await send({"type": "http.response.start"})

    await InTurn(app, turns=turns)({"type": "http", "method": "POST"}, receive, sent)


async def test_a_request_that_takes_very_long_does_not_keep_the_others(monkeypatch):
    monkeypatch.setattr(api_turns, "LONGEST_TURN", api_turns.LONGEST_TURN / 100)
    turns = idle()
    end = await turns.begin("reader")
    second = await turns.begin("reader")
    end()
    third = asyncio.create_task(turns.begin("reader"))
    await asyncio.sleep(0)
    second()
    (await third)()


async def test_one_too_many_that_wait_is_503():
    turns = idle()
    end = await turns.begin("reader")
    clients = ["reader", *map(str, range(1, api_turns.MOST_WAITING))]
    waiting = [asyncio.create_task(turns.begin(client)) for client in clients]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests) as refused:
        await turns.begin("reader")
    assert refused.value.status == 503
    end()
    for each in waiting:
        (await each)()


async def test_one_client_cannot_keep_the_others_out():
    turns = idle()
    end = await turns.begin("greedy")
    waiting = [asyncio.create_task(turns.begin("greedy")) for _ in range(api_turns.MOST_OF_CLIENT)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await turns.begin("greedy")
    waiting.append(asyncio.create_task(turns.begin("reader")))
    end()
    for each in waiting:
        (await each)()


async def test_busy_clients_cannot_keep_another_out():
    turns = idle()
    end = await turns.begin("greedy")
    clients = ["greedy", "another"] * (api_turns.MOST_WAITING // 2)
    waiting = [asyncio.create_task(turns.begin(client)) for client in clients]
    await asyncio.sleep(0)
    for client in ("greedy", "another"):
        with pytest.raises(TooManyRequests):
            await turns.begin(client)
    reader = asyncio.create_task(turns.begin("reader"))
    await asyncio.sleep(0)
    end()
    for each in (*waiting[:2], reader):
        (await each)()
    for each in waiting[2:]:
        (await each)()


async def test_who_leaves_while_waiting_takes_no_place():
    turns = idle()
    end = await turns.begin("reader")
    for _ in range(3):
        left = [asyncio.create_task(turns.begin("reader")) for _ in range(api_turns.MOST_OF_CLIENT)]
        await asyncio.sleep(0)
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    waiting = asyncio.create_task(turns.begin("reader"))
    await asyncio.sleep(0)
    assert not waiting.done()
    end()
    (await waiting)()


async def test_clients_take_turns():
    turns, got = idle(), []
    end = await turns.begin("greedy")

    async def ask(client):
        over = await turns.begin(client)
        got.append(client)
        over()

    asked = [asyncio.create_task(ask(client)) for client in ("greedy", "greedy", "greedy", "anna", "anna", "ben")]
    await asyncio.sleep(0)
    end()
    await asyncio.gather(*asked)
    assert got == ["greedy", "anna", "ben", "greedy", "anna", "greedy"]


async def test_who_leaves_while_waiting_keeps_nobody_waiting():
    turns = idle()
    end = await turns.begin("reader")
    waiting = [asyncio.create_task(turns.begin("reader")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    end()  # gives the turn to the second
    waiting[1].cancel()
    (await waiting[2])()
    (await turns.begin("reader"))()


@pytest.mark.parametrize(("receiving", "least"), [(True, 0.06), (False, 0.02)])
async def test_the_api_rests_three_times_as_long_as_it_worked_while_webhooks_arrive(receiving, least):
    turns, loop = Turns(receiving=lambda: receiving), asyncio.get_running_loop()
    began = loop.time()
    end = await turns.begin("reader")
    await asyncio.sleep(0.02)
    end()
    before = loop.time()
    (await turns.begin("reader"))()
    assert loop.time() - began >= least
    assert receiving or loop.time() - before < loop.time() - began
