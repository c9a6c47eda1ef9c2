"""The examples of the pages work."""

import re
import socket
import sqlite3
import subprocess
import sys
from base64 import b64decode
from contextlib import closing
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep

import httpx2
from standardwebhooks import Webhook

from app.settings.keys import new_signing_secret
from tests.e2e.conftest import ENDS_WITHIN, configured, dial, new_event, request
from tests.pages import blocks, page


def test_the_consumer_of_the_docs_takes_what_is_signed_and_nothing_else(tmp_path):
    secret = new_signing_secret()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (program,) = [block for block in blocks(page("deliveries"), "python") if "Consumer" in block]
    (tmp_path / "consumer.py").write_text(program.replace("9000", str(port)))
    with subprocess.Popen([sys.executable, tmp_path / "consumer.py", secret], stderr=subprocess.DEVNULL) as consumer:
        try:
            ends = monotonic() + ENDS_WITHIN
            while not listens(port):
                assert monotonic() < ends
                sleep(0.05)
            now = datetime.now(UTC)
            assert answer(port, secret, at=now) == 204
            assert answer(port, new_signing_secret(), secret, at=now) == 204
            assert answer(port, new_signing_secret(), at=now) == 401
            assert answer(port, secret, at=now - timedelta(hours=1)) == 401
            assert answer(port, at=now) == 401
            assert answer(port, secret, at=now, sent=b"{'a': 2}") == 401
        finally:
            consumer.kill()


def listens(port: int) -> bool:
    with socket.socket() as dialled:
        return dialled.connect_ex(("127.0.0.1", port)) == 0


def answer(port: int, *secrets: str, at: datetime, sent: bytes = b"{'a': 1}") -> int:
    signatures = [Webhook(b64decode(each.removeprefix("whsec_"))).sign("id", at, "{'a': 1}") for each in secrets]
    headers = {
        "webhook-id": "id",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
    return httpx2.post(f"http://127.0.0.1:{port}/in", content=sent, headers=headers).status_code


def test_the_backup_of_the_docs_has_what_was_committed_last(serve, priohook, sqlite_url, tmp_path):
    (arguments,) = re.findall(r"^priohook (backup /.*)$", page("sqlite"), re.MULTILINE)
    settings = configured(sqlite_url)
    with dial(serve(**settings)) as wire:
        assert wire.send(request(new_event())).reply().status == 200
    done = priohook(*arguments.replace("/backups", str(tmp_path)).split(), **settings)
    assert done.returncode == 0, done.stderr
    (copy,) = tmp_path.glob("priohook-*.db")
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
