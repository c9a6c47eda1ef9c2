"""The stream and `priohook listen` with real processes."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from signal import SIGTERM
from threading import Thread
from time import monotonic

import pytest

from tests.conftest import SECRET, TOKEN_KEY, bearer_header
from tests.e2e.conftest import ENDS_WITHIN, configured, dial, environment_for, new_event, request


@contextmanager
def consumer() -> Iterator[tuple[str, Queue[tuple[dict[str, str], bytes]]]]:
    """A program that takes events: its URL, and what it got."""
    got: Queue[tuple[dict[str, str], bytes]] = Queue()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.put((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def listening(folder: Path, url: str, source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = environment_for() | {"LISTEN_USER": f"reader:{SECRET}", "XDG_STATE_HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "listen", url, "--from", source, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        assert "Listening to" in process.stderr.readline()
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=ENDS_WITHIN)


def post(server, *bodies: bytes) -> None:
    with dial(server) as wire:
        for body in bodies:
            assert wire.send(request(body)).reply().status == 200


def test_listen_goes_on_across_restarts_of_itself_and_of_the_receiver(serve, database_url, tmp_path):
    settings = configured(database_url, token_keys=json.dumps([TOKEN_KEY]))
    server = serve(**settings)
    bodies = [new_event() for _ in range(6)]
    with consumer() as (url, got):
        with listening(tmp_path, url, server.url, "--json") as process:
            post(server, *bodies[:2])
            first = [got.get(timeout=ENDS_WITHIN) for _ in range(2)]
            assert process.stdout
            assert json.loads(process.stdout.readline())["status"] == 204
            json.loads(process.stdout.readline())
            post(server, bodies[2])
            first.append(got.get(timeout=ENDS_WITHIN))
            assert json.loads(process.stdout.readline())["status"] == 204
            port = server.address[1]
            server.close()
            server = serve("--port", str(port), **settings)
            post(server, bodies[3])
            first.append(got.get(timeout=ENDS_WITHIN))
            json.loads(process.stdout.readline())
            keep_until_written(tmp_path, server, process)
        post(server, bodies[4])  # nobody listens
        with listening(tmp_path, url, server.url, "--json", "--since", "last"):
            post(server, bodies[5])
            rest = [got.get(timeout=ENDS_WITHIN) for _ in range(2)]
        assert [body for _, body in first + rest] == bodies
        assert got.empty()
        assert first[0][0]["content-type"] == "application/json"
        assert "authorization" not in first[0][0]


def keep_until_written(folder: Path, server, process) -> None:
    """Waits until the place after the last event is kept: it is written after the line is printed."""
    deadline = monotonic() + ENDS_WITHIN
    file = folder / "priohook" / "listen.json"
    with urllib.request.urlopen(  # noqa: S310 - http
        urllib.request.Request(f"{server.url}/api/events?limit=1", headers=bearer_header())  # noqa: S310
    ) as answer:
        newest = json.loads(answer.read())["events"][0]["id"].replace("-", "")
    while newest not in file.read_text():
        assert monotonic() < deadline


def test_a_server_with_open_streams_ends_at_once(serve, database_url):
    server = serve(**configured(database_url, token_keys=json.dumps([TOKEN_KEY])))
    stream = request(
        method="GET",
        target="/api/events/stream",
        authorization="Authorization: " + bearer_header()["Authorization"],
        content_type=None,
        length=None,
    )
    with dial(server) as wire:
        assert wire.send(stream).reply().status == 200
        started = monotonic()
        server.signal(SIGTERM)
        assert server.wait() == 0
    assert monotonic() - started < 10  # `timeout_graceful_shutdown` is 16 s
    assert "Traceback" not in server.stderr


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("http://10.0.0.1/hook", "https://host"),
        ("http://127.0.0.1@host/", "https://host"),
        ("http://[::1]:1/", "http://host"),
    ],
)
def test_listen_posts_to_this_machine_only_and_sends_its_token_over_tls_only(priohook, url, source):
    run = priohook("listen", url, "--from", source, "--token", "token")
    assert run.returncode == 2
    assert os.linesep in run.stderr
