import json
import subprocess
import tarfile
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from app.events import exporting
from tests.events.stores import new_event

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
BODIES = [b'{"a": 1}', b"", b"\x00\xff" * 700, b"x" * 512, b"last"]


@pytest.fixture
def stored(fill):
    """The ids of five events, a minute apart; the second and fourth are of order A."""
    events = [
        new_event(
            f"event-{number}",
            body=body,
            received_at=NOON + timedelta(minutes=number),
            reference="A" if number % 2 else "B",
            type="ORDER_UPDATE" if number else "ORDER_CREATE",
        )
        for number, body in enumerate(BODIES)
    ]
    fill(*events)
    return [str(event.id) for event in events]


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_events_are_lines_of_json_with_exact_bytes_the_oldest_first(run, stored):
    done = run("events", "export")
    rows = lines(done.text)
    assert [row["id"] for row in rows] == stored
    assert [b64decode(row["body_base64"]) for row in rows] == BODIES
    assert [row["body_sha256"] for row in rows] == [sha256(body).hexdigest() for body in BODIES]
    assert rows[0]["headers"] == [["accept", "*/*"]]
    assert done.errors == "5 events exported.\n"


def test_the_filters_are_those_of_the_list(run, stored):
    assert [row["id"] for row in lines(run("events", "export", "--reference", "A").text)] == stored[1::2]
    assert [row["id"] for row in lines(run("events", "export", "--type", "ORDER_UPDATE").text)] == stored[1:]
    until = run("events", "export", "--until", "2026-08-12T12:01:00Z", "--after", stored[0])
    assert lines(until.text) == []


def test_all_is_exported_whatever_is_read_at_once(run, stored, monkeypatch):
    monkeypatch.setattr(exporting, "IDS_AT_ONCE", 2)
    monkeypatch.setattr(exporting, "BODIES_AT_ONCE", 600)
    assert [row["id"] for row in lines(run("events", "export").text)] == stored


@pytest.mark.parametrize("cut", [1, 100, 10_000_000])
def test_an_interrupted_file_of_lines_is_continued(run, stored, cut):
    assert run("events", "export", "--output", "whole").status == 0
    whole = Path("whole").read_bytes()
    Path("part").write_bytes(whole[:-cut] if cut < len(whole) else b"")
    done = run("events", "export", "--output", "part")
    assert done.status == 0, done.errors
    assert Path("part").read_bytes() == whole
    assert Path("part").stat().st_mode & 0o777 in (0o600, 0o644)
    assert Path("whole").stat().st_mode & 0o777 == 0o600


def test_a_tar_has_the_exact_bytes_and_a_manifest_that_can_be_checked(run, stored, tmp_path):
    done = run("events", "export", "--tar", "--output", "events.tar")
    assert done.status == 0, done.errors
    with tarfile.open("events.tar") as tar:
        names = tar.getnames()
        bodies = [tar.extractfile(f"events/{event_id}.body").read() for event_id in stored]  # type: ignore[union-attr]
        tar.extractall(tmp_path / "out", filter="data")
    assert bodies == BODIES
    assert names[-1] == "MANIFEST.sha256"
    assert len(names) == 2 * len(stored) + 1
    checked = subprocess.run(
        ["/usr/bin/env", "sha256sum", "-c", "MANIFEST.sha256"], cwd=tmp_path / "out", capture_output=True, check=False
    )
    assert checked.returncode == 0
    assert checked.stdout.count(b": OK") == 2 * len(stored)


def test_an_interrupted_tar_is_continued_wherever_it_was_cut(run, stored):
    assert run("events", "export", "--tar", "--output", "whole.tar").status == 0
    whole = Path("whole.tar").read_bytes()
    without_manifest = whole.index(b"MANIFEST.sha256")
    for cut in (0, 1, 511, 512, 1500, 3000, without_manifest - 1, without_manifest):
        Path("part.tar").write_bytes(whole[:cut])
        done = run("events", "export", "--tar", "--output", "part.tar")
        assert done.status == 0, (cut, done.errors)
        assert Path("part.tar").read_bytes() == whole, cut


def foreign_tar() -> bytes:
    """A tar of somebody else's folder `events`."""
    written = BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("events/notes.txt"))
    return written.getvalue()


def damaged_tar(run) -> bytes:
    """An export that was cut short, and of which the second header is damaged."""
    assert run("events", "export", "--tar", "--output", "damaged.tar").status == 0
    content = bytearray(Path("damaged.tar").read_bytes())
    content[content.index(b".body")] ^= 1
    return bytes(content[: content.index(b"MANIFEST")])


def test_a_file_that_is_something_else_or_complete_is_left_alone(run, stored):
    for content in (b'{"no": "id"}\n', b"text\n", b"text", b'{"no": 1'):
        Path("other").write_bytes(content)
        assert run("events", "export", "--output", "other").status == 1
        assert Path("other").read_bytes() == content
    for content in (b"x" * 2000, b"x", b"events, a list", b"events/one\nevents/two\n", foreign_tar(), damaged_tar(run)):
        Path("other").write_bytes(content)
        assert run("events", "export", "--tar", "--output", "other").status == 1
        assert Path("other").read_bytes() == content
    assert run("events", "export", "--tar", "--output", "whole.tar").status == 0
    done = run("events", "export", "--tar", "--output", "whole.tar")
    assert (done.status, "is a complete export already" in done.errors) == (1, True)
    assert run("events", "export", "--tar").status == 2
