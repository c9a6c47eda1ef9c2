"""What a receiver takes: beside others, beside millions of events, in two processes; its disk and its memory."""

import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from time import sleep

from bench import databases, load
from bench.goals import COMPARED
from bench.load import KINDS
from bench.measured import STORING, Measured, measured
from bench.processes import rss_mb, running, written_bytes
from bench.run import Run

WITHOUT_DATABASE = ("floor", "starlette", "nostore")
THROUGHPUT = """\
- **floor**: a bare ASGI application that reads the body and answers 200. **starlette**: the same, as a route
  of Starlette's. Both on uvicorn's own protocol, so that what ours checks beyond it counts against us.
- **receiver**: `priohook serve`, as it is. **nostore**: the same with a store that says it has committed.
- **naive**: the same with a SQLAlchemy session and a commit for each request.
- **fastapi**: what a user would write with FastAPI and async SQLAlchemy, with a table and an index of its own. Both
  have the number of connections that serves them best: one on SQLite, 16 on PostgreSQL.
- **commit**: one event after the other through the receiver's store, without HTTP.

Every request has the right credentials and an event of its own. One answer of each target is looked at first. Then
answers of 400 and above have failed, and those that took over two seconds. At the end the stored events are compared
with the answers. wrk, servers and databases share the processors. Ratios are within a repetition."""
GROWTH = (
    f"Under {COMPARED} connections. What was stored before has small bodies ({len(databases.BODY)} bytes). New "
    "references are those of new orders. Stored references are random ones of the events that are there: redemptions "
    "and cancellations."
)
RECEIVERS = (
    f"`priohook serve --processes` on one PostgreSQL, under {COMPARED} connections. With few processors wrk, the "
    "receivers and PostgreSQL compete for them: two receivers then show less than they can."
)
STORAGE = (
    f"Of events that came over {COMPARED} connections, with all indexes and the row by which each waits for dispatch. "
    "What SQLite wrote is the log and the checkpoints; what PostgreSQL wrote is its WAL."
)
COUNTED = ("rows inserted", "rows updated", "transactions")
MEMORY = (
    "MB that the receiver takes, with orders. In the burst the database is locked and more connections post than may "
    "wait."
)
BURST_CONNECTIONS = 2000
"""More than the receiver lets wait, so that the burst overfills its queue."""

SPARE_FILES = 200
SETTLES = 3.0  # seconds
LOOK_EVERY = 0.05  # seconds


def throughput(run: Run) -> None:
    """How many events a second each target acknowledges, every target in turn in every repetition."""
    table = run.results.table("Throughput", THROUGHPUT, "body", "connections", "target", "database")
    with ExitStack() as stack:
        targets = {
            (name, where): stack.enter_context(measured(run, name, run.create(where or "sqlite")))
            for name, where in (*product(WITHOUT_DATABASE, ("",)), *product(STORING, databases.KINDS))
        }
        commits = {where: stack.enter_context(running("commit", run.create(where).url)) for where in databases.KINDS}
        for kind, connections in product(KINDS, (1, COMPARED)):
            for repetition in range(run.plan.repetitions):
                order = list(targets)[:: -1 if repetition % 2 else 1]  # nobody is always measured after the same
                found = {about: targets[about].run(kind, connections, run.plan.seconds) for about in order}
                for where, commit in commits.items() if connections == 1 else ():
                    load.post(commit.url, kind)
                    found["commit", where] = {"p50 ms": float(commit.process.stdout.readline())}  # type: ignore[union-attr] # a pipe
                _compare(found)
                for about, figures in found.items():
                    table.add((kind, connections, *about), figures)


def _compare(found: dict[tuple[str, str], dict[str, float]]) -> None:
    """Adds to the receiver's figures what they are of the others' in the same repetition."""
    for where in databases.KINDS:
        figures = found["receiver", where]
        figures["p99 of p50"] = figures["p99 ms"] / figures["p50 ms"]
        for other, there in (("fastapi", where), ("naive", where), ("starlette", ""), ("nostore", "")):
            figures[f"of {other}"] = figures["events/s"] / found[other, there]["events/s"]
        if commit := found.get(("commit", where)):
            figures["of commit's p50"] = figures["p50 ms"] / commit["p50 ms"]


def growth(run: Run) -> None:
    """What the receiver acknowledges if millions of events are stored already, in turn with one that has none."""
    stored = run.plan.stored
    table = run.results.table("Growth", GROWTH, "database", "body", "references", "stored before")
    for where in databases.KINDS:
        with ExitStack() as stack:
            targets = {
                rows: stack.enter_context(measured(run, "receiver", run.create(where, events=rows)))
                for rows in (0, stored)
            }
            for kind, references in product(KINDS, ("new", "stored")):
                orders = databases.orders(stored) if references == "stored" else None
                for _ in range(run.plan.repetitions):
                    for rows, figures in _in_turn(run, targets, kind, "of none", orders).items():
                        table.add((where, kind, references, rows), figures)


def receivers(run: Run) -> None:
    """One receiver against two on one PostgreSQL."""
    table = run.results.table("Receivers", RECEIVERS, "database", "receivers", "body")
    with ExitStack() as stack:
        targets = {}
        for number in (1, 2):
            several = measured(run, "receiver", run.create("postgresql"), f"--processes={number}")
            targets[number] = stack.enter_context(several)
        for kind in KINDS:
            for _ in range(run.plan.repetitions):
                for number, figures in _in_turn(run, targets, kind, "of one").items():
                    table.add(("postgresql", number, kind), figures)


def _in_turn(
    run: Run, targets: dict[int, Measured], kind: str, ratio: str, orders: int | None = None
) -> dict[int, dict[str, float]]:
    """A repetition of each, with the ratio of its rate to the first one's."""
    found = {about: target.run(kind, COMPARED, run.plan.seconds, orders=orders) for about, target in targets.items()}
    first = next(iter(found.values()))["events/s"]
    return {about: figures | {ratio: figures["events/s"] / first} for about, figures in found.items()}


def storage(run: Run) -> None:
    """What an event takes on disk, and what is written for it."""
    table = run.results.table("Storage", STORAGE, "database", "body")
    for where, kind in product(databases.KINDS, KINDS):
        database = run.create(where)
        empty = database.stored_bytes()
        with measured(run, "receiver", database, warm=False) as receiver:
            before, costs, first = written_bytes(receiver.server.pid), database.costs(), database.count()
            receiver.post(kind, COMPARED, 2 * run.plan.seconds)
            written = written_bytes(receiver.server.pid) - before
        now, events = database.costs(), database.count()
        spent = {name: now[name] - before for name, before in costs.items()}
        figures = {
            "bytes stored/event": (database.stored_bytes() - empty) / events,
            "bytes written/event": spent.get("WAL bytes", written) / (events - first),
            **{f"{name}/event": spent[name] / (events - first) for name in COUNTED if name in spent},
        }
        table.add((where, kind), figures)


def memory(run: Run) -> None:
    """What the receiver takes of memory: at rest, under load, and after a burst that overfills its queue."""
    connections = _allow_connections(BURST_CONNECTIONS)
    seconds = 4 * run.plan.seconds
    table = run.results.table("Memory", MEMORY, "database")
    for where in databases.KINDS:
        database = run.create(where)
        with measured(run, "receiver", database, warm=False) as receiver:
            sleep(SETTLES)
            rest = rss_mb(receiver.server.pid)
            loaded, _ = _most(receiver, COMPARED, seconds)
            with database.locked():
                burst, done = _most(receiver, connections, seconds)
            sleep(SETTLES)
            after = rss_mb(receiver.server.pid)
            if not receiver.post("order", 1, 1).acknowledged:
                run.results.problems.append(f"the receiver on {where} acknowledges nothing after the burst")
            # An event that was given up with 503 may be stored after all, so that only what is lost is a problem.
            receiver.under_way += done.failed
        figures = {
            "at rest": rest,
            "under load": loaded,
            "burst": burst,
            "after": after,
            "after, of rest": after / rest,
            "burst's connections": connections,
            "burst's 503": done.failed,
        }
        table.add((where,), figures)


def _allow_connections(wanted: int) -> int:
    """Raises this process's and so its children's bound on open files; gives how many connections it lets them have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + SPARE_FILES if hard == resource.RLIM_INFINITY else min(wanted + SPARE_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - SPARE_FILES


def _most(receiver: Measured, connections: int, seconds: int) -> tuple[float, load.Load]:
    """The most memory that a receiver takes under load."""
    most = 0.0
    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(receiver.post, "order", connections, seconds)
        while not posting.done():
            most = max(most, rss_mb(receiver.server.pid))
            sleep(LOOK_EVERY)
    return most, posting.result()
