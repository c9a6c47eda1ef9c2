import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from threading import Thread
from time import sleep
from typing import ClassVar

import pytest

from tests.conftest import SECRET
from tests.e2e.conftest import ENDS_WITHIN, configured, environment_for
from tests.e2e.load import statuses

USER = f"prioticket:{SECRET}"


class Redirecting(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(405)
        self.end_headers()

    def do_POST(self):
        self.send_response(301)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


async def test_the_closing_table_is_what_the_database_has(serve, priohook, sqlite_url):
    server = serve(**configured(sqlite_url, body_timeout="1"))
    arguments = ["--duplicates", "0.1", "--out-of-order", "0.1", "--bad", "0.2", "--seed", "5", "--json"]
    done = priohook("simulate", server.url, "--user", USER, "--count", "300", *arguments)
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    assert result["events"] == 300
    assert result["sent"]["event"] == {"200": 300}
    assert result["quarantined"] > 10
    assert await statuses(sqlite_url) == {"accepted": result["events"], "quarantined": result["quarantined"]}


def test_without_a_user_it_takes_the_clients_of_the_first_start(serve, priohook, tmp_path):
    server = serve()
    server.end_of_banner()
    done = priohook("simulate", server.url, "--count", "20")
    assert done.returncode == 0, done.stderr
    assert "stored events     20" in done.stdout
    assert "wrong answers     0" in done.stdout


def test_a_wrong_answer_is_exit_1_with_an_example(serve, priohook, sqlite_url):
    server = serve(**configured(sqlite_url))
    done = priohook("simulate", server.url, "--user", "prioticket:not-the-secret-at-all", "--count", "3")
    assert done.returncode == 1
    assert "event: 401 instead of 200." in done.stdout


def test_nobody_at_the_url_is_one_sentence(priohook):
    done = priohook("simulate", "http://127.0.0.1:9", "--user", USER)
    assert done.returncode == 1
    assert "Is priohook running there?" in done.stderr
    assert "Traceback" not in done.stderr


def test_retry_outlives_a_restart_of_the_receiver(serve, sqlite_url, tmp_path):
    server = serve(**configured(sqlite_url))
    command = ["simulate", server.url, "--user", USER, "--count", "100", "--rate", "50", "--retry", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "app", *command], cwd=tmp_path, env=environment_for(), stdout=subprocess.PIPE
    ) as running:
        while '"status":200' not in server.stderr:
            sleep(0.01)
        server.signal(SIGKILL)
        server.wait()
        serve("--port", str(server.address[1]), **configured(sqlite_url))
        written, _ = running.communicate(timeout=ENDS_WITHIN)
    result = json.loads(written)
    assert running.returncode == 0, result
    assert result["events"] == 100
    assert result["retries"] > 0


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_a_signal_ends_it_at_once_with_its_table(serve, sqlite_url, tmp_path, number: Signals):
    server = serve(**configured(sqlite_url))
    command = ["simulate", server.url, "--user", USER, "--rate", "0.02", "--json"]  # fifty seconds between two
    with subprocess.Popen(
        [sys.executable, "-m", "app", *command], cwd=tmp_path, env=environment_for(), stdout=subprocess.PIPE
    ) as running:
        while '"status":200' not in server.stderr:
            sleep(0.01)
        running.send_signal(number)
        written, _ = running.communicate(timeout=ENDS_WITHIN)
    assert running.returncode == 0
    assert json.loads(written)["events"] == 1


def test_seconds_end_a_run_whose_next_request_is_far_away(serve, priohook, sqlite_url):
    server = serve(**configured(sqlite_url))
    done = priohook("simulate", server.url, "--user", USER, "--seconds", "5", "--rate", "0.02", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["events"] == 1


def test_a_redirect_is_a_wrong_answer(priohook):
    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        done = priohook("simulate", f"http://127.0.0.1:{server.server_port}", "--user", USER, "--count", "1")
        server.shutdown()
    assert done.returncode == 1
    assert "event: 301 instead of 200." in done.stdout


class Plainly(BaseHTTPRequestHandler):
    """Answers 200, and keeps the names of the headers that came with an event."""

    seen: ClassVar[list[set[str]]] = []

    def do_GET(self):
        self.send_response(405)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(set(self.headers.keys()))
        self.send_response(200)
        self.send_header("Event-Id", "1")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_an_event_is_sent_as_the_plainest_client_sends_it(priohook):
    with HTTPServer(("127.0.0.1", 0), Plainly) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        priohook("simulate", f"http://127.0.0.1:{server.server_port}", "--user", USER, "--count", "1")
        server.shutdown()
    assert Plainly.seen == [{"Host", "Accept", "Authorization", "Content-Type", "Content-Length"}]
