"""What the receiver takes of memory: at rest, under load, and after a burst that overfills its queue."""

import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import sleep

from bench import databases, load
from bench.databases import Databases
from bench.plan import COMPARED, Plan
from bench.processes import Target, rss_mb, running
from bench.samples import Ledger, Memory, Results
from bench.throughput import Say

SETTLES = 3.0  # seconds
LOOK_EVERY = 0.05  # seconds
SPARE_FILES = 200
LOAD_SECONDS = 5.0


def measure(plan: Plan, kinds_of: Sequence[Databases], results: Results, *, wrk: str | None, say: Say) -> None:
    """Fills `results.memory`, with orders, the larger bodies."""
    connections = allow_connections(plan.burst_connections)
    for each in kinds_of:
        say(f"memory on {each.name}")
        url = each.create("memory")
        with running("receiver", url) as target:
            results.memory[each.name] = _measure(plan, target, url, results, connections=connections, wrk=wrk)


def allow_connections(wanted: int) -> int:
    """Raises this process's and so its children's bound on open files; gives how many connections it lets them have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - SPARE_FILES


def _measure(plan: Plan, target: Target, url: str, results: Results, *, connections: int, wrk: str | None) -> Memory:
    webhook = f"{target.url}/webhooks/prioticket"
    ledger = Ledger()

    def post(connections: int, seconds: float) -> load.Load:
        done = load.run(webhook, "order", connections=connections, seconds=seconds, wrk=wrk)
        ledger.add(acknowledged=done.acknowledged, connections=connections)
        return done

    sleep(SETTLES)
    rest = rss_mb(target.pid)
    loaded, _ = _watch(target, lambda: post(COMPARED, min(LOAD_SECONDS, plan.burst_seconds)))
    with databases.locked(url):
        burst, done = _watch(target, lambda: post(connections, plan.burst_seconds))
    sleep(SETTLES)
    after = rss_mb(target.pid)
    last = post(1, 1)
    if not last.acknowledged:
        results.problems.append(f"the receiver on {url.partition(':')[0]} acknowledges nothing after the burst")
    # An event that was given up with 503 may be stored after all, so that only what is lost is a problem.
    ledger.under_way += done.failed
    problem = ledger.problem(databases.count(url))
    if problem:
        results.problems.append(f"memory on {url.partition(':')[0]}: {problem}")
    return Memory(rest=rest, load=loaded, burst=burst, after=after, refused=done.failed, connections=connections)


def _watch(target: Target, action: Callable[[], load.Load]) -> tuple[float, load.Load]:
    """The most memory that the target takes while something goes on."""
    most = 0.0
    with ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(action)
        while not going_on.done():
            most = max(most, rss_mb(target.pid))
            sleep(LOOK_EVERY)
    return most, going_on.result()
