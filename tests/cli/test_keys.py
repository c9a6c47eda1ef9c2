import json

from app.auth.first_start import complete
from app.auth.keys import token_keys
from app.settings.model import Settings


def test_what_is_printed_for_the_configuration_is_a_key(run, tmp_path):
    entry = run("keys", "new").text.partition("For priohook.toml:\n\n")[2]
    (tmp_path / "priohook.toml").write_text(entry)
    (key,) = token_keys(complete(Settings.load()))
    assert len(key) == 64


def test_two_keys_are_different_and_nothing_is_saved(run, tmp_path):
    made = [json.loads(run("keys", "new", "--json").text)["token_keys"] for _ in range(2)]
    assert made[0] != made[1]
    assert list(tmp_path.iterdir()) == []


def test_keys_are_not_shown_with_the_settings(run, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_TOKEN_KEYS", "k" * 32)
    assert "k" * 32 not in run("settings").text
