import json

import click
import pytest

from app.cli.credentials import credentials
from tests.conftest import CLIENTS, SECRET


@pytest.mark.parametrize(
    "url", ["receiver.example", "ftp://a", "http://a:b", "http:///x", "http://[::1", "http://u:pw@a", "http://a?b"]
)
def test_what_is_no_url_is_a_usage_error_that_does_not_repeat_it(run, url):
    done = run("check", url)
    assert done.status == 2
    assert "The receiver's URL is invalid" in done.errors
    assert url not in done.errors


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://a..b"])
def test_nobody_there_is_one_sentence(run, url):
    done = run("check", url)
    assert done.status == 1
    assert f"Error: {url}/webhooks/prioticket cannot be reached" in done.errors


def test_an_expired_client_gives_no_credentials(monkeypatch):
    old = {"secret": "another-secret-of-old", "scopes": ["webhooks:send"], "not_after": "2020-01-01T00:00:00Z"}
    monkeypatch.setenv("PRIOHOOK_CLIENTS", json.dumps({"old": old, **CLIENTS}))
    with click.Context(click.Command("check")):
        assert credentials(None) == ("prioticket", SECRET)
