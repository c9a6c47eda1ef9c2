"""A steady stream for minutes, with autovacuum, checkpoints and a worker that delivers: `python -m bench soak`."""

from time import sleep

from bench import databases, load
from bench.consumer import consuming
from bench.deliveries import ARRIVE_WITHIN, MOST, STARTS, delays_ms, delivering
from bench.measured import measured
from bench.plan import Run
from bench.processes import cpu_seconds

OFFERED = 1000  # events a second
NOTE = (
    f"{OFFERED:,} notifications a second are offered, whatever the answers take, and delivered by one worker with "
    f"{MOST} in flight. Delays are from the 200 to the delivery."
)


def measure(run: Run) -> None:
    """Fills the table Soak."""
    table = run.results.table("Soak", NOTE, ("database", "seconds"))
    seconds = run.plan.soak_seconds
    for each in run.both:
        run.say(f"{seconds} seconds of {OFFERED:,} events a second on {each.name}")
        url = each.create("soak")
        with (
            measured(run, "receiver", each, url, counted=False, warm=False) as receiver,
            consuming() as consumer,
            delivering(url, consumer) as worker,
        ):
            sleep(STARTS)
            before, costs = (*receiver.cpu(), cpu_seconds(worker)), each.costs(url)
            answered = load.paced(receiver.target.url, "notification", rate=OFFERED, seconds=seconds)
            consumer.wait_for(len(answered), within=ARRIVE_WITHIN)
            now, spent = (*receiver.cpu(), cpu_seconds(worker)), each.costs(url)
            p50, p99 = delays_ms(answered, consumer)
        if (missing := len(answered) - databases.count(url)) > 0:
            run.results.problems.append(f"{missing:,} acknowledged events are not stored, soak on {each.name}")
        figures = {
            "acknowledged/s": len(answered) / seconds,
            "p50 ms": p50,
            "p99 ms": p99,
            "not delivered": sum(id_ not in consumer.arrivals for id_ in answered),
        }
        for name, taken in zip(("receiver", "database", "worker"), map(float.__sub__, now, before), strict=True):
            figures[f"{name}: CPU µs/event"] = taken * 1e6 / len(answered)
        figures |= {name: spent[name] - costs[name] for name in ("autovacuums", "checkpoints") if costs}
        table.add((each.name, seconds), figures)
