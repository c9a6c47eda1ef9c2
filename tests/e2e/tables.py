"""The tables of faults that pytest prints, and writes into the documentation with `--record`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[2] / "docs"
END = "<!-- end -->"


class Table(NamedTuple):
    """A table with a row for each fault.

    Attributes:
        title: What pytest prints above it.
        columns: The headings, by what tests call the values.
        page: The page of docs/ that has it.
    """

    title: str
    columns: Mapping[str, str]
    page: str | None = None

    def lines(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """The table for a terminal. A fault that this machine cannot make has the reason instead."""
        table = [list(self.columns.values()), *([_cell(row, name) for name in self.columns] for row in rows)]
        widths = [max(len(row[place]) for row in table) for place in range(len(self.columns))]
        for row, source in zip(table, [{}, *rows], strict=True):
            reason = f"  not run: {source['not run']}" if "not run" in source else ""
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + reason

    def record(self, rows: Sequence[Mapping[str, Any]], folder: Path = DOCS) -> None:
        """Writes the table into its page, between the mark with its title and the end mark."""
        path = folder / f"{self.page}.md"
        begin = f"<!-- {self.title} -->"
        before, mark, rest = path.read_text().partition(begin)
        _, end, after = rest.partition(END)
        assert all((mark, end)), f"{path} has no {begin} … {END}"
        cells = [list(self.columns.values()), ["---"] * len(self.columns)]
        cells += [[_cell(row, name) for name in self.columns] for row in rows if "not run" not in row]
        table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        path.write_text(f"{before}{begin}\n\n{table}\n\n{END}{after}")


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, "")
    return f"{value:.2f}" if isinstance(value, float) else str(value)


TABLES = {
    "durability": Table(
        "what dies, and nothing is lost",
        {
            "fault": "fault",
            "database": "database",
            "requests": "requests",
            "acknowledged": "acknowledged",
            "lost": "lost",
            "duplicated": "duplicated rows",
            "copies": "retries of stored events",
            "recovery": "seconds to recover",
        },
    ),
    "failover": Table(
        "what the loss of a host does",
        {
            "fault": "fault",
            "replication": "replication",
            "acknowledged": "acknowledged",
            "lost": "lost",
            "duplicated": "duplicated rows",
            "strangers": "delivered, but not acknowledged",
            "out_of_order": "orders out of order",
            "without_200": "longest without a 200 (s)",
            "without_delivery": "longest without a delivery (s)",
        },
        page="durability",
    ),
    "chaos": Table(
        "chaos, and everything arrives in order",
        {
            "fault": "fault",
            "requests": "requests",
            "acknowledged": "acknowledged",
            "lost": "lost",
            "duplicated": "duplicated rows",
            "arrivals": "arrivals",
            "repeats": "repeats",
            "back": "went back",
            "at_once": "two of an order at once",
            "unexplained": "unexplained",
            "undelivered": "undelivered",
            "recovery": "seconds to the next 200",
            "settled": "seconds until all is delivered",
        },
        page="durability",
    ),
}
"""By the name of the property that tests record."""
