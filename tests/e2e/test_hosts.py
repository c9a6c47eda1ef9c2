import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from socket import create_connection
from time import monotonic, sleep

import pytest

from tests.e2e.faults import CannotRun
from tests.e2e.hosts import Host, network

PORT = 7000
PATIENCE = 60.0  # seconds; a bound for a slow machine, never waited for
SILENT = 0.5  # seconds without an answer
ECHO = f"""
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
socketserver.ThreadingTCPServer(("", {PORT}), Echo).serve_forever()
"""
ASK = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {PORT}), timeout={SILENT}) as there:
    there.sendall(b"hello\\n")
    sys.exit(there.recv(6) != b"hello\\n")
"""


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two hosts; one answers on a port."""
    try:
        with network("a", "b") as hosts, subprocess.Popen(hosts[0].command(sys.executable, "-c", ECHO)):
            until(lambda: reaches(hosts[0]))
            yield hosts
            hosts[0].kill()
    except CannotRun as reason:
        pytest.skip(f"not run: {reason}")


def until(true: Callable[[], bool]) -> None:
    ends = monotonic() + PATIENCE
    while not true():
        assert monotonic() < ends
        sleep(0.05)


def reaches(there: Host, here: Host | None = None) -> bool:
    """Whether a host, or this process, gets an answer from the other."""
    ask = [sys.executable, "-c", ASK, there.address]
    return not subprocess.call(here.command(*ask) if here else ask, stderr=subprocess.DEVNULL)


def test_hosts_that_are_parted_do_not_reach_each_other_but_this_process_reaches_both(hosts):
    a, b = hosts
    assert reaches(a, b)
    b.part(a)
    assert not reaches(a, b)
    assert reaches(a)
    b.meet(a)
    assert reaches(a, b)


def test_a_connection_of_a_host_that_is_unplugged_stays_open_and_silent(hosts):
    a, _ = hosts
    with closing(create_connection((a.address, PORT), timeout=SILENT)) as there:
        a.unplug()
        there.sendall(b"hello\n")
        with pytest.raises(TimeoutError):
            there.recv(6)
        a.plug()
        there.settimeout(PATIENCE)
        assert there.recv(6) == b"hello\n"


def test_a_frozen_host_takes_connections_and_answers_when_it_is_thawed(hosts):
    a, _ = hosts
    a.freeze()
    with closing(create_connection((a.address, PORT), timeout=SILENT)) as there:
        there.sendall(b"hello\n")
        with pytest.raises(TimeoutError):
            there.recv(6)
        a.thaw()
        there.settimeout(PATIENCE)
        assert there.recv(6) == b"hello\n"


def test_a_host_that_is_killed_refuses_connections(hosts):
    a, _ = hosts
    a.kill()
    with pytest.raises(ConnectionRefusedError):
        create_connection((a.address, PORT), timeout=PATIENCE)
