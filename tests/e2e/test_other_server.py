import signal
import socket
import subprocess
import sys
from time import monotonic, sleep

import httpx2
import pytest

from tests.conftest import WEBHOOK, basic_header
from tests.e2e.conftest import ANSWERS_WITHIN, ENDS_WITHIN, configured, environment_for, new_event

HEADERS = {**basic_header(), "Content-Type": "application/json"}


@pytest.fixture
def granian(sqlite_url, tmp_path):
    """The URL of the application under another ASGI server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port), "app.asgi:app"]
    settings = configured(sqlite_url)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment_for(**settings), stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        limit = monotonic() + ANSWERS_WITHIN
        while monotonic() < limit:
            try:
                httpx2.get(f"{url}/healthz")
                break
            except httpx2.TransportError:
                sleep(0.1)
        yield url
        process.send_signal(signal.SIGTERM)
        process.wait(ENDS_WITHIN)


def test_webhooks_are_taken_under_another_server(granian):
    event = new_event()
    for content in (event, iter([event[:10], event[10:]])):
        reply = httpx2.post(granian + WEBHOOK, content=content, headers=HEADERS)
        assert (reply.status_code, reply.content) == (200, b"")
    assert httpx2.post(granian + WEBHOOK, content=b"[]", headers=HEADERS).status_code == 422
