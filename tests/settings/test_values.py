import pytest

from app.settings.values import host_and_port


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("metrics.internal:0", ("metrics.internal", 0)),
    ],
)
def test_an_address_has_a_host_and_a_port(address, parts):
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address", ["9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "[]:1"]
)
def test_what_lacks_a_host_or_a_port_is_no_address(address):
    with pytest.raises(ValueError, match=r"must be host:port, such as 127\.0\.0\.1:9464"):
        host_and_port(address)
