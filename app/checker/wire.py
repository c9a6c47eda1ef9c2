"""One request on a connection of its own, byte by byte, and what came back."""

import json
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import SplitResult

MOST_READ = 64 * 1024  # bytes of an answer


class NoConnection(Exception):
    """The server cannot be reached; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers are in lower case, repeated ones joined by commas."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error_reference(self) -> str | None:
        """That of the ErrorModel in the body, or None where the body is none."""
        try:
            model = json.loads(self.body)
            return str(model["error_reference"]) if isinstance(model["error"], str) else None
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer; the text says what happened instead."""

    why: str


def exchange(url: SplitResult, parts: Iterable[bytes], *, method: str, timeout: float) -> Answer | Silence:
    """Sends the parts until they end or the connection does, and reads the answer.

    Args:
        url: Says where to connect.
        parts: The request's bytes.
        method: The request's; the answer to HEAD has no body.
        timeout: Seconds for each step.

    Raises:
        NoConnection: there is no connection, or no trust in its certificate.
    """
    connection = _connect(url, timeout)
    try:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break  # it may have answered before it closed
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
            f"The certificate of {host} cannot be trusted: {error.verify_message}. Nor would Prioticket."
        ) from None
    except ssl.SSLError as error:
        raise NoConnection(f"{url.netloc} does not speak TLS: {error.reason}. Is it http:// there?") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that DNS cannot have
        raise NoConnection(f"{url.geturl()} cannot be reached: {error}. Does it run there?") from None
