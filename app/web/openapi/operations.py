"""The description of a URL: a handler carries its operation, a route its door."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette import routing
from starlette.middleware import Middleware

from app.web.problems import Problem

Handler = TypeVar("Handler", bound=Callable[..., Any])


class ErrorModel(BaseModel):
    """Prioticket's ErrorModel."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": "UNPROCESSABLE_ENTITY",
                    "error_reference": "5f2c9a61d04b0000000001",
                    "error_message": "The body is not a Prioticket webhook.",
                    "error_description": "In detail: the body is JSON but not an object.",
                }
            ]
        }
    )

    error: str = Field(description="A code for programs.")
    error_reference: str = Field(description="The request id.")
    error_message: str = Field(description="What was wrong.")
    error_description: str = Field(default="", description="What to do about it.")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one status means, and the model of its body; without a body its media type is None."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str | None = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Its own headers, each with a description."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A decorator that says what a handler takes and answers; the handler's docstring begins with the summary.

    `path` says something about parameters in the path, by name, and `headers` about headers that mean something here
    only. `query` is a model whose fields are the parameters;
    `body` is the model of the request's body. `problems` are what the handler raises: each is described by its status
    and the first line of its docstring. The door's problems are added to them.
    """

    tag: str
    answers: Mapping[int, Answer]
    description: str = ""
    path: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_types: tuple[str, ...] = ("application/json",)
    body_required: bool = True
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Request bodies by name."""
    problems: tuple[type[Problem], ...] = ()

    def __call__(self, handler: Handler) -> Handler:
        """The handler with its description: a function, a method, or a class whose instances are ASGI applications."""
        handler.operation = self  # type: ignore[attr-defined] # any callable may have it, and `Route` wants it
        return handler


@dataclass(frozen=True, kw_only=True)
class Door:
    """Who may come in, and what everyone else is answered; no middleware if the handler checks credentials itself.

    `behind` is the middleware for requests that were let in. `errors` is the model in which its
    middleware renders problems.
    """

    scheme: Literal["basic", "bearer", "session"]
    scope: str | None = None
    problems: tuple[type[Problem], ...] = ()
    middleware: Middleware | None = None
    behind: Middleware | None = None
    errors: type[BaseModel] = ErrorModel


class Route(routing.Route):
    """One method of one URL, and the handler with its description; without a door it is open to anyone."""

    operation: Operation

    def __init__(self, method: str, path: str, endpoint: Callable[..., Any], *, door: Door | None = None) -> None:
        middleware = [each for each in (door.middleware, door.behind) if each] if door else []
        super().__init__(path, endpoint, methods=[method], middleware=middleware)
        self.method = method
        self.operation = endpoint.operation  # type: ignore[attr-defined] # as its decorator left it
        self.door = door
