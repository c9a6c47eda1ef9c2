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
        answers: How many answers came, by kind of request (`retry` for what was sent again) and status.
        ids: The `Event-Id` of each event, by its key.
        quarantined: How many refused requests the receiver keeps.
        unexpected: How many requests ended with a wrong answer.
        examples: Descriptions of the first of them.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.ids: dict[int, str] = {}
        self.quarantined = 0
        self.unexpected = 0
        self.examples: list[str] = []
        self._seconds: list[float] = []

    def answered(self, kind: str, *, status: int, seconds: float | None) -> None:
        """Counts one answer. `seconds` is None if the time does not depend on the receiver."""
        self.answers[kind, status] += 1
        if seconds is not None and status not in NAMES:
            self._seconds.append(seconds)

    def judged(self, request: Request, *, status: int, event_id: str, body: str) -> None:
        """Counts one request by its last answer."""
        if status not in request.expected:
            wanted = " or ".join(_name(each) for each in sorted(request.expected, reverse=True))
            self._wrong(f"{request.kind}: {_name(status)} instead of {wanted}. {body}".strip())
        elif request.kept:
            self.quarantined += status != ENDED  # without an answer nobody knows whether it was kept
        elif status == 200:  # noqa: PLR2004
            first = self.ids.setdefault(request.key, event_id)
            if not event_id or first != event_id:
                self._wrong(f"{request.kind}: Event-Id is {event_id!r}, but was {first!r} for the same event before.")

    def as_json(self) -> dict[str, Any]:
        """The result of the run: counts, and latencies in milliseconds."""
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
