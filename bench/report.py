"""Results as Markdown: pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from bench.goals import Goal, goals
from bench.load import KINDS
from bench.plan import COMPARED, Plan
from bench.samples import ACROSS, Batches, Key, Results

HUNDRED = 100
TARGETS = """\
- **floor**: a bare ASGI application that reads the body and answers 200. **starlette**: the same as a Starlette route.
  Both on uvicorn's own protocol, so that what ours checks beyond it counts against us.
- **nostore**: the receiver with a writer that commits nothing. **receiver**: `priohook serve`, as it is.
- **naive**: the same door, parse and log line, then a SQLAlchemy session and a commit for each request.
- **commit**: one event after the other through the receiver's writer, without HTTP.

Every request has the right credentials and an event of its own. Only a 200 counts; all else, and
with wrk what took over two seconds, is listed as failed. At the end the stored events are compared with the 200s.
Generator, servers and databases share the processors. Medians of the repetitions, ratios within a repetition."""


def markdown(
    results: Results,
    plan: Plan,
    *,
    now: datetime,
    versions: Mapping[str, str],
    calibration: Mapping[str, str],
    plot: str | None,
) -> str:
    """The whole of `results.md`.

    Args:
        plot: The name of the picture beside it, if there is one.
    """
    parts = [
        "# Results",
        f"Measured on {now:%Y-%m-%d} by `python -m bench`: {plan.repetitions} times {plan.seconds:g} s each.",
        "\n".join(f"- {name}: {value}" for name, value in {**calibration, **versions}.items()),
        "## Problems\n\n" + "\n".join(f"- {each}" for each in results.problems) if results.problems else "",
        "## Goals\n\n" + _table(("", "goal", "measured", ""), map(_goal, goals(results))),
    ]
    if results.throughput:
        parts += ["## Throughput", TARGETS, f"![Acknowledged events a second]({plot})" if plot else ""]
        parts += [_throughput(results, kind) for kind in KINDS]
    if results.growth:
        parts += ["## Growth", _growth(results)]
    if results.processes:
        parts += ["## Processes", _processes(results)]
    if results.memory:
        parts += ["## Memory", _memory(results)]
    if results.deliveries:
        parts += ["## Deliveries", _deliveries(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _goal(goal: Goal) -> tuple[str, ...]:
    measured = ", ".join(f"{name} {_number(value)}" for name, value in goal.values.items())
    return goal.sentence, f"{'≥' if goal.at_least else '≤'} {goal.bound:g}", measured, goal.verdict


def _throughput(results: Results, kind: str) -> str:
    samples = results.throughput
    head = (
        "connections", "target", "events/s", "p50 ms", "p99 ms", "CPU µs/event", "batch median / largest",
        "of naive", "of starlette", "of nostore", "failed",
    )  # fmt: skip
    rows = []
    ordered = sorted((key for key in samples if key.kind == kind), key=lambda key: key.connections)
    for key in ordered:
        ours = key.target == "receiver"
        naive, starlette, nostore = (
            samples.ratio(key, key._replace(target=other, database=where)) if ours else None
            for other, where in (("naive", key.database), ("starlette", ACROSS), ("nostore", ACROSS))
        )
        rows.append(
            (
                str(key.connections),
                f"{key.target} {key.database}".strip(),
                *(_number(samples.median(key, name)) for name in ("rate", "p50_ms", "p99_ms")),
                _number(samples.median(key, "cpu_us") or None),
                _batches(results.batches.get(key)),
                *(_number(each) if ours else "" for each in (naive, starlette, nostore)),
                str(samples.failed(key)),
            )
        )
    return f"### {kind.capitalize()}\n\n" + _table(head, rows)


def _batches(found: Batches | None) -> str:
    return f"{found.median:g} / {found.largest}" if found else ""


def _growth(results: Results) -> str:
    rows = []
    for stored, samples in results.growth.items():
        for key in samples:
            smallest = results.growth[min(results.growth)]
            empty, rate = smallest.median(key, "rate"), samples.median(key, "rate")
            of = rate / empty if rate is not None and empty else None
            numbers = (_number(samples.median(key, name)) for name in ("rate", "p50_ms", "p99_ms"))
            rows.append((key.database, key.kind, f"{stored:,}", *numbers, _number(of), str(samples.failed(key))))
    rows.sort(key=lambda row: row[:2])
    note = (
        "What was stored before has small bodies (58 bytes), with ids, references and keys as random as real ones.\n\n"
    )
    return note + _table(("", "body", "stored before", "events/s", "p50 ms", "p99 ms", "of the first", "failed"), rows)


def _processes(results: Results) -> str:
    samples = results.processes
    rows = [
        (
            key.target,
            key.kind,
            *(_number(samples.median(key, name)) for name in ("rate", "p50_ms", "p99_ms", "cpu_us")),
            str(samples.failed(key)),
        )
        for key in samples
    ]
    note = (
        "Receivers on one PostgreSQL, always under two generators of 32 connections. With few processors these, the "
        "receivers and PostgreSQL compete for them: two receivers then show less than they can.\n\n"
    )
    return note + _table(("", "body", "events/s", "p50 ms", "p99 ms", "CPU µs/event", "failed"), rows)


def _deliveries(results: Results) -> str:
    rows = []
    for where, each in results.deliveries.items():
        alone, beside = (Key(name, where, "notification", COMPARED) for name in ("alone", "beside a worker"))
        numbers = (each.rate, *each.rest_ms, *each.loaded_ms, results.beside.ratio(beside, alone))
        rows.append((where, *map(_number, numbers)))
    note = (
        "One worker and a consumer that answers at once, 64 in flight. Delays are from the 200 to the delivery, in ms: "
        "at rest one event each 100 ms, in the stream 200 a second. Beside: the receiver at full load while the "
        "worker delivers, of that without a worker.\n\n"
    )
    head = ("", "deliveries/s", "at rest, median", "99th", "stream, median", "99th", "receiver beside")
    return note + _table(head, rows)


def _memory(results: Results) -> str:
    rows = [
        (
            where,
            *(f"{value:.0f}" for value in (each.rest, each.load, each.burst, each.after)),
            f"{each.connections:,}",
            f"{each.refused:,}",
        )
        for where, each in results.memory.items()
    ]
    note = (
        "MB that the receiver takes. In the burst the database is locked and more connections post than may wait.\n\n"
    )
    head = ("", "at rest", "under load", "burst", "after", "burst's connections", "answers that were not 200")
    return note + _table(head, rows)


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= HUNDRED else f"{value:.3g}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
