import pytest

from app.settings.urls import masked, short_name


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@host:8443/in",
        "https://secret@host:8443/in",
        "https://host:8443/secret",
        "https://host:8443?secret",
        "https://host:8443#secret",
    ],
)
def test_a_short_name_has_the_host_and_no_secret(url):
    assert short_name(url).startswith("https://host:8443#")
    assert "secret" not in short_name(url)


def test_two_urls_have_two_short_names():
    assert short_name("https://me:one@host/") != short_name("https://me:two@host/")


MASKED = {
    "https://me:secret@host/in?a=b": "https://me:***@host/***?a=***",
    "https://me:se@cr:et@host:8443/@in": "https://me:***@host:8443/***",
    "https://me:se%40cret@host": "https://me:***@host",
    "https://secret@host/in": "https://***@host/***",
    "https://me:se/cret@host/in": "https://me:***",
    "https://me:se?cret@host/in": "https://me:***",
    "https://host/in?to=a@b&token=secret&secret&empty=#secret": "https://host/***?to=***&token=***&***&empty=#***",
    "https://host?secret#secret=1": "https://host?***#***",
    "https://[::1]:8443/in": "https://[::1]:8443/***",
    "https://host/services/T0/B0/secret/": "https://host/***",
    "https://host/": "https://host/",
    "python:tickets:handle": "python:tickets:handle",
}


@pytest.mark.parametrize(("url", "shown"), MASKED.items(), ids=MASKED)
def test_a_url_is_shown_without_its_password_its_path_the_values_of_its_query_and_its_fragment(url, shown):
    assert masked(url) == shown
