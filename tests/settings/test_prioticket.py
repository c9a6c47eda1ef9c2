import json

import pytest

from app.settings.model import Settings, SettingsProblem

WHOLE = {
    "base_url": "https://distributor-api.prioticket.com/v3.8/distributor",
    "client_id": "demo",
    "client_secret": "not&a@real#secret^$",
}


def loaded(monkeypatch: pytest.MonkeyPatch, **values: object) -> Settings:
    monkeypatch.setenv("PRIOHOOK_PRIOTICKET", json.dumps(WHOLE | values))
    return Settings.load()


def test_without_the_table_there_is_no_account():
    assert Settings.load().prioticket is None


def test_the_table_has_defaults_and_keeps_odd_secrets_as_they_are(monkeypatch):
    prioticket = loaded(monkeypatch).prioticket
    assert prioticket
    assert prioticket.client_secret.get_secret_value() == "not&a@real#secret^$"
    assert (prioticket.timeout.total_seconds(), prioticket.rate, prioticket.scope) == (60, 5, None)


def test_it_fits_into_environment_variables(monkeypatch):
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"PRIOHOOK_PRIOTICKET__{name.upper()}", value)
    assert Settings.load().prioticket == loaded(monkeypatch).prioticket


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8099/v3.8/distributor",
        "http://[::1]:1",
        "http://10.1.2.3",
        "http://localhost",
        "http://fake:1",
    ],
)
def test_http_is_right_for_what_is_near(monkeypatch, url):
    prioticket = loaded(monkeypatch, base_url=f"{url}/").prioticket
    assert prioticket
    assert prioticket.base_url == url


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("base_url", "http://distributor-api.prioticket.com/v3.8", "must begin with https://"),
        ("base_url", "http://8.8.8.8/v3.8", "must begin with https://"),
        ("base_url", "https://me:hidden-one@api.example/", "must have no credentials"),
        ("base_url", "https://api.example/?key=hidden-one", "must have no credentials"),
        ("base_url", "api.example", "must be a URL such as"),
        ("base_url", "https://api.example:0", "must have a host"),
        ("client_id", "a:b", "must not have a colon"),
        ("client_secret", "hidden-one\n", "client_secret must not have a control character"),
        ("api_key", "hidden-one\x00", "api_key must not have a control character"),
        ("timeout", 301, "must be 300 seconds at most"),
        ("rate", 17, "less than or equal to 16"),
        ("enriched", True, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_used_is_named_and_not_shown(monkeypatch, name, value, complaint):
    with pytest.raises(SettingsProblem) as raised:
        loaded(monkeypatch, **{name: value})
    assert complaint in str(raised.value)
    assert "hidden-one" not in str(raised.value)
    assert "not&a@real" not in str(raised.value)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_table_needs_all_that_a_request_needs(monkeypatch, name):
    monkeypatch.setenv("PRIOHOOK_PRIOTICKET", json.dumps({key: WHOLE[key] for key in WHOLE if key != name}))
    with pytest.raises(SettingsProblem, match=rf"prioticket\.{name}: Field required"):
        Settings.load()


def test_no_representation_shows_a_secret(monkeypatch):
    settings = loaded(monkeypatch, api_key="hidden-key")
    assert "not&a@real" not in repr(settings) + str(settings)
    assert "hidden-key" not in repr(settings) + str(settings)


@pytest.mark.parametrize(("written", "seconds"), [("15m", 900), ("1.5h", 5400), ("2d", 172_800), (90, 90), ("90", 90)])
def test_how_often_to_reconcile_is_written_with_a_unit_or_in_seconds(monkeypatch, written, seconds):
    prioticket = loaded(monkeypatch, reconcile_every=written).prioticket
    assert prioticket
    assert prioticket.reconcile_every
    assert prioticket.reconcile_every.total_seconds() == seconds


@pytest.mark.parametrize("written", ["59s", 0, "-15m", "often", "15 m"])
def test_it_reconciles_once_a_minute_at_most(monkeypatch, written):
    with pytest.raises(SettingsProblem, match=r"prioticket\.reconcile_every"):
        loaded(monkeypatch, reconcile_every=written)


@pytest.mark.parametrize(("enrich", "usable"), [(True, True), (False, False)])
def test_a_destination_that_waits_for_orders_needs_a_prioticket_that_is_asked_for_them(monkeypatch, enrich, usable):
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", '{"erp": {"url": "https://erp.example/in", "thin": "snapshot"}}')
    if usable:
        assert loaded(monkeypatch, enrich=enrich).destinations["erp"].thin == "snapshot"
    else:
        with pytest.raises(SettingsProblem, match="needs enrich = true"):
            loaded(monkeypatch, enrich=enrich)
