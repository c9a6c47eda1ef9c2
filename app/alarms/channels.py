"""Where alarms are told: a signed POST, or whatever apprise knows; and the ping that is sent while all is well."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from app.alarms.notices import Message
from app.database.schema import PACKAGE
from app.deliveries.destinations.connections import Connections, NoAnswer
from app.deliveries.destinations.http import signatures
from app.settings.alarms import AlarmChannel
from app.settings.keys import signing_key
from app.settings.urls import http_target

STARTS_WITHIN = timedelta(seconds=30)
"""For the process of apprise to start, beside the channel's `timeout`: a busy machine takes seconds."""

MOST_TEXT = 500  # characters of an error


class Untold(Exception):
    """A message did not arrive, as far as is known. The text says why, and holds no part of the URL."""


class Channel(Protocol):
    """Somebody who is told."""

    async def tell(self, message: Message, *, now: datetime) -> None:
        """Tells a message.

        Raises:
            Untold: it did not arrive within the channel's `timeout`.
        """

    async def close(self) -> None:
        """Closes its connections."""


def open_channel(settings: AlarmChannel) -> Channel:
    """The channel; connects when it is needed."""
    return Posting(settings) if settings.posts else Apprising(settings)


class _Calling:
    """Requests to one URL."""

    def __init__(self, url: str, timeout: timedelta) -> None:
        self._target = http_target(url)
        self._connections = Connections(self._target)
        self._timeout = timeout.total_seconds()
        self._fixed = {"Host": self._target.host_header, "Accept": "*/*", "User-Agent": "priohook"}
        if self._target.authorization is not None:
            self._fixed["Authorization"] = self._target.authorization

    async def ask(self, method: str, headers: dict[str, str], body: bytes) -> None:
        """Sends a request; any answer 2xx is success.

        Raises:
            Untold: there is none.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in (self._fixed | headers).items())
        head = f"{method} {self._target.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        try:
            answer = await self._connections.post(head, body, timeout=self._timeout)
        except (NoAnswer, OSError) as error:
            raise Untold(f"{error or type(error).__name__}"[:MOST_TEXT]) from None
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
            raise Untold(f"It answered {answer.status}.")

    async def close(self) -> None:
        """Closes the connections."""
        await self._connections.close()


class Posting:
    """A POST of JSON to a URL, signed as deliveries are."""

    def __init__(self, settings: AlarmChannel) -> None:
        self._calling = _Calling(settings.url or "", settings.timeout)
        self._keys = [signing_key(secret) for secret in settings.secret]

    async def tell(self, message: Message, *, now: datetime) -> None:
        stamp = str(int(now.timestamp()))
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(message.body)),
            "webhook-id": str(message.id),
            "webhook-timestamp": stamp,
        }
        if self._keys:
            headers["webhook-signature"] = signatures(str(message.id), message.body, self._keys, stamp)
        await self._calling.ask("POST", headers, message.body)

    async def close(self) -> None:
        await self._calling.close()


class Pinging:
    """A GET that says that all is well."""

    def __init__(self, settings: AlarmChannel) -> None:
        self._calling = _Calling(settings.ping or "", settings.timeout)

    async def ping(self) -> None:
        """Sends it.

        Raises:
            Untold: it did not arrive.
        """
        await self._calling.ask("GET", {}, b"")

    async def close(self) -> None:
        """Closes the connections."""
        await self._calling.close()


class Apprising:
    """An apprise URL. A process of its own tells each message."""

    def __init__(self, settings: AlarmChannel) -> None:
        self._url = settings.url or ""
        self._within = settings.timeout + STARTS_WITHIN

    async def tell(self, message: Message, *, now: datetime) -> None:  # noqa: ARG002 - it is not signed
        seconds = self._within.total_seconds()
        given = {
            "url": self._url,
            "seconds": seconds,
            "title": message.title,
            "body": message.text,
            "level": message.level,
        }
        paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "app.alarms.apprising"),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except (OSError, MemoryError) as error:
            raise Untold(f"The process of apprise cannot be started: {error}.") from None
        try:
            async with asyncio.timeout(seconds):
                said, _ = await process.communicate(json.dumps(given).encode())
        except TimeoutError:
            raise Untold(f"Apprise did not tell it within {seconds:g} seconds.") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode:
            why = said.decode(errors="replace")[:MOST_TEXT] or f"its process ended with {process.returncode}"
            raise Untold(f"Apprise could not tell it: {why}.")

    async def close(self) -> None:
        """Has nothing open."""
