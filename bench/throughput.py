"""How many events a second each target acknowledges, every target in turn in every repetition."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from time import sleep
from urllib.request import urlopen

from bench import commit, databases, load
from bench.databases import Databases
from bench.plan import COMPARED, Plan
from bench.processes import Target, cpu_seconds, running
from bench.samples import ACROSS, Batches, Key, Ledger, Results, Sample, batches

WITHOUT_DATABASE = ("floor", "starlette", "nostore")
STORING = ("receiver", "naive")
PAIR = 2  # receivers on one PostgreSQL
NAMES = {1: "one receiver", PAIR: "two receivers"}

Say = Callable[[str], None]


class Measured:
    """A running target, what it must have stored, and the processes that work for it."""

    def __init__(self, target: Target, databases_: Databases | None, url: str, wrk: str | None) -> None:
        self.target = target
        self._url = url
        self._wrk = wrk
        self._pids = [target.pid, *([databases_.pid] if databases_ and databases_.pid else [])]
        self.ledger = Ledger(databases.count(url) if databases_ else 0)
        self._stores = databases_ is not None

    def run(self, kind: str, connections: int, seconds: float) -> Sample:
        """One repetition."""
        before = sum(map(cpu_seconds, self._pids))
        done = self.post(kind, connections, seconds)
        taken = sum(map(cpu_seconds, self._pids)) - before
        return _sample(done, taken)

    def post(self, kind: str, connections: int, seconds: float) -> load.Load:
        """The load alone."""
        webhook = f"{self.target.url}/webhooks/prioticket"
        done = load.run(webhook, kind, connections=connections, seconds=seconds, wrk=self._wrk)
        self.ledger.add(acknowledged=done.acknowledged, connections=connections)
        return done

    def problem(self) -> str | None:
        """What is wrong with the number of stored events, or None."""
        return self.ledger.problem(databases.count(self._url)) if self._stores else None


Targets = dict[tuple[str, str], Measured]
Kind = tuple[str, int]
"""A kind of body, and a number of connections."""


@contextmanager
def measured(plan: Plan, name: str, kind_of: Databases | None, url: str, *, wrk: str | None) -> Iterator[Measured]:
    """A target that is warm."""
    with running(name, url) as target:
        each = Measured(target, kind_of, url, wrk)
        for kind in plan.kinds:
            each.post(kind, COMPARED, plan.warm_up)
        yield each


def measure(plan: Plan, kinds_of: Sequence[Databases], results: Results, *, wrk: str | None, say: Say) -> None:
    """Fills `results.throughput`, `results.batches` and `results.processes`."""
    with ExitStack() as stack:
        targets: Targets = {}
        commits: dict[str, str] = {}
        for name in WITHOUT_DATABASE:
            url = kinds_of[0].create(name)
            targets[name, ACROSS] = stack.enter_context(measured(plan, name, None, url, wrk=wrk))
        for each in kinds_of:
            commits[each.name] = each.create("bare_commit")
            for name in STORING:
                url = each.create(name)
                targets[name, each.name] = stack.enter_context(measured(plan, name, each, url, wrk=wrk))
        for kind in plan.kinds:
            for connections in plan.connections:
                say(f"{kind}, {connections} connections")
                for _ in range(plan.repetitions):
                    _one_round(plan, targets, commits, (kind, connections), results)
        _note_problems(results, {f"{name} on {where}": each for (name, where), each in targets.items()})
    for each in kinds_of:
        say(f"batch sizes on {each.name}")
        _count_batches(plan, each, results, wrk=wrk)
    for each in kinds_of:
        if each.pid is not None:
            say(f"one and two receivers on {each.name}")
            _count_processes(plan, each, results, wrk=wrk)


def _one_round(plan: Plan, targets: Targets, commits: dict[str, str], key: Kind, results: Results) -> None:
    kind, connections = key
    for (name, where), each in targets.items():
        sample = each.run(kind, connections, plan.seconds)
        results.throughput.add(Key(name, where, kind, connections), sample)
    if connections == 1:
        for where, url in commits.items():
            done = commit.run(url, kind, seconds=plan.seconds)
            results.throughput.add(Key("commit", where, kind, 1), _sample(done, 0.0))


def _count_batches(plan: Plan, kind_of: Databases, results: Results, *, wrk: str | None) -> None:
    """In runs of their own, by our application with a writer that counts."""
    url = kind_of.create("batches")
    with measured(plan, "batches", kind_of, url, wrk=wrk) as each:
        sleep(plan.settle)
        _batches_of(each)  # the warm-up's
        for kind in plan.kinds:
            for connections in plan.connections:
                each.post(kind, connections, plan.seconds)
                sleep(plan.settle)
                found = _batches_of(each)
                if found is not None:
                    results.batches[Key("receiver", kind_of.name, kind, connections)] = found
        _note_problems(results, {f"batches on {kind_of.name}": each})


def _batches_of(each: Measured) -> Batches | None:
    with urlopen(f"{each.target.url}/batches") as reply:  # noqa: S310 - our own server
        sizes = json.load(reply)
    return batches((int(size), commits) for size, commits in sizes.items())


def _count_processes(plan: Plan, kind_of: Databases, results: Results, *, wrk: str | None) -> None:
    """One receiver against two on one database, each under two generators with half of the connections."""
    url = kind_of.create("processes")
    half = COMPARED // PAIR
    with ExitStack() as stack, ThreadPoolExecutor(PAIR) as pool:
        pair = [stack.enter_context(measured(plan, "receiver", None, url, wrk=wrk)) for _ in range(PAIR)]
        pids = [pair[0].target.pid, pair[1].target.pid, kind_of.pid or 0]
        for kind in plan.kinds:
            for _ in range(plan.repetitions):
                for processes in (1, PAIR):
                    before = sum(map(cpu_seconds, pids))
                    posts = [pool.submit(pair[n % processes].post, kind, half, plan.seconds) for n in range(PAIR)]
                    loads = [post.result() for post in posts]
                    samples = [_sample(each, 0.0) for each in loads]
                    taken = sum(map(cpu_seconds, pids)) - before
                    both = Sample(
                        rate=sum(each.rate for each in samples),
                        p50_ms=max(each.p50_ms for each in samples),
                        p99_ms=max(each.p99_ms for each in samples),
                        cpu_us=taken * 1e6 / max(1, sum(each.acknowledged for each in loads)),
                        failed=sum(each.failed for each in samples),
                    )
                    results.processes.add(Key(NAMES[processes], kind_of.name, kind, COMPARED), both)
        # The database is shared, and so is the count.
        together = Ledger(
            acknowledged=sum(each.ledger.acknowledged for each in pair),
            under_way=sum(each.ledger.under_way for each in pair),
        )
        problem = together.problem(databases.count(url))
        if problem:
            results.problems.append(f"two receivers on {kind_of.name}: {problem}")


def _sample(done: load.Load, cpu: float) -> Sample:
    return Sample(
        rate=done.rate,
        p50_ms=done.p50_ms,
        p99_ms=done.p99_ms,
        cpu_us=cpu * 1e6 / max(1, done.acknowledged),
        failed=done.failed + done.broken,
    )


def _note_problems(results: Results, targets: dict[str, Measured]) -> None:
    for name, each in targets.items():
        problem = each.problem()
        if problem:
            results.problems.append(f"{name}: {problem}")
