"""The kinds of destinations, by the scheme of their URL."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from importlib import import_module
from typing import Protocol

from app.deliveries.claims import Claim
from app.deliveries.destinations.brokers import BrokerDestination
from app.deliveries.destinations.functions import PythonDestination
from app.deliveries.destinations.http import HTTPDestination
from app.deliveries.results import Outcome
from app.settings.brokers import SCHEMES, broker_target
from app.settings.model import DestinationSettings


class Kind(Protocol):
    """Sends events to one destination."""

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


def _broker(settings: DestinationSettings) -> Kind:
    target = broker_target(settings.url)
    # Not an import of this module: its library is an extra, and takes memory.
    module = import_module(f"app.deliveries.destinations.{target.broker.extra}")
    logging.getLogger(target.broker.package).setLevel(logging.CRITICAL)  # what it logs is in the outcomes of attempts
    return BrokerDestination(settings, partial(module.Link, settings, target))


KINDS: Mapping[str, Callable[[DestinationSettings], Kind]] = {
    "http": HTTPDestination,
    "https": HTTPDestination,
    "python": PythonDestination,
    **dict.fromkeys(SCHEMES, _broker),
}


def open_destination(settings: DestinationSettings) -> Kind:
    """The destination at the URL of the settings."""
    return KINDS[settings.url.partition(":")[0]](settings)
