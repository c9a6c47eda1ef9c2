import json
from pathlib import Path

import pytest

import app.settings.sources
from app.auth.first_clients import first_clients, kept_clients
from app.auth.first_start import complete
from app.auth.keys import make_first_key, token_keys
from app.settings.model import Settings
from tests.conftest import SECRET

PASSWORD = "pass-word-of-the-database"
CLIENT = f'[clients.prioticket]\nsecret = "{SECRET}"\nscopes = ["webhooks:send"]\nusername = "shared"\n'


@pytest.fixture
def secrets(tmp_path_factory, monkeypatch) -> Path:
    folder: Path = tmp_path_factory.mktemp("secrets")
    monkeypatch.setattr(app.settings.sources, "SECRETS_FOLDER", folder)
    return folder


@pytest.fixture
def shown(run):
    """`shown()`: the settings by name, as `priohook settings --json` prints them."""

    def shown():
        done = run("settings", "--json")
        assert done.status == 0
        return json.loads(done.text)

    return shown


def test_every_setting_is_shown_with_value_unit_source_and_sentence(shown):
    settings = shown()
    assert set(settings) == set(Settings.model_fields)
    assert {tuple(each) for each in settings.values()} == {("value", "unit", "source", "description")}
    assert all(each["description"].endswith(".") for each in settings.values())
    assert settings["max_body_bytes"]["value"] == 1024 * 1024
    assert settings["max_body_bytes"]["unit"] == "bytes"


def test_the_text_shows_the_same(run, shown):
    text = run("settings").text
    for name, each in shown().items():
        assert f"{name} = " in text
        assert f"  ({each['source']})\n    {each['description']}\n" in text
    assert "body_timeout = 10.0 seconds  (default)" in text


def test_scopes_are_shown_in_one_order(shown, monkeypatch):
    names = ["events:replay", "webhooks:send", "console", "events:read", "events:erase"]
    monkeypatch.setenv("PRIOHOOK_CLIENTS", json.dumps({"admin": {"secret": SECRET, "scopes": names}}))
    assert shown()["clients"]["value"]["admin"]["scopes"] == sorted(names)


def test_the_source_is_the_strongest_one_that_has_the_setting(shown, secrets, tmp_path, monkeypatch):
    lines = [f"{name} = 1000" for name in ("max_body_bytes", "commit_max_batch", "max_waiting_events")]
    (tmp_path / "priohook.toml").write_text("\n".join(lines))
    (secrets / "priohook_commit_max_batch").write_text("2000")
    (secrets / "priohook_max_body_bytes").write_text("2000")
    monkeypatch.setenv("PRIOHOOK_MAX_BODY_BYTES", "3000")
    settings = {name: (each["value"], each["source"]) for name, each in shown().items()}
    assert settings["max_body_bytes"] == (3000, "environment")
    assert settings["commit_max_batch"] == (2000, "secret file")
    assert settings["max_waiting_events"] == (1000, "priohook.toml")
    assert settings["body_timeout"] == (10.0, "default")


@pytest.mark.parametrize("flag", [[], ["--json"]])
@pytest.mark.parametrize("url", [f"//me:{PASSWORD}@host/db", f"//host/db?user=me&password={PASSWORD}"])
def test_no_secret_is_shown(run, tmp_path, monkeypatch, url, flag):
    (tmp_path / "priohook.toml").write_text(CLIENT)
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", f"postgresql:{url}")
    done = run("settings", *flag)
    assert done.status == 0
    assert "shared" in done.text
    assert SECRET not in done.text
    assert PASSWORD not in done.text


URLS = {
    "postgresql://me:first@se@cond@host/db": "postgresql+asyncpg://me:***@host/db",
    "postgresql://me:fi%40rst@host/db": "postgresql+asyncpg://me:***@host/db",
    "postgresql://me:fi/rst@host/db": "postgresql+asyncpg://me:***@host/db",
    "postgresql://me@host/db?sslmode=require&pass%77ord=first": "postgresql+asyncpg://me@host/db?password=***&sslmode=require",
    "postgresql:///db?host=a&host=b&sslpassword=first": "postgresql+asyncpg:///db?host=a&host=b&sslpassword=***",
}


@pytest.mark.parametrize(("url", "masked"), URLS.items(), ids=URLS)
def test_the_whole_password_of_a_database_is_masked(shown, monkeypatch, url, masked):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", url)
    assert shown()["database_url"]["value"] == masked


def test_the_path_of_a_destinations_url_and_the_values_in_its_query_are_masked(run, tmp_path):
    url = "https://erp.example/in?tenant=nl&token=swordfish"
    (tmp_path / "priohook.toml").write_text(f'[destinations.erp]\nurl = "{url}"\n')
    assert "https://erp.example/***?tenant=***&token=***" in run("settings").text


def test_the_clients_and_keys_of_a_first_start_are_shown_and_masked(shown, run, tmp_path):
    settings = Settings.load()
    first_clients(settings)
    make_first_key(settings)
    (key,) = token_keys(complete(settings))
    shows = shown()
    assert set(shows["clients"]["value"]) == {"prioticket", "admin"}
    assert shows["clients"]["source"] == "priohook-clients.toml"
    assert shows["token_keys"]["source"] == "priohook-keys.toml"
    (tmp_path / "priohook.toml").write_text(CLIENT.replace("clients.prioticket", "clients.later"))
    shows = shown()
    assert set(shows["clients"]["value"]) == {"prioticket", "admin", "later"}
    assert shows["clients"]["source"] == "priohook.toml, priohook-clients.toml"
    text = run("settings").text
    secrets = [client.secret.get_secret_value() for client in kept_clients(settings).values() if client.secret]
    assert not [secret for secret in (*secrets, key.decode()) if secret in text]


def test_a_misspelt_variable_is_pointed_out(run, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_MAX_BODY_BITES", "1")
    done = run("settings")
    assert done.status == 0
    assert done.errors == "priohook: PRIOHOOK_MAX_BODY_BITES is set, but there is no such setting. Is it misspelt?\n"


@pytest.mark.parametrize("command", [["settings"], ["migrate"], ["events", "list"], ["serve"]])
def test_a_setting_that_cannot_be_used_is_status_1_and_named_without_its_value(run, monkeypatch, command):
    monkeypatch.setenv("PRIOHOOK_MAX_BODY_BYTES", "plenty")
    done = run(*command)
    assert (done.status, done.written) == (1, b"")
    assert done.errors.startswith("priohook: These settings cannot be used:\n  max_body_bytes: ")
    assert "plenty" not in done.errors


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("max_body_bytes = ", "Settings could not be read"),
        ("maximum = 1", "maximum: "),
        ('[clients.a]\nsecret = "short"\nscopes = ["webhooks:send"]', "clients.a.secret: "),
        ("clients = 1", "clients: "),
        ('database_url = "mysql://host/db"', "database_url: "),
        ('database_url = "postgresql://one:1,two:2/db"', "database_url: "),
        ('database_url = "nothing"', "database_url: "),
        ("\udcff", "Settings could not be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_status_1_and_says_where(run, tmp_path, content, said):
    (tmp_path / "priohook.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    done = run("settings")
    assert (done.status, done.written) == (1, b"")
    assert done.errors.startswith("priohook: ")
    assert said in done.errors
    assert "Traceback" not in done.errors


def test_a_file_that_is_named_and_not_there_is_status_1(run, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_CONFIG", "elsewhere.toml")
    done = run("settings")
    assert done.status == 1
    assert done.errors == (
        "priohook: PRIOHOOK_CONFIG names elsewhere.toml, but there is no such file: correct it or unset it.\n"
    )


def test_the_account_at_prioticket_is_shown_without_its_secrets(run, shown, tmp_path):
    table = (
        'base_url = "https://api.example/v3.8"\nclient_id = "me"\nclient_secret = "hidden-1"\napi_key = "hidden-2"\n'
    )
    (tmp_path / "priohook.toml").write_text(f"[prioticket]\n{table}timeout = 30")
    value = shown()["prioticket"]["value"]
    assert (value["base_url"], value["client_id"], value["timeout"]) == ("https://api.example/v3.8", "me", 30)
    assert "hidden" not in run("settings").text + run("settings", "--json").text
