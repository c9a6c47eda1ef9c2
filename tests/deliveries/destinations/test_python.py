import asyncio
import functools
import gzip
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from app.deliveries.destinations.kinds import open_destination
from app.deliveries.destinations.python import MOST_KEPT, DeliveredEvent, PythonDestination
from app.deliveries.results import Outcome
from app.settings import DestinationSettings, SettingsProblem
from tests.conftest import payload
from tests.deliveries.claims import EVENT_ID, NOON, new_claim

called: list[DeliveredEvent] = []
let_go = threading.Event()


def keeps(event: DeliveredEvent) -> str:
    called.append(event)
    return "whatever it returns is a success"


async def keeps_async(event: DeliveredEvent) -> None:
    await asyncio.sleep(0)
    called.append(event)


@functools.wraps(keeps_async)
def decorated(event: DeliveredEvent) -> Any:
    return keeps_async(event)


def fails(event: DeliveredEvent) -> None:
    raise KeyError(f"no such order {event.reference}")


async def fails_async(event: DeliveredEvent) -> None:
    await asyncio.sleep(0)
    fails(event)


def ends(event: DeliveredEvent) -> None:
    sys.exit("the whole process, please")


async def ends_async(event: DeliveredEvent) -> None:
    ends(event)


def cannot_be_stored(event: DeliveredEvent) -> None:
    raise ValueError("\x00 and \ud800")


def stuck(event: DeliveredEvent) -> None:
    let_go.wait(10)


async def stuck_async(event: DeliveredEvent) -> None:
    await asyncio.sleep(10)


def own_timeout(event: DeliveredEvent) -> None:
    raise TimeoutError("the ERP was slow")


not_a_function = "text"


@pytest.fixture(autouse=True)
def nothing_was_called():
    called.clear()
    let_go.clear()
    yield
    let_go.set()


def opened(name: str, **settings: Any) -> PythonDestination:
    return PythonDestination(DestinationSettings.model_validate({"url": f"python:{__name__}:{name}", **settings}))


async def send(name: str, **settings: Any) -> Outcome:
    claim = settings.pop("claim", None) or new_claim()
    destination = opened(name, **settings)
    outcome = await destination.send(claim, now=NOON)
    await destination.close()
    return outcome


@pytest.mark.parametrize("name", ["keeps", "keeps_async", "decorated"])
async def test_a_function_that_returns_is_a_success(name):
    assert await send(name) == Outcome(status=200)
    assert len(called) == 1


async def test_the_event_says_all_that_a_function_may_want_to_know():
    replay_id = new_claim().delivery_id
    await send("keeps", claim=new_claim(attempt=3, replay_id=replay_id, superseded=True))
    assert called == [
        DeliveredEvent(
            id=EVENT_ID,
            type="ORDER_UPDATE",
            reference="PRI1",
            order=None,
            body=b'{"data": {}}',
            attempt=3,
            replay=True,
            superseded=True,
        )
    ]


async def test_an_order_is_given_as_prioticket_sent_it():
    body = payload("08-order-payload-confirmed")
    await send("keeps", claim=new_claim(body=body))
    assert called[0].order == json.loads(body)["data"]["order"]
    assert called[0].body == body


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"{}", mtime=0),
        b'{"data": {"order": "text"}}',
        b'{"data": null}',
        b"[]",
        b"",
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_where_no_order_can_be_read_there_is_none(body):
    assert await send("keeps", claim=new_claim(body=body)) == Outcome(status=200)
    assert (called[0].order, called[0].body) == (None, body)


@pytest.mark.parametrize("name", ["fails", "fails_async"])
async def test_an_exception_is_a_failure_with_its_traceback(name):
    outcome = await send(name)
    assert outcome.status is None
    assert outcome.error == "KeyError: 'no such order PRI1'"
    assert b'raise KeyError(f"no such order {event.reference}")' in (outcome.answer or b"")
    assert len(outcome.answer or b"") <= MOST_KEPT


@pytest.mark.parametrize("name", ["ends", "ends_async"])
async def test_a_function_cannot_end_the_worker(name):
    outcome = await send(name)
    assert outcome.status is None
    assert "SystemExit" in str(outcome.error)


async def test_a_text_of_an_exception_that_is_no_utf8_is_a_failure_like_any_other():
    outcome = await send("cannot_be_stored")
    assert str(outcome.error).startswith("ValueError: ")
    assert b"raise ValueError" in (outcome.answer or b"")


@pytest.mark.parametrize("name", ["stuck", "stuck_async"])
async def test_a_function_that_takes_too_long_has_failed(name):
    async with asyncio.timeout(5):
        outcome = await send(name, timeout=0.05)
    assert outcome == Outcome(error="It did not return within 0.05 seconds.")


async def test_a_functions_own_timeout_is_not_taken_for_the_deadline():
    outcome = await send("own_timeout")
    assert outcome.error == "TimeoutError: the ERP was slow"


async def test_plain_functions_run_beside_each_other_and_beside_the_loop():
    destination = opened("stuck", timeout=5)
    calls = [asyncio.create_task(destination.send(new_claim(), now=NOON)) for _ in range(3)]
    await asyncio.sleep(0.01)
    let_go.set()
    assert await asyncio.gather(*calls) == [Outcome(status=200)] * 3


async def test_calls_that_never_return_are_no_more_than_may_be_in_flight():
    destination = opened("stuck", timeout=0.05, max_in_flight=2)
    outcomes = [await destination.send(new_claim(), now=NOON) for _ in range(4)]
    assert [outcome.error for outcome in outcomes] == [
        *["It did not return within 0.05 seconds."] * 2,
        *["2 earlier calls still run, and none may run beside them."] * 2,
    ]
    let_go.set()
    for thread in threading.enumerate():
        if thread.name == "destination":
            thread.join()
    assert await destination.send(new_claim(), now=NOON) == Outcome(status=200)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("python:no_such_module:f", "No module named 'no_such_module'"),
        (f"python:{__name__}:no_such_function", "has no attribute 'no_such_function'"),
        (f"python:{__name__}:not_a_function", "it is no function"),
    ],
)
def test_what_is_not_there_is_named_with_where_it_was_looked_for(url, why):
    with pytest.raises(SettingsProblem, match=rf"^{url} cannot be used: .*{why}"):
        open_destination(DestinationSettings(url=url))


def test_a_module_in_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_business.py").write_text("def take(event): pass")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(open_destination(DestinationSettings(url="python:own_business:take")), PythonDestination)
