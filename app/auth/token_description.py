"""What the token endpoint takes and answers, for the OpenAPI document."""

from typing import Literal

from pydantic import BaseModel, Field

from app.auth.token_endpoint import InvalidClient, NoKeys, NotAcceptable, TooLarge, TooManyRequests, TooSlow
from app.auth.token_request import (
    InvalidRequest,
    InvalidScope,
    TokenRefused,
    UnauthorizedClient,
    Unprocessable,
    UnsupportedGrantType,
    UnsupportedMediaType,
)
from app.web.openapi.operations import Answer, Operation

REFUSALS: tuple[type[TokenRefused], ...] = (
    InvalidRequest,
    UnsupportedGrantType,
    InvalidScope,
    UnauthorizedClient,
    InvalidClient,
    NotAcceptable,
    TooSlow,
    TooLarge,
    UnsupportedMediaType,
    Unprocessable,
    TooManyRequests,
    NoKeys,
)


class TokenQuestion(BaseModel):
    """What is asked for."""

    grant_type: Literal["client_credentials"] = Field(description="How the client proves who it is: by HTTP Basic.")
    scope: str = Field(
        default="", description="Of the client's scopes, with a space between two. Without it the token has all."
    )


class TokenAnswer(BaseModel):
    """The token."""

    access_token: str = Field(description="A JWT, to be sent as Authorization: Bearer.")
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="Seconds.")
    scope: str = Field(default="", description="What the token may do, where the question did not say it.")


class TokenError(BaseModel):
    """RFC 6749, section 5.2."""

    error: Literal[
        "invalid_request",
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "temporarily_unavailable",
    ]
    error_description: str = Field(description="What was wrong, and what to do.")


def _refusals() -> dict[int, Answer]:
    statuses = dict.fromkeys(refusal.status for refusal in REFUSALS)
    return {
        status: Answer(
            description=" ".join(str(each.__doc__) for each in REFUSALS if each.status == status), model=TokenError
        )
        for status in statuses
    }


TOKEN = Operation(
    summary="Get a token",
    tag="token",
    description="A token for all of /api, by client credentials: RFC 6749, section 4.4.",
    body=TokenQuestion,
    body_types=("application/x-www-form-urlencoded", "application/json"),
    examples={
        "all that the client may do": {"grant_type": "client_credentials"},
        "to read": {"grant_type": "client_credentials", "scope": "events:read"},
    },
    answers={
        200: Answer(
            description="The token.",
            model=TokenAnswer,
            headers={
                "Cache-Control": "no-store: a token is kept by whoever asked for it alone.",
                "Pragma": "no-cache: the same for caches of HTTP/1.0.",
            },
        ),
        **_refusals(),
    },
)
