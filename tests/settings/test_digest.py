import pytest

from app.settings.digest import digest_of
from app.settings.model import Settings

CLIENT = {"secret": "correct-horse-battery-staple", "scopes": ["webhooks:send", "events:read"]}
ERP = {"url": "https://erp.example/", "headers": {"X-Tenant": "nl"}}


def settings(**changes: object) -> Settings:
    return Settings.model_validate({"clients": {"prioticket": CLIENT}, "destinations": {"erp": ERP}} | changes)


def test_the_same_settings_have_the_same_digest_whatever_their_order():
    turned = {"prioticket": CLIENT | {"scopes": ["events:read", "webhooks:send"]}}
    assert digest_of(settings()) == digest_of(settings(clients=turned))


def test_processes_of_one_host_have_the_same_digest_though_each_has_its_own_address_for_metrics():
    assert digest_of(settings(metrics="127.0.0.1:9464")) == digest_of(settings())


@pytest.mark.parametrize(
    "changes",
    [
        {"clients": {"prioticket": CLIENT | {"secret": "another-horse-battery-staple"}}},
        {"clients": {"prioticket": CLIENT, "second": CLIENT | {"username": "other"}}},
        {"destinations": {"erp": ERP | {"headers": {"X-Tenant": "be"}}}},
        {"destinations": {"erp": ERP | {"timeout": 20}}},
        {"database_url": "postgresql://priohook:secret@db/priohook"},
        {"commit_timeout": 6},
    ],
)
def test_any_other_setting_or_secret_gives_another_digest(changes):
    assert digest_of(settings(**changes)) != digest_of(settings())
