"""A standard OAuth2 client gets its token from a running receiver with no special code."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from authlib.integrations.requests_client import OAuth2Session, OAuthError
from authlib.oauth2.rfc6749 import OAuth2Token

from app.auth.first_start import complete
from app.auth.keys import token_keys
from app.auth.tokens import Token, verify
from app.settings.model import Settings
from tests.e2e.conftest import Served, configured


def fetch(server: Served, folder: Path, *, scope: str | None = None) -> OAuth2Token:
    clients = tomllib.loads((folder / "priohook-clients.toml").read_text())["clients"]
    with OAuth2Session("admin", clients["admin"]["secret"], scope=scope) as session:
        return session.fetch_token(f"{server.url}/oauth2/token", grant_type="client_credentials")


def said(token: OAuth2Token, folder: Path) -> Token:
    keys = token_keys(complete(Settings(database_url=f"sqlite:///{folder}/priohook.db")))
    return verify(token["access_token"], keys=keys, now=datetime.now(UTC))


def test_authlib_gets_a_token_for_the_admin_of_a_first_start(serve, tmp_path):
    token = fetch(serve(), tmp_path)
    assert (token["token_type"], token["expires_in"]) == ("Bearer", 3600)
    assert said(token, tmp_path).client == "admin"
    assert said(token, tmp_path).scopes == {"events:read", "events:replay", "events:erase", "console"}


def test_authlib_gets_a_token_with_the_scope_that_it_asks_for(serve, tmp_path):
    assert said(fetch(serve(), tmp_path, scope="events:read"), tmp_path).scopes == {"events:read"}


def test_a_token_opens_the_api_also_after_a_restart(serve, tmp_path):
    first = serve()
    token = fetch(first, tmp_path)
    first.end()
    second = serve()
    with OAuth2Session(token=token) as session:
        assert session.get(f"{second.url}/api/events").status_code == 200
        assert session.get(f"{second.url}/api/events?access_token=x").status_code == 400


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_understands_a_refusal(serve, tmp_path, method):
    server = serve()
    with (
        OAuth2Session("admin", "wrong", token_endpoint_auth_method=method) as session,
        pytest.raises(OAuthError, match="invalid_client"),
    ):
        session.fetch_token(f"{server.url}/oauth2/token", grant_type="client_credentials")


def test_without_a_key_on_postgresql_the_log_says_what_is_missing(serve, postgres_url):
    server = serve(**configured(postgres_url))
    server.end()
    assert "token_keys" in server.stderr
