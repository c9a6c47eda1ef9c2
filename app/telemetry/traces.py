"""`traceparent`, W3C Trace Context, level 1: which request caused what, across programs."""

import re
from random import getrandbits

TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = "01"
"""A trace that begins here says that it is recorded, as our log is. Otherwise the programs behind us would record
nothing: most take over what their caller says."""

NOT_SAMPLED = "00"
SPAN_BITS = 64
LENGTH = 55
"""Of what is known of a `traceparent`; a later version may go on with bytes of any kind."""


def begun() -> str:
    """The `traceparent` of the first span of a new trace, of random ids."""
    # Ids are unique, not secret. One of 2 ** 64 span ids is zero, and not valid; its trace begins again elsewhere.
    digits = f"{getrandbits(192):048x}"
    return f"00-{digits[:32]}-{digits[32:]}-{SAMPLED}"


def begun_by(request_id: str) -> str:
    """The same for a request, whose id is unique already: 22 digits, of which the first 10 fill the trace's id."""
    return f"00-{request_id[:10]}{request_id}-{request_id[-16:]}-{SAMPLED}"


def kept(traceparent: str, request_id: str) -> str | None:
    """What is stored with an event: nothing if `begun_by` gave it, since `app.events.tables.TRACE` gives it again."""
    return None if traceparent[13:35] == request_id else traceparent


def continued(received: bytes) -> str | None:
    """The `traceparent` of a new span in the sender's trace; None if the header is not valid.

    A later version than 00 is read as far as this one is known (section 2.2.4).
    """
    found = TRACEPARENT.fullmatch(received)
    if found is None or (found[1] == b"00" and found[5]):
        return None
    return f"00-{found[2].decode()}-{_span()}-{found[4].decode()}"


def child(parent: str) -> str:
    """The `traceparent` of a new span below this one, which `begun`, `continued` or `child` made."""
    return f"{parent[:36]}{_span()}{parent[52:]}"


def trace_id(traceparent: str) -> str:
    """The id of the trace, 32 digits."""
    return traceparent[3:35]


def _span() -> str:
    return f"{getrandbits(SPAN_BITS) or 1:016x}"
