"""Entity tags: which version of a resource an answer holds (RFC 9110, section 8.8.3)."""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.web.openapi.operations import Answer

TAGGED = {"ETag": "The version of the content.", "Cache-Control": "Who may keep it, and for how long."}
CURRENT = Answer(description="The version in `If-None-Match` is still current.", media_type=None, headers=TAGGED)
"""The headers and the 304 of a tagged answer, for its description."""


def tagged(request: Request[Any], content: bytes, media_type: str, headers: Mapping[str, str]) -> Response:
    """The bytes with a tag of exactly them, or 304 if the client has them."""
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    if has_current(request, etag):
        return Response(status_code=304, headers={**headers, "ETag": etag})
    return Response(content, headers={**headers, "ETag": etag}, media_type=media_type)


def has_current(request: Request[Any], etag: str) -> bool:
    """Whether `If-None-Match` names the tag, so that 304 is enough.

    The comparison is weak (RFC 9110, section 13.1.2): a proxy that compresses may have made the tag weak.
    """
    field = ",".join(request.headers.getlist("If-None-Match"))
    return field.strip() == "*" or etag in re.findall(r'"[^"]*"', field)
