"""The results as a page of Markdown. Pure."""

from collections.abc import Iterable, Mapping

from bench.goals import GOALS, Goal
from bench.results import Results, Table

HUNDRED = 100


def markdown(results: Results, *, machine: Mapping[str, str], verdicts: bool) -> str:
    """The whole of `results.md`.

    Args:
        verdicts: Whether it says which goals are met, for which a short run is too rough.
    """
    head = ("of", "figure", "goal", "measured", *([""] if verdicts else []))
    goals = (_goal(results, goal)[: len(head)] for goal in GOALS)
    parts = [
        "# Results",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
        "## Problems\n\n" + "\n".join(f"- {each}" for each in results.problems) if results.problems else "",
        "## Goals\n\n" + _table(head, goals),
        *(
            f"## {title}\n\n{table.note}\n\n{table.measured}\n\n{_figures(table)}"
            for title, table in results.tables.items()
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _goal(results: Results, goal: Goal) -> tuple[str, ...]:
    figure = results.figure(goal.table, goal.row, goal.column)
    sign = "≥" if goal.least else "≤"
    first = f"{sign} {_number(goal.first)}, then " if goal.first is not None else ""
    about = ", ".join(_cell(part) for part in (goal.table, *goal.row))
    return about, goal.sentence, f"{first}{sign} {_number(goal.bound)}", _number(figure), goal.verdict(figure)


def _figures(table: Table) -> str:
    rows = (
        (
            *(f"{part} ({table.toast})" if part == "postgresql" else _cell(part) for part in row),
            *(_number(table.figure(row, column)) for column in table.columns),
        )
        for row in table.figures
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
