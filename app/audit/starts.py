"""Notes in the audit that a program starts with other settings than it did before."""

import json
from datetime import datetime
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.actors import at_shell
from app.audit.chain import Act, record
from app.audit.queries import AuditFilter, list_entries
from app.audit.tables import Action, Kind
from app.settings.model import Settings
from app.settings.urls import masked

DIGITS = 16  # hexadecimal


async def note_settings(connection: AsyncConnection, settings: Settings, command: str, *, now: datetime) -> None:
    """Records which settings differ from those of the command's last start; nothing if none does. Does not commit."""
    digests = digests_of(settings)
    same = AuditFilter(action=Action.SETTINGS, target=command)
    last = await list_entries(connection, same, limit=1)
    before: dict[str, str] = last[0].more["digests"] if last else {}
    if before == digests:
        return
    changed = sorted(name for name in digests.keys() | before.keys() if digests.get(name) != before.get(name))
    details = {"digests": digests, "changed": changed if last else []}
    act = Act(action=Action.SETTINGS, kind=Kind.SETTINGS, target=command, details=details)
    await record(connection, at_shell(), act, now=now)


def digests_of(settings: Settings) -> dict[str, str]:
    """A digest of each setting that is not empty.

    Passwords in URLs and the values of headers are left out: people choose them, and a digest would let anyone who may
    read the audit try guesses. The other secrets are long and random.
    """
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return {name: _digest(value) for name, value in values.items() if value}


def _digest(value: object) -> str:
    text = json.dumps(_plain(value), sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:DIGITS]


def _plain(value: Any, *, name: str = "") -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {each: _plain(getattr(value, each), name=each) for each in type(value).model_fields}
    if isinstance(value, dict):
        return sorted(value) if name == "headers" else {each: _plain(one) for each, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(each)) for each in value)
    return masked(value) if isinstance(value, str) and "://" in value else value
