"""What makes a request a copy of an earlier one: the same bytes from the same username, and nothing else.

The same `notification_id`, or the same version of an order, is not enough: the byte that differs may be a refund.
"""

from hashlib import sha256

KEY_BYTES = 16


def accepted_key(username: str, content: bytes) -> bytes:
    """The `dedup_key` of an acceptable body, given decoded."""
    return _key(username, b"accepted\n", content)


def refused_key(username: str, status: int, content: bytes, *, declared: int | None = None) -> bytes:
    """The `dedup_key` of a refused body, given as it arrived.

    Args:
        username: The sender's.
        status: The refusal's: the same bytes refused with another status are another event.
        content: All that arrived.
        declared: The declared length of a body that was too large to be taken. If none was declared, the counted length
            depends on how the body was cut on its way, so it is not part of the key.
    """
    length = "" if declared is None else f" of {declared}"
    return _key(username, f"refused {status}{length}\n".encode(), content)


def _key(username: str, kind: bytes, content: bytes) -> bytes:
    """16 bytes of SHA-256, different for different usernames: no client can make another's event look like a copy.

    The client's name is not in it, since a retry may come after a rotation. A username has no line end.
    """
    digest = sha256(username.encode() + b"\n" + kind)
    digest.update(content)
    return digest.digest()[:KEY_BYTES]
