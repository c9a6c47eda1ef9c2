"""What is in the bytes of a stored event."""

from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from app.body import CODINGS, InflatesTooFar, UndecodableBody, content_coding, decode
from app.receiver.endpoint import dedup_key
from app.receiver.payloads import NoEnvelope, NotJSON, changed_object, notification_identity, parse_json


def read_object(headers: list[list[str]], body: bytes, *, limit: int) -> tuple[dict[str, Any] | None, int]:
    """The order, payment or other object that came along, as JSON that can be written again, and the decoded size.

    Args:
        headers: As they are stored.
        body: As it is stored, in its content coding.
        limit: The most bytes after decompression; of more there is no object, and the size is one more than that.
    """
    try:
        content = decode(body, stored_coding(headers), limit=limit)
    except InflatesTooFar:
        return None, limit + 1
    except UndecodableBody:
        return None, len(body)
    return _object(content), len(content)


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        envelope = parse_json(content)
    except (NotJSON, NoEnvelope):
        return None
    data = envelope.get("data") if isinstance(envelope, dict) else None
    name, changed = changed_object(data) if isinstance(data, dict) else ("", {})
    if not name:
        return None
    try:
        to_json(changed)
    except (PydanticSerializationError, ValueError):
        return _cleaned(changed)
    return changed


def notification_keys(usernames: set[str], notification_id: str) -> list[bytes]:
    """The keys under which a notification of one of these users is stored."""
    return [dedup_key(username, notification_identity(notification_id)) for username in sorted(usernames)]


def stored_coding(headers: list[list[str]]) -> bytes:
    """The content coding of a stored body, empty for none and for one that nobody knows."""
    coding = content_coding(",".join(value for name, value in headers if name == "content-encoding").encode())
    return coding if coding in CODINGS else b""


def _cleaned(changed: dict[str, Any]) -> dict[str, Any] | None:
    try:
        cleaned = dict(_clean(changed))
        to_json(cleaned)
    except (PydanticSerializationError, ValueError, RecursionError):  # too deep to be written
        return None
    return cleaned


def _clean(value: Any) -> Any:
    """Lone surrogates, which JSON can say and UTF-8 cannot, as question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(each) for name, each in value.items()}
    return value
