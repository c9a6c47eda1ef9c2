"""Makes what strangers wrote safe to print on a terminal."""


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with `\x1b`, `\u202e` and the like for characters that could move or colour a terminal's text."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in text
    )
