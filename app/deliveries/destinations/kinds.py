"""What a kind of destination is, and which kinds there are by the beginning of their URL."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from app.deliveries.claims import Claim
from app.deliveries.destinations.functions import PythonDestination
from app.deliveries.destinations.http import HTTPDestination
from app.deliveries.results import Outcome
from app.settings.model import DestinationSettings


class Kind(Protocol):
    """Sends events to one destination; a broker would be another one."""

    async def open(self) -> None:
        """Prepares for attempts; does nothing where that was done.

        Raises:
            SettingsProblem: it cannot be used, such as a function that is not there.
        """

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:
        """Makes one attempt, within the destination's timeout.

        Whatever goes wrong at the destination is an outcome, not an exception. An attempt that is cancelled may have
        arrived or not.
        """

    async def close(self) -> None:
        """Gives back connections and threads; no attempt is under way."""


KINDS: Mapping[str, Callable[[DestinationSettings], Kind]] = {
    "http": HTTPDestination,
    "https": HTTPDestination,
    "python": PythonDestination,
}


def open_destination(settings: DestinationSettings) -> Kind:
    """The destination behind the settings' URL."""
    return KINDS[settings.url.partition(":")[0]](settings)
