"""Hosts of a network that a test makes for itself: namespaces on one bridge, each with an address of its own."""

import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from time import monotonic, sleep
from typing import NamedTuple

from tests.e2e.faults import CannotRun

GONE_WITHIN = 60.0  # seconds; a bound for a slow machine, never waited for


class Host(NamedTuple):
    """A network namespace with one address.

    Attributes:
        name: Of the namespace.
        address: On the bridge. The test's own process reaches it too.
        cable: The bridge's end of what connects it.
    """

    name: str
    address: str
    cable: str

    def command(self, *command: str | Path) -> list[str]:
        """The command line that runs this command on the host."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    @property
    def outside(self) -> str:
        """The address at which this host reaches the test's own process."""
        return self.address.rpartition(".")[0] + ".1"

    def ask(self, name_server: str) -> None:
        """Lets what is started here from now on ask a name server."""
        folder = CONFIGURATIONS / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(f"nameserver {name_server}\n")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The sockets that this thread makes are the host's, and stay so. Nothing may be awaited meanwhile."""
        with Path("/proc/thread-self/ns/net").open() as before, Path("/run/netns", self.name).open() as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def unplug(self) -> None:
        """Lets nobody reach it any more, without telling anybody."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """Ends `unplug`. Its kernel looks for its neighbours anew: else it goes on for seconds failing to find them."""
        _ip("link", "set", self.cable, "up")
        _ip("-n", self.name, "neigh", "flush", "dev", "eth0")

    def part(self, *others: "Host") -> None:
        """Drops what this host and the others send each other, in silence: their connections are half-open."""
        for here, there in _both_ways(self, others):
            _ip("-n", here.name, "rule", "add", "priority", "50", "from", there.address, "blackhole")

    def meet(self, *others: "Host") -> None:
        """Ends `part`."""
        for here, there in _both_ways(self, others):
            _ip("-n", here.name, "rule", "del", "priority", "50", "from", there.address)

    def kill(self) -> None:
        """Ends all processes that run there, as a loss of power would, and waits until they are gone."""
        self._signal(SIGKILL)
        until = monotonic() + GONE_WITHIN
        while _ip("netns", "pids", self.name) and monotonic() < until:
            sleep(0.01)

    def freeze(self) -> None:
        """Stops all processes that run there. Their connections stay, and the kernel still accepts new ones."""
        self._signal(SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        self._signal(SIGCONT)

    def _signal(self, number: int) -> None:
        signalled: set[str] = set()
        while new := set(_ip("netns", "pids", self.name).split()) - signalled:  # one may have begun another meanwhile
            for process in new:
                with suppress(ProcessLookupError):
                    os.kill(int(process), number)
            signalled |= new


NUMBERS = count()

CONFIGURATIONS = Path("/etc/netns")
"""What is in the folder of a host's name there takes the place of files in /etc (ip-netns(8))."""


@contextmanager
def network(*names: str) -> Iterator[list[Host]]:
    """Makes hosts that reach each other.

    What runs on a host listens at its address or at its own 127.0.0.1, which no other host sees. All that still runs
    there at the end is killed.

    Raises:
        CannotRun: only root may make network namespaces, and not in every container.
    """
    net = f"10.{random.randrange(128, 255)}.{random.randrange(256)}"  # noqa: S311 - tests run side by side
    bridge = f"pb{os.getpid()}.{next(NUMBERS)}"  # a new one each time: the kernel removes a host's cable later
    with ExitStack() as stack:
        if os.geteuid() != 0 or shutil.which("ip") is None or not _makes("link", "add", bridge, "type", "bridge"):
            raise CannotRun("only root can make network namespaces, and not in every container")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        hosts = []
        for number, name in enumerate(names, 2):
            host = Host(f"{bridge}-{name}", f"{net}.{number}", f"{bridge}-{number}")
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            stack.callback(shutil.rmtree, CONFIGURATIONS / host.name, ignore_errors=True)
            stack.callback(host.kill)
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.cable, "master", bridge, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip("-n", host.name, "rule", "add", "priority", "100", "lookup", "local")
            _ip("-n", host.name, "rule", "del", "priority", "0")  # so that a rule of `part` can come before it
            hosts.append(host)
        yield hosts


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns failed")


def _both_ways(host: Host, others: tuple[Host, ...]) -> Iterator[tuple[Host, Host]]:
    for other in others:
        yield host, other
        yield other, host


def _makes(*arguments: str) -> bool:
    return not subprocess.call(["ip", *arguments], stderr=subprocess.DEVNULL)  # noqa: S607


def _ip(*arguments: str) -> str:
    return subprocess.check_output(["ip", *arguments], text=True)  # noqa: S607
