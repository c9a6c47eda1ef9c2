"""Standard input, output and error, whatever they were given as: closed, full, or in another coding than UTF-8."""

import os
import sys
from io import FileIO, TextIOWrapper
from typing import Any, TextIO

INPUT, OUTPUT, ERROR = 0, 1, 2


class Stream(FileIO):
    """A stream whose trouble is raised once at most, with its name; what comes after that is dropped.

    It has no buffer: Python would try to write that once more at its end and exit with 120, or abort while another
    thread waits for a reader.
    """

    def __init__(self, descriptor: int, *, title: str, raises: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._title = title
        self._raises = raises

    def write(self, content: Any) -> int:
        """Writes all of it."""
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
    """Makes the three usable: output raises what is wrong with it, error never does, and none is missing.

    A closed one is /dev/null from here on: else the next file that is opened, such as the database, would take its
    place.
    """
    for number in (INPUT, OUTPUT, ERROR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdin = sys.stdin or open(INPUT, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = _opened(OUTPUT, sys.stdout, raises=True)
    sys.stderr = _opened(ERROR, sys.stderr, raises=False)


def outlive_output() -> None:
    """For what must go on without its standard output: what cannot be written there is dropped."""
    sys.stdout = _opened(OUTPUT, sys.stdout, raises=False)


def _opened(number: int, before: TextIO | None, *, raises: bool) -> TextIO:
    stream = Stream(number, title="standard output" if number == OUTPUT else "standard error", raises=raises)
    # What the coding cannot show is replaced; on standard error Python itself writes it as an escape.
    errors = "replace" if number == OUTPUT else "backslashreplace"
    encoding = before.encoding if before else "utf-8"
    return TextIOWrapper(stream, encoding=encoding, errors=errors, line_buffering=True)
