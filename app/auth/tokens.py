"""Access tokens: JWTs (RFC 7519) signed with HMAC-SHA-256, made and read by priohook alone."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, NamedTuple

import jwt

from app.auth.reasons import Reason
from app.settings.clients import Scope

ALGORITHM = "HS256"
"""The only one for making and reading tokens, whatever a token's header names. Nobody else reads them, so a shared key
is enough."""

ISSUER = "priohook"
AUDIENCE = "priohook"
CLAIMS = ["iss", "sub", "aud", "exp", "iat", "jti", "scope"]

COMPACT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{42}[AEIMQUYcgkosw048]", re.ASCII)
"""A JWT with a signature of 32 bytes, 43 characters. The last two bits of the last one belong to no byte, and decoders
ignore them: if they could be set, one token would have several spellings."""

SKEW = timedelta(minutes=1)
"""How far the clock of the receiver that made a token may be ahead of the one that reads it."""


class Token(NamedTuple):
    """What a valid token says; `client` is the client's name."""

    client: str
    scopes: frozenset[Scope]
    expires_at: datetime


class InvalidToken(Exception):
    """The token is not valid; the text says why for the sender, and the reason for the log.

    The client's name is known if the token was signed here.
    """

    def __init__(self, text: str, reason: Reason, client: str | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.client = client


def issue(
    client: str, scopes: frozenset[Scope], *, keys: Sequence[bytes], lifetime: timedelta, token_id: str, now: datetime
) -> str:
    """A token signed with the first key. Its times are whole seconds, so it may live up to one second longer."""
    claims = {
        "sub": client,
        "aud": AUDIENCE,
        "exp": ceil((now + lifetime).timestamp()),
        "iat": int(now.timestamp()),
        "jti": token_id,
        "scope": " ".join(sorted(scopes)),
    }
    return sign_claims(claims, keys[0])


def sign_claims(claims: Mapping[str, Any], key: bytes) -> str:
    """A JWT of ours."""
    return jwt.encode({"iss": ISSUER, **claims}, key, algorithm=ALGORITHM)


def verify(token: str, *, keys: Sequence[bytes], now: datetime) -> Token:
    """What the token says, if one of the keys signed it and it is valid now.

    Scopes that this release does not know are left out: a newer release may have made the token.

    Raises:
        InvalidToken: it was not signed here, was made for others, has expired or is not valid yet.
    """
    claims = read_claims(token, keys, audience=AUDIENCE, required=CLAIMS)
    try:
        begins_at, expires_at = (datetime.fromtimestamp(claims[name], UTC) for name in ("iat", "exp"))
        begins_at = max(begins_at, datetime.fromtimestamp(claims.get("nbf", claims["iat"]), UTC))
        client, scopes = str(claims["sub"]), frozenset(str(claims["scope"]).split())
    except (TypeError, ValueError, OverflowError, OSError):
        raise InvalidToken("The token is malformed", Reason.MALFORMED) from None
    if expires_at <= now:
        raise InvalidToken("The token expired", Reason.EXPIRED, client)
    if begins_at > now + SKEW:
        raise InvalidToken("The token is not valid yet", Reason.NOT_YET_VALID, client)
    return Token(client, frozenset(each for each in Scope if each in scopes), expires_at)


def read_claims(token: str, keys: Sequence[bytes], *, audience: str, required: list[str]) -> dict[str, Any]:
    """What a JWT says that one of the keys signed for this audience. Its times are not judged.

    Raises:
        InvalidToken: it was not signed here, or for others.
    """
    if not COMPACT.fullmatch(token):
        raise InvalidToken("The token is malformed", Reason.MALFORMED)
    for key in keys:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=audience,
                issuer=ISSUER,
                # The caller judges the times, by its own clock.
                options={"require": required, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError:
            raise InvalidToken("The token is not one of ours", Reason.WRONG_CLAIMS) from None
    raise InvalidToken("The token was not signed here", Reason.WRONG_SIGNATURE)
