"""What a row of the table of answers is: some requests, and the answer that they get."""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Headers = tuple[tuple[str, str], ...]

SENDER, STRANGER = "<a client that may send>", "<a client that may not>"
"""Placeholders for the Authorization of such a client, which only the caller knows."""

MARK = "PRIOHOOK_CHECK"
"""The type of the events that a check leaves behind; their reference is the same with a dash. What it leaves in
quarantine holds this mark too. It has the same bytes each time, so that a later check leaves only copies."""

PROXY_BODY = "Something before priohook answers with its own page. Let it pass priohook's answers through unchanged."


def event(event_id: str = MARK, *, padding: int = 0) -> bytes:
    """The body of an event whose type no business logic knows."""
    notification = {"notification_id": event_id, "notification_event": MARK, "notification_item_id": "PRIOHOOK-CHECK"}
    content = {"kind": "notification", "notification": notification, "padding": "x" * padding}
    return json.dumps({"api_version": "3.8.0", "data": content}).encode()


ALWAYS_THE_SAME = event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that gets the answer of its row.

    Attributes:
        advice: The likely cause of another answer, and what to do.
        path: A path of its own instead of the webhook's.
        authorization: The values of all Authorization headers.
        content: The request's body; a tuple is sent in chunks.
        missing: How many more bytes are declared and never sent.
        times: How often it must be sent until it gets this answer; if more than once, only the tests send it.
        group: All requests of a group must get the same Event-Id.
        plain: Whether it is sent without a User-Agent, as the plainest client does.
    """

    name: str
    advice: str = PROXY_BODY
    method: str = "POST"
    path: str | None = None
    authorization: tuple[str, ...] = (SENDER,)
    headers: Headers = ()
    content: bytes | tuple[bytes, ...] = ALWAYS_THE_SAME
    missing: int = 0
    times: int = 1
    group: str | None = None
    plain: bool = False

    @property
    def asked(self) -> str:
        """The request in words, without the secret."""
        words = [f"{self.method} {self.path}" if self.path else self.method]
        schemes = ("Basic" if each == SENDER else each.partition(" ")[0] for each in self.authorization)
        words += [f"Authorization: {scheme} …" for scheme in schemes]
        words += [f"{name}: {value}" for name, value in self.headers]
        if isinstance(self.content, tuple):
            words.append(f"{sum(map(len, self.content))} bytes in chunks")
        elif self.content:
            words.append(f"{len(self.content)} bytes")
        return ", ".join([*words, *([f"{self.missing} more declared"] if self.missing else [])])

    def fields(self, credentials: Mapping[str, str]) -> Headers:
        """All headers that say something about the request, with credentials in place of `SENDER` and `STRANGER`."""
        authorization = (("Authorization", credentials.get(each, each)) for each in self.authorization)
        typed = not self.content or "Content-Type" in dict(self.headers)
        content_type = () if typed else (("Content-Type", "application/json"),)
        length = ("Content-Length", str(len(self.content) + self.missing))
        if isinstance(self.content, tuple):
            length = ("Transfer-Encoding", "chunked")
        return (*authorization, *content_type, *self.headers, length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table: some requests, and the answer that they get.

    Attributes:
        request: The requests in words, for the page.
        error: `error` of the ErrorModel in the body; empty if there must be no body, `*` if any body will do.
        headers: The headers that the answer must have; `*` allows any value.
        closes: Whether the connection ends after the answer.
        kept: The status of the event that is stored, if one is; `--read-only` leaves these requests out.
        tolerable: Whether 200 is right too, because the receiver may accept what it cannot read.
        note: What else the page says of the answer.
        asked: The requests; empty if only a fault of the receiver leads to this answer.
    """

    request: str
    status: int
    error: str = ""
    headers: Headers = ()
    closes: bool = False
    kept: Literal["accepted", "quarantined"] | None = None
    tolerable: bool = False
    note: str = ""
    asked: tuple[Request, ...] = ()

    @property
    def answer(self) -> str:
        """The answer in words, for the page."""
        named = " and ".join(f"`{name}`" for name, _ in self.headers)
        no_body = "" if self.error or self.kept else ", no body"
        ends = ", and the connection ends" if self.closes else ""
        return f"{self.status}{f' with {named}' if named else ''}{no_body}{ends}{self.note}"


def basic(credential: str) -> str:
    """The value of Authorization for a `username:secret`."""
    return "Basic " + b64encode(credential.encode()).decode()
