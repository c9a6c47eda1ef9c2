"""What the receiver is meant to reach, and whether it does: pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.load import KINDS
from bench.plan import COMPARED, FULL
from bench.samples import ACROSS, Key, Results

DATABASES = ("sqlite", "postgresql")
FOR_NAIVE = {"sqlite": 8.0, "postgresql": 6.0}
FOR_STARLETTE = {"sqlite": 0.40, "postgresql": 0.35}
FOR_NOSTORE = 0.6
FOR_ONE_CONNECTION = 1.5
FOR_P99 = 4.0
FOR_GROWTH = 0.9
FOR_LOAD_MB = 150.0
FOR_AFTER_BURST = 1.2
FOR_TWO_PROCESSES = 1.4
FOR_BESIDE = 0.9
FOR_REST_MS = 50.0
FOR_DELIVERIES = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound, and what was measured.

    Attributes:
        values: By a word or two; None was not measured. All must keep the bound.
    """

    sentence: str
    bound: float
    at_least: bool
    values: Mapping[str, float | None]

    @property
    def verdict(self) -> str:
        """`met`, `not met`, or `not measured`."""
        if any(value is None for value in self.values.values()):
            return "not measured"
        kept = all(
            value is not None and (value >= self.bound if self.at_least else value <= self.bound)
            for value in self.values.values()
        )
        return "met" if kept else "not met"


def goals(results: Results) -> list[Goal]:
    """All of them."""
    found: list[Goal] = []
    for where in DATABASES:
        found += _of_throughput(results, where)
    largest = max(results.growth, default=max(FULL.growth))
    grown = {f"{where}, {kind}": _growth(results, where, kind, largest) for where in DATABASES for kind in KINDS}
    loaded = {where: results.memory[where].load if where in results.memory else None for where in DATABASES}
    after = {
        where: results.memory[where].after / results.memory[where].rest if where in results.memory else None
        for where in DATABASES
    }
    pair = {
        kind: results.processes.ratio(
            Key("two receivers", "postgresql", kind, COMPARED), Key("one receiver", "postgresql", kind, COMPARED)
        )
        for kind in KINDS
    }
    return [
        *found,
        _at_least(f"rate at {largest:,} stored events, of the rate at none", FOR_GROWTH, grown),
        _at_most("MB of memory under load", FOR_LOAD_MB, loaded),
        _at_most("memory after the burst, of that at rest", FOR_AFTER_BURST, after),
        _at_least("two receivers on PostgreSQL, of one", FOR_TWO_PROCESSES, pair),
        *_of_deliveries(results),
    ]


def _of_deliveries(results: Results) -> list[Goal]:
    found = results.deliveries
    rest = {where: found[where].rest_ms[0] if where in found else None for where in DATABASES}
    rate = found["postgresql"].rate if "postgresql" in found else None
    beside = {}
    for where in DATABASES:
        alone, worked = (Key(name, where, "notification", COMPARED) for name in ("alone", "beside a worker"))
        beside[where] = results.beside.ratio(worked, alone)
    return [
        _at_least("the receiver's rate beside a worker, of that without", FOR_BESIDE, beside),
        _at_most("ms from a 200 to the delivery at rest, median", FOR_REST_MS, rest),
        _at_least("deliveries a second of one worker", FOR_DELIVERIES, {"postgresql": rate}),
    ]


def _of_throughput(results: Results, where: str) -> list[Goal]:
    samples = results.throughput

    def rates(other: str, place: str) -> dict[str, float | None]:
        return {
            kind: samples.ratio(Key("receiver", where, kind, COMPARED), Key(other, place, kind, COMPARED))
            for kind in KINDS
        }

    alone = {
        kind: samples.ratio(Key("receiver", where, kind, 1), Key("commit", where, kind, 1), "p50_ms") for kind in KINDS
    }
    spread: dict[str, float | None] = {}
    for kind in KINDS:
        key = Key("receiver", where, kind, COMPARED)
        p50, p99 = samples.median(key, "p50_ms"), samples.median(key, "p99_ms")
        spread[kind] = p99 / p50 if p50 and p99 is not None else None
    return [
        _at_least(f"{where}: rate, of the naive twin's", FOR_NAIVE[where], rates("naive", where)),
        _at_least(f"{where}: rate, of Starlette's no-op", FOR_STARLETTE[where], rates("starlette", ACROSS)),
        _at_least(f"{where}: rate, of the same without the store", FOR_NOSTORE, rates("nostore", ACROSS)),
        _at_most(f"{where}: median with one connection, of the bare commit's", FOR_ONE_CONNECTION, alone),
        _at_most(f"{where}: p99, of p50", FOR_P99, spread),
    ]


def _growth(results: Results, where: str, kind: str, largest: int) -> float | None:
    if largest not in results.growth or 0 not in results.growth:
        return None
    key = Key("receiver", where, kind, COMPARED)
    full, empty = results.growth[largest].median(key, "rate"), results.growth[0].median(key, "rate")
    return full / empty if full is not None and empty else None


def _at_least(sentence: str, bound: float, values: Mapping[str, float | None]) -> Goal:
    return Goal(sentence=sentence, bound=bound, at_least=True, values=values)


def _at_most(sentence: str, bound: float, values: Mapping[str, float | None]) -> Goal:
    return Goal(sentence=sentence, bound=bound, at_least=False, values=values)
