"""Registers a webhook so that exactly one has its URL afterwards, and no event is missed meanwhile."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from app.prioticket.client import Prioticket
from app.prioticket.errors import PrioticketError, Refused, Unavailable, Unreadable
from app.prioticket.webhooks import Webhook, same_url

MOST_TRIES = 3


class RegisteredAlready(Exception):
    """The URL is registered already."""

    def __init__(self, webhooks: list[Webhook]) -> None:
        self.ids = [webhook.id for webhook in webhooks]
        super().__init__(f"{webhooks[0].url} is registered already, as {' '.join(self.ids)}.")


class NotDeleted(Exception):
    """The new webhook is registered, but an old one with its URL could not be deleted."""

    def __init__(self, made: Webhook, old: Webhook, error: PrioticketError) -> None:
        self.old = old
        super().__init__(f"Webhook {made.id} is registered, but the old one, {old.id}, was not deleted. {error}")


async def register(client: Prioticket, asked: dict[str, Any], *, replace: bool) -> Webhook:
    """Registers a webhook.

    Args:
        client: The account.
        asked: The webhook, see `webhooks.registration`.
        replace: If the URL is registered already, delete the old webhook after that. Events in between come twice.

    Raises:
        RegisteredAlready: the URL is registered, and `replace` is False.
        NotDeleted: the webhook is registered, and an old one too.
        PrioticketError: see errors.py.
    """
    before = _with_url(await client.webhooks(), asked)
    if before and not replace:
        raise RegisteredAlready(before)
    made = await _made(client, asked, known={webhook.id for webhook in before}, tries=MOST_TRIES)
    for old in before:
        try:
            await client.delete_webhook(old.id)
        except PrioticketError as error:
            if not (isinstance(error, Refused) and error.status == HTTPStatus.NOT_FOUND):  # deleted meanwhile
                raise NotDeleted(made, old, error) from None
    return made


async def _made(client: Prioticket, asked: dict[str, Any], *, known: set[str], tries: int) -> Webhook:
    """The new webhook. If the answer is lost, looks for the webhook before it tries again, so that only one is made."""
    try:
        return await client.register_webhook(asked)
    except (Unavailable, Unreadable):
        new = [webhook for webhook in _with_url(await client.webhooks(), asked) if webhook.id not in known]
        if new:
            return new[0]
        if tries > 1:
            return await _made(client, asked, known=known, tries=tries - 1)
        raise


def _with_url(webhooks: Iterable[Webhook], asked: dict[str, Any]) -> list[Webhook]:
    return [webhook for webhook in webhooks if same_url(webhook.url, asked["webhook_url"])]
