"""What the simulated API does wrong on purpose."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

STATUSES = ("429", "500", "502", "503", "504")
KINDS = (*STATUSES, "redirect", "slow", "hang", "cut", "html", "error")
WITH_NUMBER = ("429", "slow")


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        pattern: A glob for the paths under the base URL.
        kind: One of `KINDS`: a status, a redirect, a slow answer, none, a cut one, a page, or 200 with an ErrorModel.
        seconds: Of `Retry-After` of a 429, or until a slow answer.
        share: Which share of the requests.
        left: How many more requests it meets; None for no limit.
    """

    pattern: str
    kind: str
    seconds: float | None = None
    share: float = 1.0
    left: int | None = None


def parse_fault(text: str) -> Fault:
    """The fault that an option names, `PATH=KIND[:SECONDS][@SHARE|#COUNT]`, such as `/orders/*=503@0.1`.

    Raises:
        ValueError: the text is not a fault; the error says why.
    """
    pattern, equals, rest = text.partition("=")
    rest, _, count = rest.partition("#")
    rest, _, share = rest.partition("@")
    kind, _, seconds = rest.partition(":")
    if not pattern or not equals or kind not in KINDS or (seconds and kind not in WITH_NUMBER):
        raise ValueError(f"{text!r} is not PATH=KIND[:SECONDS][@SHARE|#COUNT] with a KIND of {' '.join(KINDS)}")
    if kind == "slow" and not seconds:
        raise ValueError(f"{text!r} does not say how slow: write slow:SECONDS")
    try:
        return Fault(
            pattern, kind, float(seconds) if seconds else None, float(share or 1), int(count) if count else None
        )
    except ValueError:
        raise ValueError(f"{text!r} has something else where a number must be") from None


def fault_of(faults: list[Fault], path: str, random: Random) -> Fault | None:
    """The fault that this request meets, if any. It then meets one request less."""
    for fault in faults:
        if fault.left == 0 or not fnmatchcase(path, fault.pattern) or random.random() >= fault.share:
            continue
        if fault.left is not None:
            fault.left -= 1
        return fault
    return None
