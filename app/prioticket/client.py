"""The client of Prioticket's API: orders, payments and webhooks of one account."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

from app.prioticket import messages
from app.prioticket.calls import Calls
from app.prioticket.errors import NotFound, Refused, Unreadable, not_found
from app.prioticket.messages import FetchedOrder, Page, Query
from app.prioticket.pace import Clock
from app.prioticket.webhooks import Webhook, webhook_from
from app.prioticket.wire import Exchange, over_http
from app.settings.prioticket import PrioticketSettings

NO_ORDER = "Prioticket has no such order, or this account may not see it"
ITEMS_PER_PAGE = 100
MOST_PAGES = messages.REACHABLE_ITEMS  # so that reading a list ends, whatever the answers say


class Prioticket:
    """One account at Prioticket, for one process.

    Args:
        settings: The account.
        exchange: Sends one request.
        clock: The time.
        told: Called with a sentence before a wait, for anyone who watches.
    """

    def __init__(
        self,
        settings: PrioticketSettings,
        exchange: Exchange,
        *,
        clock: Clock | None = None,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._distributor_id = settings.distributor_id
        self._calls = Calls(settings, exchange, clock=clock or Clock(), told=told)

    @property
    def requests(self) -> int:
        """How many requests were sent, those for a token included."""
        return self._calls.sent

    async def order(self, reference: str, *, version: int | None = None) -> FetchedOrder:
        """The order as it is now, or as it was at a version.

        Raises:
            NotFound: there is none, or this account may not see it.
            PrioticketError: see errors.py.
            ValueError: the text cannot be a reference.
        """
        at = (
            ("cache", "false") if version is None else ("order_version", str(version))
        )  # `cache` does not apply to a version
        try:
            answer = await self._calls.answer("GET", messages.path_of("orders", reference), [at])
        except Refused as error:
            if not_found(error.status):
                raise NotFound(error.status, error.model, what=NO_ORDER) from None
            raise
        return self._calls.read(messages.read_order, answer)

    def order_pages(
        self,
        *,
        modified_since: datetime | None = None,
        created_from: datetime,
        created_to: datetime | None = None,
        more: Query = (),
        first: int = 1,
    ) -> AsyncIterator[Page]:
        """The pages of the list of orders from the page `first` on, the oldest orders first.

        An order that changes while the list is read may be there twice. Only `REACHABLE_ITEMS` of a list can be
        reached: see `total_items` of a page.

        Args:
            modified_since: Only orders modified after it.
            created_from: Only orders made from then on.
            created_to: Only orders made until then.
            more: Other filters of `GET /orders`.
            first: The number of the first page, from 1.

        Raises:
            PrioticketError: see errors.py.
        """
        query = messages.order_query(
            modified_since=modified_since,
            created_from=created_from,
            created_to=created_to,
            distributor_id=self._distributor_id,
            more=more,
        )
        return self._pages("/orders", query, first=first)

    async def payments(self, payment_id: str) -> list[dict[str, Any]]:
        """The payments with this id: none or one. Each has `payment_order_reference`."""
        pages = self._pages("/payments", [("payment_id", payment_id)])
        return [item async for page in pages for item in page.items]

    async def webhooks(self) -> list[Webhook]:
        """All registered webhooks."""
        return [webhook_from(item) async for page in self._pages("/webhooks", []) for item in page.items]

    async def register_webhook(self, webhook: dict[str, Any]) -> Webhook:
        """Registers a webhook, see `webhooks.registration`. A failure that may have registered it is not repeated.

        Raises:
            Unavailable, Unreadable: it may be registered; `webhooks` shows whether it is.
            PrioticketError: see errors.py.
        """
        answer = await self._calls.answer("POST", "/webhooks", [], messages.envelope("webhook", webhook))
        made = self._calls.read(messages.read_data, answer).get("webhook")
        if not isinstance(made, dict) or not made.get("webhook_id"):
            raise Unreadable("Prioticket's answer to the registration has no webhook_id.")
        return webhook_from(made)

    async def delete_webhook(self, webhook_id: str) -> None:
        """Deletes a webhook.

        Raises:
            PrioticketError: see errors.py; `Refused` if there is none with this id.
        """
        await self._calls.answer("DELETE", messages.path_of("webhooks", webhook_id), [])

    async def send_sample(self, event: str, reference: str) -> None:
        """Lets Prioticket send a sample of an event of an order to the registered webhooks.

        V3.5 documents it, as "only used for testing your integration". Whether V3.8 has it is unknown.

        Raises:
            PrioticketError: see errors.py.
        """
        sample = {"notification_event": event, "notification_item_id": reference}
        await self._calls.answer("POST", "/notifications", [], messages.envelope("notification", sample))

    async def _pages(self, path: str, query: Iterable[tuple[str, str]], *, first: int = 1) -> AsyncIterator[Page]:
        for number in range(first, first + MOST_PAGES):
            paging = [("items_per_page", str(ITEMS_PER_PAGE)), ("page", str(number))]
            answer = await self._calls.answer("GET", path, [*query, *paging])
            page = self._calls.read(partial(messages.read_page, number=number), answer)
            yield page
            if page.last:
                return


@asynccontextmanager
async def prioticket_of(
    settings: PrioticketSettings, *, told: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Prioticket]:
    """The account, over real connections."""
    async with over_http(settings.timeout) as exchange:
        yield Prioticket(settings, exchange, told=told)
