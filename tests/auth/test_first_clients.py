import os
import stat

import pytest

from app.auth.clients import clients_from
from app.auth.first_clients import FirstClients, first_clients
from app.settings import Settings, SettingsProblem
from tests.conftest import SECRET, WEBHOOK, basic_header, payload


@pytest.fixture
def path(tmp_path):
    return tmp_path / "priohook-clients.toml"


def start_without_clients(tmp_path) -> FirstClients:
    made = first_clients(Settings(database_url=f"sqlite:///{tmp_path}/priohook.db"))
    assert made
    return made


def secret_of(made: FirstClients, name: str) -> str:
    secret = made.clients[name].secret
    assert secret
    return secret.get_secret_value()


def test_a_first_start_makes_a_sender_and_an_admin(tmp_path, path):
    made = start_without_clients(tmp_path)
    assert (made.path, made.made_now) == (path, True)
    assert {name: set(client.scopes) for name, client in made.clients.items()} == {
        "prioticket": {"webhooks:send"},
        "admin": {"events:read", "events:replay", "console"},
    }


def test_only_the_owner_can_read_the_file_whatever_the_umask(tmp_path, path):
    before = os.umask(0)
    try:
        start_without_clients(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_next_start_finds_the_same_clients(tmp_path):
    first, second = start_without_clients(tmp_path), start_without_clients(tmp_path)
    assert not second.made_now
    assert secret_of(second, "prioticket") == secret_of(first, "prioticket")


def test_no_two_secrets_are_the_same(tmp_path):
    (tmp_path / "other").mkdir()
    starts = [start_without_clients(folder) for folder in (tmp_path, tmp_path / "other")]
    assert len({secret_of(made, name) for made in starts for name in ("prioticket", "admin")}) == 4


def test_configured_clients_are_all_there_are(tmp_path, path):
    clients = {"mine": {"secret": SECRET, "scopes": ["webhooks:send"]}}
    settings = Settings.model_validate({"database_url": f"sqlite:///{tmp_path}/priohook.db", "clients": clients})
    assert first_clients(settings) is None
    assert not path.exists()


def test_on_postgresql_clients_must_be_configured_and_it_says_how():
    with pytest.raises(SettingsProblem, match="priohook clients new"):
        first_clients(Settings(database_url="postgresql://host/database"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[clients.prioticket\nsecret = 'swordfish'", "is no TOML"),
        (b"\xff swordfish", "is no TOML"),
        (b"", "holds no clients"),
        (b"[clients.prioticket]\nsecret = 'swordfish'\nscopes = ['console']", "prioticket.secret"),
    ],
    ids=["broken", "no text", "empty", "short secret"],
)
def test_a_damaged_file_is_named_and_not_shown(tmp_path, path, content, complaint):
    path.write_bytes(content)
    with pytest.raises(SettingsProblem, match=complaint) as problem:
        start_without_clients(tmp_path)
    assert str(path) in str(problem.value)
    assert "swordfish" not in str(problem.value)


async def test_the_sender_that_was_made_can_send(tmp_path, sqlite_url, start):
    made = start_without_clients(tmp_path)
    assert clients_from(made.clients)
    async with start(sqlite_url, clients=made.clients) as client:
        headers = basic_header("prioticket", secret_of(made, "prioticket"))
        reply = await client.post(WEBHOOK, content=payload("04-notification-redemption"), headers=headers)
    assert reply.status_code == 200
