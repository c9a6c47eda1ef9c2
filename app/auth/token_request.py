"""Reads a request for a token (RFC 6749, section 4.4.2) from a form or from JSON."""

import json
import re
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from app.auth.clients import Client
from app.settings.clients import Scope
from app.web.body import without_mark
from app.web.negotiation import is_json
from app.web.problems import Problem, Unprocessable, UnsupportedMediaType

FORM = b"application/x-www-form-urlencoded"
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")
"""RFC 6749, section 3.3."""

OF_TOKENS = frozenset((Scope.READ, Scope.REPLAY, Scope.ERASE, Scope.CONSOLE))
"""The scopes that a token may have. Webhooks are sent with HTTP Basic: Prioticket can send nothing else."""


class TokenRefused(Problem):
    """A refusal for which RFC 6749, section 5.2, has an error code."""

    error: ClassVar = "invalid_request"


class InvalidRequest(TokenRefused):
    """A parameter is missing, repeated or malformed, or credentials are sent twice."""

    status = 400


class UnsupportedGrantType(TokenRefused):
    """The grant type is not client_credentials."""

    status = 400
    error = "unsupported_grant_type"


class InvalidScope(TokenRefused):
    """A scope is unknown, or the client does not have it."""

    status = 400
    error = "invalid_scope"


class UnauthorizedClient(TokenRefused):
    """The client has no scope that a token can have."""

    status = 400
    error = "unauthorized_client"


def read_request(content: bytes, *, content_type: bytes | None, client: Client) -> frozenset[str] | None:
    """The scopes that an authenticated client asks for, as it wrote them; None if it wrote none.

    Unknown parameters and those without a value are ignored: RFC 6749, section 3.2.

    Raises:
        TokenRefused: 400.
        UnsupportedMediaType: 415.
        Unprocessable: 422.
    """
    parameters = {name: value for name, value in _parameters(content, content_type).items() if value not in ("", None)}
    if any(name in parameters for name in ("client_secret", "client_assertion")):
        raise InvalidRequest("The body also holds credentials.", "Send them in the Authorization header only.")
    if parameters.get("client_id", client.username) != client.username:
        raise InvalidRequest("The body names another client than the Authorization header.", "Leave out client_id.")
    grant_type, scope = parameters.get("grant_type"), parameters.get("scope")
    if grant_type is None:
        raise InvalidRequest("There is no grant_type.", "Send grant_type=client_credentials.")
    if not isinstance(grant_type, str):
        raise InvalidRequest("The grant_type is not a string.", "Send grant_type=client_credentials.")
    if grant_type != "client_credentials":
        raise UnsupportedGrantType("This grant_type is unknown.", "Send grant_type=client_credentials.")
    if scope is None:
        return None
    if not isinstance(scope, str):
        raise InvalidRequest("The scope is not a string.", "Send the scopes in one string, separated by spaces.")
    if not SCOPE.fullmatch(scope):
        raise InvalidScope("The scope is malformed.", "Separate the scopes by single spaces.")
    return frozenset(scope.split(" "))


def granted(asked: frozenset[str] | None, client: Client) -> frozenset[Scope]:
    """The token's scopes: those asked for, or all that the client may have if it asked for none.

    An unknown scope is refused, not left out: the client would only notice at a later 403. This includes Prioticket's
    own (`https://www.prioticketapis.com/auth/distributor.booking`): they are rights in Prioticket's API, which no token
    of ours gives, so a client that asks for them has the wrong server.

    Raises:
        UnauthorizedClient: the client has no scope that a token can have.
        InvalidScope: one of the scopes is unknown, or the client does not have it.
    """
    available = client.scopes & OF_TOKENS
    names = " ".join(sorted(available))
    if not available:
        raise UnauthorizedClient(
            "This client cannot get a token: it has no scope that a token can have.",
            f"Give it one of {' '.join(sorted(OF_TOKENS))}.",
        )
    if asked is not None and not asked <= available:
        raise InvalidScope("This client may not have a token with that scope.", f"It may have {names}.")
    return available if asked is None else frozenset(each for each in available if each in asked)


def _parameters(content: bytes, content_type: bytes | None) -> dict[str, Any]:
    content = without_mark(content)
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    if not kind and not content:
        return {}
    if kind == FORM:
        return _form(content)
    if kind and is_json(content_type):
        return _json(content)
    raise UnsupportedMediaType(
        "The content type is neither a form nor JSON.", f"Send {FORM.decode()} or application/json."
    )


def _form(content: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(content.decode(), keep_blank_values=True, errors="strict")
    except ValueError:  # of UTF-8
        raise InvalidRequest("The form is not UTF-8.", "Encode it as UTF-8.") from None
    return _unrepeated(pairs)


def _json(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content.decode(), object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not JSON.", "Send an object, or a form.") from None
    if not isinstance(parsed, dict):
        raise Unprocessable("The body is JSON but not an object.", "Send an object with grant_type.")
    return parsed


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        raise InvalidRequest("A parameter is repeated.", "Send each one once.")
    return parameters
