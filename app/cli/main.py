"""`priohook`: the group of all commands, and how they fail: one sentence on standard error and exit status 1."""

import sys
from errno import EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC
from typing import Any

import asyncpg
import click
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app.cli.check import check_
from app.cli.clients import clients
from app.cli.deliveries import deliveries
from app.cli.destinations import destinations
from app.cli.events import events
from app.cli.keys import keys
from app.cli.migrate import migrate
from app.cli.output import first_line, say
from app.cli.replays import replay, replays
from app.cli.secrets import secrets
from app.cli.serve import serve
from app.cli.settings import settings
from app.cli.simulate import simulate
from app.cli.streams import open_streams
from app.cli.worker import worker
from app.database.postgres import DatabaseProblem
from app.database.schema import SchemaNotCurrent
from app.server.server import CannotListen
from app.settings.model import SettingsProblem
from app.telemetry.printing import printable

OWN_LIMITS = (EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC)
"""Of processes, descriptors, memory and disk."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # it may quote what a stranger sent
            error.message = printable(error.message, keep="\n")  # type: ignore[misc] # all errors pass here only
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="priohook", message="priohook %(version)s")
def priohook() -> None:
    """The webhook receiver between Prioticket and your own systems."""


for _command in (
    serve,
    worker,
    migrate,
    events,
    deliveries,
    destinations,
    replay,
    replays,
    clients,
    keys,
    secrets,
    settings,
    simulate,
    check_,
):
    priohook.add_command(_command)


def main() -> None:
    """Runs the command line and ends the process: 0, 1 (it failed) or 2 (usage)."""
    open_streams()
    try:
        priohook(prog_name="priohook")
    except (SettingsProblem, DatabaseProblem, SchemaNotCurrent, CannotListen) as problem:
        _fail(str(problem))
    except CommandError as error:
        _fail(f"The schema stays as it is: {first_line(error)}.")
    except OSError as error:
        _fail(_told(error))
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        _fail(_database(error))


def _told(error: OSError) -> str:
    """What the system refused: a file is named, a connection is one to the database."""
    if error.filename is not None:
        return f"{error.filename} could not be used: {error.strerror}."
    if error.errno in OWN_LIMITS:
        return f"The system gives this process no more: {error.strerror}."
    return _database(error)


def _database(error: Exception) -> str:
    return f"The database could not be used: {first_line(error)}. Check database_url and that it runs."


def _fail(sentence: str) -> None:
    say(f"priohook: {sentence}", err=True)
    sys.exit(1)
