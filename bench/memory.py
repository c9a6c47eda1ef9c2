"""What the receiver takes of memory: at rest, under load, and after a burst that overfills its queue."""

import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep

from bench import databases, load
from bench.databases import Databases
from bench.measured import Measured, measured
from bench.plan import COMPARED, Run
from bench.processes import rss_mb

SETTLES = 3.0  # seconds
LOOK_EVERY = 0.05  # seconds
SPARE_FILES = 200
NOTE = (
    "MB that the receiver takes, with orders. In the burst the database is locked and more connections post than may "
    "wait."
)


def measure(run: Run) -> None:
    """Fills the table Memory."""
    connections = allow_connections(run.plan.burst_connections)
    table = run.results.table("Memory", NOTE, ("database",))
    for each in run.both:
        run.say(f"memory on {each.name}")
        url = each.create("memory")
        with measured(run, "receiver", each, url, warm=False) as receiver:
            table.add((each.name,), _measure(run, each, url, receiver, connections))


def allow_connections(wanted: int) -> int:
    """Raises this process's and so its children's bound on open files; gives how many connections it lets them have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - SPARE_FILES


def _measure(run: Run, kind: Databases, url: str, receiver: Measured, connections: int) -> dict[str, float]:
    sleep(SETTLES)
    pid = receiver.target.pid
    rest = rss_mb(pid)
    loaded, _ = _most(pid, lambda: receiver.post("order", COMPARED, run.plan.burst_seconds))
    with databases.locked(url):
        burst, done = _most(pid, lambda: receiver.post("order", connections, run.plan.burst_seconds))
    sleep(SETTLES)
    after = rss_mb(pid)
    if not receiver.post("order", 1, 1).acknowledged:
        run.results.problems.append(f"the receiver on {kind.name} acknowledges nothing after the burst")
    # An event that was given up with 503 may be stored after all, so that only what is lost is a problem.
    receiver.ledger.under_way += done.failed
    return {
        "at rest": rest,
        "under load": loaded,
        "burst": burst,
        "after": after,
        "after, of rest": after / rest,
        "burst's connections": connections,
        "burst's 503": done.failed,
    }


def _most(pid: int, action: Callable[[], load.Load]) -> tuple[float, load.Load]:
    """The most memory that a process takes while something goes on."""
    most = 0.0
    with ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(action)
        while not going_on.done():
            most = max(most, rss_mb(pid))
            sleep(LOOK_EVERY)
    return most, going_on.result()
