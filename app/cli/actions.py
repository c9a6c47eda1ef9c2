"""How commands show what was done with an event or an order."""

from collections.abc import Sequence

from app.audit.queries import ListedEntry
from app.cli.output import cell, say

MOST_ACTIONS = 20
"""How many of the latest actions are shown; `priohook audit list` shows all."""


def print_actions(entries: Sequence[ListedEntry]) -> None:
    """Prints a line for each action, if there are any."""
    if entries:
        say("\nactions")
    for entry in entries:
        why = f": {cell(entry.reason)}" if entry.reason else ""
        say(f"  {entry.at:%Y-%m-%d %H:%M:%S}  {entry.action} by {cell(entry.client)}{why}")
