import asyncio
import gzip
import json
import logging
import os
import pickle
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.delivered import DeliveredEvent
from app.deliveries.destinations import functions
from app.deliveries.destinations.functions import MOST_KEPT, PythonDestination
from app.deliveries.destinations.kinds import open_destination
from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.settings.model import DestinationSettings, SettingsProblem
from app.telemetry import traces
from tests.conftest import payload
from tests.deliveries.claims import EVENT_ID, NOON, new_claim
from tests.deliveries.destinations import own

pytestmark = pytest.mark.slow

OWN = own.__name__
DELIVERED = Outcome(AttemptResult.DELIVERED, 200)
LONG = 30  # seconds, for what does not take long


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[DeliveredEvent]]:
    """The events with which `keeps` was called."""
    path = tmp_path / "kept"
    monkeypatch.setenv("KEPT", str(path))

    def read() -> list[DeliveredEvent]:
        found = []
        with path.open("rb") as file:
            while file.peek(1):
                found.append(pickle.load(file))  # noqa: S301 - written by a test
        return found

    return read


@asynccontextmanager
async def opened(name: str, *, module: str = OWN, **settings: Any) -> AsyncIterator[PythonDestination]:
    url = f"python:{module}:{name}"
    destination = open_destination(DestinationSettings.model_validate({"url": url, "timeout": LONG, **settings}))
    assert isinstance(destination, PythonDestination)
    try:
        await destination.open()
        yield destination
    finally:
        await destination.close()


async def send(destination: PythonDestination, reference: str = "PRI1", **claim: Any) -> Outcome:
    return await destination.send(new_claim(reference=reference, **claim), now=NOON)


@pytest.mark.parametrize("name", ["keeps", "keeps_async", "decorated"])
async def test_a_function_that_returns_is_a_success(name, kept):
    async with opened(name) as destination:
        assert await send(destination) == DELIVERED
    assert len(kept()) == 1


async def test_the_event_says_all_that_a_function_may_want_to_know(kept):
    body = payload("08-order-payload-confirmed")
    async with opened("keeps") as destination:
        replay_id = new_claim().delivery_id
        fetched: dict[str, Any] = {"origin": "fetched", "cause": replay_id, "snapshot_failed": True}
        await send(destination, attempt=3, replay_id=replay_id, superseded=True, event_name="ORDER_CREATE", **fetched)
        await send(destination, body=body)
    event = DeliveredEvent(
        id=EVENT_ID,
        type="ORDER_UPDATE",
        event_name="ORDER_CREATE",
        reference="PRI1",
        order=None,
        body=b'{"data": {}}',
        attempt=3,
        replay=True,
        superseded=True,
        origin="fetched",
        cause=replay_id,
        snapshot_failed=True,
    )
    order = json.loads(body)["data"]["order"]
    received: dict[str, Any] = {"origin": "received", "cause": None, "snapshot_failed": False, "superseded": False}
    plain = replace(event, event_name=None, order=order, body=body, attempt=1, replay=False, **received)
    assert kept() == [event, plain]


async def test_a_function_gets_the_trace_of_its_attempt(kept):
    trace = traces.begun()
    async with opened("keeps") as destination:
        await send(destination, trace=trace)
    assert [event.traceparent for event in kept()] == [trace]


async def test_a_compressed_body_stays_as_it_came_and_its_order_is_read(kept):
    content = payload("08-order-payload-confirmed")
    arrived = [
        ([["content-encoding", "gzip"]], gzip.compress(content)),
        ([], gzip.compress(content)),  # a proxy lost the header
        ([["content-encoding", "deflate"]], zlib.compress(content)),
        ([["content-encoding", "gzip"]], content),  # a proxy undid the coding
    ]
    async with opened("keeps") as destination:
        for headers, body in arrived:
            assert await send(destination, headers=headers, body=body) == DELIVERED
    order = json.loads(content)["data"]["order"]
    assert [(event.order, event.body) for event in kept()] == [(order, body) for _, body in arrived]


async def test_where_no_order_can_be_read_there_is_none(kept):
    bodies = [
        gzip.compress(b"{}", mtime=0),
        gzip.compress(payload("08-order-payload-confirmed"))[:-9],
        b'{"data": {"order": "text"}}',
        b'{"data": null}',
        b"[]",
        b"",
        b"\xff",
        b"[" * 100_000,
    ]
    async with opened("keeps") as destination:
        for body in bodies:
            assert await send(destination, body=body) == DELIVERED
    assert [(event.order, event.body) for event in kept()] == [(None, body) for body in bodies]


@pytest.mark.parametrize("name", ["raises", "raises_async"])
async def test_whatever_a_function_raises_is_a_failure_of_that_attempt_with_its_traceback(name, kept):
    async with opened(name) as destination:
        for error in own.ERRORS:
            outcome = await send(destination, error)
            assert outcome._replace(error=None, answer=None) == Outcome(AttemptResult.REFUSED)
            expected = "RuntimeError" if error == "StopIteration" else error  # a coroutine raises no other
            assert str(outcome.error).startswith(expected)
            assert len(outcome.answer or b"") <= MOST_KEPT
            assert b"raise error" in (outcome.answer or b"") or error in ("Unprintable", "StopIteration")


@pytest.mark.parametrize(("name", "reference"), [("does", "forever"), ("does_async", "forever"), ("does", "spin")])
async def test_a_function_that_takes_too_long_has_failed_and_the_next_call_has_its_turn(name, reference, kept):
    async with opened(name, timeout=0.5) as destination:
        outcome = await send(destination, reference)
        assert outcome == Outcome(AttemptResult.TIMED_OUT, error="It did not return within 0.5 seconds.")
        await delivered(destination)


async def test_a_plain_function_that_takes_too_long_leaves_what_runs_beside_it(kept):
    async with opened("does", timeout=2) as destination:
        late = asyncio.create_task(send(destination, "forever"))
        await asyncio.sleep(1.9)
        assert await send(destination, "sleep") == DELIVERED
        assert (await late).error == "It did not return within 2 seconds."


async def test_calls_that_never_return_are_killed_with_their_process(kept, caplog):
    async with opened("does", timeout=0.2) as destination:
        outcomes = await asyncio.gather(*(send(destination, "forever") for _ in range(4)))
        assert {outcome.error for outcome in outcomes} == {"It did not return within 0.2 seconds."}
        await destination.close()
        assert [record.getMessage() for record in caplog.records] == ["function_killed"]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("crash", "The function's process ended with signal 11 (SIGSEGV)"),
        ("exit", "The function's process ended with status 9"),
    ],
)
async def test_a_call_that_ends_its_process_has_failed_and_the_next_one_has_a_new_process(reference, reason, kept):
    async with opened("does") as destination:
        assert await send(destination, reference) == Outcome(AttemptResult.LOST, error=f"{reason}.")
        assert await send(destination) == DELIVERED


async def test_calls_beside_the_one_that_ends_their_process_do_not_count(kept):
    async with opened("does") as destination:
        innocent = [asyncio.create_task(send(destination, "forever")) for _ in range(2)]
        await asyncio.sleep(0)
        outcomes = await asyncio.gather(send(destination, "crash"), *innocent)
        assert {(outcome.result, outcome.counts) for outcome in outcomes} == {(AttemptResult.LOST, False)}
        assert str(outcomes[0].error).endswith("signal 11 (SIGSEGV) with 3 calls under way.")


@pytest.mark.parametrize(("name", "reference"), [("does", "hold"), ("does_async", "block")])
async def test_a_call_that_holds_its_process_up_is_killed(name, reference, kept):
    async with opened(name, timeout=1) as destination:
        outcome = await send(destination, reference)
        why = "It did not return in time and held up its process, which was killed."
        assert outcome == Outcome(AttemptResult.LOST, error=why)
        await delivered(destination)


async def test_an_async_function_that_will_not_be_cancelled_is_left_behind(kept):
    async with opened("does_async", timeout=0.5) as destination:
        assert (await send(destination, "swallow")).error == "It did not return within 0.5 seconds."
        await delivered(destination)


async def test_a_function_that_takes_its_process_apart_harms_nobody_else(kept, tmp_path):
    umask = os.umask(0o77)
    try:
        async with opened("does") as destination, opened("does_async") as other:
            assert await send(destination, "leave") == DELIVERED
            assert await send(other) == DELIVERED
        assert Path.cwd() != Path("/")
        assert os.umask(0o77) == 0o77
    finally:
        os.umask(umask)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("reference", "expected"), [("stop", DELIVERED.status), ("task", None)])
async def test_a_function_cannot_end_the_loop_that_calls_it(reference, expected, kept):
    async with opened("does_async") as destination:
        beside = asyncio.create_task(send(destination, "sleep"))
        assert (await send(destination, reference)).status == expected
        assert await beside == DELIVERED


async def test_calls_that_another_one_cancels_have_failed_at_once(kept):
    async with opened("does_async") as destination:
        outcomes = await asyncio.gather(*(send(destination, "cancel") for _ in range(3)))
        assert {outcome.error for outcome in outcomes} <= {None, "CancelledError: "}
        assert await send(destination) == DELIVERED


async def test_calls_run_beside_each_other():
    async with opened("does") as destination, asyncio.timeout(LONG):
        began = asyncio.get_running_loop().time()
        assert await asyncio.gather(*(send(destination, "sleep") for _ in range(100))) == [DELIVERED] * 100
        assert asyncio.get_running_loop().time() - began < 100 * 0.3


async def test_what_a_function_logs_is_in_the_workers_log(caplog):
    caplog.set_level(logging.INFO)
    async with opened("does") as destination:
        await send(destination, "log")
    assert ("tickets", logging.WARNING, "Sold out") in caplog.record_tuples


@pytest.mark.parametrize(
    ("module", "name", "why"),
    [
        ("no_such_module", "f", "No module named 'no_such_module'. Modules are looked for in the working directory"),
        (OWN, "no_such_function", "has no attribute 'no_such_function'"),
        (OWN, "not_a_function", "it is not a function"),
        ("exits", "f", r"SystemExit: 4 \(when it was imported\)"),
        ("interrupts", "f", "KeyboardInterrupt"),
        ("is_wrong", "f", "SyntaxError"),
        ("dies", "f", "process ended with status 5 when it was imported"),
    ],
)
async def test_a_function_that_cannot_be_imported_is_named_with_the_reason(tmp_path, monkeypatch, module, name, why):
    (tmp_path / "exits.py").write_text("import sys; sys.exit(4)")
    (tmp_path / "interrupts.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "is_wrong.py").write_text("def f(event) return")
    (tmp_path / "dies.py").write_text("import os; os._exit(5)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsProblem, match=rf"^python:{module}:{name} cannot be used: .*{why}"):
        async with opened(name, module=module):
            pass


HOOKS = """
import pickle
import os
from app import KEPT
from app.delivered import DeliveredEvent
from app.deliveries.destinations.python import DeliveredEvent as Earlier
from app.events import append

def handle(event):
    assert type(event) is DeliveredEvent is Earlier
    append(KEPT, pickle.dumps(event))
"""


@pytest.fixture
def own_app(tmp_path, monkeypatch):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__init__.py").write_text("import os\nKEPT = os.environ['KEPT']\n")
    (folder / "events.py").write_text("def append(path, content):\n    open(path, 'ab').write(content)\n")
    (folder / "hooks.py").write_text(HOOKS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # as a worker has its working directory
    return folder


async def test_a_function_may_be_in_a_package_of_the_name_app(own_app, kept):
    async with opened("handle", module="app.hooks") as destination:
        assert await send(destination) == DELIVERED
    assert [event.reference for event in kept()] == ["PRI1"]


async def test_a_folder_app_that_is_not_a_package_is_refused_with_what_it_needs(own_app):
    (own_app / "__init__.py").unlink()
    with pytest.raises(SettingsProblem, match=r"No module named 'app.hooks'.* needs an `__init__.py`"):
        async with opened("handle", module="app.hooks"):
            pass


async def test_an_import_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "sleepy.py").write_text("import time; time.sleep(3600)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(functions, "IMPORTED_WITHIN", 1.0)
    with pytest.raises(SettingsProblem, match="it was not imported within 1 seconds"):
        async with opened("f", module="sleepy"):
            pass


async def test_an_attempt_whose_process_cannot_start_again_does_not_count(tmp_path, monkeypatch):
    module = tmp_path / "once.py"
    module.write_text("import os\ndef f(event): os._exit(1)")
    monkeypatch.syspath_prepend(tmp_path)
    async with opened("f", module="once") as destination:
        await send(destination)
        module.write_text("import gone")
        outcome = await send(destination)
        assert (outcome.counts, outcome.result) == (False, AttemptResult.UNREACHABLE)
        assert "No module named 'gone'" in str(outcome.error)


async def delivered(destination: PythonDestination) -> None:
    """Sends again if the process did not start in time: on a busy machine it may be slower than an attempt waits."""
    async with asyncio.timeout(LONG):
        while (outcome := await send(destination)) != DELIVERED:
            assert not outcome.counts or "did not return" in str(outcome.error), outcome
