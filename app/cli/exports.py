"""Files of exported events: lines of JSON, or a tar of exact bytes. Both can be continued after an interruption."""

import json
import os
import re
import tarfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol
from uuid import UUID

from pydantic_core import to_jsonable_python

from app.api.events import EventDetail
from app.events.queries import WholeEvent

OWNER_ONLY = 0o600
BLOCK = tarfile.BLOCKSIZE
CHUNK = 1024 * 1024
BEGINNING = b'{"id": "'  # of a line
MANIFEST = "MANIFEST.sha256"
FOLDER = "events"
MEMBER = re.compile(rf"{FOLDER}/[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}\.(json|body)")


class NotContinued(Exception):
    """The file cannot be continued; the text says why."""


class Export(Protocol):
    """Where exported events go."""

    last: UUID | None
    """The last event that is in it already."""

    def add(self, event: WholeEvent) -> None:
        """Writes an event."""

    def end(self) -> None:
        """Writes what comes at the end."""


@contextmanager
def export_file(path: Path, *, tar: bool) -> Iterator[Export]:
    """A file that is made, or continued after its last whole event; it is on disk at the end.

    Raises:
        NotContinued: it is not such a file, or it is complete.
    """
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, OWNER_ONLY), "r+b") as file:
        with TemporaryFile(dir=path.resolve().parent) as manifest:
            yield _Tar(file, path, manifest) if tar else _Lines.continued(file, path)
        file.flush()
        os.fsync(file.fileno())


class _Lines:
    """One JSON object a line: the event as the API shows it, its body in base64, and the body's SHA-256."""

    def __init__(self, file: IO[bytes], last: UUID | None = None) -> None:
        self._file = file
        self.last = last

    @classmethod
    def continued(cls, file: IO[bytes], path: Path) -> "_Lines":
        """Goes on after the last whole line. What a killed process wrote of another line is cut off."""
        end = file.seek(0, os.SEEK_END)
        tail = b""
        while end and tail.count(b"\n") < 2:  # noqa: PLR2004 - the end of the last line and of the one before
            begin = max(0, end - CHUNK)
            file.seek(begin)
            tail = file.read(end - begin) + tail
            end = begin
        whole, newline, begun = tail.rpartition(b"\n")
        last = _id_in(whole.rpartition(b"\n")[2])
        if last is None and (whole or not begun.startswith(BEGINNING[: len(begun)])):
            raise NotContinued(f"{path} is not an export of events. Choose another file.")
        file.seek(end + len(whole) + len(newline))
        file.truncate()
        return cls(file, last)

    def add(self, event: WholeEvent) -> None:
        self._file.write(json.dumps(_shown(event), default=to_jsonable_python).encode() + b"\n")

    def end(self) -> None:
        """Nothing more."""


class _Tar:
    """A tar of two files for each event, `events/ID.json` and `events/ID.body`, and a manifest of hashes at the end.

    Written and read by hand: the standard library keeps a list of all members in memory.
    """

    def __init__(self, file: IO[bytes], path: Path, manifest: IO[bytes]) -> None:
        self._file = file
        self._path = path
        self._manifest = manifest
        self.last: UUID | None = None
        self._continue()

    def add(self, event: WholeEvent) -> None:
        shown = _shown(event, with_body=False)
        self._member(f"{FOLDER}/{event.id}.json", json.dumps(shown, default=to_jsonable_python).encode() + b"\n", event)
        self._member(f"{FOLDER}/{event.id}.body", event.body, event)  # last: it makes the event whole

    def end(self) -> None:
        """Writes the manifest, as `sha256sum` does, and two empty blocks."""
        size = self._manifest.seek(0, os.SEEK_END)
        self._manifest.seek(0)
        self._file.write(_head(MANIFEST, size))
        while chunk := self._manifest.read(CHUNK):
            self._file.write(chunk)
        self._file.write(bytes(-size % BLOCK + 2 * BLOCK))

    def _member(self, name: str, content: bytes, event: WholeEvent) -> None:
        self._file.write(_head(name, len(content), at=event.received_at.timestamp()))
        self._file.write(content)
        self._file.write(bytes(-len(content) % BLOCK))
        self._manifest.write(f"{sha256(content).hexdigest()}  {name}\n".encode())

    def _continue(self) -> None:
        """Reads what is there, up to the last whole event, and cuts off the rest."""
        end = self._file.seek(0, os.SEEK_END)
        whole = position = 0
        lines: list[str] = []
        self._file.seek(0)
        if not _begins_tar(self._file.read(BLOCK)):
            raise NotContinued(f"{self._path} is not an export of events. Choose another file.")
        while position + BLOCK <= end:
            self._file.seek(position)
            block = self._file.read(BLOCK)
            if not any(block):  # a machine that stopped leaves zeros at the end
                break
            try:
                member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            except (tarfile.HeaderError, ValueError):
                raise NotContinued(f"{self._path} is damaged at byte {position}. Choose another file.") from None
            if member.name == MANIFEST:
                raise NotContinued(f"{self._path} is a complete export already. Choose another file.")
            if not MEMBER.fullmatch(member.name):
                raise NotContinued(f"{self._path} has other files than an export. Choose another file.")
            after = position + BLOCK + member.size + -member.size % BLOCK
            if after > end:
                break
            lines.append(f"{self._digest(member.size)}  {member.name}\n")
            position = after
            if member.name.endswith(".body"):
                whole, self.last = position, UUID(Path(member.name).stem)
                self._manifest.write("".join(lines).encode())
                lines = []
        self._file.seek(whole)
        self._file.truncate()

    def _digest(self, size: int) -> str:
        digest = sha256()
        while size:
            chunk = self._file.read(min(CHUNK, size))
            digest.update(chunk)
            size -= len(chunk)
        return digest.hexdigest()


def _begins_tar(block: bytes) -> bool:
    """Whether the first bytes of a file are those of an export, or the beginning of them."""
    name, _, _ = block.partition(b"\0")
    like = f"{FOLDER}/{UUID(int=0)}.json".encode()
    longer = name + like[len(name) :]  # of a file that ends within the name
    whole = len(name) >= len(like) or len(block) == len(name)
    return whole and MEMBER.fullmatch(longer.decode("latin-1")) is not None


def _id_in(line: bytes) -> UUID | None:
    try:
        return UUID(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        return None


def lines_on(file: IO[bytes]) -> Export:
    """Lines of JSON on a stream, which cannot be continued by itself."""
    return _Lines(file)


def _shown(event: WholeEvent, *, with_body: bool = True) -> dict[str, Any]:
    """The event as the API shows it; of one whose body was erased, without its body's hash."""
    shown = EventDetail.model_validate(event).model_dump(mode="json")
    if event.erased_at is None:
        shown["body_sha256"] = sha256(event.body).hexdigest()
    return shown | {"body_base64": b64encode(event.body).decode()} if with_body else shown


def _head(name: str, size: int, *, at: float = 0.0) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, int(at), OWNER_ONLY
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
