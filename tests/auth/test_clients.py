from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.auth.clients import Clients, clients_from, digest, new_secret
from app.settings.clients import SHORTEST_SECRET, ClientSettings
from app.settings.model import SettingsProblem
from tests.conftest import SECRET

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


def registry(**clients) -> Clients:
    tables = {name: {"scopes": ["webhooks:send"], **each} for name, each in clients.items()}
    return clients_from({name: ClientSettings.model_validate(table) for name, table in tables.items()})


def name_of(clients: Clients, presented: bytes, *, now: datetime = NOW) -> str | None:
    client = clients.match(presented, now=now)
    return client.name if client else None


def test_a_client_is_found_by_its_username_and_secret():
    clients = registry(one={"secret": SECRET}, two={"secret": SECRET})
    assert name_of(clients, f"two:{SECRET}".encode()) == "two"


def test_its_name_is_the_username_where_none_is_given():
    clients = registry(one={"secret": SECRET, "username": "other"})
    assert name_of(clients, f"other:{SECRET}".encode()) == "one"
    assert name_of(clients, f"one:{SECRET}".encode()) is None


def test_a_digest_in_capitals_is_the_same_digest():
    kept = sha256(f"one:{SECRET}".encode()).hexdigest().upper()
    assert name_of(registry(one={"sha256": kept}), f"one:{SECRET}".encode()) == "one"


@pytest.mark.parametrize(
    ("now", "found"),
    [(NOW - MOMENT, None), (NOW, "one"), (NOW + timedelta(hours=1), "one"), (NOW + timedelta(hours=1) + MOMENT, None)],
)
def test_a_validity_includes_both_its_ends(now, found):
    clients = registry(one={"secret": SECRET, "not_before": NOW, "not_after": NOW + timedelta(hours=1)})
    assert name_of(clients, f"one:{SECRET}".encode(), now=now) == found


def test_a_validity_in_another_zone_is_the_same_instant():
    clients = registry(one={"secret": SECRET, "not_after": "2026-07-01T14:00:00+02:00"})
    assert name_of(clients, f"one:{SECRET}".encode(), now=NOW) == "one"
    assert name_of(clients, f"one:{SECRET}".encode(), now=NOW + MOMENT) is None


def test_a_rotation_hands_over_from_one_client_to_the_next():
    clients = registry(
        old={"username": "prioticket", "secret": "old-" + SECRET, "not_after": NOW},
        new={"username": "prioticket", "secret": "new-" + SECRET, "not_before": NOW},
    )
    presented = [f"prioticket:{age}-{SECRET}".encode() for age in ("old", "new")]
    assert [name_of(clients, each, now=NOW - MOMENT) for each in presented] == ["old", None]
    assert [name_of(clients, each, now=NOW) for each in presented] == ["old", "new"]
    assert [name_of(clients, each, now=NOW + MOMENT) for each in presented] == [None, "new"]


def test_two_clients_with_the_same_credentials_are_refused_by_name():
    with pytest.raises(SettingsProblem, match="one and two have the same credentials"):
        registry(one={"secret": SECRET, "username": "same"}, two={"sha256": digest("same", SECRET).hex()})


@pytest.mark.parametrize("name", ["colon:name", "tab\tname", "line\nname", "del\x7fname"])
def test_a_name_that_basic_cannot_carry_needs_a_username(name):
    with pytest.raises(SettingsProblem, match="give it a `username`"):
        registry(**{name: {"secret": SECRET}})
    assert registry(**{name: {"secret": SECRET, "username": "fits"}})


@pytest.mark.parametrize("username", ["colon:name", "tab\tname", "line\nname", "del\x7fname", ""])
def test_a_username_that_basic_cannot_carry_is_refused(username):
    with pytest.raises(ValidationError, match="username"):
        registry(one={"secret": SECRET, "username": username})


def test_no_clients_are_false():
    assert not registry()
    assert registry(one={"secret": SECRET})


def test_a_new_secret_is_long_enough_and_new_each_time():
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert min(map(len, secrets)) >= SHORTEST_SECRET


@given(presented=st.binary())
def test_any_bytes_can_be_compared(presented):
    assert name_of(registry(one={"secret": SECRET}, two={"secret": "é" + SECRET}), presented) is None
