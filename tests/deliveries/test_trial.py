import asyncio
import json
import pickle
from datetime import UTC, datetime, timedelta

from standardwebhooks import Webhook

from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.deliveries.trial import TYPE, Trial, send_test
from app.settings.model import DestinationSettings
from tests.deliveries.destinations import own
from tests.deliveries.destinations.test_http import SECRET, consumer, signed


async def sent(url: str, *, within: timedelta | None = None, **settings) -> Trial:
    destination = DestinationSettings.model_validate({"url": url, "timeout": 5, **settings})
    return await send_test(destination, now=datetime.now(UTC), within=within)


async def test_a_test_event_is_signed_like_a_real_one_and_says_that_it_is_none():
    async with consumer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nthanks") as seen:
        trial = await sent(seen.url, secret=SECRET, headers={"X-Tenant": "nl"})
    (headers,), (body,) = seen.headers, seen.bodies
    Webhook(SECRET).verify(body, signed(headers))
    assert (headers["Priohook-Test"], headers["Priohook-Event-Type"]) == ("true", TYPE)
    assert (headers["webhook-id"], headers["X-Tenant"]) == (str(trial.id), "nl")
    assert "Priohook-Reference" not in headers
    assert (json.loads(body)["test"], json.loads(body)["event"]) == (True, TYPE)
    assert (trial.succeeded, trial.outcome.status, trial.outcome.answer) == (True, 200, b"thanks")


async def test_a_refusal_is_told_with_its_status():
    async with consumer(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as seen:
        trial = await sent(seen.url)
    assert (trial.succeeded, trial.outcome.result, trial.outcome.status) == (False, AttemptResult.REFUSED, 503)


async def test_a_consumer_that_does_not_answer_is_given_up_at_the_nearer_deadline():
    released = asyncio.Event()

    async def never(_: asyncio.StreamWriter) -> None:
        await released.wait()

    async with consumer(never) as seen:
        trial = await sent(seen.url, timeout=300, within=timedelta(seconds=0.2))
        released.set()
    assert trial.outcome == Outcome(AttemptResult.TIMED_OUT, error="It did not answer within 0.2 seconds.")


async def test_a_function_is_called_with_what_says_that_it_is_a_test(monkeypatch, tmp_path):
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    trial = await sent(f"python:{own.__name__}:keeps", timeout=60)
    event = pickle.loads((tmp_path / "kept").read_bytes())  # noqa: S301 - written by this test's function
    assert trial.succeeded
    assert (event.test, event.type, event.order, event.reference) == (True, TYPE, None, None)


async def test_a_function_that_cannot_be_called_is_told():
    trial = await sent("python:nowhere:nothing", timeout=60)
    assert (trial.succeeded, trial.outcome.result) == (False, AttemptResult.UNREACHABLE)
    assert "nowhere" in (trial.outcome.error or "")
