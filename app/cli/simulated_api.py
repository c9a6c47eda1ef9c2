"""`priohook simulate --serve`: a simulated Prioticket with an API, which notifies its webhooks of its orders."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import click
import uvicorn

from app.cli.opened import load_settings
from app.cli.output import say, say_json
from app.server.server import Server, listen
from app.simulator.api import BASE, Behaviour, FakeAPI
from app.simulator.book import Book
from app.simulator.faults import Fault, parse_fault
from app.simulator.notifying import Manner, Notifier
from app.simulator.registered import Registered

USUAL_RATE = 2.0  # steps of orders in a second
BEHAVIOURS: dict[str, Callable[[str], Any]] = {
    "expires_in": float,
    "expires_in_text": str,
    "kind": str,
    "cached": lambda text: timedelta(seconds=float(text)),
    "unknown": int,
    "shows_auth": lambda text: text == "true",
}


def _faults(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Fault]:
    try:
        return [parse_fault(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _behaviour(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    chosen = {}
    for text in texts:
        try:
            name, value = text.split("=", 1)
            chosen[name.removesuffix("_text")] = BEHAVIOURS[name](value)
        except (KeyError, ValueError):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE with a NAME of {' '.join(BEHAVIOURS)}.") from None
    return chosen


SERVING = (
    click.option("--serve", metavar="HOST:PORT", help="Answer as Prioticket's API, and send to the webhooks there."),
    click.option(
        "--api-client",
        metavar="CLIENT_ID:SECRET",
        help="With --serve: who may ask for a token; by default the account in the table prioticket.",
    ),
    click.option("--api-key", help="With --serve: the key that each request must have."),
    click.option(
        "--lose",
        default=0.0,
        type=click.FloatRange(0, 1),
        help="With --serve: share of events that are never sent, from 0 to 1.",
    ),
    click.option(
        "--attempts",
        default=1,
        show_default=True,
        type=click.IntRange(1, 20),
        help="With --serve: how often an event is sent at most, until it gets 200.",
    ),
    click.option("--double-base64", is_flag=True, help="With --serve: encode webhook_auth once more."),
    click.option(
        "--fault",
        "faults",
        multiple=True,
        metavar="PATH=KIND[:SECONDS][@SHARE|#COUNT]",
        callback=_faults,
        help="With --serve: a fault, such as /orders/*=503@0.1. Repeatable.",
    ),
    click.option(
        "--behave",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_behaviour,
        help=f"With --serve: how the API behaves: {', '.join(BEHAVIOURS)}. Repeatable.",
    ),
)


SERVING_NAMES = ("serve", "api_client", "api_key", "lose", "attempts", "double_base64", "faults", "behave")


def serving_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of `--serve`."""
    for option in reversed(SERVING):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What `--serve` does."""

    host: str
    port: int
    behaviour: Behaviour
    manner: Manner
    seed: int
    count: int | None
    rate: float


def serving(
    *,
    serve: str,
    api_client: str | None,
    api_key: str | None,
    faults: list[Fault],
    behave: dict[str, Any],
    seed: int,
    **options: Any,
) -> Serving:
    """What the options ask for."""
    host, colon, port = serve.rpartition(":")
    if not colon or not port.isdigit():
        raise click.UsageError("--serve takes HOST:PORT, such as 127.0.0.1:8099.")
    client_id, secret = _api_client(api_client)
    return Serving(
        host=host.strip("[]"),
        port=int(port),
        behaviour=Behaviour(client_id=client_id, client_secret=secret, api_key=api_key, faults=faults, **behave),
        manner=Manner(
            shape=options["shape"],
            lose=options["lose"],
            copies=options["duplicates"],
            shuffle=options["out_of_order"],
            attempts=options["attempts"],
            double_base64=options["double_base64"],
        ),
        seed=seed,
        count=options["count"],
        rate=options["rate"] or USUAL_RATE,
    )


def _api_client(given: str | None) -> tuple[str, str]:
    if given is not None:
        client_id, colon, secret = given.partition(":")
        if not (client_id and colon and secret):
            raise click.UsageError("--api-client takes CLIENT_ID:SECRET.")
        return client_id, secret
    account = load_settings().prioticket
    if account is None:
        raise click.UsageError("Give --api-client CLIENT_ID:SECRET, or set the table prioticket.")
    return account.client_id, account.client_secret.get_secret_value()


def serve_api(chosen: Serving, *, as_json: bool) -> None:
    """Serves until SIGTERM or Ctrl-C, then prints how much was asked and sent."""
    result = asyncio.run(_serve(chosen))
    if as_json:
        say_json(result)
    else:
        say("\n".join(f"{name:<18}{value}" for name, value in result.items()))


async def _serve(chosen: Serving) -> dict[str, Any]:
    random, webhooks = Random(chosen.seed), Registered()  # noqa: S311 - it makes orders up
    now = partial(datetime.now, UTC)
    book = Book(chosen.seed, now=now)
    notifier = Notifier(webhooks, chosen.manner, random=random)
    api = FakeAPI(
        chosen.behaviour,
        book,
        webhooks,
        now=now,
        notify=lambda event, order: notifier.announce(event, order, at=now()),
        random=random,
    )
    listener = listen(chosen.host, chosen.port)
    config = uvicorn.Config(
        api.app(), log_config=None, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = Server(config, started=lambda url: say(f"The simulated Prioticket answers at {url}{BASE}"))
    with listener:
        async with notifier.running():
            living = asyncio.create_task(_live(chosen, book, webhooks, notifier))
            await server.serve(sockets=[listener])
            living.cancel()
            with suppress(asyncio.CancelledError):
                await living
    asked = {"orders": len([*book.newest()]), "requests": len(api.requests), "tokens": len(api.tokens)}
    return {"seed": chosen.seed, **asked, **notifier.counts}


async def _live(chosen: Serving, book: Book, webhooks: Registered, notifier: Notifier) -> None:
    """Makes and changes orders once a webhook is registered."""
    await webhooks.first.wait()
    clock = asyncio.get_running_loop().time
    began, steps = clock(), 0
    while chosen.count is None or steps < chosen.count:
        step = book.advance()
        notifier.announce(step.event, step.order, at=step.at)
        steps += 1
        await asyncio.sleep(max(0, began + steps / chosen.rate - clock()))
