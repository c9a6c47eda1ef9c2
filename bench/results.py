"""What was measured: tables whose figures are medians of the repetitions."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

Row = tuple[str | int, ...]
"""What a line of a table is about, in the order of the table's head."""

FAILED = "failed"


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
        if not found:
            return None
        return sum(found) if column == FAILED else median(found)

    @property
    def columns(self) -> list[str]:
        """All of them, in the order in which they came."""
        return list(dict.fromkeys(column for columns in self.figures.values() for column in columns))


@dataclass(slots=True)
class Results:
    """All that was found, by one run or by several.

    Attributes:
        tables: By title.
        problems: Sentences; with any of them the run has failed.
    """

    tables: dict[str, Table] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def table(self, title: str, note: str, head: tuple[str, ...]) -> Table:
        """A new one, instead of one of an earlier run."""
        self.tables[title] = Table(note, head)
        return self.tables[title]

    def figure(self, title: str, row: Row, column: str) -> float | None:
        """As the table's; None if there is no such table."""
        table = self.tables.get(title)
        return table.figure(row, column) if table else None

    def save(self, file: Path) -> None:
        """Writes the tables; `load` reads them."""
        tables: dict[str, Any] = {
            title: {**asdict(table), "figures": list(table.figures.items())} for title, table in self.tables.items()
        }
        file.write_text(json.dumps(tables, indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """What an earlier run saved."""
        results = cls()
        if file.exists():
            for title, saved in json.loads(file.read_text()).items():
                figures = {tuple(row): columns for row, columns in saved.pop("figures")}
                results.tables[title] = Table(**{**saved, "head": tuple(saved["head"])}, figures=figures)
        return results


@dataclass(slots=True)
class Ledger:
    """How many events must be stored: at least those acknowledged, at most those under way at the end too.

    Attributes:
        stored_before: What was there before the first run.
    """

    stored_before: int = 0
    acknowledged: int = 0
    under_way: int = 0

    def add(self, *, acknowledged: int, connections: int) -> None:
        """One run; each of its connections ended with at most one request that was not answered yet."""
        self.acknowledged += acknowledged
        self.under_way += connections

    def problem(self, stored: int) -> str | None:
        """What is wrong, or None."""
        new = stored - self.stored_before
        if new < self.acknowledged:
            return f"{self.acknowledged - new:,} of {self.acknowledged:,} acknowledged events are not stored"
        if new > self.acknowledged + self.under_way:
            return f"{new - self.acknowledged:,} events are stored beyond the {self.acknowledged:,} acknowledged"
        return None
