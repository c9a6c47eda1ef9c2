import asyncio
import gc
from collections.abc import Mapping

import pytest

from app.deliveries.claims import Claim
from app.deliveries.destinations.brokers import BrokerDestination
from app.deliveries.destinations.lookups import Lookup
from app.deliveries.tables import AttemptResult
from app.settings.model import DestinationSettings
from tests.deliveries.claims import NOON, new_claim


class Closed:
    """A connection that cannot be opened."""

    def __init__(self, error: Exception) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._error = error

    async def connect(self) -> None:
        raise self._error

    async def publish(self, claim: Claim, sent: Mapping[str, str], *, within: float) -> str:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Slow(Closed):
    """A connection that raises its error when its opening is given up."""

    def __init__(self) -> None:
        super().__init__(ConnectionError("It was given up."))
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def connect(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.set()
            raise self._error from None


@pytest.mark.parametrize(
    "error", [ValueError("x"), TypeError("x"), AttributeError("x"), KeyError("x"), AssertionError("x")]
)
async def test_whatever_answers_instead_of_a_broker_fails_the_attempt_after_all_hosts(error):
    asked = []
    settings = DestinationSettings(url="nats://one.example,two.example", subject="x")

    def link(host: Lookup) -> Closed:
        asked.append(host.host)
        return Closed(error)

    outcome = await BrokerDestination(settings, link).send(new_claim(), now=NOON)
    assert (outcome.result, asked) == (AttemptResult.UNREACHABLE, ["one.example", "two.example"])
    assert "does not answer as such a broker does" in (outcome.error or "")


async def test_a_worker_that_ends_while_it_connects_logs_no_error_of_a_library():
    logged = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    link = Slow()
    broker = BrokerDestination(DestinationSettings(url="nats://nats.example", subject="x"), lambda _: link)
    sending = asyncio.create_task(broker.send(new_claim(), now=NOON))
    await link.begun.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await broker.close()
    await link.ended.wait()
    del broker, sending  # which keep the task that connects
    gc.collect()
    assert logged == []
