"""Why an answer is not the promised one, and what to do."""

from app.checker.probes import Probe
from app.checker.wire import Answer

UNREACHED = "A proxy cannot reach priohook or gives up waiting: see that it runs, and let the proxy wait for longer."
CAUSES = {
    404: "Is this the webhook's whole URL? A proxy must pass its path, /healthz and /readyz on unchanged.",
    429: "This address failed more than 60 times within a minute, or a proxy counts requests: wait a minute.",
    502: UNREACHED,
    504: UNREACHED,
}
DESPITE_CREDENTIALS = {
    401: "The credentials are wrong, or a proxy swallows Authorization: try them without the proxy.",
    403: "The client lacks the scope webhooks:send, or a proxy refuses it: the body says which.",
}


def advice(probe: Probe, answer: Answer) -> str:
    """The likely cause as the status tells it, else the one that the probe names."""
    if answer.status == probe.status:
        return probe.advice
    if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's class of redirects
        where = answer.headers.get("location", "another URL")
        return f"It redirects to {where}, and whether Prioticket follows is unknown: register where it leads to."
    if answer.status == 413 and answer.error_reference is not None:  # noqa: PLR2004 - as in the table
        return "max_body_bytes is lower than this body: raise it."
    if probe.credentials and answer.status in DESPITE_CREDENTIALS:
        return DESPITE_CREDENTIALS[answer.status]
    return CAUSES.get(answer.status, probe.advice)
