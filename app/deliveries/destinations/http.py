"""Destinations behind `https://` and `http://`: one POST an attempt, signed as Standard Webhooks says."""

import asyncio
import hmac
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256

import aiohttp

from app.deliveries.claims import Claim
from app.deliveries.results import Outcome
from app.settings import DestinationSettings
from app.values import signing_key

CONNECT_TIMEOUT = timedelta(seconds=5)
KEEP_ALIVE = timedelta(seconds=2)
"""Shorter than common servers', which would otherwise close a connection just as the next attempt is sent on it."""

MOST_READ = 64 * 1024  # bytes of an answer
MOST_KEPT = 2 * 1024
FORWARDED = ("content-type", "content-encoding")
"""Of the headers that came with the event: what says how its bytes are to be read."""


class HTTPDestination:
    """A URL that takes events; one pool of connections for all attempts."""

    def __init__(self, settings: DestinationSettings) -> None:
        self._url = settings.url
        self._headers = settings.headers
        self._keys = [signing_key(secret) for secret in settings.secret]
        self._timeout = aiohttp.ClientTimeout(
            total=settings.timeout.total_seconds(), connect=CONNECT_TIMEOUT.total_seconds()
        )
        self._most = settings.max_in_flight
        self._session: aiohttp.ClientSession | None = None

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:
        """As `Kind.send` says."""
        try:
            sent = self._headers | headers(claim, self._keys, now=now)
            async with self._client().post(self._url, data=claim.body, headers=sent, allow_redirects=False) as response:
                answer = await _beginning(response)
                return Outcome(
                    status=response.status,
                    answer=answer[:MOST_KEPT],
                    retry_after=retry_after(response.headers.get("Retry-After"), now=now),
                )
        except aiohttp.ConnectionTimeoutError:
            return Outcome(error=f"It could not be connected to within {self._timeout.connect:g} seconds.")
        except TimeoutError:
            return Outcome(error=f"It did not answer within {self._timeout.total:g} seconds.")
        except aiohttp.ClientResponseError as error:  # whose text ends with the URL, which may hold a key
            return Outcome(error=f"{type(error).__name__}: {error.message}"[:MOST_KEPT])
        except aiohttp.InvalidURL:
            return Outcome(error="Its URL is none that can be sent to.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(error=f"{type(error).__name__}: {error}"[:MOST_KEPT])

    async def close(self) -> None:
        """As `Kind.close` says."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # the loop's turn in which closed sockets go

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._most, keepalive_timeout=KEEP_ALIVE.total_seconds()),
                timeout=self._timeout,
                auto_decompress=False,  # a small answer could become a large one
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Content-Type", "User-Agent", "Accept-Encoding"),
                headers={"User-Agent": "priohook"},
            )
        return self._session


def headers(claim: Claim, keys: list[bytes], *, now: datetime) -> dict[str, str]:
    """The request's headers. `webhook-id` is the event's, the same on every attempt and replay."""
    stamp = str(int(now.timestamp()))
    sent = {name.title(): value for name, value in claim.headers if name in FORWARDED}
    sent |= {"webhook-id": str(claim.event_id), "webhook-timestamp": stamp}
    if keys:
        sent["webhook-signature"] = " ".join(_signatures(claim, keys, stamp))
    sent |= {"Priohook-Attempt": str(claim.attempt)}
    if claim.type is not None:
        sent["Priohook-Event-Type"] = _visible(claim.type)
    if claim.reference is not None:
        sent["Priohook-Reference"] = _visible(claim.reference)
    if claim.replay_id is not None:
        sent["Priohook-Replay"] = str(claim.replay_id)
    if claim.superseded:
        sent["Priohook-Superseded"] = "true"
    return sent


def retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """How long an answer asks to wait: seconds or a date, RFC 9110, section 10.2.3; what cannot be read is None."""
    if not value:
        return None
    if value.isascii() and value.isdigit() and len(value) < 8:  # noqa: PLR2004 - digits, four months
        return timedelta(seconds=int(value))
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(at - now, timedelta(0))


def _signatures(claim: Claim, keys: list[bytes], stamp: str) -> Iterator[str]:
    """One for each key, Standard Webhooks 1.0, "Signature scheme". Its library signs text only, and a body is bytes."""
    signed = f"{claim.event_id}.{stamp}.".encode() + claim.body
    for key in keys:
        yield "v1," + b64encode(hmac.digest(key, signed, sha256)).decode()


def _visible(text: str) -> str:
    """The text as a header may carry it: printable ASCII, all else percent-encoded as UTF-8."""
    return "".join(each if " " <= each <= "~" and each != "%" else _percent(each) for each in text)


def _percent(each: str) -> str:
    return "".join(f"%{byte:02X}" for byte in each.encode("utf-8", "replace"))


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """At most `MOST_READ` bytes of the answer; a connection with more to come is not used again."""
    read = bytearray()
    try:
        async for chunk in response.content.iter_chunked(MOST_READ):
            read += chunk
            if len(read) >= MOST_READ:
                response.close()
                break
    except (aiohttp.ClientError, OSError, TimeoutError):  # its status has said what there is to know
        response.close()
    return bytes(read)
