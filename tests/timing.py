"""Tests statistically whether the time of a call depends on its input, as dudect does.

Method: Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", DATE 2017. Inputs of two classes come in
random order, and each call is timed. Welch's t compares the two classes, first over all measurements, then without the
longest ones, at several bounds: an interruption can only make a call longer. |t| above `THRESHOLD` means that the
classes differ.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from random import Random
from statistics import fmean, variance
from time import perf_counter_ns

THRESHOLD = 4.5
"""The threshold of the paper. By chance, one of 150,000 comparisons exceeds it."""

KEPT = (1.0, 0.99, 0.95, 0.9, 0.8, 0.65, 0.5)
"""The shares of the measurements, from the shortest on, for which t is calculated."""

CHUNK = 1000  # inputs that are made before the first of them is timed

Make = Callable[[Random], bytes]
"""Makes an input of a class."""


def largest_t(verify: Callable[[bytes], object], classes: tuple[Make, Make], *, calls: int, seed: int) -> float:
    """The t farthest from 0; positive if the first class takes longer."""
    random = Random(seed)  # noqa: S311 - to be the same again
    times = measure(verify, classes, calls=calls, random=random)
    return max((welch(*cropped(times, kept)) for kept in KEPT), key=abs)


def measure(
    verify: Callable[[bytes], object], classes: tuple[Make, Make], *, calls: int, random: Random
) -> tuple[list[int], list[int]]:
    """The nanoseconds of each call, by class.

    Each call gets an object of its own, which is copied after all are made. So neither class has its inputs at memory
    addresses that make it faster.
    """
    times: tuple[list[int], list[int]] = ([], [])
    with _undisturbed():
        for _ in range(0, calls, CHUNK):
            order = random.choices((0, 1), k=CHUNK)
            made = [classes[number](random) for number in order]
            inputs = [bytes(memoryview(original)) for original in made]
            for number, presented in zip(order, inputs, strict=True):
                start = perf_counter_ns()
                verify(presented)
                times[number].append(perf_counter_ns() - start)
    return times


def cropped(times: tuple[list[int], list[int]], kept: float) -> tuple[list[int], list[int]]:
    """Both classes without the measurements above a bound, which is the same for both."""
    together = sorted(times[0] + times[1])
    bound = together[int(kept * (len(together) - 1))]
    first, second = ([each for each in times if each <= bound] for times in times)
    return first, second


def welch(first: list[int], second: list[int]) -> float:
    """Welch's t: the difference of the means in units of its standard error.

    0 if cropping leaves fewer than two measurements of a class.
    """
    if min(len(first), len(second)) < 2:
        return 0.0
    error = sqrt(variance(first) / len(first) + variance(second) / len(second))
    return (fmean(first) - fmean(second)) / error if error else 0.0


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Turns garbage collection off, which would make single calls longer."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
