import codecs
import os
import stat
from hashlib import sha256

import pytest

from app.auth.first_clients import FirstClients, first_clients, with_kept_clients
from app.auth.first_start import complete
from app.auth.kept import ignored_files
from app.auth.keys import make_first_key
from app.settings.model import Settings, SettingsProblem
from tests.conftest import SECRET


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
        "admin": {"events:read", "events:replay", "events:erase", "console"},
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


def configured(tmp_path, **clients) -> Settings:
    return Settings.model_validate({"database_url": f"sqlite:///{tmp_path}/priohook.db", "clients": clients})


def test_clients_that_are_configured_later_count_together_with_the_first_ones(tmp_path):
    start_without_clients(tmp_path)
    settings = configured(tmp_path, later={"secret": SECRET, "scopes": ["webhooks:send"], "username": "prioticket"})
    assert first_clients(settings)
    assert set(with_kept_clients(settings).clients) == {"later", "prioticket", "admin"}


def test_a_client_in_both_places_is_refused_unless_it_is_the_same(tmp_path, path):
    secret = secret_of(start_without_clients(tmp_path), "prioticket")
    digest = sha256(f"prioticket:{secret}".encode()).hexdigest()
    with_kept_clients(configured(tmp_path, prioticket={"sha256": digest, "scopes": ["webhooks:send"]}))
    for other in ({"sha256": digest, "scopes": ["console"]}, {"secret": SECRET, "scopes": ["webhooks:send"]}):
        with pytest.raises(SettingsProblem, match="client prioticket is in the settings and in") as problem:
            with_kept_clients(configured(tmp_path, prioticket=other))
        assert str(path) in str(problem.value)


def test_the_first_clients_may_be_removed_once_others_are_configured(tmp_path, path):
    path.write_text("")
    settings = configured(tmp_path, mine={"secret": SECRET, "scopes": ["webhooks:send"]})
    assert set(with_kept_clients(settings).clients) == {"mine"}
    path.unlink()
    assert first_clients(settings) is None


def test_the_file_may_begin_with_a_byte_order_mark(tmp_path, path):
    made = start_without_clients(tmp_path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    assert start_without_clients(tmp_path).clients == made.clients


def test_another_table_in_the_file_is_refused_since_nobody_would_read_it(tmp_path, path):
    start_without_clients(tmp_path)
    path.write_text(path.read_text() + '[destinations.erp]\nurl = "http://127.0.0.1:9/"\n')
    with pytest.raises(SettingsProblem, match="holds destinations"):
        start_without_clients(tmp_path)


def test_files_of_a_first_start_that_do_not_count_are_named(tmp_path, path):
    start_without_clients(tmp_path)
    assert ignored_files(configured(tmp_path)) == {}
    (tmp_path / "priohook-keys.toml").write_text("")
    keys = {"database_url": f"sqlite:///{tmp_path}/priohook.db", "token_keys": ["k" * 32]}
    assert list(ignored_files(Settings.model_validate(keys))) == [tmp_path / "priohook-keys.toml"]
    moved = Settings(database_url="postgresql://host/database")
    assert list(map(str, ignored_files(moved))) == ["priohook-clients.toml", "priohook-keys.toml"]


def test_on_postgresql_clients_must_be_configured_and_it_says_how():
    with pytest.raises(SettingsProblem, match="priohook clients new"):
        first_clients(Settings(database_url="postgresql://host/database"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[clients.prioticket\nsecret = 'swordfish'", "is not valid TOML"),
        (b"\xff swordfish", "is not valid TOML"),
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


def test_what_a_first_start_keeps_is_part_of_the_settings_of_an_application(tmp_path):
    settings = configured(tmp_path, mine={"secret": SECRET, "scopes": ["webhooks:send"]})
    made = start_without_clients(tmp_path)
    make_first_key(settings)
    completed = complete(settings)
    assert completed.clients == {**settings.clients, **made.clients}
    assert len(completed.token_keys) == 1
    assert complete(completed) == completed
