"""Sends requests to Prioticket over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Protocol

import aiohttp

from app.prioticket.errors import Unreadable
from app.prioticket.messages import Answer

MOST_BYTES = 16 * 1024 * 1024
"""The longest answer, its content coding undone."""


class NoAnswer(Exception):
    """No whole answer came; the text says why and holds no URL, which may have a key in it."""


class Exchange(Protocol):
    """Sends one request and returns its answer."""

    async def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """The answer to one request.

        Raises:
            NoAnswer: none came, or not all of it.
            Unreadable: it is longer than `MOST_BYTES`.
        """


@asynccontextmanager
async def over_http(timeout: timedelta) -> AsyncIterator[Exchange]:
    """Exchanges over real connections. No redirect is followed, since the credentials would go with it.

    Args:
        timeout: For each whole answer, the connection included.
    """
    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout.total_seconds()), cookie_jar=aiohttp.DummyCookieJar()
    )

    async def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        try:
            async with session.request(method, url, headers=headers, data=body, allow_redirects=False) as response:
                content = await _bounded(response.content)
        except TimeoutError:
            raise NoAnswer(f"it did not answer within {timeout.total_seconds():g} seconds") from None
        except (aiohttp.ClientConnectorError, OSError) as error:
            raise NoAnswer(f"it cannot be reached: {error}") from None
        except (aiohttp.ClientError, asyncio.IncompleteReadError, ValueError) as error:
            raise NoAnswer(f"its answer was broken off or is not HTTP ({type(error).__name__})") from None
        fields = response.headers
        return Answer(response.status, fields.get("Content-Type", ""), fields.get("Retry-After", ""), content)

    async with session:
        yield exchange


async def _bounded(stream: aiohttp.StreamReader) -> bytes:
    content = bytearray()
    async for chunk in stream.iter_chunked(64 * 1024):
        content += chunk
        if len(content) > MOST_BYTES:
            raise Unreadable(f"Prioticket's answer is longer than {MOST_BYTES // 1024 // 1024} MiB.")
    return bytes(content)
