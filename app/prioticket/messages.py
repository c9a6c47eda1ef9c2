"""What requests to Prioticket's API hold, and what its answers say. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from pydantic_core import to_json

from app.prioticket.errors import SHOWN_CHARACTERS, Refused, Unreadable
from app.prioticket.payloads import NotJSON, parse_json

LONGEST_REFERENCE = 255
REACHABLE_ITEMS = 10_000
"""No more items of one query can be reached by its pages: `start_index` ends there."""

TOKEN = re.compile(r"[\x21-\x7e]+")
DEFAULT_LIFETIME = 3600.0  # seconds
LONGEST_LIFETIME = 86_400.0

Query = Iterable[tuple[str, str]]


class Answer(NamedTuple):
    """One answer, its content coding undone."""

    status: int
    content_type: str
    retry_after: str
    body: bytes


@dataclass(frozen=True, slots=True)
class FetchedOrder:
    """An order as Prioticket has it: the exact bytes of the answer, and the order in them."""

    body: bytes
    content_type: str
    order: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list.

    Attributes:
        items: Its objects.
        number: Counted from 1.
        total_items: How many the whole list has, as Prioticket said with this page; None if it did not.
        last: Whether no page follows.
    """

    items: list[dict[str, Any]]
    number: int
    total_items: int | None
    last: bool


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a header has it, and for how many seconds it is valid."""

    authorization: str
    lifetime: float


def path_of(*segments: str) -> str:
    """The path under the base URL, each segment escaped.

    Raises:
        ValueError: a segment cannot be a part of a path.
    """
    for segment in segments:
        if not 0 < len(segment) <= LONGEST_REFERENCE or not segment.isprintable() or segment in (".", ".."):
            raise ValueError(f"{segment[:SHOWN_CHARACTERS]!r} cannot be a reference or an id.")
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def query_of(parameters: Query) -> str:
    """The query, `?` included; the `+` of an offset is escaped too."""
    encoded = urlencode(list(parameters), quote_via=quote, safe="")
    return f"?{encoded}" if encoded else ""


def stamp(at: datetime) -> str:
    """The instant as Prioticket accepts it: RFC 3339 with an offset, never `Z`."""
    return at.isoformat(timespec="seconds")


def order_query(
    *,
    modified_since: datetime | None,
    created_from: datetime,
    created_to: datetime | None,
    distributor_id: str | None,
    more: Query = (),
) -> list[tuple[str, str]]:
    """The query of `GET /orders`, oldest first. Without `order_created_from` Prioticket might leave old orders out."""
    filters = {
        "order_modified": stamp(modified_since) if modified_since else None,
        "order_created_from": stamp(created_from),
        "order_created_to": stamp(created_to) if created_to else None,
        "distributor_id": distributor_id,
        "order_sort_by": "ORDER_CREATED",
        "order_sort_order": "ASC",
        "cache": "false",
    }
    return [*((name, value) for name, value in filters.items() if value is not None), *more]


def envelope(kind: str, content: Mapping[str, Any]) -> bytes:
    """The body of a request. Without `kind`, Prioticket takes the content for an order."""
    return to_json({"data": {"kind": kind, kind: content}})


def read_data(answer: Answer) -> dict[str, Any]:
    """`data` of an answer that succeeded.

    Raises:
        Refused: the body is an error, despite the status.
        Unreadable: it has no `data`.
    """
    content = _content(answer)
    data = content.get("data")
    if isinstance(data, dict):
        return data
    if isinstance(content.get("error"), str):
        raise Refused(answer.status, content)
    raise Unreadable(f"Prioticket's answer has no data. It begins: {beginning(answer)}")


def read_order(answer: Answer) -> FetchedOrder:
    """The order of an answer, whatever its `kind` says.

    Raises:
        Refused: it is an error.
        Unreadable: the answer has no order in it.
    """
    order = read_data(answer).get("order")
    if not isinstance(order, dict):
        raise Unreadable(f"Prioticket's answer has no order. It begins: {beginning(answer)}")
    return FetchedOrder(answer.body, answer.content_type, order)


def read_page(answer: Answer, *, number: int) -> Page:
    """A page of a list. It is the last one if it has no items, or if the answer says so.

    Raises:
        Refused: it is an error.
        Unreadable: there is no list.
    """
    data = read_data(answer)
    listed = data.get("items")
    if listed is not None and not isinstance(listed, list):
        raise Unreadable(f"Prioticket's answer has no list. It begins: {beginning(answer)}")
    items = [item for item in listed or () if isinstance(item, dict)]
    pages, total = number_of(data.get("total_pages")), number_of(data.get("total_items"))
    size = number_of(data.get("items_per_page"))
    if pages is None and total is not None and size:
        pages = -(-total // size)
    return Page(items, number, total, last=not listed or (pages is not None and number >= pages))


def read_token(answer: Answer) -> Token:
    """The token of a successful answer.

    Raises:
        Unreadable: there is none. The text does not show the answer, which may hold one.
    """
    try:
        content = _content(answer)
    except Unreadable:
        content = {}
    kind, token = content.get("token_type") or "Bearer", content.get("access_token")
    if not (isinstance(kind, str) and isinstance(token, str) and TOKEN.fullmatch(kind) and TOKEN.fullmatch(token)):
        raise Unreadable("Prioticket's answer to the request for a token has no access_token.")
    lifetime = number_of(content.get("expires_in"))
    return Token(f"{kind} {token}", min(lifetime or DEFAULT_LIFETIME, LONGEST_LIFETIME))


def error_model(answer: Answer) -> dict[str, Any]:
    """The ErrorModel, or the error of RFC 6749, in an answer; empty if there is none."""
    try:
        return _content(answer)
    except Unreadable:
        return {}


def token_is_refused(answer: Answer) -> bool:
    """Whether the token was refused: with 401, or with 400 and `INVALID_TOKEN`, as a sibling API does."""
    if answer.status == HTTPStatus.BAD_REQUEST:
        return error_model(answer).get("error") == "INVALID_TOKEN"
    return answer.status == HTTPStatus.UNAUTHORIZED


def number_of(value: object) -> int | None:
    """A whole number, 0 or more, which may come as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if number >= 0 else None


def beginning(answer: Answer) -> str:
    """The first characters of an answer, for an error."""
    return answer.body[: SHOWN_CHARACTERS * 4].decode("utf-8", "replace")[:SHOWN_CHARACTERS] or "(nothing)"


def _content(answer: Answer) -> dict[str, Any]:
    try:
        content = parse_json(answer.body)
    except (NotJSON, ValueError):
        content = None
    if not isinstance(content, dict):
        raise Unreadable(
            f"Prioticket's answer ({answer.status}) is not JSON of its API. It begins: {beginning(answer)}"
        )
    return content
