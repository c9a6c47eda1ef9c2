"""Sends all probes to an endpoint, and says where its answers differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from app.checker.causes import advice
from app.checker.probes import Probe, probes
from app.checker.wire import Answer, NoConnection, Silence, exchange

PATH = "/webhooks/prioticket"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one probe: what came back, how it differs from what was promised, and what to do."""

    probe: Probe
    got: str
    differences: tuple[str, ...]
    advice: str

    @property
    def expected(self) -> str:
        """The promised answer in words."""
        words = [str(self.probe.status), *(f"{name}: {value}" for name, value in self.probe.headers if value != "*")]
        return " ".join([*words, {"empty": "no body", "error": "ErrorModel", "any": ""}[self.probe.body]]).strip()


def check(
    url: str, *, username: str | None, password: str | None, read_only: bool, timeout: float
) -> Iterator[Finding]:
    """Sends one probe after the other and gives the finding of each.

    Args:
        url: The webhook's URL.
        username: A client that may send. Without it, only the probes that need no credentials are sent.
        password: The client's secret.
        read_only: Whether to leave out probes that would be stored.
        timeout: Seconds to wait for each answer.

    Raises:
        NoConnection: the server cannot be reached.
    """
    target = urlsplit(url)
    event_ids: dict[str, str] = {}
    reached = False
    for probe in probes(username, password):
        if read_only and probe.kept:
            continue
        parts = _request(target, probe)
        try:
            answer = exchange(target, parts, method=probe.method, timeout=timeout)
        except NoConnection as refusal:
            if not reached:
                raise
            answer = Silence(str(refusal))
        reached = True
        if isinstance(answer, Silence):
            yield Finding(probe, answer.why, (answer.why,), probe.advice)
            continue
        differences = tuple(_differences(probe, answer))
        event_id = answer.headers.get("event-id", "")
        if probe.group is not None and event_ids.setdefault(probe.group, event_id) != event_id:
            differences += (f"Event-Id is {event_id}, but was {event_ids[probe.group]} before",)
        yield Finding(probe, _in_words(answer), differences, advice(probe, answer))


def _request(target: SplitResult, probe: Probe) -> Iterator[bytes]:
    path = target.path if probe.path is None else target.path.removesuffix(PATH).rstrip("/") + probe.path
    lines = [f"{probe.method} {path} HTTP/1.1", f"Host: {target.netloc}", "Connection: close"]
    lines.append("User-Agent: priohook-check")  # some proxies refuse a request without one
    lines += [f"{name}: {value}" for name, value in probe.sent]
    named = {name for name, _ in probe.sent}
    if isinstance(probe.content, bytes):
        if "Content-Length" not in named:
            lines.append(f"Content-Length: {len(probe.content)}")
        yield "\r\n".join([*lines, "", ""]).encode() + probe.content
        return
    yield "\r\n".join([*lines, "", ""]).encode()
    yield from probe.content


def _differences(probe: Probe, answer: Answer) -> Iterator[str]:
    tolerated = probe.tolerable and answer.status == HTTPStatus.OK  # on_unprocessable = "accept"
    if answer.status != probe.status and not tolerated:
        yield f"the status is {answer.status}"
    for name, value in probe.headers:
        got = answer.headers.get(name)
        if got is None:
            yield f"there is no {name}"
        elif value not in ("*", got):
            yield f"{name} is {got}"
    if probe.body == "empty" and answer.body:
        yield f"there is a body of {len(answer.body)} bytes"
    if probe.body != "error" or tolerated:
        return
    if answer.error_reference is None:
        yield f"the body is not an ErrorModel; it begins with {answer.body[:40]!r}"
    elif answer.error_reference != answer.headers.get("x-request-id"):
        yield "error_reference differs from X-Request-Id"


def _in_words(answer: Answer) -> str:
    body = (
        f"{len(answer.body)} bytes of {answer.headers.get('content-type', 'unknown type')}"
        if answer.body
        else "no body"
    )
    return f"{answer.status}, {body}"
