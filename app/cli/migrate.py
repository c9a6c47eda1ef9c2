"""The command `priohook migrate`."""

import asyncio

import click

from app.cli.opened import load_settings
from app.cli.output import say
from app.database import engines, migrations


@click.command()
@click.option(
    "--revision",
    default="head",
    show_default=True,
    help="The revision to migrate to, also backwards; base is an empty schema.",
)
def migrate(revision: str) -> None:
    """Bring the database's schema up to this release. Safe to run while the previous release serves."""
    asyncio.run(_migrate(load_settings().database_url, revision))
    say("The schema is current." if revision == "head" else f"The schema is at {revision}.")


async def _migrate(url: str, revision: str) -> None:
    async with engines.engine_for(url) as engine:
        await migrations.migrate(engine, revision=revision)
