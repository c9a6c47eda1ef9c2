"""The kinds of destinations, by the scheme of their URL."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from app.deliveries.claims import Claim
from app.deliveries.destinations.functions import PythonDestination
from app.deliveries.destinations.http import HTTPDestination
from app.deliveries.results import Outcome
from app.settings.model import DestinationSettings


class Kind(Protocol):
    """Sends events to one destination. A message broker would be another kind."""

    async def open(self) -> None:
        """Prepares for attempts; does nothing if that was already done.

        Raises:
            SettingsProblem: the destination cannot be used, such as a function that does not exist.
        """

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:
        """Makes one attempt, within the destination's timeout.

        Any failure of the destination is an outcome, not an exception. An attempt that is cancelled may have arrived
        or not.
        """

    async def close(self) -> None:
        """Closes connections and ends processes. No attempt may be under way."""


KINDS: Mapping[str, Callable[[DestinationSettings], Kind]] = {
    "http": HTTPDestination,
    "https": HTTPDestination,
    "python": PythonDestination,
}


def open_destination(settings: DestinationSettings) -> Kind:
    """The destination at the URL of the settings."""
    return KINDS[settings.url.partition(":")[0]](settings)
