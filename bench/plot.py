"""The plot: acknowledged events a second over connections, one panel for each kind of body. Pure, and by hand."""

from collections.abc import Sequence
from html import escape
from math import log10

from bench.load import KINDS
from bench.samples import ACROSS, Key, Samples

LINES = {
    ("floor", ACROSS): ("bare ASGI", "#999999"),
    ("starlette", ACROSS): ("Starlette no-op", "#555555"),
    ("nostore", ACROSS): ("receiver without store", "#9467bd"),
    ("receiver", "sqlite"): ("receiver, SQLite", "#1f77b4"),
    ("receiver", "postgresql"): ("receiver, PostgreSQL", "#2ca02c"),
    ("naive", "sqlite"): ("naive twin, SQLite", "#ff7f0e"),
    ("naive", "postgresql"): ("naive twin, PostgreSQL", "#d62728"),
}
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, BOTTOM, GAP, LEGEND = 300, 280, 60, 40, 50, 40, 190
WIDTH = LEFT + len(KINDS) * (PANEL_WIDTH + GAP) + LEGEND
HEIGHT = TOP + PANEL_HEIGHT + BOTTOM
DECADES = (100, 1_000, 10_000, 100_000)


def svg(samples: Samples) -> str:
    """The picture; the rates are on a logarithmic scale, so that a ratio is a distance."""
    connections = sorted({key.connections for key in samples})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',  # noqa: E501 - one tag
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for number, kind in enumerate(KINDS):
        parts += _panel(samples, kind, connections, LEFT + number * (PANEL_WIDTH + GAP))
    for row, (name, color) in enumerate(LINES.values()):
        x, y = WIDTH - LEGEND + 10, TOP + 10 + row * 20
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 20}" y2="{y}" stroke="{color}" stroke-width="2"/>')
        parts.append(_text(x + 26, y + 4, name))
    return "\n".join([*parts, "</svg>", ""])


def _panel(samples: Samples, kind: str, connections: Sequence[int], left: int) -> list[str]:
    parts = [_text(left, TOP - 14, f"{kind}: acknowledged events a second")]
    for rate in DECADES:
        y = _y(rate)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + PANEL_WIDTH}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(_text(left - 6, y + 4, f"{rate:,}", anchor="end"))
    for number, each in enumerate(connections):
        parts.append(_text(_x(left, number, len(connections)), TOP + PANEL_HEIGHT + 18, str(each), anchor="middle"))
    parts.append(_text(left + PANEL_WIDTH / 2, TOP + PANEL_HEIGHT + 38, "connections", anchor="middle"))
    for (target, database), (_, color) in LINES.items():
        points = []
        for number, each in enumerate(connections):
            measured = samples.median(Key(target, database, kind, each), "rate")
            if measured:
                points.append(f"{_x(left, number, len(connections)):.1f},{_y(measured):.1f}")
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="2"/>')
    return parts


def _x(left: int, number: int, of: int) -> float:
    return left + PANEL_WIDTH * (number + 0.5) / of


def _y(rate: float) -> float:
    lowest, highest = log10(DECADES[0]), log10(DECADES[-1])
    share = (log10(max(rate, DECADES[0])) - lowest) / (highest - lowest)
    return TOP + PANEL_HEIGHT * (1 - min(share, 1.0))


def _text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
