"""The router: which handler answers a request."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette import routing
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.problems import MethodNotAllowed


class Router(routing.Router):
    """A URL table, and one middleware around it.

    Starlette's own application has three more, and its router tries one pattern after another: together a quarter of
    what a request costs. Here a path without parameters is looked up in a dictionary.
    """

    def __init__(
        self,
        routes: Sequence[routing.Route],
        *,
        lifespan: Callable[["Router"], AbstractAsyncContextManager[Mapping[str, Any]]],
        middleware: Middleware,
    ) -> None:
        # A webhook that is redirected is not answered 200, and is retried for seven days.
        super().__init__(routes, redirect_slashes=False, lifespan=lifespan, middleware=[middleware])
        self._state: MutableMapping[str, Any] = {}
        self._by_path: dict[str, dict[str, ASGIApp]] = {}
        for route in routes:
            if "{" not in route.path:
                self._by_path.setdefault(route.path, {}).update(dict.fromkeys(route.methods or (), route.app))

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Remembers the state that the server copies for each request."""
        self._state = scope.get("state", {})
        await super().lifespan(scope, receive, send)

    def replace_state(self, state: Mapping[str, Any]) -> None:
        """Gives another state to every request from now on."""
        self._state.update(state)

    def app(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override] # awaited
        """Calls the handler of the route."""
        scope["app"] = self
        by_method = self._by_path.get(scope.get("path", ""))
        if by_method is None or scope["type"] != "http":
            return super().app(scope, receive, send)
        if (endpoint := by_method.get(scope["method"])) is not None:
            return endpoint(scope, receive, send)
        raise HTTPException(MethodNotAllowed.status, headers={"Allow": ", ".join(by_method)})
