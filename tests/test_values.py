import pytest

from app.values import short_name, without_password


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@host:8443/in",
        "https://secret@host:8443/in",
        "https://host:8443/secret",
        "https://host:8443?secret",
    ],
)
def test_a_short_name_has_the_host_and_no_secret(url):
    assert short_name(url).startswith("https://host:8443#")
    assert "secret" not in short_name(url)


def test_two_urls_have_two_short_names():
    assert short_name("https://me:one@host/") != short_name("https://me:two@host/")


def test_a_password_is_masked():
    assert without_password("https://me:secret@host/in?a=b") == "https://me:***@host/in?a=b"
