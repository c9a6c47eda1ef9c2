"""The files of the spool that one process has: its own, which takes new events, and those that other processes left."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from app.database.health import first_line
from app.events.ids import go_on_after
from app.events.rows import Row
from app.events.spool_contents import spool_files
from app.events.spool_file import SpoolFile
from app.events.spool_problems import SpoolProblem

logger = logging.getLogger(__name__)


class SpoolFolder:
    """The files of one process; as a `Writer`, its own file.

    Attributes:
        own: The file that takes new events; None while none can be made.
        left: What other processes left, the oldest first, and former own files.
    """

    def __init__(self, path: Path) -> None:
        self.own: SpoolFile | None = None
        self.left: list[SpoolFile] = []
        self._path = path
        self._unusable: set[Path] = set()  # those that were logged
        self._given_up: set[Path] = set()  # until a restart
        self._renewing = asyncio.Lock()

    @property
    def files(self) -> list[SpoolFile]:
        """All of them, in the order in which their events are moved."""
        return [*self.left, *([self.own] if self.own else [])]

    async def open(self) -> None:
        """Adopts what was left, and makes an own file.

        Raises:
            SpoolProblem: this process may not write in the folder.
        """
        if not await asyncio.to_thread(self._path.is_dir):
            raise SpoolProblem(f"spool names {self._path}, which is not a folder. Make it on a durable local disk.")
        await self.adopt()
        try:
            self.own = await asyncio.to_thread(SpoolFile.make, self._path)
        except SpoolProblem as error:
            if not os.access(self._path, os.W_OK | os.X_OK):
                raise
            # The disk is full, perhaps of what an earlier process left, which only a receiver that starts can move.
            fields = {"file": self._path.name, "error": first_line(error)}
            logger.warning("spool_failed", extra={"fields": fields})

    async def adopt(self) -> None:
        """Takes the files that other processes left."""
        ours = {file.path for file in self.files}
        for path in await asyncio.to_thread(spool_files, self._path):
            if path in ours or path in self._given_up:
                continue
            try:
                file = await asyncio.to_thread(SpoolFile.adopt, path)
            except SpoolProblem as error:
                self._tell_unusable(path, error)
                continue
            if file is None:
                continue
            if not file.events:
                await file.close()
                if file.unreadable:
                    self._given_up.add(path)
                continue
            if file.newest is not None:
                go_on_after(file.newest)
            self._unusable.discard(path)
            self.left.append(file)

    async def renew(self) -> None:
        """Finds out whether the own file takes events: a full disk may have space now.

        If the file was removed or is damaged, new events go to another one. What can still be read is moved first.
        """
        async with self._renewing:  # a write may meet the same problem as the attempt to move
            with suppress(SpoolProblem):
                if self.own is None:
                    self.own = await asyncio.to_thread(SpoolFile.make, self._path)
                try:
                    await self.own.probe(thorough=True)
                except SpoolProblem as problem:
                    if problem.lasts:
                        new = await asyncio.to_thread(SpoolFile.make, self._path)
                        self.left.append(self.own)
                        self.own = new

    async def replace(self) -> None:
        """Closes the own file and makes another one."""
        if self.own is not None:
            spent, self.own = self.own, None
            await spent.close()
        await self.renew()

    async def finish(self, file: SpoolFile) -> None:
        """Closes a file that another process left. What could not be moved stays there until a restart."""
        self.left.remove(file)
        await file.close()
        if await asyncio.to_thread(file.path.exists):
            self._given_up.add(file.path)

    async def go_on_without(self, problem: SpoolProblem) -> None:
        """Closes a file that cannot be read. The file stays, and is adopted again unless it is damaged."""
        for file in self.files:
            if file.path == problem.path:
                self._tell_unusable(file.path, problem)
                if problem.lasts:
                    self._given_up.add(file.path)
                if file is self.own:
                    self.own = None
                else:
                    self.left.remove(file)
                await file.close()

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        """Commits rows to the own file; to a new one if it was removed or is damaged."""
        own = self._existing()
        try:
            return await own.write(rows)
        except SpoolProblem as problem:
            if not problem.lasts:
                raise
        await self.renew()
        return await self._existing().write(rows)

    async def probe(self, *, thorough: bool) -> None:
        """Returns if the own file takes events."""
        await self._existing().probe(thorough=thorough)

    async def close(self) -> None:
        """Closes no file: they may take events until `close_files`."""

    async def close_files(self) -> None:
        """Closes all files."""
        for file in self.files:
            await file.close()

    def _existing(self) -> SpoolFile:
        if self.own is None:
            raise SpoolProblem("The spool has no file.")
        return self.own

    def _tell_unusable(self, path: Path, error: BaseException) -> None:
        if path not in self._unusable:
            fields = {"file": path.name, "error": first_line(error)}
            logger.error("spool_file_unusable", extra={"fields": fields})
        self._unusable.add(path)
