"""Sends the requests of the table to an endpoint, and says where its answers differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from app.checker.answers import table
from app.checker.causes import advice
from app.checker.rows import SENDER, STRANGER, Request, Row, basic
from app.checker.wire import Answer, NoConnection, Silence, exchange, parts

OURS = (("Connection", "close"), ("User-Agent", "priohook-check"))
"""Some proxies refuse a request without a user agent; one request is sent without it, to detect that."""

PLAIN = (("Accept", "*/*"),)
"""All headers of the plainest client besides those about the body."""

HEALTH = tuple(
    Row(
        request=name,
        status=200,
        error="*",
        asked=(Request(name=name, method="GET", path=path, authorization=(), content=b"", advice=advice),),
    )
    for name, path, advice in (
        (
            "alive",
            "/healthz",
            "Route this path to priohook too: a load balancer needs it to tell whether the receiver is well.",
        ),
        (
            "ready",
            "/readyz",
            "503: the database is away, or its schema is old (run `priohook migrate`). Route this path too.",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one request: what came back, how it differs from what was promised, and what to do."""

    row: Row
    request: Request
    got: str
    differences: tuple[str, ...]
    advice: str

    @property
    def expected(self) -> str:
        """The promised answer in words."""
        words = [str(self.row.status), *(f"{name}: {value}" for name, value in self.row.headers if value != "*")]
        body = {"": "no body", "*": ""}.get(self.row.error, f"ErrorModel {self.row.error}")
        return " ".join([*words, body]).strip()


def check(
    url: str, *, username: str | None, password: str | None, read_only: bool, timeout: float
) -> Iterator[Finding]:
    """Sends one request after the other and gives the finding of each.

    Args:
        username: A client that may send. Without it, only the requests that need no credentials are sent.
        read_only: Whether to leave out requests that would be stored.

    Raises:
        NoConnection: the server cannot be reached.
    """
    target = urlsplit(url)
    credentials = {SENDER: basic(f"{username}:{password}")} if username is not None and password is not None else {}
    event_ids: dict[str, str] = {}
    reached = False
    for row, request in asked(known=bool(credentials), read_only=read_only):
        sent = parts(request, target, credentials=credentials, headers=PLAIN if request.plain else OURS)
        try:
            answer = exchange(target, sent, method=request.method, timeout=timeout)
        except NoConnection as refusal:
            if not reached:
                raise
            answer = Silence(str(refusal))
        reached = True
        if isinstance(answer, Silence):
            yield Finding(row, request, answer.why, (answer.why,), request.advice)
            continue
        found = tuple(differences(row, answer))
        event_id = answer.headers.get("event-id", "")
        if request.group is not None and event_ids.setdefault(request.group, event_id) != event_id:
            found += (f"Event-Id is {event_id}, but was {event_ids[request.group]} before",)
        yield Finding(row, request, _in_words(answer), found, advice(row, request, answer))


def asked(*, known: bool, read_only: bool) -> Iterator[tuple[Row, Request]]:
    """The requests that can be sent from outside, with the credentials that are known."""
    unknown = {STRANGER} if known else {SENDER, STRANGER}
    for row in (*HEALTH, *table()):
        for request in row.asked:
            if request.times == 1 and unknown.isdisjoint(request.authorization) and not (read_only and row.kept):
                yield row, request


def differences(row: Row, answer: Answer) -> Iterator[str]:
    """How the answer differs from the row's."""
    tolerated = row.tolerable and answer.status == HTTPStatus.OK  # on_unprocessable = "accept"
    if answer.status != row.status and not tolerated:
        yield f"the status is {answer.status}"
    for name, value in row.headers:
        got = answer.headers.get(name.lower())
        if got is None:
            yield f"there is no {name}"
        elif value not in ("*", got):
            yield f"{name} is {got}"
    if not row.error and answer.body:
        yield f"there is a body of {len(answer.body)} bytes"
    if row.error not in ("", "*") and not tolerated:
        yield from _differences_of_model(row, answer)


def _differences_of_model(row: Row, answer: Answer) -> Iterator[str]:
    if (kind := answer.headers.get("content-type")) != "application/json":
        yield f"Content-Type is {kind}"
    if answer.error is None:
        yield f"the body is not an ErrorModel; it begins with {answer.body[:40]!r}"
    elif answer.error != row.error:
        yield f"the error is {answer.error}"
    elif answer.error_reference != answer.headers.get("x-request-id"):
        yield "error_reference differs from X-Request-Id"


def _in_words(answer: Answer) -> str:
    body = (
        f"{len(answer.body)} bytes of {answer.headers.get('content-type', 'unknown type')}"
        if answer.body
        else "no body"
    )
    return f"{answer.status}, {body}"
