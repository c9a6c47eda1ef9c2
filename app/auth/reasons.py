"""Why a credential was refused: for the log, never for whoever presented it.

It is found out after the answer is on its way. Before, it would be in the answer's time: a compare that is True takes
some nanoseconds longer than a False one, and whoever sees them knows that his guess was right once.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

from starlette.types import Scope

from app.auth.clients import Clients, Validity
from app.auth.limits import address_of


class Reason(StrEnum):
    """What was wrong. Those of tokens alone stand last."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN_USERNAME = "unknown_username"
    WRONG_SECRET = "wrong_secret"  # noqa: S105 - no secret
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_SIGNATURE = "wrong_signature"
    WRONG_CLAIMS = "wrong_claims"
    UNKNOWN_CLIENT = "unknown_client"


RANKS = (Reason.UNKNOWN_USERNAME, Reason.WRONG_SECRET, Reason.EXPIRED, Reason.NOT_YET_VALID)
"""The further down, the closer it came."""

RIGHT_SECRET = {Validity.VALID: 1, Validity.ENDED: 2, Validity.NOT_BEGUN: 3}
"""The rank that a right secret takes. It is refused only if its client is not valid; any other is in the wrong form."""


class Refused(NamedTuple):
    """The reason, and the name of the client that was meant if it is a configured one."""

    reason: Reason
    client: str | None = None


def reason_for(presented: Sequence[bytes], clients: Clients, *, now: datetime) -> Refused:
    """Why none of these spellings of one `username:secret` is let in.

    The work is the same whatever is wrong, as what is asked next waits for it: each client's username and secret are
    compared in full, and what comes of it is reckoned with, not branched on.
    """
    closest = 0
    for spelling in presented:
        username = sha256(spelling.partition(b":")[0]).digest()
        digest = sha256(spelling).digest()
        for place, client in enumerate(clients):
            known = compare_digest(username, client.username_digest)
            right = compare_digest(digest, client.digest)
            rank = known * (1 + right * (RIGHT_SECRET[client.validity(now)] - 1))
            closest = max(closest, rank * len(clients) + known * place)
    rank, place = divmod(closest, len(clients))
    return Refused(RANKS[rank], clients.names[place] if rank else None)


def note(scope: Scope, refused: Callable[[], Refused]) -> None:
    """Puts the address into the request's log line, and after its answer the reason."""
    line = scope["state"]["line"]
    line["address"] = address_of(scope)

    def afterwards() -> None:
        reason, client = refused()
        line["reason"] = reason.value
        if client is not None:
            line["client"] = client

    scope["state"]["afterwards"] = afterwards
