"""The subjects, routing keys and topics under which messages go to a broker, made of a template. Pure."""

from hashlib import sha256
from string import ascii_letters, digits

from app.settings.brokers import LONGEST_VALUE, PLACE

PLAIN = frozenset(ascii_letters + digits + "-_")
NOTHING = "_"
"""Stands for a type or a reference that an event does not have."""

KEPT_OF_LONG = 60  # characters, before a digest of 16


def name(template: str, *, event_type: str | None, reference: str | None, mark: str = "%") -> str:
    """The template with the event's values in the place of `{type}` and `{reference}`.

    Senders choose the values, so each becomes one token, whatever is in it: see `token`.
    """
    values = {"type": event_type, "reference": reference}
    return PLACE.sub(lambda place: token(values[place[1]], mark=mark), template)


def token(value: str | None, *, mark: str = "%") -> str:
    """The value as letters, digits, dashes and underscores, at most `LONGEST_VALUE` characters.

    Any other character, such as the dots, spaces and wildcards that mean something to a broker, is written as `mark`
    and two hexadecimal digits for each byte of its UTF-8. What gets too long is cut and ends with two marks and a
    digest, so that different values stay different.
    """
    if not value:
        return NOTHING
    if value == NOTHING:
        return f"{mark}5F"
    escaped = "".join(char if char in PLAIN else _escaped(char, mark) for char in value)
    if len(escaped) <= LONGEST_VALUE:
        return escaped
    return f"{escaped[:KEPT_OF_LONG]}{mark}{mark}{sha256(escaped.encode()).hexdigest()[:16]}"


def _escaped(char: str, mark: str) -> str:
    return "".join(f"{mark}{byte:02X}" for byte in char.encode("utf-8", "replace"))
