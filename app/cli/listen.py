"""The command `priohook listen`: events of a receiver, posted to a program on this machine."""

import asyncio
import json
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import click

from app.cli.filters import Moment, choosing_events
from app.cli.output import say, say_json
from app.cli.places import Places
from app.cli.source import MOST_ANSWER, NotNow, Refused, Source

SILENCE = 45.0  # seconds: three heartbeats; after that the connection is dead, as after this machine slept
AGAIN = 2.0  # seconds
ANSWER_WITHIN = 60.0  # seconds
NOT_SENT_ON = {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "expect", "te", "upgrade"}
NOT_SENT_ON |= {"webhook-id"}  # the sender must not choose it: the program knows repetitions by ours
LAST = "last"


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
        self._url, self._from, self._token, self._user = url, source, token, user
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
            self._source = Source(self._session, self._from, token=self._token, user=self._user)
            with _keys(self._again):
                while True:
                    try:
                        await self._follow()
                    except Refused as error:
                        raise click.ClickException(str(error)) from None
                    except NotNow as error:
                        self._tell(f"{error}: trying again.")
                    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                        self._tell(f"{self._from} does not answer ({type(error).__name__}): trying again.")
                    await asyncio.sleep(AGAIN)

    async def _follow(self) -> None:
        async with self._source.stream(self._query, after=self.place) as blocks:
            self._tell(f"Listening to {self._from}, posting to {self._url}.")
            async for place, text in blocks:
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
            try:
                return await self._source.read(path)
            except NotNow as error:
                self._tell(f"{error}: trying again.")
            await asyncio.sleep(AGAIN)

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
