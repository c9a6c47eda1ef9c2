"""Reads Accept and Content-Type, as RFC 9110 defines them."""

import re

JSON_RANGES = {"application/json": 3, "application/*": 2, "*/*": 1}
"""The ranges that cover JSON. The most specific one has the highest rank and counts: RFC 9110, section 12.5.1."""

WEIGHT = re.compile(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", re.ASCII)
"""RFC 9110, section 12.4.2, allows three decimals; some senders write more."""


def accepts_json(accept: bytes) -> bool:
    """Whether the Accept field allows application/json, as an absent or unreadable one does."""
    if not accept or accept == b"application/json":
        return True
    best, weight = 0, 0.0
    ranges = [each for each in accept.decode("latin-1").lower().split(",") if "/" in each]
    for media_range in ranges:
        name, *parameters = (part.strip() for part in media_range.split(";"))
        rank = JSON_RANGES.get(name, 0)
        if rank > best:
            best, weight = rank, _weight(parameters)
    return weight > 0 or not ranges


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if WEIGHT.fullmatch(value.strip()) else 1.0
    return 1.0


def is_json(content_type: bytes | None) -> bool:
    """Whether the Content-Type is application/json, application/*+json or absent; parameters don't matter.

    RFC 8259 makes JSON UTF-8 whatever the charset says; a body in another encoding fails when it is parsed.
    """
    if not content_type or content_type == b"application/json":
        return True
    first, *others = (each.strip() for each in content_type.lower().split(b","))
    # A repeated field counts as one if all its values are the same. A comma may also be part of a parameter.
    single = first if others and all(each == first for each in others) else content_type
    name = single.partition(b";")[0].strip().lower()
    return name == b"application/json" or (name.startswith(b"application/") and name.endswith(b"+json"))
