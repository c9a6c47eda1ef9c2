"""Sends requests to Prioticket's API: with a token, within the limits, and again when that is safe.

No log line and no error holds a secret, a key or a token.
"""

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from pydantic_core import to_json

from app.prioticket import messages
from app.prioticket.again import pause_before_repeat
from app.prioticket.errors import CredentialsRefused, PrioticketError, Refused, Unavailable, Unreadable
from app.prioticket.messages import Answer, Query, Token
from app.prioticket.pace import Clock, Pace
from app.prioticket.wire import Exchange, NoAnswer
from app.settings.prioticket import PrioticketSettings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

RENEWED_BEFORE = 300.0  # seconds before the end of a token; half of its lifetime if that is shorter
REFUSED_FOR = 900.0
"""Seconds for which a refused credential is not tried again: 60 answers of 4xx in a minute block the address."""

NO_VERDICT = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
"""Answers of 4xx that say nothing about the credentials."""

TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path
WITHOUT_TOKEN = "Prioticket gives no token: check client_id, client_secret and scope"  # noqa: S105 - a sentence
OURS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "User-Agent": "priohook",
    "App-Name": "priohook",
    "App-Version": version("priohook"),
}


class Calls:
    """The requests of one process. The token stays here: no other process and no file has it."""

    def __init__(
        self, settings: PrioticketSettings, exchange: Exchange, *, clock: Clock, told: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._exchange = exchange
        self._clock = clock
        self._told = told
        self.sent = 0
        """How many requests were sent."""
        self._pace = Pace(settings.rate, clock)
        self._token: Token | None = None
        self._renew_at = 0.0
        self._refusal: tuple[float, int, dict[str, Any]] | None = None
        """The last refusal of a token: when, its status and its ErrorModel."""
        self._getting_token = asyncio.Lock()

    async def answer(self, method: str, path: str, query: Query, body: bytes | None = None) -> Answer:
        """The successful answer to a request with a token. A refused token is replaced once."""
        for replaces in (True, False):
            token = await self._valid_token()
            answer = await self._repeated(method, path, query, {"Authorization": token.authorization}, body)
            if not (replaces and messages.token_is_refused(answer)):
                break
            if self._token is token:
                self._token = None
        return self._succeeded(answer)

    async def _valid_token(self) -> Token:
        async with self._getting_token:
            if self._token is None or self._clock.now() >= self._renew_at:
                self._token = await self._new_token()
                early = min(RENEWED_BEFORE, self._token.lifetime / 2)
                self._renew_at = self._clock.now() + self._token.lifetime - early
            return self._token

    async def _new_token(self) -> Token:
        if self._refusal is not None:
            at, status, model = self._refusal
            if self._clock.now() < at + REFUSED_FOR:
                raise CredentialsRefused(status, model, what=WITHOUT_TOKEN)
        credentials = f"{self._settings.client_id}:{self._settings.client_secret.get_secret_value()}"
        headers = {"Authorization": f"Basic {b64encode(credentials.encode()).decode()}"}
        asked = {"grant_type": "client_credentials"}
        if self._settings.scope is not None:
            asked["scope"] = self._settings.scope
        # Asking for a token changes nothing, so it is repeated as a GET would be.
        answer = await self._repeated("POST", TOKEN_PATH, [], headers, to_json(asked), as_method="GET")
        if (
            HTTPStatus.BAD_REQUEST <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
            and answer.status not in NO_VERDICT
        ):
            self._refusal = (self._clock.now(), answer.status, self._model(answer))
            raise CredentialsRefused(answer.status, self._refusal[2], what=WITHOUT_TOKEN)
        self._refusal = None
        return self.read(messages.read_token, self._succeeded(answer))

    async def _repeated(
        self,
        method: str,
        path: str,
        query: Query,
        headers: dict[str, str],
        body: bytes | None,
        *,
        as_method: str | None = None,
    ) -> Answer:
        """The last answer, after as many repeats as its status and the method allow."""
        repeats = 0
        while True:
            answer, why = await self._once(method, path, query, headers, body)
            pause = pause_before_repeat(
                answer.status if answer else None,
                method=as_method or method,
                repeats=repeats,
                retry_after=answer.retry_after if answer else "",
            )
            if pause is None:
                break
            repeats += 1
            self._told(f"Prioticket: {why}. Trying again in {pause:.0f} seconds.")
            if answer is not None and answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                self._pace.hold(pause)  # the next requests would be refused too
            else:
                await self._clock.sleep(pause)
        if answer is None:
            raise Unavailable(f"Prioticket: {why}.")
        return answer

    async def _once(
        self, method: str, path: str, query: Query, headers: dict[str, str], body: bytes | None
    ) -> tuple[Answer | None, str]:
        reference = str(uuid4())
        headers = headers | OURS | {"App-Reference": reference}
        if body is not None:
            headers["Content-Type"] = "application/json"
        key = self._settings.api_key
        keyed = [("key", key.get_secret_value())] if key is not None and path != TOKEN_PATH else []
        url = self._settings.base_url + path + messages.query_of([*query, *keyed])
        await self._pace.turn()
        self.sent += 1
        began = self._clock.now()
        answer, status, why = None, 0, ""
        try:
            answer = await self._exchange(method, url, headers, body)
            status, why = answer.status, f"it answered {answer.status}"
            self._pace.answered(answer.status)
        except NoAnswer as error:
            why = self._masked(str(error))
        finally:
            seconds = round(self._clock.now() - began, 3)
            fields = {"method": method, "path": path, "status": status, "app_reference": reference, "seconds": seconds}
            logger.info("prioticket_request", extra={"fields": fields})
        return answer, why

    def _succeeded(self, answer: Answer) -> Answer:
        """The answer, if it has a status of success.

        Raises:
            Refused: 4xx, or 429 for too long.
            Unavailable: 5xx.
            Unreadable: a redirect.
        """
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return answer
        if answer.status < HTTPStatus.BAD_REQUEST:
            raise Unreadable(f"Prioticket answers {answer.status}, a redirect, which is not followed. Check base_url.")
        model = self._model(answer)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(str(Refused(answer.status, model, what="Prioticket could not answer")))
        raise Refused(answer.status, model)

    def _model(self, answer: Answer) -> dict[str, Any]:
        """The ErrorModel; if there is none, the beginning of the answer as its description."""
        masked = self._masked_answer(answer)
        return messages.error_model(masked) or {"error_description": messages.beginning(masked)}

    def read(self, read: Callable[[Answer], Result], answer: Answer) -> Result:
        """What is read from an answer. An error quotes the answer without secrets."""
        try:
            return read(answer)
        except PrioticketError:
            return read(self._masked_answer(answer))

    def _masked_answer(self, answer: Answer) -> Answer:
        return answer._replace(
            body=self._masked(answer.body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        )

    def _masked(self, text: str) -> str:
        """The text without secrets, in case an answer repeats the request."""
        settings = self._settings
        secrets = [settings.client_secret.get_secret_value()]
        # The credentials of the token's request.
        secrets.append(b64encode(f"{settings.client_id}:{secrets[0]}".encode()).decode())
        secrets += [settings.api_key.get_secret_value()] if settings.api_key else []
        secrets += [self._token.authorization.partition(" ")[2]] if self._token else []
        for secret in secrets:
            in_json = json.dumps(secret)[1:-1]
            for form in (secret, in_json, in_json.replace("/", r"\/"), quote(secret, safe="")):
                text = text.replace(form, "***")
        return text
