"""Notifies the registered webhooks of orders: as the plainest client does, and as badly as `Manner` says."""

import asyncio
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

import aiohttp

from app.simulator.bodies import body_of
from app.simulator.registered import Registered
from app.simulator.sales import stamp

PLAIN = {"Accept": "*/*", "Content-Type": "application/json"}
NEVER_SENT = ("User-Agent", "Accept-Encoding")
"""What aiohttp would add, and the plainest client does not have."""

ANSWER_WITHIN = 4.0  # seconds
FIRST_PAUSE = 1.0  # seconds between two attempts, doubled each time
LONGEST_HOLD = 3.0  # seconds for which an event is held back, so that later ones overtake it


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How badly notifications are sent.

    Attributes:
        shape: What a webhook with payload gets: `order`, `both`, or `mixed`, each order always the same.
        lose: The share of notifications that are never sent.
        copies: The share that is sent twice.
        shuffle: The share that is held back, so that later ones overtake it.
        attempts: How often one is sent until it gets 200. Nothing promises more than one attempt.
        double_base64: Whether `webhook_auth`, which is encoded already, is encoded once more.
    """

    shape: str = "order"
    lose: float = 0.0
    copies: float = 0.0
    shuffle: float = 0.0
    attempts: int = 1
    double_base64: bool = False


class Notifier:
    """Sends notifications; `counts` says how many were sent, lost, acknowledged, and so on."""

    def __init__(self, webhooks: Registered, manner: Manner, *, random: Random) -> None:
        self.counts: Counter[str] = Counter(sent=0, lost=0, copies=0, acknowledged=0)
        self._webhooks, self._manner, self._random = webhooks, manner, random
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._shapes: dict[str, str] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Notifier"]:
        """At the end it waits for the answers to what was sent."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, skip_auto_headers=NEVER_SENT)
        async with self._session:
            yield self
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=ANSWER_WITHIN)
            for task in self._tasks:
                task.cancel()

    def announce(self, event: str, order: dict[str, Any], *, at: datetime) -> None:
        """Begins to tell all webhooks that want this event."""
        for webhook in self._webhooks.wanting(event):
            if self._random.random() < self._manner.lose:
                self.counts["lost"] += 1
                continue
            reference = order["order_reference"]
            shape = self._shape(reference) if webhook["webhook_payload"] else "notification"
            body = body_of(event, order, created=stamp(at), shape=shape, random=self._random)
            task = asyncio.create_task(self._tell(deepcopy(webhook), reference, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _shape(self, reference: str) -> str:
        if self._manner.shape != "mixed":
            return self._manner.shape
        return self._shapes.setdefault(reference, self._random.choice(("order", "both")))

    async def _tell(self, webhook: dict[str, Any], reference: str, body: bytes) -> None:
        if self._random.random() < self._manner.shuffle:
            await asyncio.sleep(self._random.uniform(0, LONGEST_HOLD))
        # Notifications of one order go one after the other, unless one was held back.
        async with self._turns.setdefault((webhook["webhook_id"], reference), asyncio.Lock()):
            self.counts["sent"] += 1
            await self._until_acknowledged(webhook, body)
        if self._random.random() < self._manner.copies:
            self.counts["copies"] += 1
            await self._post(webhook, body)

    async def _until_acknowledged(self, webhook: dict[str, Any], body: bytes) -> None:
        for attempt in range(self._manner.attempts):
            if attempt:
                await asyncio.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            if await self._post(webhook, body):
                self.counts["acknowledged"] += 1
                return

    async def _post(self, webhook: dict[str, Any], body: bytes) -> bool:
        """Whether the answer was 200."""
        headers = dict(PLAIN)
        if auth := webhook["webhook_auth"]:
            headers["Authorization"] = (
                f"Basic {b64encode(auth.encode()).decode() if self._manner.double_base64 else auth}"
            )
        try:
            async with self._session.post(
                webhook["webhook_url"], data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except TimeoutError:
            self.counts["no answer"] += 1
            return False
        except (aiohttp.ClientError, OSError, ValueError):
            self.counts["connection ended"] += 1
            return False
        self.counts[f"answered {status}"] += 1
        return status == 200  # noqa: PLR2004 - nothing else is a success to Prioticket
