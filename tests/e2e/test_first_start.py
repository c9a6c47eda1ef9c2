import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest

from tests.e2e.conftest import ENDS_WITHIN, Wire, configured, dial, environment_for, new_event, request


def curl_line(banner: str) -> str:
    return next(line.strip() for line in banner.splitlines() if line.strip().startswith("curl"))


def webhook_auth(banner: str) -> str:
    return next(line.split()[1] for line in banner.splitlines() if line.strip().startswith("webhook_auth"))


def secrets(folder: Path) -> list[str]:
    return re.findall(r'secret = "(.+)"', (folder / "priohook-clients.toml").read_text())


def test_the_curl_line_of_the_first_start_works_when_pasted(serve):
    server = serve()
    server.end_of_banner()
    assert paste(curl_line(server.stdout)) == 200


def paste(line: str) -> int:
    """The status that the pasted line shows. Without curl on the machine, the test sends the same request itself."""
    if shutil.which("curl"):
        shown = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S607
        return int(shown.split()[1])
    _, _, _, credential, _, header, _, body, target = shlex.split(line)
    name, value = header.split(": ")
    return httpx2.post(
        target, auth=httpx2.BasicAuth(*credential.split(":")), headers={name: value}, content=body
    ).status_code


@pytest.mark.parametrize("encoded", [1, 2], ids=["as printed", "encoded once more"])
def test_the_webhook_auth_value_of_the_first_start_is_a_valid_credential(serve, encoded):
    server = serve()
    server.end_of_banner()
    value = webhook_auth(server.stdout)
    if encoded == 2:
        value = b64encode(value.encode()).decode()
    with dial(server) as wire:
        wire.send(request(new_event(), authorization=f"Authorization: Basic {value}"))
        assert wire.reply().status == 200


def test_the_admin_of_the_first_start_can_sign_in_at_the_address_that_is_printed(serve, tmp_path):
    server = serve()
    server.end_of_banner()
    (console,) = re.findall(r"^Its console is at (\S+)$", server.stdout, re.MULTILINE)
    _, admin = secrets(tmp_path)
    fields = {"name": "admin", "secret": admin}
    reply = httpx2.post(f"{console}/sign-in", data=fields, headers={"Origin": console.removesuffix("/console")})
    assert (reply.status_code, reply.headers["Location"]) == (303, "/console")


def test_only_the_owner_can_read_the_database_and_the_credentials(serve, tmp_path):
    serve(with_worker=True)
    ends = monotonic() + ENDS_WITHIN
    while not (tmp_path / "priohook.db-worker").exists():
        assert monotonic() < ends
        sleep(0.05)
    files = [each for each in tmp_path.iterdir() if each.name.startswith("priohook")]
    modes = {each.name: oct(each.stat().st_mode & 0o777) for each in files}
    assert {"priohook.db", "priohook-clients.toml"} <= set(modes)
    assert set(modes.values()) == {"0o600"}


def test_the_first_start_prints_each_secret_and_logs_none(serve, tmp_path):
    server = serve()
    assert server.end() == 0
    assert len(secrets(tmp_path)) == 2
    assert all(secret in server.stdout for secret in secrets(tmp_path))
    assert not any(secret in server.stderr for secret in secrets(tmp_path))


def test_the_second_start_prints_no_secret_and_lets_the_same_clients_in(serve, tmp_path):
    serve().end()
    prioticket, admin = secrets(tmp_path)
    second = serve()
    credential = b64encode(f"prioticket:{prioticket}".encode()).decode()
    with dial(second) as wire:
        wire.send(request(new_event(), authorization=f"Authorization: Basic {credential}"))
        assert wire.reply().status == 200
    second.end()
    written = second.stdout + second.stderr
    assert "priohook-clients.toml" in second.stdout
    assert not any(secret in written for secret in (prioticket, admin, credential))


def test_a_client_that_is_added_later_locks_nobody_out(serve, priohook, tmp_path):
    serve().end()
    printed = priohook("clients", "new", "next", "--username", "prioticket").stdout
    (tmp_path / "priohook.toml").write_text(printed.partition("For priohook.toml:")[2])
    second = serve()
    new = next(line.split()[1] for line in printed.splitlines() if line.startswith("secret"))
    with dial(second) as wire:
        for secret in (secrets(tmp_path)[0], new):
            credential = b64encode(f"prioticket:{secret}".encode()).decode()
            wire.send(request(new_event(), authorization=f"Authorization: Basic {credential}"))
            assert wire.reply().status == 200
    second.end()
    assert "priohook-clients.toml and in the settings" in second.stdout


def test_another_asgi_server_lets_the_clients_of_a_first_start_in(serve, tmp_path):
    """Runs in a process of its own, because importing `app.asgi` reads the settings."""
    serve().end()
    program = """
import asyncio, sys, httpx2
from app.asgi import app
async def main():
    async with app.lifespan_context(app) as state:
        async def with_state(scope, receive, send):
            await app({**scope, "state": dict(state)}, receive, send)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(with_state), base_url="http://priohook") as client:
            admin = httpx2.BasicAuth("admin", sys.argv[2])
            token = await client.post("/oauth2/token", auth=admin, data={"grant_type": "client_credentials"})
            sender = httpx2.BasicAuth("prioticket", sys.argv[1])
            event = await client.post("/webhooks/prioticket", auth=sender, json={"data": {}})
            print(event.status_code, token.status_code)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *secrets(tmp_path)],
        cwd=tmp_path,
        env=environment_for(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "200 200\n", done.stderr


def test_a_file_that_does_not_count_is_told_at_the_start(serve, tmp_path):
    serve().end()
    second = serve(token_keys="k" * 32)
    second.end()
    assert "priohook-keys.toml" in next(line for line in second.stderr.splitlines() if "file_ignored" in line)


def test_all_addresses_are_served_when_asked_and_the_curl_line_names_one_that_works(serve):
    server = serve("--host", "0.0.0.0")  # noqa: S104
    server.end_of_banner()
    assert server.url.startswith("http://0.0.0.0:")
    target = shlex.split(curl_line(server.stdout))[-1]
    assert target == f"http://127.0.0.1:{server.address[1]}/webhooks/prioticket"
    with dial(server) as wire:
        assert wire.send(request(method="GET", target="/healthz")).reply().status == 200


def test_a_port_in_use_ends_it_with_a_sentence_and_uses_up_no_secret(priohook, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = priohook("serve", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert "address already in use" in ended.stderr.casefold()
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert list(tmp_path.glob("priohook*")) == []


def test_postgresql_without_clients_is_refused_saying_how_to_configure_one(priohook, empty_postgres_url):
    ended = priohook("serve", "--port", "0", database_url=empty_postgres_url)
    assert ended.returncode == 1
    assert "priohook clients new" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_postgresql_without_tables_is_refused_saying_what_to_run(priohook, empty_postgres_url):
    ended = priohook("serve", "--port", "0", **configured(empty_postgres_url))
    assert ended.returncode == 1
    assert "run `priohook migrate`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_postgresql_is_served_after_migrate(serve, priohook, empty_postgres_url):
    settings = configured(empty_postgres_url)
    assert priohook("migrate", **settings).returncode == 0
    server = serve(**settings)
    with dial(server) as wire:
        assert wire.send(request(new_event())).reply().status == 200
    server.end()
    assert server.stdout == f"priohook listens at {server.url}\n", "without token_keys nobody can sign in"


def test_a_database_that_is_away_ends_it_with_a_sentence(priohook):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    ended = priohook("serve", "--port", "0", **configured(f"postgresql://priohook@127.0.0.1:{port}/priohook"))
    assert ended.returncode == 1
    assert "database_url" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_at_the_ipv6_address_of_all_it_takes_ipv4_too(serve):
    server = serve("--host", "::", log_format="json")
    port = server.address[1]
    for host in ("127.0.0.1", "::1"):
        wire = Wire((host, port))
        assert wire.send(request(b"{}", authorization="Authorization: Basic eDp5")).reply().status == 401
        wire.close()
    server.end()
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    assert [line["address"] for line in lines if line["event"] == "request"] == ["127.0.0.1", "::1"]
