"""Connections to PostgreSQL: to a host that takes writes and commits durably, within a bounded time."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from ssl import create_default_context

import asyncpg

from app.database.commits import Connection, Left
from app.database.libpq import Target, target
from app.database.problems import CannotConnect, DatabaseProblem, ReadOnly

CONNECT_TIMEOUT = timedelta(seconds=5)
"""For all hosts of a URL together, unless its `connect_timeout` says how long for each."""

CLOSE_TIMEOUT = timedelta(seconds=2)
MARGIN = timedelta(seconds=1)
"""How much later than the server this process gives up: a statement that the server cancels costs no connection."""

DURABLE = ("on", "remote_apply")
"""Values of `synchronous_commit` with which a COMMIT that returned survives a crash, and with a synchronous standby
also the loss of the primary."""

SESSION = {
    "synchronous_commit": "on",
    "client_min_messages": "warning",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "30s",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""Set in each session, whatever the server's, the database's and the role's defaults are, if the server knows it.

Only a warning says that a commit returned before its standby had it.

With the last three the server notices within half a minute that a host lost its power, and ends what it left. If that
host was about to send the rest of a statement, no other timeout applies: its locks would stay for two hours.
"""

FROZEN = {"tcp_user_timeout": "30s"}
"""Set where statements have a deadline: the server ends a session that takes nothing of its answer for so long.

`statement_timeout` does not apply while the server sends. A worker that is frozen while it reads bodies would hold its
locks for as long as its kernel answers, and one whose host lost its power for a quarter of an hour.
"""

LONGEST_TRANSACTION = 60_000
"""Milliseconds, at least. Only this ends a session whose client froze between the parts of a statement, such as the
rows of an INSERT: no other timeout runs then. PostgreSQL has it from version 17 on."""

SET = """
SELECT set_config(name, value, false) FROM pg_settings
JOIN unnest($1::text[], $2::text[]) AS wanted (name, value) USING (name)
WHERE (name, setting) <> ('synchronous_commit', 'remote_apply')
"""
SHOW = """
SELECT current_setting('synchronous_commit'), current_setting('server_encoding'),
    current_setting('session_replication_role'), current_setting('transaction_read_only')
"""
NO_USER = (
    "database_url names no user, and the account that runs priohook has no name: write postgresql://user@host/database."
)
READ_ONLY = (
    "The database takes no writes: it is a standby, or default_transaction_read_only is on. Start the host that takes "
    "writes, or name it in database_url; of several hosts, priohook finds the right one."
)


async def connect_postgres(
    url: str, *, within: timedelta | None = None, writes: bool = True, left: Left | None = None
) -> Connection:
    """A connection that commits durably, to the first host that takes writes.

    Settings are made by SET and read back: a pooler refuses most of them as startup parameters, and may lose them.

    Args:
        url: As libpq reads it; `target_session_attrs` is ignored, since only a host that takes writes is useful.
        within: How long a statement may take. The server cancels it then, and this process gives up `MARGIN` later.
        writes: Whether the host must take writes. If False, a read-only host is used when no other answers.
        left: What is known of earlier connections' commits; a commit that takes too long is noted there.

    Raises:
        DatabaseProblem: the URL, or the database, cannot be used as it is.
        CannotConnect: no host answered in time.
        asyncpg.PostgresError: the server refused.
    """
    try:
        wanted = target(url)
    except ValueError as error:
        raise DatabaseProblem(f"The database could not be used: {error}. Check database_url in the settings.") from None
    try:
        connection = await _connect_any(wanted, within, "read-write")
    except ReadOnly:
        if writes:
            raise
        connection = await _connect_any(wanted, within, "any")
    connection.begin_watching(left or Left())
    return connection


def takes_writes(connection: asyncpg.Connection) -> bool:
    """Whether the host still takes writes, as the server said with its last answer."""
    settings = connection.get_settings()
    return "on" not in (getattr(settings, name, "off") for name in ("in_hot_standby", "default_transaction_read_only"))


async def close(connection: asyncpg.Connection) -> None:
    """Cancels the statement under way at the server and closes the connection; does not wait for a silent server."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        await connection.close(timeout=CLOSE_TIMEOUT.total_seconds())


async def _connect_any(wanted: Target, within: timedelta | None, attributes: str) -> Connection:
    """A connection to the first host that will do."""
    _check(wanted.files)
    timeout = wanted.connect_timeout or CONNECT_TIMEOUT.total_seconds() / len(wanted.hosts)
    errors: list[Exception] = []
    for host, port in wanted.hosts:
        try:
            return await _connect(wanted, host, port, timeout=timeout, within=within, attributes=attributes)
        except (asyncpg.PostgresError, OSError) as error:
            errors.append(error)
    problems = [error for error in errors if isinstance(error, DatabaseProblem)]
    raise problems[0] if problems else errors[0]


async def _connect(
    wanted: Target, host: str | None, port: int | None, *, timeout: float, within: timedelta | None, attributes: str
) -> Connection:
    try:
        async with asyncio.timeout(timeout):
            connection: Connection = await asyncpg.connect(
                wanted.dsn,
                connection_class=Connection,
                host=host,
                port=port,
                timeout=timeout,
                command_timeout=(within + MARGIN).total_seconds() if within else None,
                server_settings=dict(wanted.startup),
                target_session_attrs=attributes,
                **({"ssl": create_default_context()} if wanted.system_roots else {}),
            )
            try:
                await _prepare(connection, wanted.session, within, writes=attributes == "read-write")
            except BaseException:
                connection.terminate()
                raise
    except asyncpg.TargetServerAttributeNotMatched:
        raise ReadOnly(READ_ONLY) from None
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise DatabaseProblem(f"The database could not be used: {error}. Check database_url in the settings.") from None
    except KeyError as error:  # from the standard library, which looks for the account's name
        raise DatabaseProblem(NO_USER) from error
    except DatabaseProblem:
        raise
    except (
        OSError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ) as error:  # the last: the connection ended meanwhile
        where = f"{host or 'database_url'}{f' port {port}' if port else ''}"
        why = "it did not answer in time" if isinstance(error, TimeoutError) else str(error)
        raise CannotConnect(f"No connection to {where}: {why}") from error
    _keep_alive(connection, wanted.keepalive)
    return connection


def _check(files: Sequence[str]) -> None:
    """Raises an OSError that names the file; the driver's own does not."""
    for name in files:
        Path(name).open("rb").close()


async def _prepare(
    connection: asyncpg.Connection, session: Mapping[str, str], within: timedelta | None, *, writes: bool
) -> None:
    milliseconds = int(within.total_seconds() * 1000) if within else 0
    await connection.execute(
        f"SET statement_timeout = {milliseconds}"
    )  # first: the role's own may be too short for the rest
    settings = {**session, **SESSION, "statement_timeout": str(milliseconds), "lock_timeout": str(milliseconds)}
    if within:
        settings |= {**FROZEN, "transaction_timeout": str(max(LONGEST_TRANSACTION, 3 * milliseconds))}
    try:
        await connection.execute(SET, list(settings), list(settings.values()))
    except asyncpg.PostgresError as error:
        raise DatabaseProblem(f"A parameter of database_url cannot be set: {error}.") from None
    commit, encoding, role, read_only = await connection.fetchrow(SHOW)
    if encoding != "UTF8":
        raise DatabaseProblem(
            f"The database's encoding is {encoding}, which cannot hold every event. Make a database with "
            "CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'."
        )
    if writes and read_only == "on":
        raise ReadOnly(READ_ONLY)
    if role == "replica":
        raise DatabaseProblem(
            "session_replication_role is replica for this role, so that triggers do not fire and nothing would be "
            "delivered. Run ALTER ROLE … RESET session_replication_role."
        )
    if commit not in DURABLE:
        raise not_durable(commit)


def not_durable(synchronous_commit: str) -> DatabaseProblem:
    """What is wrong with a session whose commits return too early."""
    return DatabaseProblem(
        f"The server commits with synchronous_commit={synchronous_commit} although it was told otherwise: an event "
        "answered with 200 could be lost. If a pooler shares connections between transactions, let it pool sessions."
    )


def _keep_alive(connection: asyncpg.Connection, keepalive: Mapping[str, int]) -> None:
    """Lets the kernel notice a peer that is gone; asyncpg has no option for it."""
    transport = connection._transport  # noqa: SLF001 - as its own code does for TCP_NODELAY
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive["keepalives"] > 0))
    options = {
        "keepalives_idle": "TCP_KEEPIDLE",
        "keepalives_interval": "TCP_KEEPINTVL",
        "keepalives_count": "TCP_KEEPCNT",
        "tcp_user_timeout": "TCP_USER_TIMEOUT",
    }
    for name, option in options.items():
        if keepalive[name] > 0 and hasattr(socket, option):  # not all on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), keepalive[name])
