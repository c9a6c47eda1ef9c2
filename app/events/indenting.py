"""JSON made readable without changing a token of it: numbers, escapes and names that come twice stay as they are."""

import re
from collections.abc import Iterator
from itertools import pairwise

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
OPENING, CLOSING, MARKS = "{[", "}]", "{}[],:"
DEEPEST = 50  # steps of the indent


def indented(text: str, *, most: int) -> str:
    """The text with a line for each value. Whatever is not JSON is kept, but for spaces.

    Args:
        text: JSON, or anything like it.
        most: About how many characters to give; what comes later is left out.
    """
    lines: list[str] = []
    size = 0
    for piece in _pieces(text):
        lines.append(piece)
        size += len(piece)
        if size > most:
            break
    return "".join(lines)[:most]


def _pieces(text: str) -> Iterator[str]:
    depth = 0
    for before, token in pairwise(_tokens(text)):
        if token in CLOSING:
            depth = max(0, depth - 1)
            yield token if before in OPENING else f"{_line(depth)}{token}"
        elif before and before in "{[,":
            yield f"{_line(depth)}{token}"
        elif before == ":" or (before and before not in MARKS and token not in MARKS):
            yield f" {token}"
        else:
            yield token
        if token in OPENING:
            depth += 1


def _tokens(text: str) -> Iterator[str]:
    """All tokens, after one that is empty."""
    yield ""
    for token in TOKEN.finditer(text):
        yield token[0]


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, DEEPEST)
