"""Moves events from files of the spool into PostgreSQL, in order of arrival and each once."""

import logging
from collections.abc import Callable, Sequence

from app.events.postgres import PostgresWriter
from app.events.rows import NewEvent, Row
from app.events.spool_file import SpoolFile
from app.events.spool_rows import Kept
from app.events.store import BadRow

logger = logging.getLogger(__name__)

LEFT_OUT = "A trigger leaves it out."


class Mover:
    """Moves events over the connection of a writer.

    Args:
        writer: Is used by nothing else meanwhile.
        unread: Makes of an event whose content the database refuses one in quarantine, with its bytes only.
        moved: Called after each commit, with the number of events.
    """

    def __init__(
        self, writer: PostgresWriter, *, unread: Callable[[NewEvent], NewEvent], moved: Callable[[int], None]
    ) -> None:
        self._writer = writer
        self._unread = unread
        self._moved = moved

    async def move_all(self, file: SpoolFile) -> None:
        """Moves events until none is left in the file that the database takes."""
        while kept := await file.oldest():
            await self.move(file, kept)

    async def move(self, file: SpoolFile, kept: Sequence[Kept]) -> None:
        """Commits events to the database, then forgets them. Those that it refuses go there by themselves."""
        why = LEFT_OUT
        try:
            refused = await self._writer.move([each.row for each in kept])
        except BadRow as error:
            if len(kept) > 1:
                for each in kept:
                    await self.move(file, [each])
                return
            refused, why = {kept[0].row.event.id}, str(error)
        moved = []
        for each in kept:
            if each.row.event.id not in refused or await self._move_refused(each):
                moved.append(each)
                continue
            fields = {"event_id": str(each.row.event.id), "file": file.path.name, "error": why}
            logger.error("spool_refused", extra={"fields": fields})
            await file.pass_over(each, why=why)
        self._moved(len(moved))
        await file.forget(moved)

    async def _move_refused(self, kept: Kept) -> bool:
        """Moves an event that the database refuses, with its bytes only; False if it refuses that too.

        It may be stored already, under another key: a release from quarantine changes the key.
        """
        row = kept.row
        if await self._writer.holds(row.event.id):
            return True
        try:
            return not await self._writer.move([Row(self._unread(row.event), row.duplicates, row.last_duplicate_at)])
        except BadRow:
            return False
