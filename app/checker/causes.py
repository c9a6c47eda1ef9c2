"""Why an answer differs from what was promised, and what to do."""

from app.checker.rows import SENDER, Request, Row
from app.checker.wire import Answer

UNREACHED = (
    "A proxy cannot reach priohook or gives up waiting. Check that priohook runs, and let the proxy wait longer."
)
CAUSES = {
    404: "Is this the whole URL of the webhook? A proxy must pass on its path, /healthz and /readyz unchanged.",
    429: "This address failed more than 60 times within a minute, or a proxy limits requests. Wait a minute.",
    502: UNREACHED,
    504: UNREACHED,
}
DESPITE_CREDENTIALS = {
    401: "The credentials are wrong, or a proxy removes Authorization. Try them without the proxy.",
    403: "The client lacks the scope webhooks:send, or a proxy refuses the request. The body says which.",
}


def advice(row: Row, request: Request, answer: Answer) -> str:
    """The likely cause by the status; if the status tells nothing, the cause that the request names."""
    if answer.status == row.status or request.plain:
        return request.advice
    if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's class of redirects
        where = answer.headers.get("location", "another URL")
        return f"It redirects to {where}. Register that URL, as Prioticket may not follow redirects."
    if answer.status == 413 and answer.error_reference is not None:  # noqa: PLR2004 - as in the table
        return "max_body_bytes is smaller than this body. Raise it."
    if SENDER in request.authorization and answer.status in DESPITE_CREDENTIALS:
        return DESPITE_CREDENTIALS[answer.status]
    return CAUSES.get(answer.status, request.advice)
