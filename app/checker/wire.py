"""Sends one request byte by byte on a connection of its own, and reads the answer."""

import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import SplitResult

from app.checker.rows import Headers, Request

PATH = "/webhooks/prioticket"
MOST_READ = 64 * 1024  # bytes of an answer


class NoConnection(Exception):
    """The server cannot be reached; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. The names of its headers are in lower case; values of repeated headers are joined by commas."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str | None:
        """`error` of the ErrorModel in the body; None if the body is not an ErrorModel."""
        return self._error_model()[0]

    @property
    def error_reference(self) -> str | None:
        """`error_reference` of the ErrorModel in the body; None if the body is not an ErrorModel."""
        return self._error_model()[1]

    def _error_model(self) -> tuple[str, str] | tuple[None, None]:
        try:
            model = json.loads(self.body)
            return (model["error"], str(model["error_reference"])) if isinstance(model["error"], str) else (None, None)
        except (ValueError, TypeError, KeyError):
            return None, None


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer came; `why` says what happened instead."""

    why: str


def parts(
    request: Request, url: SplitResult, *, credentials: Mapping[str, str], headers: Headers = ()
) -> Iterator[bytes]:
    """The bytes of a request.

    Args:
        credentials: The values of Authorization in place of `SENDER` and `STRANGER`.
        headers: Headers that go before the request's own.
    """
    path = url.path if request.path is None else url.path.removesuffix(PATH).rstrip("/") + request.path
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {url.netloc}"]
    lines += [f"{name}: {value}" for name, value in (*headers, *request.fields(credentials))]
    head = "\r\n".join([*lines, "", ""]).encode()
    if isinstance(request.content, bytes):
        yield head + request.content
        return
    yield head
    for chunk in request.content:
        yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
    yield b"0\r\n\r\n"  # a proxy that buffers bodies waits for it


def exchange(url: SplitResult, parts: Iterable[bytes], *, method: str, timeout: float) -> Answer | Silence:
    """Sends the parts until they or the connection end, and reads the answer. Each step may take `timeout` seconds.

    Raises:
        NoConnection: the server cannot be reached, or its certificate cannot be trusted.
    """
    connection = _connect(url, timeout)
    try:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break  # the server may have answered before it closed
        response = HTTPResponse(connection, method=method)
        response.begin()
        headers: dict[str, str] = {}
        for name, value in response.getheaders():
            earlier = headers.get(name.lower())
            headers[name.lower()] = value if earlier is None else f"{earlier}, {value}"
        return Answer(response.status, headers, response.read(MOST_READ))
    except TimeoutError:
        return Silence(f"no answer within {timeout:g} seconds")
    except (OSError, HTTPException) as error:
        return Silence(f"the connection ended: {type(error).__name__}")
    finally:
        connection.close()


def _connect(url: SplitResult, timeout: float) -> socket.socket:
    secure = url.scheme == "https"
    host = url.hostname or ""
    try:
        plain = socket.create_connection((host, url.port or (443 if secure else 80)), timeout=timeout)
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    except ssl.SSLCertVerificationError as error:
        raise NoConnection(
            f"The certificate of {host} cannot be trusted: {error.verify_message}. Prioticket would refuse it too."
        ) from None
    except ssl.SSLError as error:
        raise NoConnection(f"{url.netloc} does not speak TLS: {error.reason}. Is it an http:// URL?") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: the host's name is not valid in DNS
        raise NoConnection(f"{url.geturl()} cannot be reached: {error}. Is priohook running there?") from None
