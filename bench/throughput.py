"""How many events a second each target acknowledges, every target in turn in every repetition."""

from contextlib import ExitStack

from bench import load
from bench.load import KINDS
from bench.measured import Measured, measured
from bench.plan import Run
from bench.processes import Target, running

WITHOUT_DATABASE = ("floor", "starlette", "nostore")
STORING = ("receiver", "naive", "fastapi")

NOTE = """- **floor**: a bare ASGI application that reads the body and answers 200. **starlette**: the same, as a route
  of Starlette's. Both on uvicorn's own protocol, so that what ours checks beyond it counts against us.
- **receiver**: `priohook serve`, as it is. **nostore**: the same with a store that says it has committed.
- **naive**: the same with a SQLAlchemy session and a commit for each request.
- **fastapi**: what a user would write with FastAPI and async SQLAlchemy, with a table and an index of its own. Both
  have the number of connections that serves them best: one on SQLite, 16 on PostgreSQL.
- **commit**: one event after the other through the receiver's store, without HTTP.

Every request has the right credentials and an event of its own. One answer of each target is looked at first. Then
answers of 400 and above have failed, and those that took over two seconds. At the end the stored events are compared
with the answers. wrk, servers and databases share the processors. Ratios are within a repetition."""


def measure(run: Run) -> None:
    """Fills the table Throughput."""
    table = run.results.table("Throughput", NOTE, ("body", "connections", "target", "database"))
    with ExitStack() as stack:
        targets: dict[tuple[str, str], Measured] = {}
        commits: dict[str, Target] = {}
        for name in WITHOUT_DATABASE:
            targets[name, ""] = stack.enter_context(measured(run, name, None, run.sqlite.create(name)))
        for each in run.both:
            for name in STORING:
                targets[name, each.name] = stack.enter_context(measured(run, name, each, each.create(name)))
            commits[each.name] = stack.enter_context(running("commit", each.create("commit")))
        for kind in KINDS:
            for connections in run.plan.connections:
                run.say(f"{kind}, {connections} connections")
                for repetition in range(run.plan.repetitions):
                    order = list(targets)[:: -1 if repetition % 2 else 1]  # nobody is always measured after the same
                    found = {about: targets[about].run(kind, connections, run.plan.seconds) for about in order}
                    if connections == 1:
                        found |= {("commit", where): {"p50 ms": _commit(each, kind)} for where, each in commits.items()}
                    _compare(found)
                    for (name, where), figures in found.items():
                        table.add((kind, connections, name, where), figures)


def _compare(found: dict[tuple[str, str], dict[str, float]]) -> None:
    """Adds to the receiver's figures what they are of the others' in the same repetition."""
    for (name, where), figures in found.items():
        if name == "receiver":
            figures["p99 of p50"] = figures["p99 ms"] / figures["p50 ms"]
            for other, there in (("fastapi", where), ("naive", where), ("starlette", ""), ("nostore", "")):
                figures[f"of {other}"] = figures["events/s"] / found[other, there]["events/s"]
            if commit := found.get(("commit", where)):
                figures["of commit's p50"] = figures["p50 ms"] / commit["p50 ms"]


def _commit(target: Target, kind: str) -> float:
    """The median of one commit after the other, in ms."""
    load.post(target.url, kind)
    return float(target.line())
