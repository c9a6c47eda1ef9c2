"""Commands work with standard streams that are closed, full, not read, or in an encoding without most letters."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM
from time import monotonic, sleep

import pytest

from tests.e2e.conftest import ENDS_WITHIN, configured, environment_for, request

BAD = [
    ">/dev/full",
    "2>/dev/full",
    "<&- >&- 2>&-",
    "> >(true)",
    "2> >(true)",
    "2> >(exec sleep 1000)",
]
PATIENCE = 60.0  # seconds


@contextmanager
def started(folder: Path, redirected: str, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose streams the shell has redirected."""
    command = shlex.join([sys.executable, "-m", "app", *arguments])
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command} {redirected}"],  # noqa: S607
            cwd=folder,
            env=environment_for(**settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, SIGKILL)  # a reader too
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def status_of(port: int, content: bytes, *, times: int = 1) -> list[bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        found = []
        for _ in range(times):
            wire.sendall(content)
            found.append(wire.recv(65536).split(b" ")[1])
        return found


def until(happened: Callable[[], object]) -> None:
    ends = monotonic() + PATIENCE
    while not happened():
        assert monotonic() < ends
        sleep(0.05)


def listens(port: int) -> bool:
    try:
        return status_of(port, request(method="GET", target="/healthz")) == [b"200"]
    except OSError:
        return False


@pytest.mark.parametrize("redirected", BAD)
def test_a_first_start_serves_and_ends_with_0_whatever_its_streams_are(tmp_path, redirected):
    port = free_port()
    with started(tmp_path, redirected, "serve", "--no-worker", "--port", str(port)) as process:
        until(lambda: listens(port) or process.poll() is not None)
        answers = status_of(port, request(authorization=None), times=1000)  # more log lines than a pipe holds
        assert set(answers) == {b"401"}
        process.send_signal(SIGTERM)
        assert process.wait(ENDS_WITHIN) == 0
    assert b"Traceback" not in (tmp_path / "err").read_bytes()


def test_a_first_start_shows_its_secrets_on_a_terminal_that_lacks_most_letters(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    port = free_port()
    with started(tmp_path, "", "serve", "--no-worker", "--port", str(port)) as process:
        until(lambda: b"webhook_auth" in (tmp_path / "out").read_bytes() or process.poll() is not None)
        process.send_signal(SIGTERM)
        assert process.wait(ENDS_WITHIN) == 0
    assert b"Traceback" not in (tmp_path / "err").read_bytes()


@pytest.mark.parametrize("command", [["settings"], ["--help"]])
def test_a_command_that_cannot_write_says_so_and_exits_with_1(tmp_path, command):
    with started(tmp_path, ">/dev/full", *command) as process:
        assert process.wait(ENDS_WITHIN) == 1
    assert (tmp_path / "err").read_text() == ("priohook: standard output could not be used: No space left on device.\n")


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_command_without_one_of_its_streams_does_its_work(tmp_path, redirected):
    with started(tmp_path, redirected, "settings") as process:
        assert process.wait(ENDS_WITHIN) == 0


def test_a_command_whose_reader_has_gone_ends_quietly(tmp_path):
    with started(tmp_path, "> >(exec true)", "settings") as process:
        assert process.wait(ENDS_WITHIN) in (0, 1)
    assert (tmp_path / "err").read_bytes() == b""


def test_a_list_on_a_terminal_that_lacks_a_letter_replaces_it(serve, priohook, sqlite_url, monkeypatch):
    settings = configured(sqlite_url)
    body = b'{"data": {"notification": {"notification_event": "X", "notification_item_id": "\xe6\xb3\xa8 1"}}}'
    server = serve(**settings)
    assert status_of(server.address[1], request(body)) == [b"200"]
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = priohook("events", "list", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "? 1" in done.stdout


def test_a_file_that_cannot_be_read_is_named_and_not_the_database(priohook, tmp_path):
    (tmp_path / "priohook-clients.toml").mkdir()
    done = priohook("serve", "--port", "0")
    assert done.returncode == 1
    assert "priohook-clients.toml" in done.stderr
    assert "database_url" not in done.stderr
    assert "Traceback" not in done.stderr
