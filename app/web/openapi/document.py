"""Makes the OpenAPI 3.1 document from the URL table and its operations."""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.settings.clients import Scope
from app.web.openapi.operations import Answer, Door, ErrorModel, Operation, Route
from app.web.problems import InternalError, Problem

REFERENCE = "#/components/schemas/{model}"
TOKEN_URL = "/oauth2/token"  # noqa: S105 - a path

SCOPES = {
    Scope.READ: "read events and orders",
    Scope.REPLAY: "replay and release events, see and control deliveries, destinations and replays",
    Scope.ERASE: "erase what events hold of a person",
    Scope.CONSOLE: "use the web console",
}
"""What a token may carry; webhooks are sent with HTTP Basic."""

DESCRIPTION = """\
Receives Prioticket's webhooks, commits each with its exact bytes, and only then answers 200.

The webhook and the token endpoint take HTTP Basic; everything under `/api` takes a token as Bearer.

These answers are not listed below: 404 for an unknown path, 405 with `Allow` for a method that the URL does not have,
501 for a method that HTTP does not define, and, before a request is complete, 400 (it is not valid HTTP/1.1), 408 (its
head arrived too slowly) and 431 (its head is too large).

Error bodies are ErrorModel, or RFC 6749's at the token endpoint. The request id is in `X-Request-Id`, in
`error_reference` and in the log.
"""

HEADERS = {
    401: {"WWW-Authenticate": "The scheme to use, RFC 9110, section 11.6.1."},
    405: {"Allow": "The methods of this URL."},
    429: {"Retry-After": "Seconds."},
    503: {"Retry-After": "Seconds."},
}
"""Headers that always come with a status."""

ID = {"type": "string", "format": "uuid"}
"""The schema of a parameter in the path whose name ends with `_id`."""

Model = type[BaseModel]
References = Mapping[tuple[Any, JsonSchemaMode], dict[str, Any]]


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI document of a URL table."""
    routes = list(routes)
    schemas, definitions = _schemas(routes)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path_format, {})[route.method.lower()] = _operation(route, schemas, definitions)
    queries = [each.operation.query for each in routes if each.operation.query]
    parameters = {_name(schemas[query, "validation"]) for query in queries}
    tags = dict.fromkeys(route.operation.tag for route in routes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "priohook",
            "version": version("priohook"),
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": {name: each for name, each in definitions.items() if name not in parameters},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "oauth2": {
                    "type": "oauth2",
                    "flows": {
                        "clientCredentials": {
                            "tokenUrl": TOKEN_URL,
                            "scopes": {scope.value: meaning for scope, meaning in SCOPES.items()},
                        }
                    },
                },
            },
        },
    }


def _schemas(routes: list[Route]) -> tuple[References, dict[str, Any]]:
    """A reference to each model, and the schemas that the references name."""
    models: dict[tuple[Model, JsonSchemaMode], None] = {(ErrorModel, "serialization"): None}
    for route in routes:
        if route.door:
            models[route.door.errors, "serialization"] = None
        for model in filter(None, (route.operation.body, route.operation.query)):
            models[model, "validation"] = None
        for answer in route.operation.answers.values():
            if answer.model:
                models[answer.model, "serialization"] = None
    references, defined = models_json_schema(list(models), ref_template=REFERENCE)
    return references, defined.get("$defs", {})


def _operation(route: Route, schemas: References, definitions: Mapping[str, Any]) -> dict[str, Any]:
    operation = route.operation
    described: dict[str, Any] = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.method.lower()} {route.path_format}")),
        "summary": _first_line(route.endpoint).removesuffix("."),
        "tags": [operation.tag],
        "responses": {
            str(status): _answer(status, answer, schemas)
            for status, answer in sorted(answers(operation, route.door).items())
        },
        "security": _security(route.door),
    }
    if operation.description:
        described["description"] = operation.description
    if parameters := list(_parameters(route, schemas, definitions)):
        described["parameters"] = parameters
    if operation.body:
        content: dict[str, Any] = {"schema": schemas[operation.body, "validation"]}
        if operation.examples:
            content["examples"] = {name: {"value": value} for name, value in operation.examples.items()}
        described["requestBody"] = {
            "required": operation.body_required,
            "content": dict.fromkeys(operation.body_types, content),
        }
    return described


def answers(operation: Operation, door: Door | None) -> dict[int, Answer]:
    """Each status that an operation may answer; its own description replaces that of a problem."""
    problems: list[type[Problem]] = [*(door.problems if door else ()), *operation.problems]
    model = door.errors if door else ErrorModel
    found: dict[int, Answer] = {InternalError.status: Answer(description=_first_line(InternalError), model=ErrorModel)}
    for status in dict.fromkeys(problem.status for problem in problems):
        meanings = dict.fromkeys(_first_line(each) for each in problems if each.status == status)
        found[status] = Answer(description=" ".join(meanings), model=model)
    if 401 in found and model is ErrorModel:  # noqa: PLR2004
        # RFC 6750, section 3.1. OpenAPI has no word for a body that may be missing.
        meaning = f"{found[401].description} ErrorModel, but no body if no credential was sent."
        found[401] = Answer(description=meaning, media_type=None)
    return found | dict(operation.answers)


def _first_line(described: Any) -> str:
    """The first line of a docstring: a handler's summary, or what a problem means."""
    return (described.__doc__ or "").partition("\n")[0]


def _answer(status: int, answer: Answer, schemas: References) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.model:
        described["content"] = {answer.media_type: {"schema": schemas[answer.model, "serialization"]}}
    elif answer.media_type:
        described["content"] = {answer.media_type: {}}
    always = HEADERS.get(status, {})
    if headers := always | dict(answer.headers):
        described["headers"] = {
            name: {"description": meaning, "required": name in always, "schema": {"type": "string"}}
            for name, meaning in headers.items()
        }
    return described


def _security(door: Door | None) -> list[dict[str, list[str]]]:
    if door is None:
        return []
    scopes = [str(door.scope)] if door.scope else []
    return [{"oauth2" if door.scheme == "bearer" else "basic": scopes}]


def _parameters(route: Route, schemas: References, definitions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    operation = route.operation
    for name in re.findall(r"{(\w+)}", route.path_format):
        schema = ID if name.endswith("_id") else {"type": "string", "minLength": 1}
        described = {"description": operation.path[name]} if name in operation.path else {}
        yield {"name": name, "in": "path", "required": True, "schema": {**schema, **described}}
    for name, meaning in operation.headers.items():
        yield {"name": name, "in": "header", "required": False, "schema": {"type": "string", "description": meaning}}
    if operation.query:
        for name, (schema, required) in _fields(operation.query, schemas, definitions).items():
            yield {"name": name, "in": "query", "required": required, "schema": schema}


def _fields(
    model: Model, schemas: References, definitions: Mapping[str, Any]
) -> dict[str, tuple[dict[str, Any], bool]]:
    """The schema of each field, and whether it is required. An optional field may be left out, but not sent as null."""
    schema = definitions[_name(schemas[model, "validation"])]
    required = schema.get("required", [])
    return {name: (_without_null(each), name in required) for name, each in schema["properties"].items()}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "title")}
    if rest.get("default", ...) is None:
        del rest["default"]
    return {**rest, **choices[0]} if len(choices) == 1 else {**rest, **({"anyOf": choices} if choices else {})}


def _name(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]
