"""Places in the streams of receivers, from which `priohook listen` goes on."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from app.cli.output import say

MOST_PLACES = 50


class Places:
    """How far each receiver was listened to, in a file of the user: at most `MOST_PLACES`, the last used."""

    def __init__(self, name: str) -> None:
        self._key = sha256(name.encode()).hexdigest()[:32]
        self._failed = False

    def read(self) -> str | None:
        """The place; None if there is none yet.

        Raises:
            click.ClickException: the file cannot be read.
        """
        try:
            place = _places(_places_file()).get(self._key)
        except (OSError, RuntimeError) as error:
            raise click.ClickException(f"How far it came cannot be read: {error}. Give --since a time.") from None
        return place if isinstance(place, str) else None

    def write(self, place: str) -> None:
        """Keeps the place. If it cannot, it says so once: events come all the same."""
        try:
            self._write(_places_file(), place)
        except (OSError, RuntimeError) as error:
            if not self._failed:
                say(f"How far it comes cannot be kept for --since last: {error}. Set XDG_STATE_HOME.", err=True)
            self._failed = True

    def _write(self, file: Path, place: str) -> None:
        kept = _places(file)
        kept.pop(self._key, None)
        kept[self._key] = place
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(dict(list(kept.items())[-MOST_PLACES:])))
        new.replace(file)


def _places_file() -> Path:
    """Where places are kept.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "priohook" / "listen.json"


def _places(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
