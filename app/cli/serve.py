"""The command `priohook serve`."""

import asyncio
import json
import os
import shlex
from base64 import b64encode

import click

from app import database
from app.application import create_app
from app.auth.clients import clients_from
from app.auth.first_clients import FirstClients, first_clients
from app.processes import run_processes
from app.server import listen, server_for
from app.settings import Settings, unknown_variables
from app.telemetry.logs import stderr_writer

EXAMPLE = {
    "api_version": "3.8.0",
    "data": {
        "kind": "notification",
        "notification": {
            "notification_id": "0d8b9a7e-5f0b-4c5d-9f35-3f6a1d6f7c11",
            "notification_event": "ORDER_CREATE",
            "notification_item_id": "PRI00000001",
        },
    },
}


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 for any free one.")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Receivers on this port; PostgreSQL only.",
)
def serve(host: str, port: int, processes: int) -> None:
    """Receive webhooks until SIGTERM, then finish what was read and exit 0."""
    settings = Settings.load()
    if processes > 1 and database.is_sqlite(settings.database_url):
        raise click.UsageError("SQLite has one writer: --processes needs PostgreSQL, see database_url.")
    for name in unknown_variables(os.environ):
        click.echo(f"priohook: {name} is set and no setting reads it: is it misspelt?", err=True)
    asyncio.run(_prepare(settings.database_url))
    made = first_clients(settings)
    log = stderr_writer(settings.log_format)
    app = create_app(settings, clients=clients_from(made.clients if made else settings.clients), log=log)

    def started(url: str) -> None:
        click.echo(f"priohook listens at {url}")
        if made:
            _introduce(made, url)

    if processes == 1:
        server_for(app, settings, host=host, port=port, log=log, started=started).run()
        return
    listener = listen(host, port)

    def work(number: int) -> None:
        announce = started if number == 0 else lambda _: None
        server_for(app, settings, host=host, port=port, log=log, started=announce).run([listener])

    run_processes(work, count=processes)


async def _prepare(url: str) -> None:
    """SQLite migrates here, as one process owns it; PostgreSQL may serve others, so it is only checked."""
    async with database.engine_for(url) as engine:
        if database.is_sqlite(url):
            await database.migrate(engine)
        await database.check_schema(engine)


def _introduce(made: FirstClients, url: str) -> None:
    if not made.made_now:
        click.echo(f"Its clients are in {made.path}.")
        return
    secrets = {name: client.secret.get_secret_value() for name, client in made.clients.items() if client.secret}
    click.echo(f"\nIt made these clients and keeps them in {made.path} (mode 0600). They are shown this once:\n")
    for name, secret in secrets.items():
        click.echo(f"  {name:<11} {secret}   {' '.join(sorted(made.clients[name].scopes))}")
    body = shlex.quote(json.dumps(EXAMPLE))
    credential = f"prioticket:{secrets['prioticket']}"
    target = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    click.echo("\nSend it an event:\n")
    click.echo(
        f"  curl -i -u {credential} -H 'Content-Type: application/json' -d {body} {target}/webhooks/prioticket\n"
    )
    click.echo("Register it at Prioticket, with a URL that reaches it from outside:\n")
    click.echo("  webhook_url   https://…/webhooks/prioticket")
    click.echo(f"  webhook_auth  {b64encode(credential.encode()).decode()}\n")
