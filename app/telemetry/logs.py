"""Log lines, written by a thread of their own: a write per request on the event loop would halve the throughput."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import sleep, time
from typing import Any, Literal, TextIO

import orjson

from app.telemetry.printing import printable

GATHER = 0.02  # seconds; the lines of that time go out in one write

MOST_LINES = 50_000  # that wait, about 50 MB; a stalled reader costs lines, but never stops the receiver
LAST_WRITE = 2.0  # seconds to wait for a stalled reader at the end

PLAIN = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
"""What JSON has no name for is written as the standard library does."""

PLACES = {
    "status": -4,
    "type": -3,
    "reference": -2,
    "ms": -1,
    "trace": 1,
    "event_id": 1,
    "delivery_id": 1,
    "request_id": 1,
}
"""In text, what people look for comes first, and ids last; the others stay in their order between them."""

Line = tuple[float, str, str, Mapping[str, Any]]
"""Unix time, level, event, fields."""


class LogWriter:
    """Writes lines to a stream in the order they came, off the caller's thread."""

    def __init__(self, stream: TextIO, *, style: Literal["json", "text"]) -> None:
        self._stream = stream
        self._render = _as_json if style == "json" else _as_text
        self._lines: SimpleQueue[Line | None] = SimpleQueue()
        self._dropped = 0  # since that was last told
        self.dropped = 0
        """How many lines were dropped since the start."""

    def write(self, event: str, fields: Mapping[str, Any], *, level: str = "info") -> None:
        """Queues one line; costs about a microsecond. The fields must not change afterwards."""
        if self._lines.qsize() < MOST_LINES:
            self._lines.put((time(), level, event, fields))
        else:
            self._dropped += 1
            self.dropped += 1

    @contextmanager
    def running(self) -> Iterator["LogWriter"]:
        """Runs the writing thread; what is queued at the end is written before this returns."""
        thread = Thread(target=self._work, name="log", daemon=True)
        with suppress(RuntimeError):  # no thread is left: then all is written at the end
            thread.start()
        try:
            yield self
        finally:
            self._lines.put(None)
            if thread.ident is None:
                self._work()
            else:
                thread.join(LAST_WRITE)

    def _work(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            if lines[0] is not None:
                sleep(GATHER)
            while not self._lines.empty():
                lines.append(self._lines.get())
            ended = None in lines
            if self._dropped:
                lines.append((time(), "warning", "log_lines_dropped", {"lines": self._dropped}))
                self._dropped = 0
            text = "".join(self._render(line) for line in lines if line is not None)
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                continue  # a closed pipe or a full disk must neither end the receiver nor fill its memory


def style_for(stream: TextIO, wanted: Literal["auto", "json", "text"]) -> Literal["json", "text"]:
    """`auto` is text on a terminal and JSON elsewhere."""
    if wanted == "auto":
        return "text" if stream.isatty() else "json"
    return wanted


@contextmanager
def logging_to(writer: LogWriter) -> Iterator[None]:
    """Sends what the standard library's loggers say (ours, uvicorn's, SQLAlchemy's) to the same writer."""
    handler = _Handler(writer)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # their start and stop messages repeat ours
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def stderr_writer(wanted: Literal["auto", "json", "text"]) -> LogWriter:
    """The writer of a process: to standard error, since standard output is for what a command prints."""
    stream = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - another ASGI server may have closed it
    return LogWriter(stream, style=style_for(stream, wanted))


class _Handler(logging.Handler):
    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[0]:
            fields["error"] = record.exc_info[0].__name__
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        self._writer.write(record.getMessage(), fields, level=record.levelname.lower())


def _as_json(line: Line) -> str:
    at, level, event, fields = line
    seconds, milliseconds = divmod(int(at * 1000), 1000)
    stamp = f"{_second(seconds)}.{milliseconds:03d}+00:00"
    try:
        encoded = orjson.dumps(fields, option=PLAIN)
    except TypeError:  # a value of another type, or a lone surrogate
        encoded = b""
    text = encoded.decode() if encoded and encoded.isascii() else json.dumps(fields, default=str)
    # Written before the fields, since to copy them into one dictionary would cost more than to encode them.
    text = f'{{"time":"{stamp}","level":"{level}","event":{_quoted(event)}{"," if fields else ""}{text[1:]}\n'
    return text.replace("\x7f", "\\u007f")  # the only control character that neither escapes


_quoted = lru_cache(maxsize=128)(json.dumps)


@lru_cache(maxsize=1)
def _second(at: int) -> str:
    """As text; most lines are of the same second as the one before."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _as_text(line: Line) -> str:
    at, level, event, fields = line
    stamp = datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
    shown = dict(sorted(fields.items(), key=lambda field: PLACES.get(field[0], 0)))
    trace = str(shown.pop("traceback", ""))
    words = " ".join(f"{name}={_plain(value)}" for name, value in shown.items())
    # Indented, so that no line of an error's own text looks like one of the log's.
    below = "".join(f"    {printable(each)}\n" for each in trace.splitlines())
    return f"{stamp} {level:<7} {printable(event)} {words}\n{below}"


def _plain(value: object) -> str:
    """The value so that it cannot break the line or move a terminal's cursor."""
    text = str(value)
    return text if text.isprintable() and " " not in text and text else printable(json.dumps(text))
