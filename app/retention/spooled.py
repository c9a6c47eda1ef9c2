"""What files of the spool still hold of events that are to be erased."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from app.events.spool_contents import Spooled, events_in, spool_files


def waiting_in(folder: Path | None, wanted: Callable[[Spooled], bool | None]) -> dict[Path, list[UUID]]:
    """The events in files of the spool that are wanted, by file; none without a folder.

    Raises:
        SpoolProblem: a file cannot be read.
    """
    if folder is None:
        return {}
    found = {path: [event.id for event in events_in(path) if wanted(event)] for path in spool_files(folder)}
    return {path: ids for path, ids in found.items() if ids}
