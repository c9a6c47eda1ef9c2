"""Keys in settings: those that sign tokens, and those that sign deliveries."""

import re
from base64 import b64decode, b64encode
from secrets import token_bytes
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from app.settings.values import words

TOKEN_KEY = re.compile(r"[\w+/=-]{32,}", re.ASCII)  # HS256 wants 32 bytes; RFC 7518, section 3.2
MOST_TOKEN_KEYS = 2
SHORTEST_KEY, LONGEST_KEY = 24, 64  # bytes; Standard Webhooks, "Signature scheme"


def secrets(value: object) -> object:
    """Accepts one secret as well as several."""
    if isinstance(value, SecretStr):
        return (value,)
    return words(value)


def _fit_tokens(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if len(keys) > MOST_TOKEN_KEYS:
        raise ValueError("must be one key, or two while rotating: the first signs, both are accepted")
    if any(not TOKEN_KEY.fullmatch(key.get_secret_value()) for key in keys):
        raise ValueError("must have 32 characters or more of A-Z a-z 0-9 - _ + / =; `priohook keys new` makes one")
    return keys


TokenKeys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(secrets), AfterValidator(_fit_tokens)]


def signing_key(secret: SecretStr) -> bytes:
    """The key in a secret as Standard Webhooks writes it, `whsec_` and base64.

    Raises:
        ValueError: it is not such a secret.
    """
    key = b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise ValueError
    return key


def fit_signing(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """The secrets, if each can sign."""
    for secret in secrets:
        try:
            signing_key(secret)
        except ValueError:
            raise ValueError(
                "must be whsec_ and the base64 of 24 to 64 bytes; `priohook secrets new` makes one"
            ) from None
    return secrets


def new_signing_secret() -> str:
    """A secret of 256 random bits, as Standard Webhooks writes it."""
    return f"whsec_{b64encode(token_bytes(32)).decode()}"
