"""What is borrowed from the inside of uvicorn and httptools: a release of theirs may change it without a word."""

import dis
import re
from types import FunctionType, ModuleType
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tests.pages import PROJECT

BORROWED: dict[Any, str] = {
    httptools_impl: "STATUS_LINE",
    HttpToolsProtocol: """connection_made connection_lost pause_writing shutdown data_received eof_received
        on_message_begin on_url on_header on_headers_complete on_body on_message_complete on_response_complete
        _start_asgi_task app client connections cycle flow headers logger loop parser pipeline scope server_state
        timeout_keep_alive transport url""",
    RequestResponseCycle: """default_headers disconnected flow keep_alive logger on_response receive response_complete
        response_started run_asgi scope send transport""",
    FlowControl: "drain pause_reading resume_reading resume_writing write_paused",
    ServerState: "default_headers total_requests",
    uvicorn.Config: "encoded_headers",
    uvicorn.Server: "_captured_signals capture_signals handle_exit on_tick servers shutdown started startup",
    httptools: """HttpParserCallbackError HttpParserError HttpParserInvalidMethodError HttpParserInvalidStatusError
        HttpParserUpgrade HttpRequestParser HttpResponseParser parse_url""",
    httptools.HttpRequestParser: """feed_data get_http_version get_method set_dangerous_leniencies should_upgrade""",
}
MEMBERS = [(owner, name) for owner, names in BORROWED.items() for name in names.split()]


def members(owner: Any) -> set[str]:
    """What it has, and what its methods give its instances."""
    if isinstance(owner, ModuleType):
        return set(dir(owner))
    methods = [each for kind in owner.__mro__ for each in vars(kind).values() if isinstance(each, FunctionType)]
    stored = (step.argval for method in methods for step in dis.get_instructions(method) if step.opname == "STORE_ATTR")
    return {*dir(owner), *stored}


@pytest.mark.parametrize(("owner", "name"), MEMBERS, ids=[f"{owner.__name__}.{name}" for owner, name in MEMBERS])
def test_what_is_borrowed_is_there(owner, name):
    where = getattr(owner, "__module__", owner.__name__)
    assert name in members(owner), (
        f"{where} no longer has {owner.__name__}.{name}, which app/server relies on: "
        "read what changed there before you raise its upper bound in pyproject.toml."
    )


@pytest.mark.parametrize("package", ["httptools", "uvicorn"])
def test_a_package_whose_inside_is_borrowed_has_an_upper_bound(package):
    assert re.search(rf'"{package}>=[\d.]+,<[\d.]+[;"]', (PROJECT / "pyproject.toml").read_text())
