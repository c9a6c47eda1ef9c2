import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.auth.clients import Clients, client_from
from app.auth.expiry import SOON, expiring, telling_of_expiry
from app.settings.clients import ClientSettings

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def clients(**ends: datetime | None) -> Clients:
    """All of them have the username `prioticket`, except `other`."""
    entries: dict[str, dict[str, Any]] = {
        name: {
            "secret": f"the-secret-of-{name}-{name}",
            "scopes": ["webhooks:send"],
            "username": name if name == "other" else "prioticket",
            "not_after": end,
        }
        for name, end in ends.items()
    }
    return Clients(client_from(name, ClientSettings.model_validate(each)) for name, each in entries.items())


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ({"old": NOON + DAY}, ["old"]),
        ({"old": NOON + SOON}, ["old"]),
        ({"old": NOON + SOON + DAY}, []),
        ({"old": NOON - DAY}, []),
        ({"old": None}, []),
        ({"old": NOON + DAY, "new": None}, []),
        ({"old": NOON + DAY, "new": NOON + 30 * DAY}, []),
        ({"old": NOON + DAY, "other": None}, ["old"]),
    ],
)
def test_a_client_that_ends_soon_is_told_of_unless_another_one_of_its_username_lasts(ends, told):
    assert [client.name for client in expiring(clients(**ends), now=NOON)] == told


async def test_a_client_that_ends_soon_is_logged_once(caplog):
    async with telling_of_expiry(clients(old=NOON + DAY), clock=lambda: NOON):
        await asyncio.sleep(0)
    (line,) = caplog.records
    assert (line.message, line.levelname) == ("client_expires_soon", "WARNING")
    assert line.fields == {"client": "old", "not_after": "2026-08-13 12:00:00+00:00"}
