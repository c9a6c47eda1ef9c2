"""`priohook check` against a receiver, and against a receiver behind a proxy that changes its answers."""

import json
import os
import pty
import ssl
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.checker.check import Finding, check
from tests.conftest import SECRET, WEBHOOK, basic_header
from tests.e2e.conftest import Served, configured, environment_for, serving
from tests.e2e.load import statuses

USER = f"prioticket:{SECRET}"
PAGE = b"<html>nginx</html>"
UNTRUSTED = Path(__file__).with_name("untrusted.pem")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A receiver for the tests that do not count what is stored."""
    folder = tmp_path_factory.mktemp("check")
    with serving(folder, **configured(f"sqlite+aiosqlite:///{folder / 'priohook.db'}", body_timeout="1")) as served:
        yield served


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {row["row"]: row for row in map(json.loads, done.stdout.splitlines())}


def findings(url: str, *, read_only: bool = True) -> dict[str, Finding]:
    """The findings of the command, without starting a process."""
    found = check(url + WEBHOOK, username="prioticket", password=SECRET, read_only=read_only, timeout=3)
    return {finding.request.name: finding for finding in found}


async def test_a_receiver_answers_all_as_promised(serve, priohook, sqlite_url):
    server = serve(**configured(sqlite_url, body_timeout="1"))
    done = priohook("check", server.url, "--user", USER, "--json")
    assert {name for name, row in rows(done).items() if not row["ok"]} == set()
    assert done.returncode == 0
    assert len(rows(done)) == 30
    assert basic_header()["Authorization"].removeprefix("Basic ") not in done.stdout
    assert await statuses(sqlite_url) == {"accepted": 3, "quarantined": 12}
    findings(server.url, read_only=False)
    assert await statuses(sqlite_url) == {"accepted": 6, "quarantined": 12}, "refused bytes were no copies"


async def test_read_only_stores_nothing(serve, priohook, sqlite_url):
    server = serve(**configured(sqlite_url))
    done = priohook("check", server.url, "--user", USER, "--read-only")
    assert done.returncode == 0, done.stdout
    assert await statuses(sqlite_url) == {}


def test_without_credentials_it_asks_what_needs_none_and_says_so(server, priohook):
    done = priohook("check", server.url)
    assert done.returncode == 0, done.stdout
    assert "Without credentials" in done.stdout


def test_wrong_credentials_differ_with_what_to_do(server, priohook):
    done = priohook("check", server.url, "--user", "prioticket:not-the-secret-at-all", "--read-only", "--json")
    assert done.returncode == 1
    assert "credentials are wrong" in rows(done)["Accept without JSON"]["advice"]


def test_accepting_what_cannot_be_read_is_no_difference(serve, sqlite_url):
    server = serve(**configured(sqlite_url, on_unprocessable="accept", body_timeout="1"))
    found = findings(server.url, read_only=False)
    assert {name for name, finding in found.items() if finding.differences} == set()


def test_https_where_http_is_spoken_is_one_sentence(server, priohook):
    done = priohook("check", server.url.replace("http:", "https:"))
    assert done.returncode == 1
    assert "does not speak TLS" in done.stderr


def test_a_certificate_that_nobody_signed_is_one_sentence(server, priohook):
    with proxy(server.address[1], certificate=UNTRUSTED) as url:
        done = priohook("check", url)
    assert done.returncode == 1
    assert "The certificate of 127.0.0.1 cannot be trusted: self-signed certificate." in done.stderr


def test_behind_a_trusted_certificate_all_is_as_promised(server, priohook, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(UNTRUSTED))
    with proxy(server.address[1], certificate=UNTRUSTED) as url:
        done = priohook("check", url, "--user", USER, "--read-only")
    assert done.returncode == 0, done.stdout


def test_a_terminal_gets_a_table(server):
    status, shown = on_terminal("check", server.url, "--read-only")
    assert status == 0
    assert "✓" in shown
    assert "POST, Authorization: Bearer …, Accept: text/html" in shown


def on_terminal(*arguments: str) -> tuple[int, str]:
    """The exit status of a command, and what it writes to a terminal of 160 columns."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (50, 160))
    command = [sys.executable, "-m", "app", *arguments]
    environment = environment_for() | {"COLUMNS": "160"}  # of which another test's process may have set one
    with subprocess.Popen(command, env=environment, stdout=child) as process:
        os.close(child)
        with os.fdopen(parent, "rb", buffering=0) as terminal, suppress(OSError):  # Linux says so at a terminal's end
            shown = b""
            while part := terminal.read(4096):
                shown += part
    return process.returncode, shown.decode()


def strips_the_challenge(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, {name: value for name, value in headers.items() if name != "www-authenticate"}, body


def strips_the_event_id(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, {name: value for name, value in headers.items() if name != "event-id"}, body


def rewrites_405(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return (status, headers, PAGE) if status == 405 else (status, headers, body)


def writes_to_terminals(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    evil = "\x1b]0;pwned\x07\x1b[2J\x9b31m"
    return status, {**headers, "content-type": evil, "www-authenticate": evil, "allow": evil}, PAGE


def adds_a_body_to_401(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return (status, headers, body or PAGE) if status == 401 else (status, headers, body)


def adds_a_challenge(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return (status, {**headers, "WWW-Authenticate": "Negotiate"}, body) if status == 401 else (status, headers, body)


def redirects(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return 308, {"location": "https://elsewhere.example/"}, b""


def answers_502_for_413(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return (502, headers, PAGE) if status == 413 else (status, headers, body)


@pytest.mark.parametrize(
    ("spoil", "row", "difference"),
    [
        (strips_the_challenge, "no credentials", "there is no WWW-Authenticate"),
        (rewrites_405, "GET", "the body is not an ErrorModel"),
        (adds_a_body_to_401, "no credentials", "there is a body of 18 bytes"),
        (adds_a_challenge, "no credentials", "WWW-Authenticate is Basic"),
        (strips_the_event_id, "an event", "there is no Event-Id"),
        (answers_502_for_413, "over the limit, unpacked", "the status is 502"),
    ],
)
def test_what_a_proxy_spoils_is_named_at_its_row(server, spoil, row, difference):
    with proxy(server.address[1], spoil) as url:
        found = findings(url, read_only=False)
    assert any(each.startswith(difference) for each in found[row].differences), found[row]
    assert found[row].advice
    assert not found["alive"].differences


def test_what_an_endpoint_answers_moves_no_cursor(server):
    with proxy(server.address[1], writes_to_terminals) as url:
        status, shown = on_terminal("check", url, "--read-only")
    assert status == 1
    assert "pwned" in shown
    assert not [each for each in ("\x1b]", "\x1b[2J", "\x07", "\x9b") if each in shown]


def test_a_redirect_is_said_with_where_it_leads_to(server):
    with proxy(server.address[1], redirects) as url:
        found = findings(url)
    assert "redirects to https://elsewhere.example/" in found["no credentials"].advice


async def test_read_only_stores_nothing_behind_a_proxy_that_presents_credentials_of_its_own(serve, sqlite_url):
    server = serve(**configured(sqlite_url))
    with proxy(server.address[1], authorization=basic_header()["Authorization"]) as url:
        found = findings(url)
    assert found["wrong password"].differences[0] == "the status is 406"
    assert await statuses(sqlite_url) == {}


def test_a_proxy_that_swallows_authorization_is_told_from_wrong_credentials(server, priohook):
    with proxy(server.address[1], authorization=None) as url:
        done = priohook("check", url, "--user", USER, "--read-only", "--json")
    assert done.returncode == 1
    assert "removes Authorization" in rows(done)["Accept without JSON"]["advice"]


class Handler(BaseHTTPRequestHandler):
    """Passes a request on with its whole body, and answers with what `spoil` makes of the answer."""

    port = 0
    spoil: Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]
    authorization: str | None = ""  # instead of what came; None for none

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.pass_on
        raise AttributeError(name)

    def pass_on(self) -> None:
        self.close_connection = True
        length = int(self.headers.get("Content-Length") or 0)
        if length > 2**30 or "Transfer-Encoding" in self.headers:
            return
        self.connection.settimeout(0.5)  # sooner than the receiver
        with suppress(TimeoutError):
            self.answer(*type(self).spoil(*self.upstream(self.rfile.read(length))))

    def upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = HTTPConnection("127.0.0.1", self.port, timeout=10)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name != "Authorization" or self.authorization == "":
                upstream.putheader(name, value)
        if self.authorization:
            upstream.putheader("Authorization", self.authorization)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        got = {name.lower(): value for name, value in answer.getheaders()}
        content = answer.read()
        upstream.close()
        return answer.status, got, content

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy(
    port: int,
    spoil: Callable[..., tuple[int, dict[str, str], bytes]] = lambda *answer: answer,
    *,
    authorization: str | None = "",
    certificate: Path | None = None,
) -> Iterator[str]:
    attributes = {"port": port, "spoil": staticmethod(spoil), "authorization": authorization}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OurHandler", (Handler,), attributes))
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a handshake that the other side ends
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Firewall(BaseHTTPRequestHandler):
    """Refuses requests without a User-Agent, and answers all others as if an event was stored."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200 if "User-Agent" in self.headers else 403)
        self.send_header("Event-Id", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.do_POST()

    def log_message(self, *_):
        pass


def test_a_firewall_that_wants_a_user_agent_is_found():
    with ThreadingHTTPServer(("127.0.0.1", 0), Firewall) as firewall:
        Thread(target=firewall.serve_forever, daemon=True).start()
        found = findings(f"http://127.0.0.1:{firewall.server_port}", read_only=False)
        firewall.shutdown()
    assert not found["the same again"].differences
    plain = found["the same without a User-Agent"]
    assert "the status is 403" in plain.differences
    assert "a firewall refuses requests without a User-Agent" in plain.advice
