"""What was measured: tables whose figures are medians of the repetitions; and the page that shows them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

from bench.goals import GOALS, Row

FAILED = "failed"
HUNDRED = 100


@dataclass(slots=True)
class Table:
    """One section of the results.

    Attributes:
        note: What a reader must know of the figures.
        head: What `Row` holds.
        measured: When, on which machine, and how bodies were stored on PostgreSQL.
        figures: By row and column, one figure for each repetition.
    """

    note: str
    head: tuple[str, ...]
    measured: str = ""
    toast: str = ""
    figures: dict[Row, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: Row, figures: Mapping[str, float]) -> None:
        """Appends a repetition."""
        columns = self.figures.setdefault(row, {})
        for column, figure in figures.items():
            columns.setdefault(column, []).append(figure)

    def figure(self, row: Row, column: str) -> float | None:
        """The median, but the sum of failures; None if nothing was measured."""
        found = self.figures.get(row, {}).get(column)
        return (sum(found) if column == FAILED else median(found)) if found else None

    def markdown(self) -> str:
        """All rows and columns, in the order in which they came."""
        columns = list(dict.fromkeys(column for columns in self.figures.values() for column in columns))
        rows = (
            (
                *(f"{part} ({self.toast})" if part == "postgresql" else _cell(part) for part in row),
                *(_number(self.figure(row, column)) for column in columns),
            )
            for row in self.figures
        )
        return _table((*self.head, *columns), rows)


@dataclass(slots=True)
class Results:
    """All that was found, by one run or by several.

    Attributes:
        tables: By title.
        problems: Sentences; with any of them the run has failed.
    """

    tables: dict[str, Table] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def table(self, title: str, note: str, *head: str) -> Table:
        """A new one, instead of one of an earlier run."""
        self.tables[title] = Table(note, head)
        return self.tables[title]

    def figure(self, title: str, row: Row, column: str) -> float | None:
        """As the table's; None if there is no such table."""
        return self.tables[title].figure(row, column) if title in self.tables else None

    def save(self, file: Path) -> None:
        """Writes the tables; `load` reads them."""
        saved = {title: asdict(table) | {"figures": [*table.figures.items()]} for title, table in self.tables.items()}
        file.write_text(json.dumps(saved, indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """What an earlier run saved, if there was one."""
        results = cls()
        for title, saved in (json.loads(file.read_text()) if file.exists() else {}).items():
            figures = {tuple(row): columns for row, columns in saved["figures"]}
            results.tables[title] = Table(**saved | {"head": tuple(saved["head"]), "figures": figures})
        return results

    def markdown(self, *, machine: Mapping[str, str], verdicts: bool) -> str:
        """The page.

        Args:
            verdicts: Whether it says which goals are met, for which a short run is too rough.
        """
        parts = [
            "# Results",
            "\n".join(f"- {name}: {value}" for name, value in machine.items()),
            "## Problems\n\n" + "\n".join(f"- {each}" for each in self.problems) if self.problems else "",
            "## Goals",
            self._goals(5 if verdicts else 4),
        ]
        for title, table in self.tables.items():
            parts += [f"## {title}", table.note, table.measured, table.markdown()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _goals(self, columns: int) -> str:
        rows = []
        for goal in GOALS:
            figure = self.figure(goal.table, goal.row, goal.column)
            about = ", ".join(map(_cell, (goal.table, *goal.row)))
            bounds = ", then ".join(f"{goal.sign} {_number(step)}" for step in goal.steps)
            rows.append((about, goal.sentence, bounds, _number(figure), goal.verdict(figure))[:columns])
        return _table(("of", "figure", "goal", "measured", "")[:columns], rows)


def _cell(part: str | int) -> str:
    return part if isinstance(part, str) else f"{part:,}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= HUNDRED or value == int(value) else f"{value:.3g}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))
