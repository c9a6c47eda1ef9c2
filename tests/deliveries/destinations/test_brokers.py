import asyncio
import gc
from collections.abc import Mapping

from app.deliveries.claims import Claim
from app.deliveries.destinations.brokers import BrokerDestination
from app.settings.model import DestinationSettings
from tests.deliveries.claims import NOON, new_claim


class Slow:
    """A connection that raises an error of its own when its opening is given up."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def connect(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.set()
            raise ConnectionError("It was given up.") from None

    async def publish(self, claim: Claim, sent: Mapping[str, str], *, within: float) -> str:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


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
