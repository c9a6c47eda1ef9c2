"""The configured account at Prioticket, and what commands ask it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from app.cli.opened import load_settings
from app.cli.output import say
from app.prioticket.client import Prioticket, prioticket_of
from app.settings.prioticket import PrioticketSettings

Result = TypeVar("Result")


def asked(question: Callable[[Prioticket], Awaitable[Result]]) -> Result:
    """Prioticket's answer to a question. Standard error tells of waits."""
    configured = account()

    async def answer() -> Result:
        async with prioticket_of(configured, told=lambda sentence: say(sentence, err=True)) as client:
            return await question(client)

    return asyncio.run(answer())


def account() -> PrioticketSettings:
    """The configured account.

    Raises:
        click.UsageError: there is none.
    """
    configured = load_settings().prioticket
    if configured is None:
        raise click.UsageError(
            "Prioticket's API is not configured: set base_url, client_id and client_secret of [prioticket] in "
            "priohook.toml, or PRIOHOOK_PRIOTICKET__BASE_URL and so on."
        )
    return configured
