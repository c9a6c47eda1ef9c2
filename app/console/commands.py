"""Commands that do the same as a page, as they are typed in a shell."""

from collections.abc import Mapping
from shlex import quote
from typing import Any


def shell(*words: object, **options: Any) -> str:
    """A command line; an option that is None is left out.

    `shell("priohook", "replay", to="erp")` is `priohook replay --to erp`.
    """
    return " ".join([*(quote(str(word)) for word in words), *_options(options)])


def _options(options: Mapping[str, Any]) -> list[str]:
    return [f"--{name} {quote(str(value))}" for name, value in options.items() if value is not None]
