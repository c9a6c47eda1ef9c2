"""What makes a request a copy of an earlier one: the same bytes from the same username, and nothing else.

The same `notification_id`, or the same version of an order, is not enough: the byte that differs may be a refund.
"""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

from app.prioticket.payloads import Payload

TIME_BYTES = 4
EPOCH, ZERO = datetime(1970, 1, 1, tzinfo=UTC), timedelta()
SECONDS_OF_DAY = 24 * 60 * 60
LATEST = 2**32  # seconds since 1970, in the year 2106
DIGEST_BYTES = 12


def accepted_key(username: str, content: bytes, payload: Payload) -> bytes:
    """The `dedup_key` of an acceptable body, given decoded.

    Args:
        username: The sender's.
        content: The body.
        payload: What was read from the body. Its time begins the key, so that new events are neighbours in the index.
    """
    return _key(username, b"accepted\n", content, at=payload.notification_created or payload.order_modified)


def refused_key(username: str, status: int, content: bytes, *, declared: int | None = None) -> bytes:
    """The `dedup_key` of a refused body, given as it arrived. No time is read from the body.

    Args:
        username: The sender's.
        status: The refusal's: the same bytes refused with another status are another event.
        content: All that arrived.
        declared: The declared length of a body that was too large to be taken. If none was declared, the counted length
            depends on how the body was cut on its way, so it is not part of the key.
    """
    length = "" if declared is None else f" of {declared}"
    return _key(username, f"refused {status}{length}\n".encode(), content, at=None)


def _key(username: str, kind: bytes, content: bytes, *, at: datetime | None) -> bytes:
    """16 bytes: the seconds since 1970 of the time that both copies carry, or zero, and 12 bytes of SHA-256.

    The digest differs between usernames: no client can make another's event look like a copy. The client's name is not
    in it, since a retry may come after a rotation. A username has no line end.
    """
    digest = sha256(b"%b\n%b%b" % (username.encode(), kind, content)).digest()
    since = at - EPOCH if at else ZERO
    seconds = since.days * SECONDS_OF_DAY + since.seconds  # `timestamp` would take ten times as long
    return (seconds % LATEST).to_bytes(TIME_BYTES) + digest[:DIGEST_BYTES]
