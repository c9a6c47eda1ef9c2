"""The process that tells one message by apprise: its plugins are imported here alone, and one that hangs is killed.

It reads JSON from standard input, so that no list of processes shows a URL, and exits with 0 if the message was told.
Otherwise it prints why, without any part of the URL.
"""

import json
import logging
import re
import signal
import sys
from typing import Any

SHORTEST_SECRET = 4  # characters
FAILED, UNUSABLE = 1, 3


def main() -> None:
    """Tells the message."""
    given = json.load(sys.stdin)
    signal.alarm(int(given["seconds"]) + 1)  # also if the worker was killed
    said = _Said()
    logging.getLogger("apprise").addHandler(said)
    import apprise  # noqa: PLC0415 - takes a second under load, and nobody else needs it

    url = given["url"]
    told = apprise.Apprise()
    if not told.add(url):
        sys.stdout.write("it is not a URL that apprise knows, or a part of it is missing")
        sys.exit(UNUSABLE)
    done = told.notify(title=given["title"], body=given["body"], notify_type=given["level"], body_format="text")
    if not done:
        sys.stdout.write(without(url, said.last or "apprise does not say why"))
        sys.exit(FAILED)


def without(url: str, text: str) -> str:
    """The text without any part of the URL: nobody knows which of them are secret."""
    parts = [part for part in re.split(r"[/:@?&=#,]+", url) if len(part) >= SHORTEST_SECRET]
    for part in sorted({url, *parts}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text


class _Said(logging.Handler):
    """Keeps the last warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


if __name__ == "__main__":
    main()
