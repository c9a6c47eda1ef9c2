"""The registry of clients, the same for every door."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe

from app.settings.clients import UNFIT_FOR_BASIC, ClientSettings, Scope
from app.settings.model import SettingsProblem

NOBODYS = bytes(32)
"""A digest for which nobody will ever find a credential."""


class Validity(Enum):
    """Whether a client is valid at a moment; `not_before` and `not_after` themselves are included."""

    NOT_BEGUN = auto()
    VALID = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who may come in.

    Attributes:
        name: What the operator calls it, unique.
        username: What it sends before the colon. Several clients may share one, so that secrets can be rotated.
        digest: SHA-256 of `username:secret`, 32 bytes.
        username_digest: SHA-256 of the username.
    """

    name: str
    username: str
    digest: bytes
    scopes: frozenset[Scope]
    not_before: datetime | None = None
    not_after: datetime | None = None
    username_digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "username_digest", sha256(self.username.encode()).digest())

    def validity(self, now: datetime) -> Validity:
        """Whether the client may come in now, not yet or no longer."""
        if self.valid_at(now):
            return Validity.VALID
        return Validity.NOT_BEGUN if self.not_before is not None and now < self.not_before else Validity.ENDED

    def valid_at(self, now: datetime) -> bool:
        """Whether the client may come in now."""
        return (self.not_before is None or self.not_before <= now) and (self.not_after is None or now <= self.not_after)


class Clients:
    """All clients.

    Raises:
        SettingsProblem: two clients have the same credentials, so that nobody could tell them apart.
    """

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = tuple(clients)
        by_digest: dict[bytes, str] = {}
        for client in self._clients:
            other = by_digest.setdefault(client.digest, client.name)
            if other != client.name:
                raise SettingsProblem(
                    f"clients {other} and {client.name} have the same credentials: change one secret."
                )

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order of the clients."""
        return tuple(client.name for client in self._clients)

    @property
    def usernames(self) -> Mapping[str, str]:
        """The username of each client, by its name."""
        return {client.name: client.username for client in self._clients}

    def match(self, presented: bytes, *, now: datetime) -> Client | None:
        """The client whose `username:password` was presented, or None.

        Every client is compared in full, so the time taken tells neither which one matched nor how much of a guess
        was right. Digests have one length, as `compare_digest` needs; bytes, since comparing `str` raises `TypeError`
        on non-ASCII input and would turn a bad password into a 500.
        """
        digest = sha256(presented).digest()
        matched = None
        for client in self._clients:
            # An expired client is compared with a digest that nobody has: a successful compare takes 11 ns longer than
            # a failed one and would reveal that an old secret was once right.
            if compare_digest(digest, client.digest if client.valid_at(now) else NOBODYS):
                matched = client
        return matched


def clients_from(settings: Mapping[str, ClientSettings]) -> Clients:
    """The registry that the `clients` table describes."""
    return Clients(client_from(name, each) for name, each in settings.items())


def client_from(name: str, settings: ClientSettings) -> Client:
    """The client that an entry of the `clients` table describes."""
    username = settings.username or name
    if UNFIT_FOR_BASIC.search(username):
        raise SettingsProblem(
            f"client {name!r}: a username cannot hold a colon or a control character; give it a `username` without one."
        )
    kept = (
        digest(username, settings.secret.get_secret_value())
        if settings.secret
        else bytes.fromhex(settings.sha256 or "")
    )
    return Client(
        name=name,
        username=username,
        digest=kept,
        scopes=settings.scopes,
        not_before=settings.not_before,
        not_after=settings.not_after,
    )


def digest(username: str, secret: str) -> bytes:
    """What is kept of a credential. A fast digest is enough, since secrets are random and not chosen by people."""
    return sha256(f"{username}:{secret}".encode()).digest()


def new_secret() -> str:
    """A secret of 192 random bits, made of letters, digits, `-` and `_`."""
    return token_urlsafe(24)
