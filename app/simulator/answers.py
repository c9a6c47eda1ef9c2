"""The answers of the simulated API."""

import asyncio
import json
from datetime import datetime
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from app.simulator.bodies import API_VERSION, as_php
from app.simulator.faults import Fault

MOST_ITEMS, USUAL_ITEMS, LAST_START_INDEX = 200, 10, 10_000


class Wrong(Exception):
    """A request that is answered with an ErrorModel."""

    def __init__(self, status: int, code: str, said: str) -> None:
        self.status, self.code = status, code
        super().__init__(said)


def data(name: str, content: dict[str, Any], *, status: int = 200, kind: str | None = None) -> Response:
    """One object in its envelope."""
    envelope = {"api_version": API_VERSION, "data": {"kind": kind or name, name: content}}
    return Response(as_php(envelope), status_code=status, media_type="application/json")


def page(kind: str, listed: list[dict[str, Any]], request: Request) -> Response:
    """The page of a list that the request asks for."""
    try:
        size = min(int(request.query_params.get("items_per_page", USUAL_ITEMS)), MOST_ITEMS)
        number = int(request.query_params.get("page", 1))
    except ValueError:
        size = number = 0
    if size < 1 or number < 1:
        raise Wrong(400, "INVALID_REQUEST", "items_per_page and page must be numbers from 1.")
    start = (number - 1) * size + 1
    if start > LAST_START_INDEX:
        raise Wrong(400, "INVALID_REQUEST", f"start_index must not exceed {LAST_START_INDEX}.")
    items = listed[start - 1 : start - 1 + size]
    shown = {
        "kind": kind,
        "current_item_count": len(items),
        "items_per_page": size,
        "start_index": start,
        "total_items": len(listed),
        "page_index": number,
        "total_pages": -(-len(listed) // size),
        "items": items,
    }
    return Response(as_php({"api_version": API_VERSION, "data": shown}), media_type="application/json")


def error(status: int, code: str, said: str, *, headers: dict[str, str] | None = None) -> Response:
    """An ErrorModel."""
    model = {"error": code, "error_reference": uuid4().hex, "error_message": said, "errors": [said]}
    return JSONResponse(model, status_code=status, headers=headers)


async def json_of(request: Request, *, empty: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in the request's body; `empty` if there is none."""
    body = await request.body()
    if not body and empty is not None:
        return empty
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Wrong(400, "INVALID_REQUEST", "The body is not a JSON object.")
    return content


def time_of(text: str | None) -> datetime | None:
    """The time in a parameter, which must have an offset."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or text.upper().endswith("Z"):
        raise Wrong(400, "INVALID_REQUEST", f"{text} is not RFC 3339 with an offset.")
    return at


async def faulty(fault: Fault, request: Request) -> Response | None:  # noqa: PLR0911 - one for each kind
    """The wrong answer; None if the right one follows."""
    match fault.kind:
        case "slow":
            await asyncio.sleep(fault.seconds or 0)
            return None
        case "hang":
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return Response(status_code=504)
        case "cut":
            return _Cut(b'{"data": {"kind"', media_type="application/json")
        case "html":
            return HTMLResponse("<html><body>Maintenance</body></html>")
        case "error":
            return error(200, "INTERNAL_SERVER_ERROR", "Something went wrong.")
        case "redirect":
            return RedirectResponse("https://elsewhere.example/")
        case _:
            wait = {} if fault.seconds is None else {"Retry-After": f"{fault.seconds:.0f}"}
            return error(int(fault.kind), "LIMIT_REACHED" if fault.kind == "429" else "FAULT", "A fault.", headers=wait)


class _Cut(Response):
    """An answer whose connection ends in the middle of the body."""

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % (len(self.body) * 2))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": False})
