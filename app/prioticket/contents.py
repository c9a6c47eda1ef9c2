"""What is in the bytes of a stored event."""

from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError, to_json

from app.prioticket.payloads import NoEnvelope, NotJSON, changed_object, own_reference, parse_json
from app.web.body import InflatesTooFar, UndecodableBody, claimed_coding, coding_of, decode

MOST_BYTES = 64 * 1024 * 1024
"""The largest decoded body: the highest value that `max_body_bytes` may have."""


def undone(headers: list[list[str]], body: bytes, *, limit: int) -> bytes:
    """The decoded content of a stored body, whatever coding its headers claim.

    Raises:
        UndecodableBody: it begins in a content coding, but cannot be decoded to its end.
        InflatesTooFar: it is larger than the limit.
    """
    return decode(body, coding_of(body, claimed_coding(headers)), limit=limit, padded=True)


class Contained(NamedTuple):
    """An object in a body.

    Attributes:
        name: Such as `order`.
        reference: Its own, not the one of its order.
        values: Its fields, as values that JSON can hold.
    """

    name: str
    reference: str | None
    values: dict[str, Any]


def read_object(headers: list[list[str]], body: bytes, *, limit: int) -> tuple[Contained | None, int]:
    """The order, payment or other object in a body, and the decoded size.

    Args:
        headers: As they are stored.
        body: As it is stored, in its content coding.
        limit: The most bytes after decompression; a larger body gives no object, and the limit plus one as its size.
    """
    try:
        content = undone(headers, body, limit=limit)
    except InflatesTooFar:
        return None, limit + 1
    except UndecodableBody:
        return None, len(body)
    return _object(content), len(content)


def read_order(headers: list[list[str]], body: bytes) -> dict[str, Any] | None:
    """The order in a body, its texts as they were sent; None if there is none, or the body cannot be read.

    Args:
        headers: As they are stored.
        body: As it is stored, in its content coding.
    """
    try:
        order = parse_json(undone(headers, body, limit=MOST_BYTES))["data"]["order"]
    except (UndecodableBody, InflatesTooFar, NotJSON, LookupError, TypeError):
        return None
    return order if isinstance(order, dict) else None


def _object(content: bytes) -> Contained | None:
    try:
        envelope = parse_json(content)
    except (NotJSON, NoEnvelope):
        return None
    data = envelope.get("data") if isinstance(envelope, dict) else None
    name, changed = changed_object(data) if isinstance(data, dict) else ("", {})
    if not name:
        return None
    values: dict[str, Any] | None = changed
    try:
        to_json(changed)
    except (PydanticSerializationError, ValueError):
        values = _cleaned(changed)
    return None if values is None else Contained(name, own_reference(name, changed), values)


def _cleaned(changed: dict[str, Any]) -> dict[str, Any] | None:
    try:
        cleaned = dict(_clean(changed))
        to_json(cleaned)
    except (PydanticSerializationError, ValueError, RecursionError):  # too deep to be written
        return None
    return cleaned


def _clean(value: Any) -> Any:
    """The value with question marks for lone surrogates, which JSON can express and UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(each) for name, each in value.items()}
    return value
