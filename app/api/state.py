"""What the handlers of the API need from the application's lifespan."""

from asyncio import Semaphore
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NotRequired, TypedDict

from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.overview import Overviews
from app.api.turns import Turns
from app.auth.clients import Client
from app.events.feed import Feed
from app.settings.model import DestinationSettings, Settings


class State(TypedDict):
    """What a request of the API finds in its state.

    `destinations` are those of the settings, `usernames` are by client. `plans` bounds how many replays are planned at
    once, `waits` how many requests wait for a destination at once.
    """

    engine: AsyncEngine
    body_timeout: timedelta
    max_released_bytes: int
    settings: Settings
    destinations: Mapping[str, DestinationSettings]
    spool: Path | None
    usernames: Mapping[str, str]
    plans: Semaphore
    waits: Semaphore
    feed: Feed
    overviews: Overviews
    turns: Turns
    client: NotRequired[Client]  # from the door
    token_ends_at: NotRequired[datetime]  # from the door
    request_id: NotRequired[str]  # from the middleware
