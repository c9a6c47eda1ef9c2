"""The command `priohook listen`: events of a receiver, posted to a program on this machine."""

import asyncio
import json
import os
import signal
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import click

from app.cli.filters import Moment, choosing_events
from app.cli.output import say, say_json

SILENCE = 45.0  # seconds: three heartbeats; after that the connection is dead, as after this machine slept
AGAIN = 2.0  # seconds
ANSWER_WITHIN = 60.0  # seconds
MOST_ANSWER = 64 * 1024  # bytes that are read of an answer
MOST_BODY = 64 * 1024 * 1024  # bytes
MOST_PLACES = 50
NOT_SENT_ON = {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "expect", "te", "upgrade"}
NOT_SENT_ON |= {"webhook-id"}  # the sender must not choose it: the program knows repetitions by ours
STREAM = "text/event-stream"
LAST = "last"
GONE = (404, 410)
LATER = (408, 425, 429)
UNAUTHORIZED = 401


class Since(Moment):
    """A time, or `last`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return LAST if value == LAST else super().convert(value, param, ctx)


SINCE = click.option(
    "--since", type=Since(), help="Begin with what is stored since this time, or after the last event posted: 1h, last."
)


@click.command()
@click.argument("url")
@click.option("--from", "source", required=True, metavar="URL", help="The receiver: https://host.")
@click.option("--token", envvar="LISTEN_TOKEN", help="A token with the scope events:read; better in LISTEN_TOKEN.")
@click.option(
    "--user",
    envvar="LISTEN_USER",
    metavar="USERNAME:SECRET",
    help="A client that may have such tokens, to get a new one when one ends; better in LISTEN_USER.",
)
@partial(choosing_events, since=SINCE)
@click.option("--q", help="Only events with this part of a reference, type or notification id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def listen(
    *, url: str, source: str, token: str | None, user: str | None, as_json: bool, since: Any, **filters: Any
) -> None:
    """Post events of a receiver to URL on this machine as they are committed, in order, until Ctrl-C.

    The bytes and headers are those that arrived, of quarantined events too unless `--status accepted` is given. Nothing
    has to reach this machine from outside. With `--since last` it goes on after the last event that it posted to URL
    with the same filters; with a time it begins with what is stored since then. While the program at URL does not
    answer, the events wait. On a terminal, r posts the last event again.
    """
    if not _is_here(url):
        raise click.UsageError("URL must be on this machine: http://127.0.0.1:PORT/… or http://localhost:PORT/….")
    if urlsplit(source).scheme != "https" and not _is_here(source):
        raise click.UsageError("--from takes https://host, or http:// on this machine: a token must not be read.")
    if (token is None) == (user is None):
        raise click.UsageError("Give either LISTEN_TOKEN or LISTEN_USER (USERNAME:SECRET).")
    query = {name: _text(value) for name, value in filters.items() if value is not None}
    places = Places(json.dumps([source, url, query]))
    if since is not None and since != LAST:
        query["since"] = _text(since)
    session = Listening(url, source.rstrip("/"), token=token, user=user, query=query, places=places, as_json=as_json)
    if since == LAST:
        session.place = places.read()
        if session.place is None:
            say("Nothing was posted to this URL with these filters yet: it begins with the next event.", err=True)
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(session.run())


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _as_sent(value: str) -> str:
    """A header's value that aiohttp sends, as UTF-8, with the bytes that arrived."""
    with suppress(UnicodeDecodeError):
        return value.encode("latin-1").decode()
    return value


def _is_here(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, usable = parts.hostname or "", parts.scheme in ("http", "https") and parts.port != 0
        return usable and "@" not in parts.netloc and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


class Places:
    """How far each receiver was listened to, in a file of the user: at most `MOST_PLACES`, the last used."""

    def __init__(self, name: str) -> None:
        self._key = sha256(name.encode()).hexdigest()[:32]
        self._failed = False

    def read(self) -> str | None:
        """The place; None if there is none yet.

        Raises:
            click.ClickException: the file cannot be read.
        """
        try:
            place = _places(_places_file()).get(self._key)
        except (OSError, RuntimeError) as error:
            raise click.ClickException(f"How far it came cannot be read: {error}. Give --since a time.") from None
        return place if isinstance(place, str) else None

    def write(self, place: str) -> None:
        """Keeps the place. If it cannot, it says so once: events come all the same."""
        try:
            self._write(_places_file(), place)
        except (OSError, RuntimeError) as error:
            if not self._failed:
                say(f"How far it comes cannot be kept for --since last: {error}. Set XDG_STATE_HOME.", err=True)
            self._failed = True

    def _write(self, file: Path, place: str) -> None:
        kept = _places(file)
        kept.pop(self._key, None)
        kept[self._key] = place
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(dict(list(kept.items())[-MOST_PLACES:])))
        new.replace(file)


def _places_file() -> Path:
    """Where places are kept.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "priohook" / "listen.json"


def _places(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


class Refused(Exception):
    """The receiver refuses this client for good."""


class Listening:
    """One run of the command. `place` is the id of the stream up to which all is posted."""

    def __init__(
        self,
        url: str,
        source: str,
        *,
        token: str | None,
        user: str | None,
        query: dict[str, str],
        places: Places,
        as_json: bool,
    ) -> None:
        self.place: str | None = None
        self._url, self._source, self._token, self._user = url, source, token, user
        self._query, self._places, self._as_json = query, places, as_json
        self._last: tuple[dict[str, Any], list[tuple[str, str]], bytes] | None = None
        self._posting = asyncio.Lock()
        self._told = ""

    async def run(self) -> None:
        """Goes on until it is cancelled, as SIGTERM does too: the terminal gets its modes back.

        Raises:
            click.ClickException: the receiver refuses it.
        """
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=jar, auto_decompress=False) as self._session:
            with _keys(self._again):
                while True:
                    try:
                        await self._follow()
                    except Refused as error:
                        raise click.ClickException(str(error)) from None
                    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                        self._tell(f"{self._source} does not answer ({type(error).__name__}): trying again.")
                    await asyncio.sleep(AGAIN)

    async def _follow(self) -> None:
        headers = {"Accept": STREAM} | ({"Last-Event-ID": self.place} if self.place else {})
        async with await self._get("/api/events/stream", headers, self._query) as answer:
            if answer.status in GONE or (answer.status == 200 and answer.content_type != STREAM):  # noqa: PLR2004
                raise Refused(f"{self._source} has no stream of events: is it a receiver, of this release or later?")
            if answer.status != 200:  # noqa: PLR2004
                self._tell(f"{self._source} answers {answer.status}: trying again.")
                return
            self._tell(f"Listening to {self._source}, posting to {self._url}.")
            async for place, text in _blocks(answer.content):
                if text is not None:
                    await self._bring(json.loads(text))
                if place != self.place:
                    self.place = place
                    self._places.write(place)

    async def _bring(self, event: dict[str, Any]) -> None:
        """Fetches an event and posts it."""
        path = f"/api/events/{event['id']}"
        detail = json.loads(await self._read(path) or b"{}")
        body = await self._read(f"{path}/body")
        if body is None or not detail:
            self._print(event, "erased", None)
            return
        headers = [(name, _as_sent(value)) for name, value in detail["headers"] if name.lower() not in NOT_SENT_ON]
        headers.append(("webhook-id", event["id"]))
        async with self._posting:
            self._last = (event, headers, body)
            while not await self._post(*self._last):  # noqa: ASYNC110 - nobody tells when the program is back
                await asyncio.sleep(AGAIN)

    async def _read(self, path: str) -> bytes | None:
        """What is there; None if it was deleted or erased."""
        while True:
            async with await self._get(path, {}, {}) as answer:
                if answer.status in GONE:
                    return None
                if answer.status == 200:  # noqa: PLR2004
                    return await _bounded(answer.content, MOST_BODY)
                self._tell(f"{self._source} answers {answer.status}: trying again.")
            await asyncio.sleep(AGAIN)

    async def _get(self, path: str, headers: dict[str, str], query: dict[str, str]) -> aiohttp.ClientResponse:
        for last in (False, True):
            if self._token is None:
                self._token = await self._new_token()
            # A proxy must not compress the stream: it would hold events back.
            sent = {"Accept-Encoding": "identity", **headers, "Authorization": f"Bearer {self._token}"}
            answer = await self._session.get(self._source + path, headers=sent, params=query, allow_redirects=False)
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
        raise Refused(f"{self._source} answers {answer.status}.{hint} {said}".rstrip())

    async def _new_token(self) -> str:
        username, _, secret = (self._user or "").partition(":")
        answer = await self._session.post(
            f"{self._source}/oauth2/token",
            data={"grant_type": "client_credentials", "scope": "events:read"},
            auth=aiohttp.BasicAuth(username, secret, "utf-8"),
            allow_redirects=False,
        )
        async with answer:
            content = await _bounded(answer.content, MOST_ANSWER)
            if answer.status in (400, 401, 403):
                raise Refused(f"{self._source} gives no token: {answer.status}. Check LISTEN_USER and its scopes.")
            answer.raise_for_status()
            return str(json.loads(content)["access_token"])

    async def _post(self, event: dict[str, Any], headers: list[tuple[str, str]], body: bytes) -> bool:
        """Whether the program at the URL answered, whatever it said."""
        began = monotonic()
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers=headers,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN),
            ) as answer:
                await answer.content.read(MOST_ANSWER)
                self._print(event, answer.status, monotonic() - began)
        except TimeoutError:
            self._print(event, "timed out", monotonic() - began)
        except (aiohttp.ClientError, OSError) as error:
            self._tell(f"{self._url} does not answer ({type(error).__name__}): the event waits.")
            return False
        return True

    def _again(self) -> None:
        """Posts the last event again, if none is being posted."""
        if self._last is not None and not self._posting.locked():
            self._resending = asyncio.create_task(self._resend(self._last))

    async def _resend(self, last: tuple[dict[str, Any], list[tuple[str, str]], bytes]) -> None:
        async with self._posting:
            await self._post(*last)

    def _print(self, event: dict[str, Any], status: int | str, seconds: float | None) -> None:
        self._told = ""
        milliseconds = None if seconds is None else round(seconds * 1000)
        if self._as_json:
            say_json({"id": event["id"], "type": event["type"], "status": status, "ms": milliseconds})
            return
        clock = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
        took = "-" if milliseconds is None else f"{milliseconds} ms"
        say("\t".join([clock, str(status), took, event["type"] or "-", event["reference"] or "-", event["id"]]))

    def _tell(self, text: str) -> None:
        """Says it once, until something else happens."""
        if text != self._told:
            self._told = text
            say(text, err=True)


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


@contextmanager
def _keys(again: Callable[[], None]) -> Iterator[None]:
    """Calls `again` when r is typed, if standard input is this process's terminal."""
    number = 0
    if not os.isatty(number) or os.tcgetpgrp(number) != os.getpgrp():  # in the background it would be stopped
        yield
        return
    before, loop = termios.tcgetattr(number), asyncio.get_running_loop()

    def read() -> None:
        typed = os.read(number, 100)
        if not typed:
            loop.remove_reader(number)
        if b"r" in typed:
            again()

    tty.setcbreak(number)
    loop.add_reader(number, read)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
