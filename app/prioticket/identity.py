"""What makes a request a copy of an earlier one: the same bytes from the same username, and nothing else.

Not the same `notification_id`, nor the same version of an order: the one byte that differs may be a refund.
"""

from hashlib import sha256

KEY_BYTES = 16


def accepted_key(username: str, content: bytes) -> bytes:
    """The `dedup_key` of an acceptable body, its content coding undone."""
    return _key(username, b"accepted\n", content)


def refused_key(username: str, status: int, content: bytes, *, declared: int | None = None) -> bytes:
    """That of a refused body, as it arrived.

    Args:
        username: As in `_key`.
        status: A body that is refused for another reason is another event.
        content: All that arrived.
        declared: The whole length, of a body that was too long to be taken. How far one of unknown length was counted
            depends on how it was cut on its way, and is no part of the key.
    """
    length = "" if declared is None else f" of {declared}"
    return _key(username, f"refused {status}{length}\n".encode(), content)


def _key(username: str, kind: bytes, content: bytes) -> bytes:
    """16 bytes of SHA-256, different for different usernames: no client can make another's event look like a copy.

    The client's name is not in it, as a retry may come after a rotation. A username has no line end.
    """
    digest = sha256(username.encode() + b"\n" + kind)
    digest.update(content)
    return digest.digest()[:KEY_BYTES]
