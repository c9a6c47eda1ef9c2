"""The errors that a command can end with. Imported only after a failure, since they import half of the program."""

import asyncpg
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app.database.problems import DatabaseProblem
from app.database.schema import SchemaNotCurrent
from app.prioticket.errors import PrioticketError
from app.server.server import CannotListen
from app.settings.model import SettingsProblem

OURS = (SettingsProblem, DatabaseProblem, SchemaNotCurrent, CannotListen, PrioticketError)
OF_MIGRATIONS = (CommandError,)
OF_DATABASES = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)
