"""What may go wrong with a request to Prioticket's API. No text of an error holds a secret, a key or a token.

PrioticketError
├── Refused                  Prioticket said no; the same request would be refused again
│   ├── NotFound             it has no such order, or this account may not see it
│   └── CredentialsRefused   it gave no token; not asked for again for a while
├── Unavailable              no usable answer after all tries; the request may have been carried out
└── Unreadable               an answer that is not one of this API: a redirect, a page, no data, too long
"""

from http import HTTPStatus
from typing import Any

from app.prioticket.payloads import UNPRINTABLE

SHOWN_CHARACTERS = 200


class PrioticketError(Exception):
    """A request that did not succeed. Its text has spaces for the characters that no terminal and no column may get."""

    def __init__(self, text: str) -> None:
        super().__init__(UNPRINTABLE.sub(" ", text))


class Refused(PrioticketError):
    """Prioticket said no.

    Attributes:
        status: The answer's status; 200 if only its body says that it is an error.
        model: The ErrorModel, or the error of RFC 6749; empty if there is none.
        code: `error` of the ErrorModel, such as `INVALID_REQUEST`; empty if there is none.
        reference: `error_reference`: what Prioticket's support asks for.
    """

    def __init__(self, status: int, model: dict[str, Any], *, what: str = "Prioticket refused the request") -> None:
        self.status = status
        self.model = model
        self.code = _text(model.get("error"))
        self.reference = _text(model.get("error_reference"))
        listed = model.get("errors")
        details = [_text(model.get(name)) for name in ("error_message", "error_description")]
        details += [_text(listed[0])] if isinstance(listed, list) and listed else []
        if scope := _text(model.get("scope")):
            details.append(f"it needs the scope {scope}")
        said = "; ".join(dict.fromkeys(each.rstrip(".") for each in details if each))
        named = " ".join(filter(None, [str(status), self.code]))
        about = f" (error_reference {self.reference})" if self.reference else ""
        super().__init__(f"{what}: {named}{f': {said}' if said else ''}{about}.")


class NotFound(Refused):
    """Prioticket has no such order, or this account may not see it."""


class CredentialsRefused(Refused):
    """Prioticket gives no token for client_id and client_secret."""


class Unavailable(PrioticketError):
    """No usable answer came after all tries. The request may have been carried out."""


class Unreadable(PrioticketError):
    """The answer is not one of this API."""


def not_found(status: int) -> bool:
    """Whether a status may mean that there is no such order: Prioticket does not document which one does."""
    return status in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.UNPROCESSABLE_ENTITY)


def _text(value: object) -> str:
    return UNPRINTABLE.sub(" ", value[:SHOWN_CHARACTERS]) if isinstance(value, str) else ""
