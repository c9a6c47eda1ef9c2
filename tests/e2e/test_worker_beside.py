"""The worker that `serve` runs in a second process: how it starts, ends and starts again."""

import json
import os
import resource
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM
from time import monotonic, sleep

import pytest

from tests.e2e.conftest import Served, configured, dial, new_event, request
from tests.e2e.test_deliveries import is_running, worker_of

PATIENCE = 180.0  # seconds


def until(happened) -> None:
    ends = monotonic() + PATIENCE
    while not happened():
        assert monotonic() < ends
        sleep(0.05)


def answers(server: Served) -> int:
    with dial(server) as wire:
        return wire.send(request(new_event())).reply().status


def lines(server: Served, event: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in server.stderr.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def test_it_ends_when_serve_is_killed_while_it_is_still_starting(serve, sqlite_url):
    server = serve(with_worker=True, **configured(sqlite_url))
    worker = worker_of(server)
    server.signal(SIGKILL)
    server.wait()
    until(lambda: not is_running(worker))


def test_it_ends_when_serve_is_killed_while_a_destination_is_imported_for_ever(serve, sqlite_url, tmp_path):
    module = "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(1000)\n"
    (tmp_path / "mine.py").write_text(module)
    destinations = json.dumps({"own": {"url": "python:mine:handle"}})
    server = serve(with_worker=True, **configured(sqlite_url, destinations=destinations))
    until((tmp_path / "importing").exists)
    worker = worker_of(server)
    server.signal(SIGKILL)
    server.wait()
    until(lambda: not is_running(worker))


def test_the_receiver_goes_on_while_no_worker_can_be_started_and_starts_one_later(serve, sqlite_url):
    server = serve(with_worker=True, **configured(sqlite_url))
    assert answers(server) == 200
    worker = worker_of(server)
    open_files = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
    with dial(server) as wire:
        assert wire.send(request(new_event())).reply().status == 200
        _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (open_files, most))
        os.kill(worker, SIGKILL)
        until(lambda: lines(server, "worker_not_started"))
        assert wire.send(request(new_event())).reply().status == 200
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
        until(lambda: len(lines(server, "worker_started")) > 0)
    assert lines(server, "worker_ended")[0]["status"] == "SIGKILL"
    assert server.end() == 0
    assert lines(server, "worker_ended")[-1]["status"] == 0


@pytest.mark.parametrize("signal", [SIGTERM, SIGINT, SIGHUP])
def test_it_is_told_to_end_at_once_and_not_after_the_receiver(serve, sqlite_url, signal):
    server = serve(with_worker=True, **configured(sqlite_url))
    until(lambda: lines(server, "worker_started"))
    worker = worker_of(server)
    sent = request(new_event())
    with dial(server) as wire:
        wire.send(sent[:-20])
        assert answers(server) == 200  # it has read the part by now
        server.signal(signal)
        until(lambda: not is_running(worker))
        assert wire.send(sent[-20:]).reply().status == 200
    assert server.wait() == 0
    assert [line["status"] for line in lines(server, "worker_ended")] == [0]


def test_an_orphan_that_serve_inherits_is_taken_in(serve, sqlite_url, tmp_path):
    module = "import pathlib, subprocess\nchild = subprocess.Popen(['sleep', '1000'])\n"
    module += "pathlib.Path('child').write_text(f'{child.pid}\\n')\n"
    (tmp_path / "mine.py").write_text(module)
    destinations = json.dumps({"own": {"url": "python:mine:handle"}})
    server = serve(with_worker=True, inherits_orphans=True, **configured(sqlite_url, destinations=destinations))
    written = tmp_path / "child"
    until(lambda: written.exists() and written.read_text().endswith("\n"))
    child = int(written.read_text())
    try:
        os.kill(worker_of(server), SIGKILL)
    finally:
        os.kill(child, SIGKILL)
    until(lambda: not Path(f"/proc/{child}").exists())
    assert answers(server) == 200
    assert server.end() == 0
