"""The settings of this process as they may be shown, its clients, and who runs with others."""

from datetime import UTC, datetime

from pydantic import BaseModel, Field
from starlette.requests import Request

from app.api.clients import ClientShown, Heard, shown_clients
from app.api.state import State
from app.auth.in_force import Sources, sources_in_force
from app.settings.digest import digest_of
from app.settings.model import Settings, SettingsProblem
from app.settings.shown import Shown, shown_settings
from app.telemetry.processes import Seen, running_processes
from app.telemetry.uses import client_uses
from app.web.transactions import DatabaseAway, reading


class SettingsShown(BaseModel):
    """The settings with which this process runs."""

    digest: str = Field(description="The same for the same settings.")
    settings: list[Shown]
    trouble: str | None = Field(description="Why the sources are unknown.")
    clients: list[ClientShown]
    processes: list[Seen] | None = Field(description="Those that run; null if the database could not be read.")


async def shown(request: Request[State]) -> SettingsShown:
    """The settings, the clients, and the processes that run. What the database knows is left out while it is away.

    When a client's last event arrived is left out too: no index has it.
    """
    settings, now = request.state["settings"], datetime.now(UTC)
    known, processes = Heard({}, {}), None
    try:
        async with reading(request.state["engine"]) as connection:
            known = Heard({}, await client_uses(connection))
            processes = await running_processes(connection, now=now)
    except DatabaseAway:
        pass
    sources, trouble = _sources(settings)
    return SettingsShown(
        digest=digest_of(settings),
        settings=shown_settings(settings, sources.settings),
        trouble=trouble,
        clients=shown_clients(settings, sources.clients, known, now=now),
        processes=processes,
    )


def _sources(settings: Settings) -> tuple[Sources, str | None]:
    """Read again, so the files may have been changed or removed since this process started."""
    try:
        return sources_in_force(settings), None
    except (SettingsProblem, ValueError, OSError) as error:
        return Sources({}, {}), str(error)
