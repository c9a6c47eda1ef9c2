"""Destinations at `https://` and `http://`: one POST for each attempt, signed according to Standard Webhooks."""

import hmac
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256

from app.deliveries.claims import Claim
from app.deliveries.destinations.connections import Connections, NoAnswer, TimedOut
from app.deliveries.results import Outcome
from app.deliveries.retry import LONGEST_RETRY_AFTER, judge
from app.deliveries.tables import AttemptResult
from app.events.tables import Origin
from app.settings.keys import signing_key
from app.settings.model import DestinationSettings
from app.settings.urls import http_target
from app.web.body import claimed_coding, coding_of

MOST_KEPT = 2 * 1024  # bytes of an answer


class HTTPDestination:
    """A URL that takes events."""

    def __init__(self, settings: DestinationSettings) -> None:
        target = http_target(settings.url)
        fixed = {"Host": target.host_header, "Accept": "*/*", "User-Agent": "priohook"}
        if target.authorization is not None:
            fixed["Authorization"] = target.authorization
        self._request_line = f"POST {target.path} HTTP/1.1\r\n"
        self._headers = fixed | settings.headers
        self._keys = [signing_key(secret) for secret in settings.secret]
        self._timeout = settings.timeout.total_seconds()
        self._connections = Connections(target)

    async def open(self) -> None:
        """Does nothing: a connection is opened when it is needed."""

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:
        """Posts the event."""
        sent = self._headers | headers(claim, self._keys, now=now) | {"Content-Length": str(len(claim.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        head = f"{self._request_line}{lines}\r\n".encode("latin-1")
        try:
            answer = await self._connections.post(head, claim.body, timeout=self._timeout)
        except TimedOut as error:
            return Outcome(AttemptResult.TIMED_OUT, error=str(error)[:MOST_KEPT])
        except NoAnswer as error:
            return Outcome(AttemptResult.UNREACHABLE, error=str(error)[:MOST_KEPT])
        except OSError as error:
            return Outcome(AttemptResult.UNREACHABLE, error=f"{type(error).__name__}: {error}"[:MOST_KEPT])
        wait = retry_after(answer.retry_after, now=now)
        return Outcome(
            judge(answer.status),
            answer.status,
            answer=answer.body[:MOST_KEPT],
            retry_after=wait,
            certificate_until=self._connections.certificate_until,
        )

    async def close(self) -> None:
        """Closes the idle connections."""
        await self._connections.close()


def headers(claim: Claim, keys: list[bytes], *, now: datetime) -> dict[str, str]:
    """The request's headers. `webhook-id` is the event's id, the same on every attempt and replay."""
    stamp = str(int(now.timestamp()))
    sent = {name.title(): value for name, value in claim.headers if name == "content-type"}
    if coding := coding_of(claim.body, claimed_coding(claim.headers)):
        sent["Content-Encoding"] = coding.decode()
    sent |= {"webhook-id": str(claim.event_id), "webhook-timestamp": stamp}
    if keys:
        sent["webhook-signature"] = signatures(str(claim.event_id), claim.body, keys, stamp)
    fetched = claim.origin == Origin.FETCHED
    optional = {
        "Priohook-Event-Type": claim.type,
        "Priohook-Event-Name": claim.event_name,
        "Priohook-Reference": claim.reference,
        "Priohook-Replay": claim.replay_id,
        "Priohook-Test": "true" if claim.test else None,
        "Priohook-Superseded": "true" if claim.superseded else None,
        "Priohook-Origin": "fetched" if fetched else None,
        "Priohook-Cause": claim.cause if fetched else None,
        "traceparent": claim.trace,
        "Priohook-Snapshot": "failed" if claim.snapshot_failed else None,
    }
    sent["Priohook-Attempt"] = str(claim.attempt)
    return sent | {name: _visible(str(value)) for name, value in optional.items() if value is not None}


def signatures(message_id: str, body: bytes, keys: list[bytes], stamp: str) -> str:
    """A signature for each key (Standard Webhooks 1.0, "Signature scheme"). Its library signs only text, not bytes.

    Args:
        message_id: The value of `webhook-id`.
        body: The exact bytes that are sent.
        keys: The newest first.
        stamp: The value of `webhook-timestamp`.
    """
    signed = f"{message_id}.{stamp}.".encode() + body
    return " ".join("v1," + b64encode(hmac.digest(key, signed, sha256)).decode() for key in keys)


def retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """How long an answer asks to wait, at most `LONGEST_RETRY_AFTER`; None if it does not ask.

    The value is a number of seconds or a date (RFC 9110, section 10.2.3).
    """
    if not value:
        return None
    if value.isascii() and value.isdigit():
        long = len(value.lstrip("0")) > len(str(LONGEST_RETRY_AFTER // timedelta(seconds=1)))
        return LONGEST_RETRY_AFTER if long else min(timedelta(seconds=int(value[-9:])), LONGEST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max(at - now, timedelta(0)), LONGEST_RETRY_AFTER)


def _visible(text: str) -> str:
    """The text as a header may hold it: everything except printable ASCII is percent-encoded UTF-8."""
    return "".join(char if " " <= char <= "~" and char != "%" else _percent(char) for char in text)


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace"))
