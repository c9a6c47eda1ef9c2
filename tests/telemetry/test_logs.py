import io
import json
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from threading import Event, Thread
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry import logs
from app.telemetry.logs import LogWriter, logging_to, stderr_writer, style_for

logger = logging.getLogger("priohook.tests")


def written(event: str, fields: Mapping[str, Any], *, style: Literal["json", "text"], level: str = "info") -> str:
    stream = io.StringIO()
    log = LogWriter(stream, style=style)
    log.write(event, fields, level=level)
    with log.running():
        pass
    return stream.getvalue()


def logged(style: Literal["json", "text"] = "json") -> list[str]:
    """The lines that some calls of the standard library's loggers make."""
    stream = io.StringIO()
    log = LogWriter(stream, style=style)
    with log.running(), logging_to(log):
        logger.info("plain")
        logger.warning("with_fields", extra={"fields": {"events": 3}})
        logger.error("failed", exc_info=ValueError("went\nwrong \x1b[31m"))
    return stream.getvalue().split("\n")[:-1]


def test_a_json_line_is_one_object_with_time_level_event_and_fields():
    line = written("request", {"status": 200, "client": "prioticket"}, style="json", level="warning")
    found = json.loads(line)
    assert datetime.fromisoformat(found.pop("time")).tzinfo
    assert found == {"level": "warning", "event": "request", "status": 200, "client": "prioticket"}
    assert line.count("\n") == 1


def test_a_text_line_reads_time_level_event_and_fields():
    line = written("request", {"status": 200, "path": "/a b", "type": None, "empty": ""}, style="text")
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", time)
    assert rest == 'info    request status=200 type=None path="/a b" empty=""\n'


@pytest.mark.parametrize("style", ["json", "text"])
@given(texts=st.lists(st.text(), min_size=1, max_size=50))
@settings(max_examples=20)
def test_no_text_in_an_event_or_a_field_breaks_its_line(style, texts):
    stream = io.StringIO()
    log = LogWriter(stream, style=style)
    for each in texts:
        log.write(each, {"path": each})
    with log.running():
        pass
    *lines, end = stream.getvalue().split("\n")
    assert (len(lines), end) == (len(texts), "")
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    "value", [None, 1.5, True, b"bytes", {"a": [1]}, object(), "\ud800"], ids=lambda value: type(value).__name__
)
def test_a_value_of_any_kind_is_written(style, value):
    assert "field" in written("request", {"field": value}, style=style)


def test_lines_come_out_in_the_order_they_went_in():
    stream = io.StringIO()
    log = LogWriter(stream, style="json")
    with log.running():
        for number in range(1000):
            log.write("request", {"number": number})
    assert [json.loads(line)["number"] for line in stream.getvalue().splitlines()] == list(range(1000))


def test_text_has_what_people_look_for_first_and_ids_last():
    names = ("request_id", "method", "ms", "client", "event_id", "reference", "type", "status")
    words = written("request", dict.fromkeys(names, 1), style="text").split()
    assert [word.split("=")[0] for word in words[3:]] == [
        *("status", "type", "reference", "ms", "method", "client", "request_id", "event_id")
    ]


class Stalled(io.StringIO):
    """A reader that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = Event()
        self.let_go = Event()

    def write(self, text: str) -> int:
        self.asked.set()
        self.let_go.wait(10)
        return super().write(text)


def test_a_reader_that_stalls_costs_lines_and_not_the_receiver(monkeypatch):
    monkeypatch.setattr(logs, "MOST_LINES", 100)
    stream = Stalled()
    log = LogWriter(stream, style="json")
    with log.running():
        log.write("first", {})
        assert stream.asked.wait(10)
        for _ in range(105):
            log.write("later", {})
        stream.let_go.set()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(line["event"] == "later" for line in lines) == 100
    assert lines[-1]["event"] == "log_lines_dropped"
    assert lines[-1]["lines"] == 5


class Broken(io.StringIO):
    """Takes nothing the first time, as a full disk does."""

    failed = False

    def write(self, text: str) -> int:
        if not self.failed:
            self.failed = True
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_stream_that_fails_once_is_tried_again():
    stream = Broken()
    log = LogWriter(stream, style="json")
    with log.running():
        log.write("lost", {})
    with log.running():
        log.write("kept", {})
    assert json.loads(stream.getvalue())["event"] == "kept"


def test_where_no_thread_can_be_started_lines_are_written_at_the_end(monkeypatch):
    def start(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", start)
    assert json.loads(written("request", {}, style="json"))["event"] == "request"


def test_a_closed_stream_ends_nothing():
    stream = io.StringIO()
    log = LogWriter(stream, style="json")
    stream.close()
    with log.running():
        log.write("request", {})
    assert stream.closed


@pytest.mark.parametrize(
    ("wanted", "terminal", "style"),
    [("auto", True, "text"), ("auto", False, "json"), ("json", True, "json"), ("text", False, "text")],
)
def test_auto_is_text_on_a_terminal_and_json_elsewhere(wanted, terminal, style):
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal  # type: ignore[no-any-return] # a parameter of the test

    assert style_for(Stream(), wanted) == style


def test_the_process_logs_to_standard_error(capsys):
    log = stderr_writer("json")
    with log.running():
        log.write("request", {})
    captured = capsys.readouterr()
    assert (json.loads(captured.err)["event"], captured.out) == ("request", "")


def test_standard_loggers_say_their_event_fields_and_error():
    plain, fields, failed = [json.loads(line) for line in logged()]
    assert (plain["event"], plain["level"], plain["logger"]) == ("plain", "info", "priohook.tests")
    assert (fields["event"], fields["level"], fields["events"]) == ("with_fields", "warning", 3)
    assert (failed["event"], failed["level"], failed["error"]) == ("failed", "error", "ValueError")
    assert failed["traceback"] == "ValueError: went\nwrong \x1b[31m\n"


def test_an_error_on_a_terminal_can_neither_fake_a_line_nor_move_the_cursor():
    lines = logged("text")
    (start,) = [place for place, line in enumerate(lines) if "failed" in line]
    assert lines[start + 1 :] == ["    ValueError: went", r"    wrong \x1b[31m"]


def test_standard_loggers_are_left_as_they_were():
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    logged()
    assert (root.level, list(root.handlers)) == before
