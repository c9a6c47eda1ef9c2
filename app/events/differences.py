"""The differences between two JSON values, bounded because a person reads them."""

from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any, Literal, NamedTuple

from pydantic_core import to_json

MOST_CHANGES = 100
LONGEST_VALUE = 1000  # bytes as JSON
LONGEST_PATH = 1000  # characters; all differences below such a path count as one

LONGEST_WORD = 100  # characters of a value within a sentence

_ABSENT = object()


class Change(NamedTuple):
    """One place where two values differ.

    Attributes:
        path: A JSON Pointer (RFC 6901).
        old: None also if it was missing or is too long to show.
        new: None also if it is missing or too long to show.
        shortened: Whether a value is too long to show.
    """

    path: str
    kind: Literal["added", "removed", "changed"]
    old: Any
    new: Any
    shortened: bool


class Differences(NamedTuple):
    """The first `MOST_CHANGES` changes, and whether there are more."""

    changes: list[Change]
    more: bool


def differences(old: Any, new: Any) -> Differences:
    """The changes from `old` to `new`: every leaf that changed, and every value that was added or removed as a whole.

    Items of lists are compared by their position. null and absent mean the same to Prioticket.
    """
    found = list(islice(_changes("", old, new), MOST_CHANGES + 1))
    return Differences(found[:MOST_CHANGES], len(found) > MOST_CHANGES)


def in_words(change: Change) -> str:
    """The change as a line: `/order_language: "en" → "nl"`."""
    if change.shortened:
        what = f"{change.kind}, too long to show"
    elif change.kind == "added":
        what = f"{_brief(change.new)} added"
    elif change.kind == "removed":
        what = f"{_brief(change.old)} removed"
    else:
        what = f"{_brief(change.old)} → {_brief(change.new)}"
    return f"{change.path or '/'}: {what}"


def _brief(value: Any) -> str:
    text = to_json(value).decode()
    return text if len(text) <= LONGEST_WORD else f"{text[: LONGEST_WORD - 1]}…"


def _changes(path: str, old: Any, new: Any) -> Iterator[Change]:
    if len(path) > LONGEST_PATH:
        if old != new:
            yield Change(path[:LONGEST_PATH], "changed", None, None, shortened=True)
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            yield from _changes(f"{path}/{_escaped(name)}", old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list):
        for place, (before, after) in enumerate(zip_longest(old, new)):
            yield from _changes(f"{path}/{place}", before, after)
    elif old != new or isinstance(old, bool) is not isinstance(new, bool):
        kind: Literal["added", "removed", "changed"] = (
            "added" if old is None else "removed" if new is None else "changed"
        )
        before, after = _short(old), _short(new)
        shortened = before is _ABSENT or after is _ABSENT
        yield Change(path, kind, None if before is _ABSENT else before, None if after is _ABSENT else after, shortened)


def _short(value: Any) -> Any:
    return value if len(to_json(value)) <= LONGEST_VALUE else _ABSENT


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
