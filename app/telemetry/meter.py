"""What a process counts for its metrics: plain numbers of one thread, which others read from a snapshot.

An event costs some additions. Objects of `prometheus_client` would cost as much as the table of URLs.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from app.web.problems import NotReadable, TooLarge, TooSlow, Unprocessable, UnsupportedMediaType

WEBHOOK, OTHER = "webhook", "other"
ENDPOINTS = {"/webhooks/prioticket": WEBHOOK, "/oauth2/token": "token", "/healthz": "health", "/readyz": "health"}
OK, CLIENT_ERRORS = 200, 400

REFUSED_BY_DATABASE = "refused_by_database"
QUARANTINED = {
    each.status: each.reason for each in (NotReadable, TooSlow, TooLarge, Unprocessable, UnsupportedMediaType)
}
"""Why an event is in quarantine, by the status that its sender was to get; with any other, the database refused it."""

ATTEMPTED = ("delivered", "refused", "gone", "unreachable", "timed_out", "lost")

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)

Labels = tuple[Any, ...]


class Series(NamedTuple):
    """One name of the page: what it tells, its labels, and of a histogram its bounds."""

    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    begin: tuple[Labels, ...] = ()
    """What is there from the start: Prometheus sees no increase in what appears as 1."""


REQUESTS = "priohook_http_requests"
REFUSED = "priohook_refused_requests"
RECEIVED = "priohook_received_events"
QUARANTINES = "priohook_quarantines"
ACKNOWLEDGED = "priohook_acknowledgement_duration_seconds"
COMMITS = "priohook_commit_duration_seconds"
BATCHES = "priohook_commit_events"
FAILED_COMMITS = "priohook_failed_commits"
ATTEMPTS = "priohook_attempts"
ATTEMPT = "priohook_attempt_duration_seconds"
DELAY = "priohook_event_to_delivery_seconds"
DROPPED = "priohook_log_lines_dropped"

_REASONS = ("missing", "malformed", "unknown_username", "wrong_secret", "expired", "not_yet_valid")
COUNTED: Mapping[str, Series] = {
    REQUESTS: Series(
        "Requests, by endpoint and status; 499 is a sender that went away before its answer.",
        ("endpoint", "status"),
        begin=((WEBHOOK, 200), (WEBHOOK, 401), (WEBHOOK, 500), (WEBHOOK, 503)),
    ),
    REFUSED: Series(
        "Requests that were refused or failed, by the reason that the log has.",
        ("endpoint", "status", "reason"),
        begin=(*((WEBHOOK, 401, reason) for reason in _REASONS), (WEBHOOK, 403, "scope")),
    ),
    RECEIVED: Series(
        "Webhooks that were stored: accepted, quarantined, or a copy of an earlier one.",
        ("type", "outcome"),
        begin=tuple((OTHER, outcome) for outcome in ("accepted", "quarantined", "copy")),
    ),
    QUARANTINES: Series(
        "Events that were put in quarantine, without their copies.",
        ("reason",),
        begin=tuple((reason,) for reason in (*QUARANTINED.values(), REFUSED_BY_DATABASE)),
    ),
    ACKNOWLEDGED: Series("From the first byte of a webhook to its 200.", bounds=FAST, begin=((),)),
    COMMITS: Series("How long a commit of events took.", bounds=FAST, begin=((),)),
    BATCHES: Series("How many events shared a commit.", bounds=SIZES, begin=((),)),
    FAILED_COMMITS: Series("Commits of events that failed.", begin=((),)),
    ATTEMPTS: Series("Attempts to deliver, by destination and outcome.", ("destination", "outcome")),
    ATTEMPT: Series("How long an attempt to deliver took.", ("destination",), bounds=FAST),
    DELAY: Series("From an event's arrival to its delivery, replays left out.", ("destination",), bounds=SLOW),
    DROPPED: Series("Log lines that were dropped because their reader was too slow.", begin=((),)),
}


class Histogram:
    """How many values were at most each bound, not yet added up."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def add_all(self, counts: Iterable[int], total: float) -> None:
        """Adds another histogram of the same bounds."""
        self.counts = [mine + other for mine, other in zip(self.counts, counts, strict=True)]
        self.total += total


class Meter:
    """The counts of one process, in one thread; labels never hold what a client chose.

    Args:
        types: The event types that are told apart.
        destinations: The configured destinations.
    """

    def __init__(self, *, types: Collection[str] = (), destinations: Collection[str] = ()) -> None:
        self._types = frozenset(types)
        self._dropped_before = 0
        self.counters: dict[str, dict[Labels, int]] = {
            name: dict.fromkeys(series.begin, 0) for name, series in COUNTED.items() if not series.bounds
        }
        self.histograms: dict[str, dict[Labels, Histogram]] = {
            name: {labels: Histogram(series.bounds) for labels in series.begin}
            for name, series in COUNTED.items()
            if series.bounds
        }
        self.counters[ATTEMPTS] |= {(name, outcome): 0 for name in destinations for outcome in ATTEMPTED}
        for name in destinations:
            self.histograms[ATTEMPT][name,] = Histogram(FAST)
            self.histograms[DELAY][name,] = Histogram(SLOW)
        self._requests = self.counters[REQUESTS]
        self._received = self.counters[RECEIVED]
        self._acknowledged = self.histograms[ACKNOWLEDGED][()]
        self._commits = self.histograms[COMMITS][()]
        self._batches = self.histograms[BATCHES][()]

    def answered(self, line: Mapping[str, Any], seconds: float) -> None:
        """Counts a request by the fields of its log line, and how long its answer took from the first byte on."""
        status = line["status"]
        endpoint = ENDPOINTS.get(line["path"]) or ("api" if line["path"].startswith("/api/") else OTHER)
        request = (endpoint, status)
        self._requests[request] = self._requests.get(request, 0) + 1
        if endpoint is WEBHOOK:
            if status == OK:
                self._acknowledged.add(seconds)
            if "event_id" in line:
                self._stored(line)
        if status >= CLIENT_ERRORS and "reason" in line:
            _count(self.counters[REFUSED], (endpoint, status, line["reason"]))

    def refused(self, status: int, reason: str) -> None:
        """Counts a request that was refused before its head was whole."""
        _count(self._requests, (OTHER, status))
        _count(self.counters[REFUSED], (OTHER, status, reason))

    def committed(self, events: int, seconds: float, *, failed: bool) -> None:
        """Counts a commit of events."""
        if failed:
            self.counters[FAILED_COMMITS][()] += 1
        else:
            self._commits.add(seconds)
            self._batches.add(events)

    def attempted(self, destination: str, outcome: str, took: timedelta, delay: timedelta | None) -> None:
        """Counts an attempt to deliver.

        Args:
            destination: Its name, from the settings.
            outcome: Of `ATTEMPTED`.
            took: How long it took.
            delay: Of a first delivery, the time since the event's arrival.
        """
        _count(self.counters[ATTEMPTS], (destination, outcome))
        self._histogram(ATTEMPT, destination).add(took.total_seconds())
        if delay is not None:
            self._histogram(DELAY, destination).add(delay.total_seconds())

    def dropped(self, lines: int) -> None:
        """Notes how many log lines this process has dropped."""
        self.counters[DROPPED][()] = self._dropped_before + lines

    def go_on_from(self, counters: Iterable[tuple[str, Labels, int]], histograms: Iterable["Summed"]) -> None:
        """Adds what an earlier process at the same place had counted."""
        for name, labels, value in counters:
            self.counters[name][labels] = self.counters[name].get(labels, 0) + value
        for name, labels, counts, total in histograms:
            known = self.histograms[name]
            known.setdefault(labels, Histogram(COUNTED[name].bounds)).add_all(counts, total)
        self._dropped_before = self.counters[DROPPED][()]

    def _stored(self, line: Mapping[str, Any]) -> None:
        quarantined = line.get("quarantined")
        outcome = "copy" if line["duplicate"] else "accepted" if quarantined is None else "quarantined"
        event = (line["type"] if line["type"] in self._types else OTHER, outcome)
        self._received[event] = self._received.get(event, 0) + 1
        if outcome == "quarantined":
            _count(self.counters[QUARANTINES], (QUARANTINED.get(line["quarantined"], REFUSED_BY_DATABASE),))

    def _histogram(self, name: str, destination: str) -> Histogram:
        known = self.histograms[name]
        if (destination,) not in known:
            known[destination,] = Histogram(COUNTED[name].bounds)
        return known[destination,]


Summed = tuple[str, Labels, list[int], float]
"""A histogram: name, labels, counts, total."""


def _count(counts: dict[Labels, int], labels: Labels) -> None:
    counts[labels] = counts.get(labels, 0) + 1
