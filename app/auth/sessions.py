"""Sessions of the console: a signed cookie says who signed in, and until when. The receiver stores nothing of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as hmac_digest
from typing import NamedTuple

from app.auth.clients import Client, Clients
from app.auth.reasons import Reason
from app.auth.tokens import InvalidToken, read_claims, sign_claims

AUDIENCE = "priohook-console"
"""Not that of access tokens: neither can stand in for the other."""

CLAIMS = ["iss", "sub", "aud", "exp", "iat", "jti", "bound"]
LIFETIME = timedelta(hours=12)


class Session(NamedTuple):
    """Who is signed in, and until when.

    Attributes:
        form_token: What every form sends along, so that no other site can make a browser send one.
    """

    client: Client
    ends_at: datetime
    form_token: str


def begin(client: Client, *, keys: Sequence[bytes], session_id: str, now: datetime) -> str:
    """The cookie of a new session. It ends after `LIFETIME`, or as soon as the client's secret is another one."""
    claims = {
        "aud": AUDIENCE,
        "sub": client.name,
        "exp": int((now + LIFETIME).timestamp()),
        "iat": int(now.timestamp()),
        "jti": session_id,
        "bound": _bound(client, session_id),
    }
    return sign_claims(claims, keys[0])


def resume(cookie: str, *, keys: Sequence[bytes], clients: Clients, now: datetime) -> Session:
    """The session of a cookie.

    Raises:
        InvalidToken: the cookie was not signed here, the session has ended, or its client is not valid any more.
    """
    claims = read_claims(cookie, keys, audience=AUDIENCE, required=CLAIMS)
    try:
        ends_at, name, session_id = datetime.fromtimestamp(claims["exp"], UTC), claims["sub"], claims["jti"]
        bound = claims["bound"].encode()
    except (AttributeError, TypeError, ValueError, OverflowError, OSError):
        raise InvalidToken("The session is malformed", Reason.MALFORMED) from None
    if ends_at <= now:
        raise InvalidToken("The session ended", Reason.EXPIRED, name)
    client = next((each for each in clients if each.name == name), None)
    if client is None or not client.valid_at(now) or not compare_digest(bound, _bound(client, session_id).encode()):
        raise InvalidToken("The session's client is not valid any more", Reason.UNKNOWN_CLIENT)
    return Session(client, ends_at, hmac_digest(cookie.encode(), b"form", "sha256").hex())


def _bound(client: Client, session_id: str) -> str:
    return sha256(client.digest + session_id.encode()).hexdigest()
