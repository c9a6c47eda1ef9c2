"""What is wrong: a sentence, since when, and the one command to type."""

import shlex
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial


class Severity(StrEnum):
    """`critical`: events are lost, or late. `warning`: something waits for a person."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong."""

    name: str
    """What kind it is, for programs."""
    severity: Severity
    what: str
    """A sentence."""
    command: str
    """What to type."""
    subject: str | None = None
    """What it is about: a destination, a client, a place."""
    since: datetime | None = None
    example: str | None = None
    """The id of an event or a delivery, or an address."""


critical = partial(Finding, severity=Severity.CRITICAL)
warning = partial(Finding, severity=Severity.WARNING)


def typed(*words: str) -> str:
    """A command of priohook, as it is typed in a shell."""
    return shlex.join(("priohook", *words))
