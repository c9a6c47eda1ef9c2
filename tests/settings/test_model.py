import codecs
import json
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import app.settings.sources
from app.settings.model import Settings, SettingsProblem
from app.settings.origins import unknown_variables, value_sources
from tests.conftest import SECRET

PASSWORD = "swordfish-swordfish"


@pytest.fixture
def environment(monkeypatch):
    """`environment(max_body_bytes="10")` sets PRIOHOOK_MAX_BODY_BYTES."""

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"PRIOHOOK_{name.upper()}", value)

    return put


@pytest.fixture
def secret_files(monkeypatch, tmp_path):
    """`secret_files(database_url="…")` writes the file `priohook_database_url` where secrets are mounted."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setattr(app.settings.sources, "SECRETS_FOLDER", folder)

    def put(**values):
        for name, value in values.items():
            (folder / f"priohook_{name}").write_text(value + "\n")
        return folder

    return put


def toml(text: str, path: str = "priohook.toml") -> None:
    Path(path).write_text(text)


def problem() -> str:
    with pytest.raises(SettingsProblem) as raised:
        Settings.load()
    return str(raised.value)


def secret_of(settings: Settings, name: str) -> str:
    secret = settings.clients[name].secret
    assert secret
    return secret.get_secret_value()


def test_without_any_source_the_defaults_are_those_of_the_contract():
    settings = Settings.load()
    assert settings.database_url == "sqlite+aiosqlite:///priohook.db"
    assert settings.clients == {}
    assert settings.max_body_bytes == 1024 * 1024
    assert settings.body_timeout == timedelta(seconds=10)
    assert settings.on_unprocessable == "refuse"


def test_every_setting_says_what_it_is_in_one_sentence():
    assert all((field.description or "").endswith(".") for field in Settings.model_fields.values())


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().max_body_bytes = 1  # type: ignore[misc] # that is the point


def test_each_source_is_read(environment, secret_files):
    environment(max_body_bytes="1")
    secret_files(commit_max_batch="2")
    toml("max_waiting_events = 3")
    settings = Settings.load()
    assert (settings.max_body_bytes, settings.commit_max_batch, settings.max_waiting_events) == (1, 2, 3)


def test_the_environment_is_stronger_than_secret_files_and_these_than_the_toml_file(environment, secret_files):
    environment(max_body_bytes="1")
    secret_files(max_body_bytes="2", commit_max_batch="2")
    toml("max_body_bytes = 3\ncommit_max_batch = 3\nmax_waiting_events = 3")
    settings = Settings.load()
    assert (settings.max_body_bytes, settings.commit_max_batch, settings.max_waiting_events) == (1, 2, 3)
    sources = value_sources()
    assert sources["max_body_bytes"] == "environment"
    assert sources["commit_max_batch"] == "secret file"
    assert sources["max_waiting_events"] == "priohook.toml"
    assert sources["log_format"] == "default"


def test_a_credential_of_systemd_is_a_secret_file(secret_files, monkeypatch, tmp_path):
    secret_files(database_url="postgresql://other", clients__erp__secret=SECRET, clients__erp__scopes="console")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "priohook_database_url").write_text("postgresql://here/priohook\n")
    (credentials / "of_another_service").write_text("…")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    settings = Settings.load()
    assert settings.database_url == "postgresql+asyncpg://here/priohook"
    assert set(settings.clients) == {"erp"}
    assert value_sources()["database_url"] == "secret file"


def test_one_client_may_come_from_all_sources_at_once(environment, secret_files):
    environment(clients__erp__username="from-environment")
    secret_files(clients__erp__secret=PASSWORD)
    toml('[clients.erp]\nscopes = ["events:read"]\nusername = "from-toml"\n[clients.other]\nscopes = ["console"]')
    toml(Path("priohook.toml").read_text() + f'\nsecret = "{SECRET}"')
    settings = Settings.load()
    assert set(settings.clients) == {"erp", "other"}
    assert settings.clients["erp"].username == "from-environment"
    assert secret_of(settings, "erp") == PASSWORD
    assert settings.clients["erp"].scopes == {"events:read"}


@pytest.mark.parametrize("scopes", ["events:read events:replay", '["events:read", "events:replay"]'])
def test_a_client_fits_into_environment_variables(environment, scopes):
    environment(clients__erp__secret=PASSWORD, clients__erp__scopes=scopes)
    settings = Settings.load()
    assert secret_of(settings, "erp") == PASSWORD
    assert settings.clients["erp"].scopes == {"events:read", "events:replay"}


@pytest.mark.parametrize(
    "secret", ["12345678901234567890", '{"json": "or nearly"}', "null-and-then-more", "[not a list at all"]
)
def test_a_secret_that_looks_like_something_else_stays_as_it_is(environment, secret):
    environment(clients__erp__secret=secret, clients__erp__scopes="console")
    assert secret_of(Settings.load(), "erp") == secret


def test_all_clients_may_be_one_json_value(environment):
    environment(clients=json.dumps({"erp": {"secret": PASSWORD, "scopes": ["console"]}}))
    assert secret_of(Settings.load(), "erp") == PASSWORD


def test_secret_files_of_others_are_left_alone(secret_files):
    folder = secret_files(max_body_bytes="7")
    (folder / "postgres_password").write_text("swordfish")
    assert Settings.load().max_body_bytes == 7


def test_a_line_end_behind_a_secret_is_not_part_of_it(secret_files):
    secret_files(clients__erp__secret=PASSWORD, clients__erp__scopes="console")
    assert secret_of(Settings.load(), "erp") == PASSWORD


def test_priohook_config_names_another_toml_file(environment):
    toml("max_body_bytes = 1")
    toml("max_body_bytes = 2", "other.toml")
    environment(config="other.toml")
    assert Settings.load().max_body_bytes == 2
    assert value_sources()["max_body_bytes"] == "other.toml"


@pytest.mark.parametrize("named", ["missing.toml", "", "."])
def test_priohook_config_must_name_a_file_that_is_there(environment, named):
    environment(config=named)
    assert "PRIOHOOK_CONFIG names" in problem()


@pytest.mark.parametrize(
    ("given", "seconds"), [("2.5", 2.5), ("10", 10), ("PT1M", 60), ("00:01:00", 60)], ids=["2.5", "10", "ISO", "clock"]
)
def test_a_time_is_a_number_of_seconds_or_says_its_unit(environment, given, seconds):
    environment(body_timeout=given)
    assert Settings.load().body_timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "1e400", "soon", ""])
def test_a_time_that_is_none_is_refused(environment, given):
    environment(body_timeout=given)
    assert "body_timeout" in problem()


@pytest.mark.parametrize("given", ["10.0.0.0/8 fd00::/8", '["10.0.0.0/8", "fd00::/8"]'])
def test_trusted_proxies_are_networks_of_both_families(environment, given):
    environment(trusted_proxies=given)
    assert Settings.load().trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


URLS = {
    "postgresql://u:p@host/db": "postgresql+asyncpg://u:p@host/db",
    "postgres://u:p@host/db": "postgresql+asyncpg://u:p@host/db",
    "postgresql+psycopg://u:p@host/db": "postgresql+asyncpg://u:p@host/db",
    "postgresql+asyncpg://u:p@host:6543/db?sslmode=require": "postgresql+asyncpg://u:p@host:6543/db?sslmode=require",
    "postgresql://u:p%40%2F%3A@host/db": "postgresql+asyncpg://u:p%40%2F%3A@host/db",
    "postgresql:///db?host=%2Frun%2Fpostgresql": "postgresql+asyncpg:///db?host=%2Frun%2Fpostgresql",
    "postgresql://u:first@se@cond@host/db": "postgresql+asyncpg://u:first%40se%40cond@host/db",
    "postgresql://u:first@se:cond@host/db": "postgresql+asyncpg://u:first%40se%3Acond@host/db",
    "postgresql://u:fi/rst@host/db": "postgresql+asyncpg://u:fi%2Frst@host/db",
    "sqlite:///file.db": "sqlite+aiosqlite:///file.db",
    "sqlite+pysqlite:///file.db": "sqlite+aiosqlite:///file.db",
    "sqlite+aiosqlite:////var/lib/priohook.db": "sqlite+aiosqlite:////var/lib/priohook.db",
}


@pytest.mark.parametrize(("given", "used"), URLS.items(), ids=URLS)
def test_a_database_url_may_be_spelt_as_other_tools_spell_it(environment, given, used):
    environment(database_url=given)
    assert Settings.load().database_url == used


CLIENT: dict[str, Any] = {"secret": PASSWORD, "scopes": ["console"]}

UNUSABLE = {
    "max_body_bytes": ["swordfish", "", "0", "-1", "1.5", "67108865"],
    "commit_max_batch": ["swordfish", "0", "10001"],
    "max_waiting_events": ["swordfish", "0"],
    "body_timeout": ["swordfish"],
    "on_unprocessable": ["swordfish", "REFUSE"],
    "log_format": ["swordfish"],
    "trusted_proxies": ["swordfish", "10.0.0.1/8 swordfish", "[swordfish"],
    "database_url": [
        "swordfish",
        "",
        "mysql://u:swordfish@host/db",
        "postgresql://u:p@host:swordfish/db",
        "postgresql://u:p@[::swordfish/db",
        "postgresql://u:p@host/swordfish@host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:swordfish?mode=memory&uri=true",
    ],
    "clients": ['{"erp": {"secret": "swordfish', "swordfish", '"swordfish"'],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in UNUSABLE.items() for value in values], ids=repr
)
def test_a_value_that_cannot_be_used_is_named_and_not_shown(environment, name, value):
    environment(**{name: value})
    said = problem()
    assert name in said
    assert "swordfish" not in said


UNUSABLE_CLIENTS = {
    "a short secret": (CLIENT | {"secret": "swordfish"}, "secret"),
    "a control character in the secret": (CLIENT | {"secret": PASSWORD + "\t"}, "secret"),
    "a colon in the username": (CLIENT | {"username": "sword:fish"}, "username"),
    "an unknown scope": (CLIENT | {"scopes": ["swordfish"]}, "scopes"),
    "no scope": (CLIENT | {"scopes": []}, "scopes"),
    "scopes missing": ({"secret": PASSWORD}, "scopes"),
    "a digest that is too short": ({"sha256": "abc", "scopes": ["console"]}, "sha256"),
    "a digest with a line end": ({"sha256": "0" * 64 + "\n", "scopes": ["console"]}, "sha256"),
    "a secret and a digest": (CLIENT | {"sha256": "0" * 64}, "exactly one of secret and sha256"),
    "neither secret nor digest": ({"scopes": ["console"]}, "exactly one of secret and sha256"),
    "a time without a zone": (CLIENT | {"not_after": "2026-01-01T00:00:00"}, "not_after"),
    "a misspelt field": (CLIENT | {"secrt": PASSWORD}, "secrt"),
    "no table": (PASSWORD, "erp"),
}


@pytest.mark.parametrize(("client", "complaint"), UNUSABLE_CLIENTS.values(), ids=UNUSABLE_CLIENTS)
def test_a_client_that_cannot_be_used_is_named_and_not_shown(environment, client, complaint):
    environment(clients=json.dumps({"erp": client}))
    said = problem()
    assert "clients.erp" in said
    assert complaint in said
    assert "swordfish" not in said


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'max_body_bytes = "swordfish', "priohook.toml"),
        (b'database_url = "\xff swordfish"', "priohook.toml"),
        (b'max_body_byts = "swordfish"', "max_body_byts"),
        (b'[max_body_bytes]\nvalue = "swordfish"', "max_body_bytes"),
    ],
    ids=["unterminated", "no text", "misspelt", "a table"],
)
def test_a_toml_file_that_cannot_be_used_is_named_and_not_shown(content, complaint):
    Path("priohook.toml").write_bytes(content)
    said = problem()
    assert complaint in said
    assert "swordfish" not in said


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, b""], ids=["UTF-8", "UTF-16", "none"])
def test_a_toml_file_may_be_written_on_windows(mark):
    encoding = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-8"
    text = 'max_body_bytes = 7\r\n[destinations."é"]\r\nurl = "https://host"\r\n'
    Path("priohook.toml").write_bytes(mark + text.encode(encoding))
    settings = Settings.load()
    assert (settings.max_body_bytes, list(settings.destinations)) == (7, ["é"])


def test_every_unusable_value_is_told_at_once(environment):
    environment(max_body_bytes="none", log_format="none")
    assert all(name in problem() for name in ("max_body_bytes", "log_format"))


def test_no_representation_shows_a_secret():
    settings = Settings.model_validate(
        {"database_url": f"postgresql://u:{PASSWORD}@host/db", "clients": {"erp": CLIENT}}
    )
    for shown in (repr(settings), str(settings), repr(settings.clients), f"{settings.clients['erp']}"):
        assert PASSWORD not in shown


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_a_destination_has_credentials_in_its_url_or_in_a_header(name):
    toml(f'[destinations.erp]\nurl = "https://u:{PASSWORD}@host/in"\nheaders = {{{name} = "Bearer {PASSWORD}"}}\n')
    assert "destinations.erp: Value error, has credentials in its URL and an Authorization header" in problem()
    assert PASSWORD not in problem()
    toml(f'[destinations.erp]\nurl = "https://host/in?to=a@b"\nheaders = {{{name} = "Bearer {PASSWORD}"}}\n')
    assert Settings.load().destinations


def test_variables_that_no_setting_reads_are_found():
    environ = {
        "PRIOHOOK_MAX_BODY_BYTS": "1",
        "PRIOHOOK_CLIENTS_ERP_SECRET": PASSWORD,
        "priohook_misspelt": "1",
        "PRIOHOOK_MAX_BODY_BYTES": "1",
        "PRIOHOOK_CLIENTS__ERP__SECRET": PASSWORD,
        "priohook_log_format": "json",
        "PRIOHOOK_CONFIG": "priohook.toml",
        "PATH": "/bin",
    }
    assert unknown_variables(environ) == ["PRIOHOOK_CLIENTS_ERP_SECRET", "PRIOHOOK_MAX_BODY_BYTS", "priohook_misspelt"]


def test_variables_that_no_setting_reads_stop_nothing(environment):
    environment(service_host="10.0.0.1")
    assert Settings.load().max_body_bytes == 1024 * 1024


def test_a_secret_file_that_no_setting_reads_is_left_alone(secret_files):
    folder = secret_files(commit_max_batch="2")
    (folder / "keystore.p12").write_bytes(b"\xff\xfe")
    (folder / "priohook_backup").write_bytes(b"\xff\xfe")
    (folder / "priohook_clients").mkdir()
    with (folder / "large").open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    (folder / "priohook_token_keys").symlink_to("nowhere")
    assert Settings.load().commit_max_batch == 2


@pytest.mark.parametrize("folder", ["missing", "priohook.toml"])
def test_secrets_that_are_in_no_folder_are_none(monkeypatch, folder):
    toml("commit_max_batch = 3")
    monkeypatch.setattr(app.settings.sources, "SECRETS_FOLDER", Path(folder))
    assert Settings.load().commit_max_batch == 3


def test_a_secret_file_of_ours_that_is_not_utf_8_is_named(secret_files):
    folder = secret_files()
    (folder / "priohook_database_url").write_bytes(b"\xff\xfe")
    assert "priohook_database_url is not UTF-8" in problem()


def test_an_attempt_takes_five_minutes_at_most(environment):
    environment(destinations='{"erp": {"url": "https://erp.example", "timeout": 300}}')
    assert Settings.load().destinations["erp"].timeout == timedelta(minutes=5)
    environment(destinations='{"erp": {"url": "https://erp.example", "timeout": 300.1}}')
    assert "300 seconds at most" in problem()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_body_bytes", 64 * 1024 * 1024 + 1),
        ("max_waiting_bytes", 0),
        ("commit_max_batch", 10_001),
        ("max_waiting_events", 0),
        ("max_connections", 0),
        ("max_connections", 1_000_001),
        ("max_connections_per_address", 0),
        ("max_connections_per_address", 1_000_001),
    ],
)
def test_a_number_has_its_bounds(monkeypatch, name, value):
    monkeypatch.setenv(f"PRIOHOOK_{name.upper()}", str(value))
    with pytest.raises(SettingsProblem, match=name):
        Settings.load()


def test_a_spool_beside_sqlite_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_SPOOL", str(tmp_path))
    with pytest.raises(SettingsProblem, match="PostgreSQL only"):
        Settings.load()
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", "postgresql://host/priohook")
    assert Settings.load().spool == tmp_path


@pytest.mark.parametrize(
    "url", ["hooks.example.com", "ftp://hooks.example.com", "https://user:secret@hooks.example.com", "https://a/?b=c"]
)
def test_a_public_url_that_cannot_be_registered_is_refused(url):
    with pytest.raises(ValidationError, match="public_url") as refused:
        Settings(public_url=url)
    assert "secret@" not in str(refused.value)
