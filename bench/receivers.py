"""One receiver against two on one PostgreSQL, each time under two generators with half of the connections."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench import databases
from bench.load import KINDS, Load
from bench.measured import Measured, figures, measured
from bench.plan import COMPARED, Run
from bench.results import Ledger

PAIR = 2
NOTE = (
    f"Receivers on one PostgreSQL, always under two generators of {COMPARED // PAIR} connections. With few processors "
    "these, the receivers and PostgreSQL compete for them: two receivers then show less than they can."
)


def measure(run: Run) -> None:
    """Fills the table Receivers."""
    run.say("one and two receivers on postgresql")
    table = run.results.table("Receivers", NOTE, ("database", "receivers", "body"))
    url = run.postgresql.create("receivers")
    with ExitStack() as stack:
        opening = (measured(run, "receiver", run.postgresql, url, counted=False) for _ in range(PAIR))
        pair = [stack.enter_context(each) for each in opening]
        for kind in KINDS:
            for _ in range(run.plan.repetitions):
                found = {processes: _together(run, pair, kind, processes) for processes in (1, PAIR)}
                for processes, columns in found.items():
                    columns["of one"] = columns["events/s"] / found[1]["events/s"]
                    table.add(("postgresql", processes, kind), columns)
    ledger = Ledger(
        acknowledged=sum(each.ledger.acknowledged for each in pair),
        under_way=sum(each.ledger.under_way for each in pair),
    )
    if problem := ledger.problem(databases.count(url)):
        run.results.problems.append(f"two receivers on postgresql: {problem}")


def _together(run: Run, pair: list[Measured], kind: str, processes: int) -> dict[str, float]:
    """All that is posted to the first of them, or half to each."""
    before = _cpu(pair)
    with ThreadPoolExecutor(PAIR) as pool:
        posts = [
            pool.submit(pair[number % processes].post, kind, COMPARED // PAIR, run.plan.seconds)
            for number in range(PAIR)
        ]
        loads = [post.result() for post in posts]
    both = Load(
        requests=sum(each.requests for each in loads),
        failed=sum(each.failed for each in loads),
        broken=sum(each.broken for each in loads),
        seconds=max(each.seconds for each in loads),
        p50_ms=max(each.p50_ms for each in loads),
        p99_ms=max(each.p99_ms for each in loads),
    )
    now = _cpu(pair)
    return figures(both, (now[0] - before[0], now[1] - before[1]))


def _cpu(pair: list[Measured]) -> tuple[float, float]:
    """Of both receivers, and of the one database."""
    taken = [each.cpu() for each in pair]
    return sum(servers for servers, _ in taken), taken[0][1]
