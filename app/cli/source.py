"""A receiver whose events another machine reads: its stream, its events, and tokens for both."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

MOST_ANSWER = 64 * 1024  # bytes that are read of an answer
MOST_BODY = 64 * 1024 * 1024  # bytes
STREAM = "text/event-stream"
OK = 200
GONE = (404, 410)
LATER = (408, 425, 429)
UNAUTHORIZED = 401


class Refused(Exception):
    """The receiver refuses this client for good."""


class NotNow(Exception):
    """The receiver cannot answer now. The text says what it answers."""


class Source:
    """Reads from a receiver.

    Args:
        session: Sends the requests.
        url: The receiver's, without a path.
        token: A token; None to get one.
        user: `username:secret` of a client that gets tokens; None if the token is all there is.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, *, token: str | None, user: str | None) -> None:
        self._session = session
        self._url = url
        self._token = token
        self._user = user

    @asynccontextmanager
    async def stream(
        self, query: dict[str, str], *, after: str | None
    ) -> AsyncIterator[AsyncIterator[tuple[str, str | None]]]:
        """The `id` and the `data` of each block of the stream; of what comes after an id, if one is given.

        Raises:
            NotNow: it may answer later.
            Refused: it never will.
        """
        headers = {"Accept": STREAM} | ({"Last-Event-ID": after} if after else {})
        async with await self._get("/api/events/stream", headers, query) as answer:
            if answer.status in GONE or (answer.status == OK and answer.content_type != STREAM):
                raise Refused(f"{self._url} has no stream of events: is it a receiver, of this release or later?")
            if answer.status != OK:
                raise NotNow(f"{self._url} answers {answer.status}")
            yield _blocks(answer.content)

    async def read(self, path: str) -> bytes | None:
        """What is there; None if it was deleted or erased.

        Raises:
            NotNow: it may answer later.
            Refused: it never will.
            ValueError: it is too long.
        """
        async with await self._get(path, {}, {}) as answer:
            if answer.status in GONE:
                return None
            if answer.status == OK:
                return await _bounded(answer.content, MOST_BODY)
            raise NotNow(f"{self._url} answers {answer.status}")

    async def _get(self, path: str, headers: dict[str, str], query: dict[str, str]) -> aiohttp.ClientResponse:
        for last in (False, True):
            if self._token is None:
                self._token = await self._new_token()
            # A proxy must not compress the stream: it would hold events back.
            sent = {"Accept-Encoding": "identity", **headers, "Authorization": f"Bearer {self._token}"}
            answer = await self._session.get(self._url + path, headers=sent, params=query, allow_redirects=False)
            if answer.status != UNAUTHORIZED or self._user is None or last:
                break
            answer.release()
            self._token = None
        if answer.status < 300 or answer.status >= 500 or answer.status in (*GONE, *LATER):  # noqa: PLR2004
            return answer
        async with answer:
            said = (await _bounded(answer.content, MOST_ANSWER)).decode(errors="replace")
        hint = " Is the token valid, or has it ended? LISTEN_USER gets new ones." if self._user is None else ""
        hint = hint if answer.status == UNAUTHORIZED else ""
        raise Refused(f"{self._url} answers {answer.status}.{hint} {said}".rstrip())

    async def _new_token(self) -> str:
        username, _, secret = (self._user or "").partition(":")
        answer = await self._session.post(
            f"{self._url}/oauth2/token",
            data={"grant_type": "client_credentials", "scope": "events:read"},
            auth=aiohttp.BasicAuth(username, secret, "utf-8"),
            allow_redirects=False,
        )
        async with answer:
            content = await _bounded(answer.content, MOST_ANSWER)
            if answer.status in (400, 401, 403):
                raise Refused(f"{self._url} gives no token: {answer.status}. Check LISTEN_USER and its scopes.")
            answer.raise_for_status()
            return str(json.loads(content)["access_token"])


async def _blocks(content: aiohttp.StreamReader) -> AsyncIterator[tuple[str, str | None]]:
    """The `id` and the `data` of each block of Server-Sent Events."""
    place, text = "", None
    while line := await content.readline():
        name, _, value = line.decode().rstrip("\n").partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            place = value
        elif name == "data":
            text = value
        elif line == b"\n":
            if place:
                yield place, text
            text = None


async def _bounded(content: aiohttp.StreamReader, most: int) -> bytes:
    read = bytearray()
    async for chunk in content.iter_chunked(64 * 1024):
        read += chunk
        if len(read) > most:
            raise ValueError("an answer that is too long")
    return bytes(read)
