"""Standard input, output and error, made usable even if they are closed, full or not in UTF-8."""

import os
import sys
from io import FileIO, TextIOWrapper
from typing import Any, TextIO

INPUT, OUTPUT, ERROR = 0, 1, 2


class Stream(FileIO):
    """A stream that raises at most one error, which names it; what is written after that is dropped.

    It has no buffer. At its exit Python would try to write the buffer again and end with 120, or abort if another
    thread waits for a reader.
    """

    def __init__(self, descriptor: int, *, title: str, raises: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._title = title
        self._raises = raises

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except OSError as error:
            if self._raises:
                self._raises = False
                raise OSError(error.errno, error.strerror, self._title) from None
        return size


def open_streams() -> None:
    """Makes all three usable: output raises an error once, error never does, and none is missing.

    A closed one becomes /dev/null. Otherwise the next file that is opened, such as the database, would get its number.
    """
    for number in (INPUT, OUTPUT, ERROR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdin = sys.stdin or open(INPUT, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = _opened(OUTPUT, sys.stdout, raises=True)
    sys.stderr = _opened(ERROR, sys.stderr, raises=False)


def outlive_output() -> None:
    """From here on, output that cannot be written is dropped: a server must go on without it."""
    sys.stdout = _opened(OUTPUT, sys.stdout, raises=False)


def _opened(number: int, before: TextIO | None, *, raises: bool) -> TextIO:
    stream = Stream(number, title="standard output" if number == OUTPUT else "standard error", raises=raises)
    # Characters that the encoding lacks are replaced; on standard error they are escaped, as Python does.
    errors = "replace" if number == OUTPUT else "backslashreplace"
    encoding = before.encoding if before else "utf-8"
    return TextIOWrapper(stream, encoding=encoding, errors=errors, line_buffering=True)
