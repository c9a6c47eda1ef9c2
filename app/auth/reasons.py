"""Why a credential was refused: for the log, never for the sender.

The reason is only found once the answer is on its way, so that the answer's time cannot give it away: a successful
compare takes some nanoseconds longer than a failed one and would reveal that a guess was once right.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

from starlette.types import Scope

from app.auth.clients import Clients, Validity


class Reason(StrEnum):
    """What was wrong; the last three are for tokens only."""

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
"""From the worst guess to the closest."""

RIGHT_SECRET = {Validity.VALID: 1, Validity.ENDED: 2, Validity.NOT_BEGUN: 3}
"""The rank of a right secret, by its client's validity. A valid client is refused only for its credential's form."""


class Refused(NamedTuple):
    """The reason, and the name of the client that was meant, if it is configured."""

    reason: Reason
    client: str | None = None


def reason_for(presented: Sequence[bytes], clients: Clients, *, now: datetime) -> Refused:
    """Why none of these spellings of one `username:secret` was let in.

    The work is the same whatever is wrong, because the next request waits for it: each client's username and secret
    are compared in full, and the results enter a sum instead of branches.
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
    """Adds the reason to the request's log line once the answer is on its way."""
    line = scope["state"]["line"]

    def afterwards() -> None:
        reason, client = refused()
        line["reason"] = reason.value
        if client is not None:
            line["client"] = client

    scope["state"]["afterwards"] = afterwards
