"""What the sender accepts and what it says that it sends: Accept and Content-Type, RFC 9110."""

import re

JSON_RANGES = {"application/json": 3, "application/*": 2, "*/*": 1}
"""The ranges that cover JSON, the more specific the higher; RFC 9110, section 12.5.1."""

WEIGHT = re.compile(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", re.ASCII)
"""RFC 9110, section 12.4.2, has three digits; some senders write more."""


def accepts_json(accept: bytes) -> bool:
    """Whether the Accept field leaves room for application/json; an absent or unreadable one does."""
    if not accept or accept == b"application/json":
        return True
    best, weight = 0, 0.0
    ranges = [each for each in accept.decode("latin-1").lower().split(",") if "/" in each]
    for each in ranges:
        name, *parameters = (part.strip() for part in each.split(";"))
        rank = JSON_RANGES.get(name, 0)
        if rank > best:
            best, weight = rank, _weight(parameters)
    return weight > 0 or not ranges


def _weight(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            return float(value) if WEIGHT.fullmatch(value.strip()) else 1.0
    return 1.0


def is_json(content_type: bytes | None) -> bool:
    """Whether the Content-Type is application/json, application/*+json or absent; parameters don't matter.

    JSON is UTF-8 by RFC 8259 whatever a charset says, so a wrong charset shows in the bytes.
    """
    if not content_type or content_type == b"application/json":
        return True
    first, *others = (each.strip() for each in content_type.lower().split(b","))
    # Repeated with one value it is one value; a comma in a parameter is none of them.
    single = first if others and all(each == first for each in others) else content_type
    name = single.partition(b";")[0].strip().lower()
    return name == b"application/json" or (name.startswith(b"application/") and name.endswith(b"+json"))
