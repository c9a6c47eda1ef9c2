"""The results as a page of Markdown. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from bench.goals import GOALS, Goal
from bench.plan import Plan
from bench.results import Results, Table

HUNDRED = 100


def markdown(results: Results, plan: Plan, *, now: datetime, machine: Mapping[str, str]) -> str:
    """The whole of `results.md`."""
    parts = [
        "# Results",
        f"Measured on {now:%Y-%m-%d} by `python -m bench`: medians of {plan.repetitions} times {plan.seconds:g} s.",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
        "## Problems\n\n" + "\n".join(f"- {each}" for each in results.problems) if results.problems else "",
        "## Goals\n\n" + _table(("of", "figure", "goal", "measured", ""), (_goal(results, goal) for goal in GOALS)),
        *(f"## {title}\n\n{table.note}\n\n{_figures(table)}" for title, table in results.tables.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _goal(results: Results, goal: Goal) -> tuple[str, ...]:
    figure = results.figure(goal.table, goal.row, goal.column)
    about = ", ".join(_cell(part) for part in goal.row)
    bound = f"{'≥' if goal.least else '≤'} {goal.bound:g}"
    return about, goal.sentence, bound, _number(figure), goal.verdict(figure)


def _figures(table: Table) -> str:
    rows = (
        (*map(_cell, row), *(_number(table.figure(row, column)) for column in table.columns)) for row in table.figures
    )
    return _table((*table.head, *table.columns), rows)


def _cell(part: str | int) -> str:
    return part if isinstance(part, str) else f"{part:,}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= HUNDRED or value == int(value) else f"{value:.3g}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
