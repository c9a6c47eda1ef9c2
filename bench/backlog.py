"""A worker that starts when many events wait, as after a night without one; and one that has nothing to do."""

from time import monotonic, sleep

from bench import filling
from bench.consumer import consuming
from bench.deliveries import ARRIVE_WITHIN, MOST, delivering
from bench.plan import Run
from bench.processes import cpu_seconds, working

SETTLES = 5.0  # seconds
MANY = 200  # destinations
NOTE = f"{MOST} in flight. The rate is that of the first seconds after the first delivery."
IDLE_NOTE = "A worker beside an empty inbox, of one processor."


def measure(run: Run) -> None:
    """Fills the table Backlog."""
    filling.require_disk(run.folder, len(run.both) * run.plan.backlog)
    table = run.results.table("Backlog", NOTE, ("database", "undispatched"))
    for each in run.both:
        run.say(f"a backlog of {run.plan.backlog:,} events on {each.name}")
        url = each.create("backlog")
        filling.fill(url, run.plan.backlog)
        with consuming() as consumer:
            started = monotonic()
            with delivering(url, consumer) as worker:
                if not consumer.wait_for(1, within=ARRIVE_WITHIN):
                    run.results.problems.append(f"nothing of the backlog arrived, on {each.name}")
                    continue
                before = cpu_seconds(worker) + each.cpu()
                came = len(consumer.arrivals)
                consumer.wait_for(run.plan.backlog, within=run.plan.backlog_seconds)
                cpu = cpu_seconds(worker) + each.cpu() - before
                times = list(consumer.arrivals.values())
        figures = {
            "first delivery after s": times[0] - started,
            "deliveries/s": (len(times) - 1) / (times[-1] - times[0]),
            "CPU µs/delivery": cpu * 1e6 / max(1, len(times) - came),
        }
        table.add((each.name, run.plan.backlog), figures)


def measure_idle(run: Run) -> None:
    """Fills the table Idle."""
    table = run.results.table("Idle", IDLE_NOTE, ("database", "destinations"))
    for each in run.both:
        for destinations in (1, MANY):
            run.say(f"an idle worker for {destinations} destinations on {each.name}")
            url = each.create(f"idle_{destinations}")
            names = {f"destination-{number}": {"url": "http://127.0.0.1:9/"} for number in range(destinations)}
            with working(url, names) as worker:
                sleep(SETTLES)
                before, database = cpu_seconds(worker), each.cpu()
                sleep(run.plan.idle_seconds)
                share = 100 / run.plan.idle_seconds
                figures = {
                    "worker's %": (cpu_seconds(worker) - before) * share,
                    "database's %": (each.cpu() - database) * share,
                }
                table.add((each.name, destinations), figures)
