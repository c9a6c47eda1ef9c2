"""What was sent and what came back."""

from collections import Counter
from typing import Any

from app.simulator.requests import ENDED, TOO_LATE, Request

RETRY = "retry"
EXAMPLES = 5
PERCENTILES = (50, 90, 99)
NAMES = {ENDED: "connection ended", TOO_LATE: "no answer"}


class Tally:
    """Counts of one run.

    Attributes:
        answers: By kind of request, `retry` for what is sent again, and status.
        ids: The id that each event was told, by its key.
        quarantined: How many refused requests the receiver keeps.
        unexpected: How many requests came to a wrong end.
        examples: What the first of them were.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.ids: dict[int, str] = {}
        self.quarantined = 0
        self.unexpected = 0
        self.examples: list[str] = []
        self._seconds: list[float] = []

    def answered(self, kind: str, *, status: int, seconds: float | None) -> None:
        """One answer came, after so long; None where the time says nothing about the receiver."""
        self.answers[kind, status] += 1
        if seconds is not None and status not in NAMES:
            self._seconds.append(seconds)

    def judged(self, request: Request, *, status: int, event_id: str, body: str) -> None:
        """One request came to its end, after its retries."""
        if status not in request.expected:
            wanted = " or ".join(_name(each) for each in sorted(request.expected, reverse=True))
            self._wrong(f"{request.kind}: {_name(status)} instead of {wanted}. {body}".strip())
        elif request.kept:
            self.quarantined += status != ENDED  # nobody said that it was kept
        elif status == 200:  # noqa: PLR2004
            first = self.ids.setdefault(request.key, event_id)
            if not event_id or first != event_id:
                self._wrong(f"{request.kind}: Event-Id is {event_id!r}, and {first!r} for the same event before.")

    def as_json(self) -> dict[str, Any]:
        """The closing table: counts, and milliseconds."""
        return {
            "sent": {
                kind: {_name(status): number for (of, status), number in sorted(self.answers.items()) if of == kind}
                for kind in sorted({kind for kind, _ in self.answers})
            },
            "retries": sum(number for (kind, _), number in self.answers.items() if kind == RETRY),
            "events": len(set(self.ids.values()) - {""}),
            "quarantined": self.quarantined,
            "latency_ms": self._latency(),
            "unexpected": self.unexpected,
            "examples": self.examples,
        }

    def _wrong(self, example: str) -> None:
        self.unexpected += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def _latency(self) -> dict[str, float]:
        ordered = sorted(self._seconds)
        if not ordered:
            return {}
        places = {f"p{percent}": ordered[(len(ordered) - 1) * percent // 100] for percent in PERCENTILES}
        return {name: round(seconds * 1000, 1) for name, seconds in (places | {"max": ordered[-1]}).items()}


def _name(status: int) -> str:
    return NAMES.get(status, str(status))
