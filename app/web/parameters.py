"""Reads the path, query and body of an API request with pydantic models."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, get_origin
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, StringConstraints, ValidationError, WithJsonSchema
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from app.web.body import declared_length, read_body, without_mark
from app.web.negotiation import is_json
from app.web.problems import NotReadable, Problem, TooLarge, TooSlow, Unprocessable, UnsupportedMediaType

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES = 1024 * 1024  # ten thousand ids are 400 kB
MOST_FIELDS = 20  # of an object within the body
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+ -]\d\d:\d\d)?)?")
DIGITS = 6  # of a second's fraction


class InvalidParameter(Problem):
    """A parameter is unknown, repeated or invalid; the message names it."""

    status = 400


BODY_PROBLEMS = (NotReadable, TooSlow, TooLarge, UnsupportedMediaType, Unprocessable)


def _without_controls(value: str) -> str:
    if CONTROL.search(value):
        raise ValueError("control characters are not allowed")
    return value


def _moment(value: object) -> object:
    """A day or an RFC 3339 time, UTC if it has no zone. A `+` that was not percent-encoded arrives as a space."""
    if not isinstance(value, str):
        raise ValueError("not a string")  # noqa: TRY004 - pydantic's own
    if not (match := MOMENT.fullmatch(value)):
        raise ValueError("not a time: write 2026-08-12 or 2026-08-12T10:15:00+02:00")
    text = re.sub(r" (?=\d\d:\d\d$)", "+", value) if len(value) > len("2026-08-12 10:15") else value
    if fraction := match[3]:
        text = text.replace(fraction, fraction[: DIGITS + 1])
    try:
        at = datetime.fromisoformat(text.upper())
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such date or time") from None


Text = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_without_controls)]
"""Bounded like the texts that are stored."""

Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]}),
]


def read_query(request: Request[Any], model: type[Model]) -> Model:
    """The query's parameters; only list fields may be repeated.

    Raises:
        InvalidParameter: 400.
    """
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        field = model.model_fields.get(name)
        if field is None:  # before pydantic makes an error for each of thousands
            raise _unknown(name, model)
        if get_origin(field.annotation) is list:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise InvalidParameter(f"The parameter {name} is repeated.", "Send it once.")
        else:
            values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from None


def read_id(request: Request[Any], name: str, missing: Callable[[], Problem]) -> UUID:
    """The id in the path.

    Raises:
        Problem: `missing`, if it is not a UUID: nothing can have it.
    """
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise missing() from None


async def read_json(request: Request[Any], model: type[Model]) -> Model:
    """The body as JSON; an empty body counts as an empty object.

    Raises:
        Problem: one of `BODY_PROBLEMS`.
    """
    declared = declared_length(request.headers.get("content-length", "").encode("latin-1"))
    body = await read_body(request.receive, declared=declared, limit=MOST_BYTES, timeout=request.state["body_timeout"])
    if body.ending == "too_large":
        raise TooLarge("The body is too large.", f"Send {MOST_BYTES} bytes at most.", close=True, unread=True)
    if body.ending == "too_slow":
        raise TooSlow("The body did not arrive in time.", "Send it again.", close=True)
    if not body.content:
        return validated(model, {})
    kind = ",".join(request.headers.getlist("content-type"))
    if not is_json(kind.encode("latin-1")) or request.headers.get("content-encoding"):
        raise UnsupportedMediaType(
            "The body is not declared as plain JSON.", "Send Content-Type: application/json, uncompressed."
        )
    try:
        parsed = from_json(without_mark(body.content), allow_inf_nan=False)
    except ValueError as error:
        raise NotReadable("The body is not JSON.", f"In detail: {error}.") from None
    if not isinstance(parsed, dict):
        raise Unprocessable("The body is JSON but not an object.", "Send an object.")
    if len(parsed) > len(model.model_fields):  # each would become an error of its own
        raise Unprocessable("The object has too many fields.", f"Known: {', '.join(model.model_fields)}.")
    for name, value in parsed.items():
        if isinstance(value, dict) and len(value) > MOST_FIELDS:
            raise Unprocessable(f"The field {name[:100]} has too many fields.", f"Send {MOST_FIELDS} at most.")
    return validated(model, parsed)


def validated(model: type[Model], value: dict[str, Any]) -> Model:
    """The value as a model.

    Raises:
        Unprocessable: 422; the message names the field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        where, why = _first(error)
        message = f"The field {where[:100]} is invalid." if where else "The body is invalid."
        raise Unprocessable(message, f"In detail: {why}.") from None


def answer(model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A model as JSON."""
    return Response(model.model_dump_json(), status, headers, "application/json")


def _invalid(error: ValidationError) -> InvalidParameter:
    where, why = _first(error)
    name = where.partition(".")[0]
    return InvalidParameter(f"The parameter {name} is invalid.", f"In detail: {why}.")


def _unknown(name: str, model: type[BaseModel]) -> InvalidParameter:
    return InvalidParameter(f"The parameter {name[:100]} is unknown.", f"Known: {', '.join(model.model_fields)}.")


def _first(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
