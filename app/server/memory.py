"""Gives memory back to the system after a burst of connections."""

import ctypes
import gc

MANY = 500  # connections
LEFT = 8  # a burst is over when one in so many is left


class Burst:
    """The most connections that were open at once."""

    def __init__(self) -> None:
        self._most = 0
        self._were_few = False

    def is_over(self, connections: int) -> bool:
        """Whether there were many, and few are left as at the last look; says so once for each burst."""
        self._most = max(self._most, connections)
        are_few = self._most >= MANY and connections <= self._most // LEFT
        is_over = are_few and self._were_few  # between two looks, what the last ones held is freed too
        if is_over:
            self._most = connections
        self._were_few = are_few and not is_over
        return is_over


def give_back() -> None:
    """Frees what refers to itself, then gives free pages back: otherwise glibc keeps those between objects that live.

    Takes some hundredths of a second. Other C libraries do not have the function.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
