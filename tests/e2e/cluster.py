"""PostgreSQL on three hosts, with Patroni and etcd on each: set up as docs/failover.md says."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pwd import getpwnam
from time import monotonic, sleep
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

import asyncpg
import yaml

from tests import postgres
from tests.e2e.faults import CannotRun, small_disk
from tests.e2e.hosts import Host, network

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "patroni" / "patroni.yml"
QUICK = {"ttl": 5, "loop_wait": 1, "retry_timeout": 2}
"""Seconds; shorter than in the file, so that a test does not wait as long."""

DEBIANS = Path("/usr/lib/postgresql/15/bin")
"""The programs of the PostgreSQL that Debian's Patroni is made for. Without them, the oldest of the wheel will do."""

NAMES = ("a", "b", "c")
PATIENCE = 300.0  # seconds; a bound for a slow machine, never waited for
ANSWER_WITHIN = 2.0  # seconds
MEGABYTES = 2000
PASSWORD = "a-password-of-tests-alone"
RUNNING = ("running", "streaming")


class Files(NamedTuple):
    """What the nodes use.

    Attributes:
        folder: Has a folder for each node.
        configuration: Patroni's.
        programs: The folder of PostgreSQL's.
        user: Who runs everything.
    """

    folder: Path
    configuration: Path
    programs: Path
    user: str


class Node:
    """A host with PostgreSQL, Patroni and etcd."""

    def __init__(self, host: Host, name: str, files: Files) -> None:
        self.host = host
        self.name = name
        self._files = files
        self._folder = files.folder / name
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, peers: Sequence["Node"]) -> None:
        """Starts what does not run."""
        self.start_etcd(peers)
        self._start("patroni", ["patroni", str(self._files.configuration)], self.environment(peers))

    def start_etcd(self, peers: Sequence["Node"]) -> None:
        self._start("etcd", ["etcd"], self.etcd(peers))

    def etcd(self, peers: Sequence["Node"]) -> dict[str, str]:
        """What is in `/etc/default/etcd`."""
        address = self.host.address
        return {
            "ETCD_NAME": self.name,
            "ETCD_DATA_DIR": str(self._folder / "etcd"),
            "ETCD_LISTEN_PEER_URLS": f"http://{address}:2380",
            "ETCD_LISTEN_CLIENT_URLS": f"http://{address}:2379",
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": f"http://{address}:2380",
            "ETCD_ADVERTISE_CLIENT_URLS": f"http://{address}:2379",
            "ETCD_ENABLE_V2": "true",
            "ETCD_INITIAL_CLUSTER": ",".join(f"{peer.name}=http://{peer.host.address}:2380" for peer in peers),
        }

    def environment(self, peers: Sequence["Node"]) -> dict[str, str]:
        """What is in `/etc/patroni_env.conf`."""
        address = self.host.address
        return {
            "PATRONI_NAME": self.name,
            "PATRONI_ETCD_HOSTS": ",".join(f"{peer.host.address}:2379" for peer in peers),
            "PATRONI_RESTAPI_LISTEN": f"{address}:8008",
            "PATRONI_RESTAPI_CONNECT_ADDRESS": f"{address}:8008",
            "PATRONI_POSTGRESQL_LISTEN": f"{address}:5432",
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": f"{address}:5432",
            "PATRONI_POSTGRESQL_DATA_DIR": str(self._folder / "data"),
            "PATRONI_POSTGRESQL_BIN_DIR": str(self._files.programs),
            "PATRONI_POSTGRESQL_PGPASS": str(self._folder / "pgpass"),
            "PATRONI_SUPERUSER_USERNAME": "postgres",
            "PATRONI_SUPERUSER_PASSWORD": PASSWORD,
            "PATRONI_REPLICATION_USERNAME": "replicator",
            "PATRONI_REPLICATION_PASSWORD": PASSWORD,
        }

    def log(self, program: str) -> str:
        return (self._folder / f"{program}.log").read_text(errors="replace")

    def lose_power(self) -> None:
        """Ends everything that runs there, and nobody is told."""
        self.host.unplug()
        self.kill()

    def kill(self) -> None:
        self.host.kill()
        for process in self._running.values():
            process.wait(PATIENCE)
        self._running.clear()

    def end_etcd(self) -> None:
        etcd = self._running.pop("etcd")
        etcd.kill()
        etcd.wait(PATIENCE)

    def ask(self, path: str, *, change: object = None, method: str = "GET") -> Any:
        """What Patroni answers there; None if it does not."""
        body = None if change is None else json.dumps(change).encode()
        try:
            request = Request(f"http://{self.host.address}:8008{path}", data=body, method=method)
            with urlopen(request, timeout=ANSWER_WITHIN) as answer:  # noqa: S310 - the URL is ours
                return json.load(answer)
        except (URLError, OSError, ValueError):
            return None

    def _start(self, name: str, command: Sequence[str], settings: dict[str, str]) -> None:
        if name in self._running:
            return
        with (self._folder / f"{name}.log").open("ab") as log:
            user = getpwnam(self._files.user)
            as_user = ("setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--init-groups")
            self._running[name] = subprocess.Popen(
                self.host.command(*as_user, *command),
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self._folder), **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


class Cluster:
    """The three nodes, one of which is the primary."""

    def __init__(self, nodes: Sequence[Node], configuration: Path) -> None:
        self.nodes = nodes
        self._configuration = configuration

    def url(self, database: str, *, user: str = "postgres") -> str:
        """As in `database_url`: it names all hosts."""
        hosts = ",".join(node.host.address for node in self.nodes)
        return f"postgresql://{user}:{PASSWORD}@/{database}?host={hosts}&tcp_user_timeout=5000"

    def start(self, *nodes: Node) -> None:
        for node in nodes or self.nodes:
            node.start(self.nodes)

    def members(self) -> list[dict[str, Any]]:
        """What the members say of themselves, as `patronictl list` shows it; nothing while no leader tells."""
        for node in self.nodes:
            if node.ask("/primary") and (told := node.ask("/cluster")):
                return list(told["members"])
        return []

    def with_role(self, role: str) -> list[Node]:
        """The nodes that are `leader`, `sync_standby` or `replica`."""
        names = [member["name"] for member in self.members() if member["role"] == role]
        return [node for node in self.nodes if node.name in names]

    def until_well(self, *, count: int = 3, synchronous: bool = True) -> None:
        """Waits until so many nodes run on one timeline, one of them as synchronous standby if there should be one."""
        self.until(lambda: self._is_well(count, synchronous=synchronous))

    def until(self, true: Any) -> None:
        ends = monotonic() + PATIENCE
        while not true():
            assert monotonic() < ends, "\n".join(
                [str(self.members()), *(node.log("patroni")[-3000:] for node in self.nodes)]
            )
            sleep(0.2)

    def switch_over(self) -> None:
        """Makes the synchronous standby primary, as an operator does."""
        (leader,), (standby,) = self.with_role("leader"), self.with_role("sync_standby")
        command = ["patronictl", "-c", str(self._configuration), "switchover", "--force"]
        done = subprocess.run(
            leader.host.command(*command, "--master", leader.name, "--candidate", standby.name, "priohook"),
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **leader.environment(self.nodes)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def change(self, **settings: object) -> None:
        """Changes what all nodes share, as `patronictl edit-config` does."""
        (leader,) = self.with_role("leader")
        self.until(lambda: leader.ask("/config", change=settings, method="PATCH") is not None)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Runs statements on the primary."""

        async def run() -> None:
            (leader,) = self.with_role("leader")
            connection = await asyncpg.connect(
                host=leader.host.address, port=5432, user="postgres", password=PASSWORD, database=database
            )
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    def _is_well(self, count: int, *, synchronous: bool) -> bool:
        members = [member for member in self.members() if member["state"] in RUNNING]
        roles = [member["role"] for member in members]
        return (
            len(members) >= count
            and roles.count("leader") == 1
            and roles.count("sync_standby") == synchronous
            and len({member.get("timeline") for member in members}) == 1
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster.

    Raises:
        CannotRun: there is no Patroni or etcd, or no network of its own.
    """
    if missing := [name for name in ("patroni", "etcd", "setpriv") if shutil.which(name) is None]:
        raise CannotRun(f"Debian's {missing[0]} is not installed")
    with network(*NAMES) as hosts, small_disk(MEGABYTES) as disk:  # in memory: no test here loses what a disk holds
        folder = disk.folder
        folder.chmod(0o755)
        configuration = folder / "patroni.yml"
        written = yaml.safe_load(CONFIGURATION.read_text())
        written["bootstrap"]["dcs"] |= QUICK
        written["postgresql"]["parameters"] |= {"unix_socket_directories": ""}  # all hosts share a file system
        configuration.write_text(yaml.safe_dump(written))
        user = postgres.unprivileged()
        programs = DEBIANS if DEBIANS.exists() else postgres.readable(postgres.OLDEST, folder, user)
        nodes = [
            Node(host, name, Files(folder, configuration, programs, user))
            for host, name in zip(hosts, NAMES, strict=True)
        ]
        for name in NAMES:
            (folder / name).mkdir(mode=0o700)
            shutil.chown(folder / name, user)
        running = Cluster(nodes, configuration)
        running.start()
        try:
            running.until_well()
            yield running
        finally:
            for node in nodes:
                node.kill()
