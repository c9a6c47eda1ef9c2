from ipaddress import ip_network

from app.server.connections import Connections

HERE, ELSEWHERE, PROXY = "192.0.2.1", "192.0.2.2", "198.51.100.7"


class Opened:
    def __init__(self, since: float | None) -> None:
        self.since = since
        self.dropped = False

    def waiting_since(self) -> float | None:
        return self.since

    def drop(self, why: str) -> None:
        self.dropped = True


def fill(connections: Connections, address: str, *waiting: float | None) -> list[Opened]:
    opened = [Opened(since) for since in waiting]
    assert all(connections.admit(each, address) for each in opened)
    return opened


def bounded(most: int = 5, most_of_address: int = 2) -> Connections:
    return Connections(most=most, most_of_address=most_of_address, proxies=[ip_network("198.51.100.0/24")])


def test_at_an_addresss_bound_its_connection_that_waited_longest_makes_room():
    connections = bounded()
    other = fill(connections, ELSEWHERE, 0.5)
    opened = fill(connections, HERE, 3, 1, 4)
    assert [each.dropped for each in opened] == [False, True, False]
    assert not other[0].dropped


def test_at_the_bound_of_all_the_connection_that_waited_longest_makes_room():
    connections = bounded(most=3)
    opened = fill(connections, HERE, 2, 5)
    others = fill(connections, ELSEWHERE, 1, 4)
    assert [each.dropped for each in opened + others] == [False, False, True, False]


def test_a_connection_with_a_request_under_way_never_makes_room():
    connections = bounded()
    opened = fill(connections, HERE, None, None)
    assert not connections.admit(Opened(9), HERE)
    assert not any(each.dropped for each in opened)
    fill(connections, ELSEWHERE, None)


def test_one_that_left_has_made_room():
    connections = bounded()
    first, _ = fill(connections, HERE, None, None)
    connections.left(first)
    connections.left(first)
    fill(connections, HERE, None)
    assert not connections.admit(Opened(9), HERE)


def test_one_that_was_not_admitted_does_not_count():
    connections = bounded()
    fill(connections, HERE, None, None)
    refused = Opened(9)
    assert not connections.admit(refused, HERE)
    connections.left(refused)
    assert not connections.admit(Opened(9), HERE)


def test_a_proxys_connections_are_bounded_by_all_alone():
    connections = bounded()
    fill(connections, PROXY, *[None] * 5)
    assert not connections.admit(Opened(9), PROXY)


def test_the_addresses_of_one_ipv6_network_count_together():
    connections = bounded()
    fill(connections, "2001:db8::1", None)
    fill(connections, "2001:db8::2", None)
    assert not connections.admit(Opened(9), "2001:db8::3")
    fill(connections, "2001:db8:0:1::1", None)
