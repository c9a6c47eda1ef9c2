"""Chooses pictures for docs/screenshots from those that tests/e2e/test_console.py has written, and makes them small."""

import subprocess
import sys
from pathlib import Path

from tests.pages import DOCS

CHOSEN = {
    "now": "now-1600-light",
    "events": "events-1600-light",
    "replay": "replay-1600-light",
    "new-replay": "new-replay-1600-light",
    "audit": "audit-1600-light",
    "now-dark": "now-1600-dark",
    "events-narrow": "events-360-light",
}
MOST_BYTES = 1_500_000  # of all of them


def main(folder: Path) -> None:
    """Writes docs/screenshots."""
    there = DOCS / "screenshots"
    there.mkdir(exist_ok=True)
    for old in there.glob("*.png"):
        old.unlink()
    for name, shot in CHOSEN.items():
        target = there / f"{name}.png"
        subprocess.run(["pngquant", "--strip", "--output", target, "128", folder / f"{shot}.png"], check=True)  # noqa: S607
    size = sum(each.stat().st_size for each in there.glob("*.png"))
    print(f"{len(CHOSEN)} pictures, {size // 1000} kB")  # noqa: T201
    sys.exit(size > MOST_BYTES)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
