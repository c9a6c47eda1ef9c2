import pytest

from app.web.addresses import address_of, network


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%" + "x" * 60_000, "fe80::1"),
        ("a", "unknown"),
        ("9" * 60_000, "unknown"),
        ("2001:0db8:0000:0000:0000:0000:255.255.255.255", "2001:db8::ffff:ffff"),
        ("2001:0db8:0000:0000:0000:0000:255.255.255.2555", "unknown"),
        ("192.0.2.1 and more", "unknown"),
        ("", "unknown"),
    ],
)
def test_what_a_proxy_passes_on_is_an_address_or_unknown(host, address):
    assert address_of({"client": (host, 0)}) == address


def test_a_socket_without_addresses_is_unknown():
    assert address_of({"client": None}) == address_of({}) == "unknown"


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_network_is_an_address_or_the_64_bits_that_one_host_owns(address, counted_as):
    assert network(address) == counted_as
