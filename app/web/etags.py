"""Entity tags: which version of a resource an answer holds (RFC 9110, section 8.8.3)."""

import re
from hashlib import sha256
from typing import Any

from starlette.requests import Request


def etag_of(content: bytes) -> str:
    """The tag of exactly these bytes."""
    return f'"{sha256(content).hexdigest()[:32]}"'


def has_current(request: Request[Any], etag: str) -> bool:
    """Whether `If-None-Match` names the tag, so that 304 is enough.

    The comparison is weak (RFC 9110, section 13.1.2): a proxy that compresses may have made the tag weak.
    """
    field = ",".join(request.headers.getlist("If-None-Match"))
    return field.strip() == "*" or etag in re.findall(r'"[^"]*"', field)
