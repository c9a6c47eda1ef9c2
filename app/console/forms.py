"""Forms that a browser sends: from where, within which bounds, and their fields."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_origin
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request

from app.web.body import declared_length, read_body
from app.web.parameters import Model, validated
from app.web.problems import NotReadable, Problem, TooLarge, TooSlow, UnsupportedMediaType

MOST_BYTES = 64 * 1024
MOST_FIELDS = 100
MEDIA_TYPE = "application/x-www-form-urlencoded"
AGO = re.compile(r"(\d{1,4})([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}
TIMES = ("since", "until")


class FromElsewhere(Problem):
    """The form was not sent by a page of this console."""

    status = 403


def check_origin(request: Request[Any], public_url: str | None) -> None:
    """Lets only forms through that a page of the same host sent.

    Raises:
        FromElsewhere: 403.
    """
    origin = request.headers.get("origin", "")
    own = {request.headers.get("host", "").lower()} | ({urlsplit(public_url).netloc.lower()} if public_url else set())
    if not (sent_from := _host_of(origin)) or sent_from not in own:
        raise FromElsewhere(
            "This form was not sent by a page of this console.",
            "Go back, load the page again, and send it from there. If that is what you did: a proxy before priohook "
            "must pass on the Host header unchanged, or the setting public_url must name the address that you see.",
        )


def _host_of(origin: str) -> str:
    """The host and port of an origin; empty if it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # such as `http://[`
        return ""


async def read_form(request: Request[Any], timeout: timedelta) -> ImmutableMultiDict[str, str]:
    """The fields of a form; empty ones are left out, for they say nothing.

    Raises:
        Problem: 400, 408, 413 or 415.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise UnsupportedMediaType("This is not a form.", f"Send {MEDIA_TYPE}.")
    declared = declared_length(request.headers.get("content-length", "").encode("latin-1"))
    body = await read_body(request.receive, declared=declared, limit=MOST_BYTES, timeout=timeout)
    if body.ending == "too_large":
        raise TooLarge("The form is too large.", f"Send {MOST_BYTES} bytes at most.", close=True, unread=True)
    if body.ending == "too_slow":
        raise TooSlow("The form did not arrive in time.", "Send it again.", close=True)
    try:
        fields = parse_qsl(body.content.decode(), errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise NotReadable("The form cannot be read.", f"Send UTF-8, and {MOST_FIELDS} fields at most.") from None
    return ImmutableMultiDict(fields)


def form_of(request: Request[Any]) -> ImmutableMultiDict[str, str]:
    """The fields of the form that the door let through; those that are not filled in are not there."""
    form: ImmutableMultiDict[str, str] = request.scope["state"]["form"]
    return form


def fields_of(request: Request[Any], model: type[Model]) -> Model:
    """The fields of the form as a model.

    Raises:
        Unprocessable: 422, a field is invalid; the message names it.
    """
    form = form_of(request)
    several = {name for name, field in model.model_fields.items() if _takes_several(field.annotation)}
    return validated(model, {name: form.getlist(name) if name in several else form[name] for name in form})


def _takes_several(annotation: object) -> bool:
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


def without_blanks(query: bytes) -> tuple[bytes, str]:
    """The query without empty parameters, which a form of filters sends for each that is not filled in; and `done`.

    A time may be written as an age, such as `90m`, `24h` or `7d`.
    """
    fields = parse_qsl(query.decode("latin-1"), max_num_fields=MOST_FIELDS)
    done = next((value for name, value in fields if name == "done"), "")
    kept = [(name, _moment(value) if name in TIMES else value) for name, value in fields if name != "done"]
    return urlencode(kept).encode(), done


def _moment(written: str) -> str:
    if not (ago := AGO.fullmatch(written.strip())):
        return written
    return (datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})).isoformat(timespec="seconds")
