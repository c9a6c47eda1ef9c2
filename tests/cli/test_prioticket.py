import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["webhooks", "list"], "is not configured"),
        (["order", "PRI00000001"], "is not configured"),
        (["webhooks", "delete"], "Give either ids or --url"),
        (["webhooks", "register"], "Give --url, or set public_url"),
    ],
)
def test_wrong_usage_is_status_2(run, arguments, said):
    done = run("prioticket", *arguments)
    assert done.status == 2
    assert said in done.errors


def test_without_tls_nothing_is_registered_at_the_real_prioticket(run, monkeypatch):
    for name, value in (("BASE_URL", "https://api.example"), ("CLIENT_ID", "demo"), ("CLIENT_SECRET", "not-a-secret")):
        monkeypatch.setenv(f"PRIOHOOK_PRIOTICKET__{name}", value)
    done = run("prioticket", "webhooks", "register", "--url", "http://hooks.example.com")
    assert done.status == 2
    assert "by https://" in done.errors
