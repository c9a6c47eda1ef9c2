"""Pages of a list, one after the other by key: an opaque cursor, and the link to the next page."""

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
LINK = {"Link": 'The next page, `rel="next"`; none on the last one.'}
"""The header of a page, for its description."""


class CursorNotUsable(Problem):
    """The cursor is none of this list, or of the same list with other filters."""

    status = 400


class PageQuery(BaseModel):
    """The parameters of every list; a list adds its filters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(default=50, ge=1, le=MOST_ITEMS, description="Items on a page.")
    cursor: str | None = Field(
        default=None,
        min_length=1,
        max_length=LONGEST_CURSOR,
        description="Where to go on, from the `next` of the page before; the filters stay as they were.",
    )

    def filters(self) -> dict[str, Any]:
        """All but the page itself, as JSON has it."""
        return self.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True)

    def before(self) -> UUID | None:
        """The id behind which this page begins; None for the first page.

        Raises:
            CursorNotUsable: 400.
        """
        return None if self.cursor is None else read_cursor(self.cursor, self.filters())


def new_cursor(last: UUID, filters: Mapping[str, Any]) -> str:
    """A cursor behind an id; it fits the same filters only."""
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
        raise CursorNotUsable("The parameter cursor is no cursor.", "Take it from the `next` of a page, or leave it.")
    if content[16:] != _fingerprint(filters):
        raise CursorNotUsable(
            "The parameter cursor belongs to other filters.", "Leave the filters as they were, or begin without it."
        )
    return UUID(bytes=content[:16])


def next_page(path: str, query: PageQuery, last: UUID | None) -> str | None:
    """The next page's address without scheme and host, which a proxy may have changed; None where `last` is."""
    if last is None:
        return None
    filters = query.filters()
    return f"{path}?{urlencode({**filters, 'limit': query.limit, 'cursor': new_cursor(last, filters)}, doseq=True)}"


def link(address: str | None) -> dict[str, str]:
    """The header that links to the next page (RFC 8288), if there is one."""
    return {"Link": f'<{address}>; rel="next"'} if address else {}


def _fingerprint(filters: Mapping[str, Any]) -> bytes:
    return sha256(json.dumps(filters, sort_keys=True).encode()).digest()[:FINGERPRINT_BYTES]
