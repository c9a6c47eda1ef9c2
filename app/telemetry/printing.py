"""What strangers wrote, as a terminal may show it."""


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with `\x1b`, `\u202e` and the like in place of what could move or colour what a terminal shows."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )
