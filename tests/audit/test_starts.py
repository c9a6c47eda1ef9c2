from datetime import UTC, datetime

from app.audit.chain import verify
from app.audit.queries import AuditFilter, list_entries
from app.audit.starts import digests_of, note_settings
from app.database.writing import writing
from app.settings.clients import ClientSettings
from app.settings.model import DestinationSettings, Settings
from tests.conftest import CLIENTS

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)


def settings(**changes) -> Settings:
    clients = {name: ClientSettings.model_validate(each) for name, each in CLIENTS.items()}
    return Settings.model_validate({"clients": clients, **changes})


async def started(engine, *starts: tuple[str, Settings]) -> list[tuple[str | None, list[str]]]:
    """Each start that was recorded: the command, and which settings had changed."""
    for command, with_settings in starts:
        async with writing(engine) as connection:
            await note_settings(connection, with_settings, command, now=NOON)
    async with engine.connect() as connection:
        await verify(connection)
        rows = await list_entries(connection, AuditFilter(action="settings"), limit=10)
    return [(row.target, row.more["changed"]) for row in reversed(rows)]


async def test_a_start_with_other_settings_is_recorded_with_their_names(engine):
    one, other = settings(), settings(max_body_bytes=1000, spool=None, commit_timeout=3)
    assert await started(engine, ("serve", one), ("serve", one), ("serve", other), ("serve", other)) == [
        ("serve", []),
        ("serve", ["commit_timeout", "max_body_bytes"]),
    ]


async def test_each_command_is_compared_with_its_own_last_start(engine):
    one, other = settings(), settings(max_body_bytes=1000)
    assert await started(engine, ("serve", one), ("worker", other), ("serve", one)) == [("serve", []), ("worker", [])]


def test_a_rotated_secret_changes_the_digest_of_its_setting():
    rotated = ClientSettings.model_validate({"secret": "another-secret-of-this-client", "scopes": ["events:read"]})
    one, other = digests_of(settings()), digests_of(settings(clients={"reader": rotated}))
    assert [name for name in one if one[name] != other[name]] == ["clients"]


def test_no_digest_lets_anyone_try_guesses_of_a_password():
    def digest(password: str) -> dict[str, str]:
        erp = DestinationSettings(url=f"https://me:{password}@erp.example", headers={"X-Password": password})
        url = f"postgresql://me:{password}@host/priohook"
        return digests_of(settings(destinations={"erp": erp}, database_url=url))

    assert digest("one") == digest("other")


def test_the_order_of_a_set_changes_no_digest():
    one, other = (settings(closed_urls=each) for each in (["/docs", "/openapi.json"], ["/openapi.json", "/docs"]))
    assert digests_of(one) == digests_of(other)
