"""The table of answers, asked of an application in this process; tests/e2e/test_wire.py asks it over a socket."""

from dataclasses import replace
from datetime import timedelta

import pytest
from starlette.types import ASGIApp

from app.checker.check import differences
from app.checker.rows import Request
from app.checker.wire import Answer
from app.web.response_headers import SECURITY_HEADERS
from tests.answers import ASKED, CREDENTIALS, ROWS
from tests.conftest import WEBHOOK
from tests.receiver.sender import Sender

KEPT = {name: (row, asked) for name, (row, asked) in ASKED.items() if row.kept}
USUAL = Request(name="")
SECURITY = {name.decode().lower(): value.decode() for name, value in SECURITY_HEADERS}
SOON = timedelta(seconds=0.1)


async def answer(app: ASGIApp, asked: Request, *, times: int = 1) -> Answer:
    for _ in range(times):
        sender = Sender(
            method=asked.method,
            path=asked.path or WEBHOOK,
            headers=asked.fields(CREDENTIALS),
            chunks=asked.content if isinstance(asked.content, tuple) else [asked.content],
            ends=not asked.missing,
            stalls=bool(asked.missing),
        )
        await sender.send_to(app)
    assert sender.status
    return Answer(sender.status, sender.answer_headers, sender.answer)


@pytest.mark.parametrize(("row", "asked"), ASKED.values(), ids=ASKED)
async def test_a_request_gets_the_answer_of_its_row_and_is_kept_as_the_row_says(
    serve, stored, database_url, row, asked
):
    async with serve(database_url, body_timeout=SOON) as app:
        answers = [await answer(app, asked, times=asked.times), await answer(app, asked)]
    events = await stored()
    assert [(each.status, list(differences(row, each))) for each in answers] == [(row.status, [])] * 2
    assert {each.headers.get("connection") for each in answers} == {"close" if row.closes else None}
    assert all(each.headers.items() >= SECURITY.items() for each in answers)
    assert len({each.headers["x-request-id"] for each in answers}) == 2
    assert [(event.status, event.duplicates) for event in events] == ([(row.kept, 1)] if row.kept else [])
    assert all((event.reason or f"{row.status}:").startswith(f"{row.status}:") for event in events)


def beneath(first: Request, later: Request) -> Request:
    """A request with what is odd about both; what is odd about the first hides the same of the later one."""
    body = first if (first.content, first.missing) != (USUAL.content, USUAL.missing) else later
    named = {name for name, _ in first.headers}
    return replace(
        first,
        method=first.method if first.method != USUAL.method else later.method,
        path=first.path or later.path,
        authorization=first.authorization if first.authorization != USUAL.authorization else later.authorization,
        headers=(*first.headers, *(each for each in later.headers if each[0] not in named)),
        content=body.content,
        missing=body.missing,
    )


@pytest.mark.parametrize(("row", "asked"), ASKED.values(), ids=ASKED)
async def test_of_two_faults_the_row_that_comes_first_answers(serve, sqlite_url, row, asked):
    below = [each for later in ROWS[ROWS.index(row) + 1 :] if later.kept != "accepted" for each in later.asked]
    async with serve(sqlite_url, body_timeout=SOON) as app:
        await answer(app, asked, times=asked.times)
        got = {each.name: (await answer(app, beneath(asked, each))).status for each in below}
    assert got == dict.fromkeys(got, row.status)


@pytest.mark.parametrize(("row", "asked"), KEPT.values(), ids=KEPT)
async def test_what_is_unprocessable_is_200_where_the_operator_says_so_and_kept_as_ever(
    serve, stored, database_url, row, asked
):
    async with serve(database_url, on_unprocessable="accept", body_timeout=SOON) as app:
        reply = await answer(app, asked)
    (event,) = await stored()
    assert reply.status == (200 if row.tolerable else row.status)
    assert (reply.body, reply.headers.get("event-id")) == (b"", str(event.id)) or reply.status != 200
    assert (event.status, (event.reason or "")[:4]) == (row.kept, f"{row.status}:" if row.status != 200 else "")
