"""A statistical test for time that depends on what is compared, in the manner of dudect.

Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", DATE 2017: inputs of two classes in random order, each
call timed, Welch's t of the two, once over all measurements and once for each of several upper ends cut off, since what
interrupts a call only ever makes it longer. |t| beyond `THRESHOLD` means that time tells the classes apart.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from random import Random
from statistics import fmean, variance
from time import perf_counter_ns

THRESHOLD = 4.5
"""The paper's; by chance in one of 150,000 comparisons."""

KEPT = (1.0, 0.99, 0.95, 0.9, 0.8, 0.65, 0.5)
"""How much is left of the measurements, from the shortest on, before each t."""

CHUNK = 1000  # inputs that are made at once, before any of them is timed

Make = Callable[[Random], bytes]
"""One more input of a class."""


def largest_t(verify: Callable[[bytes], object], classes: tuple[Make, Make], *, calls: int, seed: int) -> float:
    """The t farthest from 0; positive where the first class takes longer."""
    random = Random(seed)  # noqa: S311 - to be the same again
    times = measure(verify, classes, calls=calls, random=random)
    return max((welch(*cropped(times, kept)) for kept in KEPT), key=abs)


def measure(
    verify: Callable[[bytes], object], classes: tuple[Make, Make], *, calls: int, random: Random
) -> tuple[list[int], list[int]]:
    """The nanoseconds of each call, by class.

    Every call gets an object of its own, copied once more after all are made, so that neither class has its inputs at
    addresses that the processor likes better.
    """
    times: tuple[list[int], list[int]] = ([], [])
    with _undisturbed():
        for _ in range(0, calls, CHUNK):
            order = random.choices((0, 1), k=CHUNK)
            made = [classes[number](random) for number in order]
            inputs = [bytes(memoryview(each)) for each in made]
            for number, each in zip(order, inputs, strict=True):
                start = perf_counter_ns()
                verify(each)
                times[number].append(perf_counter_ns() - start)
    return times


def cropped(times: tuple[list[int], list[int]], kept: float) -> tuple[list[int], list[int]]:
    """Both classes without what is above one bound, the same for both."""
    together = sorted(times[0] + times[1])
    bound = together[int(kept * (len(together) - 1))]
    first, second = ([each for each in times if each <= bound] for times in times)
    return first, second


def welch(first: list[int], second: list[int]) -> float:
    """Welch's t: the difference of the means in units of its standard error.

    A class that the cropping left nothing of is told apart by that alone, and has no t.
    """
    if min(len(first), len(second)) < 2:
        return 0.0
    error = sqrt(variance(first) / len(first) + variance(second) / len(second))
    return (fmean(first) - fmean(second)) / error if error else 0.0


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without garbage collection, which would fall on whichever call comes next."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
