"""Settings as they may be shown: durations as people write them, secrets masked."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy.engine import URL, make_url

from app.settings.alarms import AlarmChannel
from app.settings.clients import ClientSettings
from app.settings.model import DestinationSettings, Settings
from app.settings.prioticket import PrioticketSettings
from app.settings.retention import RetentionSettings, as_written
from app.settings.urls import masked
from app.settings.values import written_span

HARMLESS = ("host", "port", "sslmode", "target_session_attrs")
"""The parameters of a database URL whose values may be shown; others may be passwords."""


class Shown(NamedTuple):
    """A setting; `value` is JSON."""

    name: str
    value: Any
    unit: str | None
    source: str | None
    description: str | None


def shown_settings(settings: Settings, sources: Mapping[str, str]) -> list[Shown]:
    """Every setting, with the source of its value."""
    return [
        Shown(
            name=name,
            value=_shown(name, getattr(settings, name)),
            unit=str(field.json_schema_extra["unit"])
            if isinstance(field.json_schema_extra, dict) and "unit" in field.json_schema_extra
            else None,
            source=sources.get(name),
            description=field.description,
        )
        for name, field in Settings.model_fields.items()
    ]


def _shown(name: str, value: Any) -> Any:
    if name == "database_url":
        return _database(make_url(value))
    if isinstance(value, timedelta):
        return value.total_seconds()
    if name in TABLES:
        return {each: TABLES[name](entry) for each, entry in dict(value or {}).items() if entry is not None}
    if isinstance(value, RetentionSettings | PrioticketSettings):
        return _table(value)
    return [str(each) for each in value] if isinstance(value, tuple | frozenset) else value


def _table(value: RetentionSettings | PrioticketSettings) -> dict[str, Any]:
    if isinstance(value, RetentionSettings):
        return {each: as_written(age) for each, age in value if age is not None}
    shown = value.model_dump(mode="json", exclude_none=True)  # pydantic masks the secrets
    return shown | {"timeout": value.timeout.total_seconds()}


def _database(url: URL) -> str:
    query = [
        f"{name}={value if name in HARMLESS else '***'}"
        for name, values in sorted(url.normalized_query.items())
        for value in values
    ]
    return url.set(query={}).render_as_string(hide_password=True) + (f"?{'&'.join(query)}" if query else "")


def _destination(destination: DestinationSettings) -> dict[str, Any]:
    shown = destination.model_dump(mode="json", exclude_defaults=True)
    shown["url"] = masked(destination.url)
    if destination.headers:
        shown["headers"] = dict.fromkeys(destination.headers, "***")  # they may be credentials
    return shown | {"timeout": destination.timeout.total_seconds()}


def _channel(channel: AlarmChannel) -> dict[str, Any]:
    shown: dict[str, Any] = {"secret": ["***"] * len(channel.secret)} if channel.secret else {}
    shown |= {"url": masked(channel.url)} if channel.url else {"ping": masked(channel.ping or "")}
    return shown | _spans({"timeout": channel.timeout} | ({"every": channel.every} if channel.ping else {}))


def _spans(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: written_span(value) if isinstance(value, timedelta) else value
        for name, value in values.items()
        if value is not None
    }


def _client(client: ClientSettings) -> dict[str, Any]:
    shown = client.model_dump(mode="json", exclude_none=True, exclude={"sha256"})  # pydantic masks the secret
    return shown | {"scopes": sorted(client.scopes)}


def _alarm(alarm: BaseModel) -> dict[str, Any]:
    return _spans(dict(alarm))


TABLES: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "clients": _client,
    "destinations": _destination,
    "alarms": _alarm,
    "alarm_channels": _channel,
}
"""How an entry of a table is shown."""
