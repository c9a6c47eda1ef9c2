"""Pages of a list: an opaque cursor that continues after an id, and the link to the next page."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as BadBase64
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.web.problems import Problem

MOST_ITEMS = 500
FINGERPRINT_BYTES = 8
CURSOR_BYTES = 16 + FINGERPRINT_BYTES
LONGEST_CURSOR = 64
LINK = {"Link": 'The next page, with `rel="next"`; not sent on the last page.'}
"""The header of a page, for its description."""


class CursorNotUsable(Problem):
    """The cursor is invalid, or belongs to other filters."""

    status = 400


class PageQuery(BaseModel):
    """The parameters of every list; a list adds its filters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(default=50, ge=1, le=MOST_ITEMS, description="The most items on a page.")
    cursor: str | None = Field(
        default=None,
        min_length=1,
        max_length=LONGEST_CURSOR,
        description="Where this page begins, from the `next` of the previous page; keep the filters unchanged.",
    )

    def filters(self) -> dict[str, Any]:
        """The filters as JSON values, without `limit` and `cursor`."""
        return self.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True)

    def before(self) -> UUID | None:
        """The last id of the previous page; None on the first page.

        Raises:
            CursorNotUsable: 400.
        """
        return None if self.cursor is None else read_cursor(self.cursor, self.filters())


def new_cursor(last: UUID, filters: Mapping[str, Any]) -> str:
    """A cursor for the page after this id; it is valid only with the same filters."""
    return urlsafe_b64encode(last.bytes + _fingerprint(filters)).decode()


def read_cursor(cursor: str, filters: Mapping[str, Any]) -> UUID:
    """The id in a cursor.

    Raises:
        CursorNotUsable: 400.
    """
    try:
        content = urlsafe_b64decode(cursor.encode("ascii"))
    except (BadBase64, UnicodeEncodeError):
        content = b""
    if len(content) != CURSOR_BYTES or urlsafe_b64encode(content).decode() != cursor:
        raise CursorNotUsable(
            "The parameter cursor is invalid.", "Use the `next` value of a page unchanged, or leave `cursor` out."
        )
    if content[16:] != _fingerprint(filters):
        raise CursorNotUsable(
            "The cursor belongs to other filters.", "Keep the filters unchanged, or leave `cursor` out to begin again."
        )
    return UUID(bytes=content[:16])


def next_page(path: str, query: PageQuery, last: UUID | None) -> str | None:
    """The next page's path and query, without the host, which a proxy may change; None if `last` is None."""
    if last is None:
        return None
    filters = query.filters()
    return f"{path}?{urlencode({**filters, 'limit': query.limit, 'cursor': new_cursor(last, filters)}, doseq=True)}"


def link(address: str | None) -> dict[str, str]:
    """The header that links to the next page (RFC 8288), if there is one."""
    return {"Link": f'<{address}>; rel="next"'} if address else {}


def _fingerprint(filters: Mapping[str, Any]) -> bytes:
    return sha256(json.dumps(filters, sort_keys=True).encode()).digest()[:FINGERPRINT_BYTES]
