"""Chooses pictures for docs/screenshots from those that tests/e2e/test_console.py has written, and makes them small."""

import subprocess
import sys
from pathlib import Path

from tests.pages import DOCS

CHOSEN = ("*-1600-light", "now-1600-dark", "order-360-light")
"""Every page as most see it, one in the dark, and one on a telephone."""

NOT = ("docs-", "runbooks-", "sign-in-")
"""Nothing but text."""

MOST_BYTES = 1_500_000  # of all of them


def main(folder: Path) -> None:
    """Writes docs/screenshots."""
    there = DOCS / "screenshots"
    there.mkdir(exist_ok=True)
    for old in there.glob("*.png"):
        old.unlink()
    for shot in sorted(shot for chosen in CHOSEN for shot in folder.glob(f"{chosen}.png")):
        if shot.name.startswith(NOT):
            continue
        target = there / shot.name.replace("-1600-light", "")
        subprocess.run(["pngquant", "--strip", "--output", target, "64", shot], check=True)  # noqa: S607
    sizes = [each.stat().st_size for each in there.glob("*.png")]
    size = sum(sizes)
    print(f"{len(sizes)} pictures, {size // 1000} kB")  # noqa: T201
    sys.exit(size > MOST_BYTES)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
