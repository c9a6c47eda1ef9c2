"""Counts of what a receiver refused, and when it last heard of each client; kept in memory until they are written.

Memory is bounded, however many addresses are refused and however long the database is away.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import time
from typing import Any, NamedTuple

from app.web.addresses import network

DOORS = {"/webhooks/prioticket": "webhook", "/oauth2/token": "token", "/console/sign-in": "console"}
OTHER = "other"
"""The door of every other URL, and the address of senders beyond `MOST_OF_MINUTE`."""

MINUTE = 60  # seconds
MOST_OF_MINUTE = 50
"""How many rows a process makes in a minute of refusals that name a client, and as many of all others. A stranger with
a thousand addresses cannot push out the one that matters."""

MOST_KEPT = 5000
"""How many rows wait for a database that is away; what comes after them is counted in the log only."""

CLIENT_ERROR = 400
CLIENT_ERRORS = range(CLIENT_ERROR, 499)  # 499 is a client that went away
UNAVAILABLE = 503


class Refusal(NamedTuple):
    """What is counted together.

    Attributes:
        minute: Unix time.
        address: As `network` gives it, or `other`.
        client: The configured client that was meant; empty if there is none.
    """

    minute: int
    door: str
    status: int
    reason: str
    address: str
    client: str


class Heard(NamedTuple):
    """What is new of a client; what has not happened since the last time is None."""

    succeeded_at: datetime | None = None
    refused_at: datetime | None = None
    refused_status: int | None = None
    refused_reason: str | None = None
    refused_address: str | None = None


class Counts(NamedTuple):
    """What a receiver has counted since the last time."""

    refusals: Mapping[Refusal, int]
    clients: Mapping[str, Heard]


class Tally:
    """The counts of one process, in one thread."""

    def __init__(self, *, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._refusals: Counter[Refusal] = Counter()
        self._minute = 0
        self._rows: tuple[set[Refusal], set[Refusal]] = (set(), set())  # of that minute: of strangers, of clients
        self._succeeded: dict[str, float] = {}
        self._refused: dict[str, Heard] = {}

    def answered(self, line: Mapping[str, Any]) -> None:
        """Counts a request by the fields of its log line; costs less than a microsecond unless it was refused."""
        status = line["status"]
        if status < CLIENT_ERROR:
            if "client" in line:
                self._succeeded[line["client"]] = self._clock()
        elif (status in CLIENT_ERRORS or status == UNAVAILABLE) and line["path"] != "/readyz":
            self._refuse(line, status)

    def take(self) -> Counts:
        """What was counted since the last time; from now on counts from zero."""
        heard = {name: Heard(succeeded_at=_moment(at)) for name, at in self._succeeded.items()}
        self._refused.pop("", None)
        for name, refused in self._refused.items():
            heard[name] = refused._replace(succeeded_at=heard[name].succeeded_at) if name in heard else refused
        taken = Counts(self._refusals, heard)
        self._refusals = Counter()
        self._succeeded, self._refused = {}, {}
        return taken

    def put_back(self, counts: Counts) -> None:
        """Takes counts that could not be written."""
        for refusal, count in counts.refusals.items():
            self._count(refusal, count)
        for name, heard in counts.clients.items():
            if heard.succeeded_at is not None:
                self._succeeded.setdefault(name, heard.succeeded_at.timestamp())
            if heard.refused_at is not None:
                self._refused.setdefault(name, heard._replace(succeeded_at=None))

    def _refuse(self, line: Mapping[str, Any], status: int) -> None:
        now = self._clock()
        door = DOORS.get(line["path"]) or ("api" if line["path"].startswith("/api/") else OTHER)
        client = line.get("client", "")
        minute = int(now) // MINUTE * MINUTE
        refusal = Refusal(minute, door, status, line.get("reason", OTHER), network(line["address"]), client)
        self._count(self._bounded(refusal), 1)
        # For a stranger too, so that the time until the next request does not tell whether a client was meant.
        self._refused[client] = Heard(None, _moment(now), status, refusal.reason, refusal.address)

    def _bounded(self, refusal: Refusal) -> Refusal:
        """The refusal, without its address if the minute has enough rows. They are remembered when they are written."""
        if refusal.minute != self._minute:
            self._minute, self._rows = refusal.minute, (set(), set())
        rows = self._rows[bool(refusal.client)]
        if refusal in rows:
            return refusal
        if len(rows) >= MOST_OF_MINUTE:
            return refusal._replace(address=OTHER)
        rows.add(refusal)
        return refusal

    def _count(self, refusal: Refusal, count: int) -> None:
        if refusal in self._refusals or len(self._refusals) < MOST_KEPT:
            self._refusals[refusal] += count


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
