"""The stream and `priohook listen` with real processes."""

import json
import os
import re
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
from uuid import UUID

import pytest

from tests.conftest import SECRET, TOKEN_KEY, bearer_header
from tests.e2e.conftest import ENDS_WITHIN, configured, dial, environment_for, new_event, request


@contextmanager
def consumer(status: int = 204, *, port: int = 0) -> Iterator[tuple[str, Queue[tuple[dict[str, str], bytes]]]]:
    """A program that takes events: its URL, and what it got."""
    got: Queue[tuple[dict[str, str], bytes]] = Queue()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.put((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with answering(Taking, port) as url:
        yield f"{url}/hook", got


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
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
        _, said = process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "ignored" not in said


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


def test_the_bytes_and_headers_are_those_that_arrived(serve, database_url, tmp_path):
    server = serve(**configured(database_url, token_keys=json.dumps([TOKEN_KEY])))
    body = b'{"data": {"x": "\\u00e9\xc3\xa9"}}  \n'
    with consumer() as (url, got), listening(tmp_path, url, server.url):
        theirs = ("X-Guest: Zo\xc3\xab", "Accept: */*", "webhook-id: theirs")
        sent = request(body, *theirs, content_type="content-type: Application/JSON; v=1")
        with dial(server) as wire:
            assert wire.send(sent).reply().status == 200
        headers, posted = got.get(timeout=ENDS_WITHIN)
    assert posted == body
    assert headers["content-type"] == "Application/JSON; v=1"
    assert headers["x-guest"].encode("latin-1") == b"Zo\xc3\xab"
    assert headers["accept"] == "*/*"
    assert UUID(headers["webhook-id"])
    assert not {"authorization", "User-Agent", "Accept-Encoding"} & set(headers)


def test_an_event_waits_while_the_program_is_away_and_a_refusal_is_shown(serve, database_url, tmp_path):
    server = serve(**configured(database_url, token_keys=json.dumps([TOKEN_KEY])))
    first, second = new_event(), new_event()
    with consumer() as (url, _):
        port = int(url.split(":")[2].split("/")[0])
    with listening(tmp_path, url, server.url) as process:
        post(server, first, second)
        assert process.stderr
        assert process.stdout
        assert "does not answer" in process.stderr.readline()
        with consumer(503, port=port) as (_, got):
            assert [got.get(timeout=ENDS_WITHIN)[1] for _ in range(2)] == [first, second]
            assert re.fullmatch(r"\d\d:\d\d:\d\d\t503\t\d+ ms\t.*\n", process.stdout.readline())


def test_events_come_also_where_their_place_cannot_be_kept(serve, database_url, tmp_path):
    server = serve(**configured(database_url, token_keys=json.dumps([TOKEN_KEY])))
    (tmp_path / "priohook").touch()  # where the folder should be
    bodies = [new_event() for _ in range(2)]
    with consumer() as (url, got), listening(tmp_path, url, server.url) as process:
        post(server, *bodies)
        assert process.stderr
        assert "cannot be kept for --since last" in process.stderr.readline()
        assert [got.get(timeout=ENDS_WITHIN)[1] for _ in bodies] == bodies
        process.terminate()
        assert process.stderr.read() == ""


def test_on_a_terminal_r_posts_the_last_event_again(serve, database_url, tmp_path):
    server = serve(**configured(database_url, token_keys=json.dumps([TOKEN_KEY])))
    environment = environment_for() | {"LISTEN_USER": f"reader:{SECRET}", "XDG_STATE_HOME": str(tmp_path)}
    with consumer() as (url, got):
        # In a job that a shell started in the background SIGINT is ignored, and what it starts inherits that.
        on_terminal = "import pty, signal, sys; signal.signal(2, signal.SIG_DFL); pty.spawn(sys.argv[1:])"
        command = [sys.executable, "-c", on_terminal, sys.executable, "-m", "app", "listen", url, "--from", server.url]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=-1, stdout=-1) as process:
            assert process.stdin
            assert process.stdout
            try:
                assert b"Listening to" in process.stdout.readline()
                event = new_event()
                post(server, event)
                first = got.get(timeout=ENDS_WITHIN)
                assert b"204" in process.stdout.readline()
                process.stdin.write(b"r")
                process.stdin.flush()
                assert got.get(timeout=ENDS_WITHIN) == first
                process.stdin.write(b"\x03")  # Ctrl-C
                process.stdin.flush()
                assert process.wait(ENDS_WITHIN) == 0
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("status", "media_type", "said"),
    [
        (302, "text/html", "answers 302"),
        (401, "application/json", "LISTEN_USER"),
        (403, "application/json", "answers 403"),
        (404, "application/json", "no stream"),
        (200, "text/html", "no stream"),
    ],
)
def test_what_is_not_the_stream_ends_listen_with_a_reason(priohook, status, media_type, said):
    asked = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with answering(Other) as source:
        run = priohook("listen", "http://127.0.0.1:9/hook", "--from", source, "--token", "token")
    assert run.returncode == 1
    assert said in run.stderr
    assert asked[0]["Accept-Encoding"] == "identity"  # a proxy that compresses holds events back


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
