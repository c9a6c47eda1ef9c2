"""A digest of the settings, by which an operator sees whether all processes have the same."""

from hashlib import sha256
from typing import Any

from pydantic import SecretStr
from pydantic_core import to_json

from app.settings.model import Settings


def digest_of(settings: Settings) -> str:
    """12 hexadecimal digits, the same for the same settings. A changed secret changes it too, and cannot be guessed.

    Each text counts by 16 bits of its hash: thousands of guesses would fit. `metrics` does not count, since no two
    processes on a host can have the same.
    """
    counting = settings.model_dump(exclude={"metrics"})
    return sha256(to_json(_shortened(counting), fallback=str)).hexdigest()[:12]


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _shortened(each) for name, each in sorted(value.items(), key=str)}
    if isinstance(value, (list, tuple)):
        return [_shortened(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_shortened(each) for each in value)
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return sha256(text.encode()).hexdigest()[:4]
