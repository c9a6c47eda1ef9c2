"""Refuses the head of a request if another server could read it differently, or if it is too large."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from app.web.problems import MethodNotImplemented, NotFound, Problem

LARGEST_HEAD_BYTES = 64 * 1024
LONGEST_TARGET_BYTES = 8 * 1024  # RFC 9112, section 3, wants 8000 at least
MOST_FIELDS = 100

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}) ([^\s?]++)(\?\S*+)? HTTP/1\.[01]\r?\n")
HOST = re.compile(rb"(\[[0-9A-Za-z:.%_~-]++\]|[0-9A-Za-z._~%!$&'()*+,;=-]*+)(:[0-9]*+)?")
"""RFC 9110, section 7.2; it may be empty."""

VERSIONS = ("1.1", "1.0")
JUDGED = frozenset((b"host", b"transfer-encoding", b"expect"))

Fields = Sequence[tuple[bytes, bytes]]


class MalformedRequest(Problem):
    """What arrived is not valid HTTP/1.1."""

    status = 400


class HeadTooLarge(Problem):
    """The request line and headers are over `LARGEST_HEAD_BYTES`, or there are more than `MOST_FIELDS`."""

    status = 431


class TargetTooLong(Problem):
    """The request's target is over `LONGEST_TARGET_BYTES`."""

    status = 414


class HeadTooSlow(Problem):
    """The request line and headers did not arrive in time."""

    status = 408


def check_size(fields: Fields) -> None:
    """Returns if the fields are not too large.

    Raises:
        HeadTooLarge: they are.
    """
    if sum(len(name) + len(value) for name, value in fields) > LARGEST_HEAD_BYTES:
        raise HeadTooLarge("The request's head is too large.", "Send fewer and shorter headers.")


def expects_continue(version: str, fields: Fields) -> bool:
    """Whether the sender waits for an interim answer before it sends the body.

    Raises:
        MalformedRequest: another server could read the head differently, RFC 9112, sections 2.3, 3.2 and 6.1.
    """
    if version not in VERSIONS:
        raise MalformedRequest("This is not HTTP/1.1.", "Send the request as HTTP/1.1.")
    hosts, codings, expects = [], [], False
    for name, value in fields:
        if name not in JUDGED:
            continue
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value.strip(b" \t").lower())
        else:
            # HTTP/1.0 has no interim answers; RFC 9110, section 10.1.1.
            expects = version == "1.1" and value.strip(b" \t").lower() == b"100-continue"
    if len(hosts) != 1 and (hosts or version == "1.1"):
        raise MalformedRequest("There is not exactly one Host header.", "Send one.")
    if hosts and not HOST.fullmatch(hosts[0].strip(b" \t")):
        raise MalformedRequest("The Host header is not valid.", "Send a host, with a port if needed.")
    if codings and (codings != [b"chunked"] or version == "1.0"):
        why = "Send Content-Length, or HTTP/1.1 with Transfer-Encoding: chunked alone."
        raise MalformedRequest("The transfer coding is not valid here.", why)
    return expects


class Target(NamedTuple):
    """A request's target, as ASGI has it."""

    raw_path: bytes
    path: str
    query_string: bytes


@lru_cache(maxsize=32)
def target(url: bytes) -> Target:
    """The request's target; `http://host` means `/`, RFC 9112, section 3.2.1.

    Raises:
        MalformedRequest: it has a fragment.
        httptools.HttpParserInvalidURLError: it is not a URL.
    """
    if b"#" in url:
        raise MalformedRequest("The request's target has a fragment.", "Leave out what begins with #.")
    parts = httptools.parse_url(url)
    if parts.path is None and parts.schema is not None:
        return Target(b"/", "/", parts.query or b"")
    return Target(parts.path, unquote(parts.path.decode("ascii")), parts.query or b"")


def without_upgrade(method: bytes, url: bytes, version: str, fields: Fields) -> bytes:
    """The head without its offer to speak another protocol."""
    kept = (b"%s: %s\r\n" % field for field in fields if field[0] != b"upgrade")
    return b"%s %s HTTP/%s\r\n" % (method, url, version.encode()) + b"".join(kept) + b"\r\n"


def problem_of(error: httptools.HttpParserError, received: bytes, paths: Sequence[re.Pattern[str]]) -> Problem:
    """Why the parser did not take what was received.

    Args:
        error: The parser's, which may have been raised by one of its callbacks.
        received: The request from its beginning, or nothing.
        paths: The patterns of all known URLs.
    """
    if isinstance(error.__context__, Problem):
        return error.__context__
    request = REQUEST_LINE.match(received)
    if isinstance(error, httptools.HttpParserInvalidMethodError) and request:
        if not any(known.match(request[2].decode("latin-1")) for known in paths):
            return NotFound("There is nothing at this URL.", "docs/api.md lists the URLs.")
        return MethodNotImplemented("HTTP does not define this method.", "docs/api.md lists the URLs and methods.")
    why = "its target is not a valid URL" if isinstance(error, httptools.HttpParserCallbackError) else error
    return MalformedRequest("This is not a valid HTTP/1.1 request.", f"In detail: {why}.")
