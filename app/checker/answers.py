"""The table of answers to a webhook, as data: each row has requests that get its answer.

`priohook check` sends them to a deployed endpoint, the tests send them in their own process and over a socket, and
docs/receiving.md shows the table.
"""

from functools import partial
from uuid import uuid4

from app.checker.bodies import answered, refused
from app.checker.rows import SENDER, STRANGER, Request, Row, basic

CHALLENGE = 'Basic realm="priohook", charset="UTF-8"'
TOO_MANY_FAILURES = 61
NOT_KEPT = ("Accept", "text/html")
"""Sent with what must be refused for its credentials. If a proxy adds good credentials of its own, the answer is 406
and nothing is stored."""

PROXY_METHOD = "A proxy refuses the method before priohook does. That is harmless for this method only."
PROXY_AUTHORIZATION = "If a proxy authenticates by itself, let it pass Authorization on unchanged."


def table() -> tuple[Row, ...]:
    """The rows in the order in which a request is judged. Each call makes new events for the rows that store them."""
    return (*_before_the_door(), *_at_the_door(), *refused(), *answered())


def _before_the_door() -> tuple[Row, ...]:
    return (
        Row(
            request="an unknown path",
            status=404,
            error="NOT_FOUND",
            asked=(Request(name="unknown path", path="/priohook-check-nothing-is-here", authorization=()),),
        ),
        Row(
            request="a method that the path does not have",
            status=405,
            error="METHOD_NOT_ALLOWED",
            headers=(("Allow", "POST"),),
            asked=(
                Request(
                    name="GET",
                    method="GET",
                    authorization=(),
                    content=b"",
                    advice="A proxy that allows only some methods answers 405 itself. Let all methods through.",
                ),
            ),
        ),
        Row(
            request="a method that HTTP does not define",
            status=501,
            error="NOT_IMPLEMENTED",
            asked=tuple(
                Request(name=f"{method}, no method of HTTP", method=method, authorization=(), advice=PROXY_METHOD)
                for method in ("PROPFIND", "BREW")
            ),
        ),
    )


def _at_the_door() -> tuple[Row, ...]:
    wrong = (basic(f"priohook-check:{uuid4()}"),)
    wrongly = partial(Request, headers=(NOT_KEPT,), advice=PROXY_AUTHORIZATION)
    return (
        Row(
            request="no Authorization",
            status=401,
            headers=(("WWW-Authenticate", CHALLENGE),),
            asked=(
                Request(
                    name="no credentials",
                    authorization=(),
                    headers=(NOT_KEPT,),
                    advice="A proxy hides the challenge: it removes WWW-Authenticate or adds a page. Let both pass "
                    "unchanged.",
                ),
            ),
        ),
        Row(
            request="anything else that is not one valid Basic credential",
            status=401,
            error="AUTHENTICATION_FAILED",
            headers=(("WWW-Authenticate", CHALLENGE),),
            asked=(
                wrongly(name="wrong password", authorization=wrong),
                wrongly(name="another scheme", authorization=(f"Bearer {uuid4()}",)),
                wrongly(name="base64 of no colon", authorization=(basic("priohook-check"),)),
                Request(
                    name="two Authorization headers",
                    authorization=(SENDER, SENDER),
                    headers=(NOT_KEPT,),
                    advice="A proxy drops one of them, and may have checked the other one. Let it refuse both or "
                    "pass both on.",
                ),
            ),
        ),
        Row(
            request="the same, after 60 failures within a minute from one address",
            status=429,
            error="LIMIT_REACHED",
            headers=(("Retry-After", "*"),),
            note="; a right credential still passes",
            asked=(Request(name="the 61st wrong password", authorization=wrong, times=TOO_MANY_FAILURES),),
        ),
        Row(
            request="a client without the scope",
            status=403,
            error="FORBIDDEN",
            asked=(Request(name="a client without the scope", authorization=(STRANGER,)),),
        ),
        Row(
            request="an `Accept` that excludes JSON",
            status=406,
            error="NOT_ACCEPTABLE",
            asked=(
                Request(
                    name="Accept without JSON",
                    headers=(NOT_KEPT,),
                    advice="A proxy changes Accept. Let it pass the header on unchanged.",
                ),
            ),
        ),
    )
