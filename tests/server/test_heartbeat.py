import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from socket import socketpair
from time import monotonic, sleep

import pytest

from app.server import beside, heartbeat
from app.telemetry.logs import LogWriter

pytestmark = pytest.mark.slow

PATIENCE = 120  # seconds, on a busy machine

HANGS = """
import asyncio, sys, time
from app.server.heartbeat import beating

async def main():
    async with beating(lambda: {"erp": ["one"]}, line=int(sys.argv[1]) or None, hung=1.0):
        await asyncio.sleep(0.1)
        time.sleep(3600)

asyncio.run(main())
"""


def test_a_loop_that_hangs_ends_its_process_and_says_where_it_was_and_what_was_under_way():
    ours, theirs = socketpair()
    pulse = heartbeat.Pulse(ours)
    with theirs:
        command = [sys.executable, "-c", HANGS, str(theirs.fileno())]
        done = subprocess.run(command, pass_fds=[theirs.fileno()], timeout=PATIENCE, check=False)
    assert done.returncode == 1
    words = pulse.last_words()
    assert words["doing"] == {"erp": ["one"]}
    assert "in main" in words["traceback"]
    ours.close()


def test_a_worker_by_itself_that_hangs_ends_and_says_where_on_standard_error():
    command = [sys.executable, "-c", HANGS, "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "in main" in done.stderr


def test_a_worker_that_gives_no_sign_of_life_is_killed_and_another_one_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated_sqlite: Path
):
    (tmp_path / "priohook.db").write_bytes(Path(migrated_sqlite).read_bytes())
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}")
    monkeypatch.setattr(heartbeat, "BEGINS_WITHIN", 3.0)
    monkeypatch.setattr(heartbeat, "KILLED_AFTER", 3.0)
    monkeypatch.setattr(beside, "FIRST_WAIT", 0.1)
    path = tmp_path / "log"
    with path.open("w") as stream:
        log = LogWriter(stream, style="json")
        with log.running():
            before = _children()
            worker = beside.Beside(log)
            (stopped,) = _children() - before
            os.kill(stopped, signal.SIGSTOP)
            try:
                ends = monotonic() + PATIENCE
                while "worker_hung" not in path.read_text() or not _children() - before - {stopped}:
                    assert monotonic() < ends
                    worker.look()
                    sleep(0.05)
            finally:
                worker.end()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert next(line["status"] for line in lines if line["event"] == "worker_ended") == "SIGKILL"


def _children() -> set[int]:
    return {int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
