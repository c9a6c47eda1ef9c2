"""The API of a simulated Prioticket under `BASE`, as far as Prioticket documents it."""

from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.simulator.answers import Wrong, data, error, faulty, json_of, page, time_of
from app.simulator.book import Book, Order
from app.simulator.faults import Fault, fault_of
from app.simulator.registered import Registered

BASE = "/v3.8/distributor"
MINUTE = timedelta(minutes=1)
MOST_REFUSALS, MOST_REQUESTS = 60, 1000  # in a minute
USUAL_PAST = timedelta(days=92)
"""How far back the list of orders goes unless `order_created_from` is given: three months."""

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(kw_only=True)
class Behaviour:
    """How the API behaves, as far as that can be chosen.

    Attributes:
        expires_in: Seconds for which a token is valid; text is answered as text.
        kind: `kind` of an order's answer, which Prioticket gets wrong at times.
        cached: How old an order with `cache=true` is.
        unknown: The status for an unknown order.
        shows_auth: Whether answers have `webhook_auth`.
    """

    client_id: str
    client_secret: str
    api_key: str | None = None
    expires_in: float | str = 3600
    kind: str = "order"
    cached: timedelta = MINUTE
    unknown: int = 400
    shows_auth: bool = False
    faults: list[Fault] = field(default_factory=list)


class FakeAPI:
    """The API.

    Args:
        behaviour: What it does.
        book: Its orders.
        now: The time.
        notify: Sends a notification of an order, when one is asked for.
        random: Chooses the requests that faults meet.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        book: Book,
        webhooks: Registered,
        *,
        now: Callable[[], datetime],
        notify: Callable[[str, Order], None],
        random: Random,
    ) -> None:
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request that came."""
        self.tokens: dict[str, datetime] = {}
        """When each token ends."""
        self._behaviour, self._book, self._webhooks = behaviour, book, webhooks
        self._now, self._notify, self._random = now, notify, random
        self._recent: deque[datetime] = deque(maxlen=MOST_REQUESTS)
        self._refusals: deque[datetime] = deque(maxlen=MOST_REFUSALS)
        self._blocked_until = datetime.min.replace(tzinfo=UTC)

    def app(self) -> Starlette:
        """The ASGI application."""
        table: tuple[tuple[str, str, Handler], ...] = (
            ("POST", "/webhooks", self._register),
            ("GET", "/webhooks", self._list_webhooks),
            ("DELETE", "/webhooks/{webhook_id}", self._delete),
            ("GET", "/orders", self._list_orders),
            ("GET", "/orders/{reference:path}", self._order),
            ("GET", "/payments", self._payments),
            ("POST", "/notifications", self._sample),
            ("GET", "/system/ping", self._ping),
        )
        routes = [Route(BASE + "/oauth2/token", self._met(self._token), methods=["POST"])]
        routes += [Route(BASE + path, self._met(self._known(call)), methods=[method]) for method, path, call in table]
        return Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)])

    def _met(self, call: Handler) -> Handler:
        """The handler behind the limits and faults, with ErrorModels for its errors."""

        async def answer(request: Request) -> Response:
            path = request.scope["path"].removeprefix(BASE)
            self.requests.append((request.method, path))
            now = self._now()
            self._recent.append(now)
            crowded = len(self._recent) == MOST_REQUESTS and now - self._recent[0] < MINUTE
            if crowded or now < self._blocked_until:
                return error(429, "LIMIT_REACHED", "Too many requests.")
            fault = fault_of(self._behaviour.faults, path, self._random)
            response = await faulty(fault, request) if fault is not None else None
            if response is None:
                try:
                    response = await call(request)
                except Wrong as wrong:
                    response = error(wrong.status, wrong.code, str(wrong))
            self._count(response.status_code, now)
            return response

        return answer

    def _count(self, status: int, now: datetime) -> None:
        if not 400 <= status < 500:  # noqa: PLR2004 - HTTP's class
            return
        self._refusals.append(now)
        if len(self._refusals) == MOST_REFUSALS and now - self._refusals[0] < MINUTE:
            self._blocked_until = now + MINUTE
            self._refusals.clear()

    def _known(self, call: Handler) -> Handler:
        """The handler behind the token and the key."""

        async def answer(request: Request) -> Response:
            given = request.headers.get("authorization")
            if given is None:
                raise Wrong(400, "INVALID_REQUEST", "The Authorization header is missing.")
            ends = self.tokens.get(given.removeprefix("Bearer "))
            if ends is None or self._now() >= ends:
                raise Wrong(401, "AUTHENTICATION_FAILED", "The token is expired, revoked or malformed.")
            if self._behaviour.api_key is not None and request.query_params.get("key") != self._behaviour.api_key:
                raise Wrong(403, "FORBIDDEN", "The API key is missing or wrong.")  # the status is a guess
            return await call(request)

        return answer

    async def _token(self, request: Request) -> Response:
        chosen = self._behaviour
        right = "Basic " + b64encode(f"{chosen.client_id}:{chosen.client_secret}".encode()).decode()
        if request.headers.get("authorization") != right:
            challenge = {"WWW-Authenticate": "Basic"}
            return JSONResponse({"error": "invalid_client"}, status_code=401, headers=challenge)
        asked = await json_of(request, empty={})
        if asked.get("grant_type", "client_credentials") != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, status_code=400)
        token = uuid4().hex
        self.tokens[token] = self._now() + timedelta(seconds=float(chosen.expires_in))
        scope = {"scope": asked["scope"]} if "scope" in asked else {}
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": chosen.expires_in, **scope}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def _register(self, request: Request) -> Response:
        asked = await json_of(request)
        content = asked.get("data")
        webhook = content.get("webhook") if isinstance(content, dict) and content.get("kind") == "webhook" else None
        if not isinstance(webhook, dict):
            raise Wrong(400, "INVALID_REQUEST", "data.webhook is missing.")
        try:
            made = self._webhooks.add(webhook, now=self._now())
        except ValueError as error:
            raise Wrong(400, "INVALID_REQUEST", str(error)) from None
        return data("webhook", self._shown(made), status=201)

    async def _list_webhooks(self, request: Request) -> Response:
        wanted = request.query_params.get("webhook_id")
        listed = [self._shown(webhook) for webhook in self._webhooks.all() if wanted in (None, webhook["webhook_id"])]
        return page("webhook", listed, request)

    def _shown(self, webhook: dict[str, Any]) -> dict[str, Any]:
        return {name: webhook[name] for name in webhook if name != "webhook_auth" or self._behaviour.shows_auth}

    async def _delete(self, request: Request) -> Response:
        if not self._webhooks.remove(request.path_params["webhook_id"]):
            raise Wrong(404, "INVALID_REQUEST", "There is no such webhook.")
        return Response(status_code=204)

    async def _order(self, request: Request) -> Response:
        version = request.query_params.get("order_version")
        cached = request.query_params.get("cache", "true") == "true" and version is None
        order = self._book.order(
            request.path_params["reference"],
            version=int(version) if version and version.isdigit() else None,
            at=self._now() - self._behaviour.cached if cached else None,
        )
        if order is None:
            raise Wrong(self._behaviour.unknown, "INVALID_REQUEST", "The order was not found.")
        return data("order", order, kind=self._behaviour.kind)

    async def _list_orders(self, request: Request) -> Response:
        query = request.query_params
        modified, until = time_of(query.get("order_modified")), time_of(query.get("order_created_to"))
        since = time_of(query.get("order_created_from")) or self._now() - USUAL_PAST
        statuses = {*query.getlist("order_status"), *query.getlist("order_status[]")}
        listed = [
            order
            for order in self._book.newest()
            if since <= datetime.fromisoformat(order["order_created"])
            and (until is None or datetime.fromisoformat(order["order_created"]) <= until)
            and (modified is None or datetime.fromisoformat(order["order_modified"]) > modified)
            and (not statuses or order["order_status"] in statuses)
            and query.get("order_reference") in (None, order["order_reference"])
            and query.get("distributor_id") in (None, order["order_distributor_id"])
        ]
        if query.get("order_sort_order", "DESC") != "ASC":
            listed.reverse()
        return page("order", listed, request)

    async def _payments(self, request: Request) -> Response:
        query = request.query_params
        listed = [
            payment
            for payment in self._book.payments()
            if query.get("payment_id") in (None, payment["payment_id"])
            and query.get("order_reference") in (None, payment["payment_order_reference"])
        ]
        return page("payment", listed, request)

    async def _sample(self, request: Request) -> Response:
        try:
            asked = (await json_of(request))["data"]["notification"]
            event, reference = asked["notification_event"], asked["notification_item_id"]
        except (LookupError, TypeError):
            raise Wrong(400, "INVALID_REQUEST", "data.notification is missing or incomplete.") from None
        order = self._book.order(str(reference))
        if order is None:
            raise Wrong(400, "INVALID_REQUEST", "The order was not found.")
        self._notify(str(event), order)
        return data("notification", asked, status=201)

    async def _ping(self, _: Request) -> Response:
        return data("system", {"status": "OK"})
