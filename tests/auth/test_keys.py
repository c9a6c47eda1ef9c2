import os
import stat

import pytest

from app.auth.first_start import complete
from app.auth.keys import make_first_key, token_keys
from app.settings.model import Settings, SettingsProblem

KEY, OTHER = "k" * 32, "o" * 32


def started(tmp_path) -> tuple[bytes, ...]:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/priohook.db")
    make_first_key(settings)
    return token_keys(complete(settings))


def test_a_first_start_on_sqlite_makes_a_key_that_only_the_owner_can_read(tmp_path):
    before = os.umask(0)
    try:
        (key,) = started(tmp_path)
    finally:
        os.umask(before)
    assert len(key) >= 32
    assert stat.S_IMODE((tmp_path / "priohook-keys.toml").stat().st_mode) == 0o600


def test_the_next_start_finds_the_same_key_so_that_tokens_live_on(tmp_path):
    assert started(tmp_path) == started(tmp_path)


def test_configured_keys_are_taken_in_their_order_and_none_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_TOKEN_KEYS", f"{KEY} {OTHER}")
    assert started(tmp_path) == (KEY.encode(), OTHER.encode())
    assert not list(tmp_path.iterdir())


def test_on_postgresql_no_key_is_made_since_receivers_must_agree(tmp_path):
    settings = Settings(database_url="postgresql://localhost/priohook")
    make_first_key(settings)
    assert complete(settings).token_keys == ()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["token_keys = ", "token_keys = []", "", 'token_keys = ["short"]', "\udcff"], ids=range(5)
)
def test_an_unusable_file_is_refused_by_its_name_and_without_its_content(tmp_path, content):
    (tmp_path / "priohook-keys.toml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SettingsProblem, match=r"priohook-keys\.toml") as problem:
        started(tmp_path)
    assert '"short"' not in str(problem.value)


@pytest.mark.parametrize("keys", ["short", f"{KEY} {OTHER} {KEY}", KEY[:-1] + "é", "-----BEGIN PRIVATE KEY-----" + KEY])
def test_keys_that_cannot_sign_are_refused_without_being_shown(monkeypatch, keys):
    monkeypatch.setenv("PRIOHOOK_TOKEN_KEYS", keys if " " not in keys or "BEGIN" not in keys else f'["{keys}"]')
    with pytest.raises(SettingsProblem, match="token_keys") as problem:
        Settings.load()
    assert keys not in str(problem.value)
