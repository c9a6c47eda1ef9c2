"""What an attempt met, in as few words as people need."""

import re

REFUSED = "ConnectionRefusedError"
NUMBER = re.compile(r"\[Errno -?\d+\] ")


def met(status: int | None, error: str | None) -> str:
    """The status of the answer and the error, as far as they are known: `500`, `connection refused`."""
    brief = "connection refused" if error and error.startswith(REFUSED) else error and NUMBER.sub("", error)
    return " ".join(str(each) for each in (status, brief) if each)
