"""The globs by which destinations and alarms choose events."""

from collections.abc import Sequence
from fnmatch import fnmatchcase


def wants(globs: Sequence[str], event_type: str | None, *event_names: str | None) -> bool:
    """Whether one of the globs matches the type, or an event name. An event without either matches only `*`."""
    names = (event_type or "", *(name for name in event_names if name is not None))
    return any(fnmatchcase(name, glob) for name in names for glob in globs)
