"""A name server that can fall silent."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

PORT = 53
A, AAAA = 1, 28
UNKNOWN = 3  # NXDOMAIN


class Names:
    """Answers for the names it knows.

    Attributes:
        known: Their addresses.
        silent: Whether it does not answer at all, as one that cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self.known: dict[str, str] = {}
        self.silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, PORT))

    @contextmanager
    def running(self) -> Iterator["Names"]:
        thread = Thread(target=self._answer, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            with suppress(OSError):  # it is not connected, but the thread wakes up
                self._socket.shutdown(socket.SHUT_RDWR)
            thread.join()
            self._socket.close()

    def _answer(self) -> None:
        while True:
            try:
                query, sender = self._socket.recvfrom(512)
            except OSError:
                return
            if not query:
                return
            if not self.silent:
                self._socket.sendto(self._reply(query), sender)

    def _reply(self, query: bytes) -> bytes:
        """The answer to one question (RFC 1035, section 4)."""
        labels, place = [], 12
        while length := query[place]:
            labels.append(query[place + 1 : place + 1 + length].decode())
            place += 1 + length
        question = query[12 : place + 5]
        (kind,) = struct.unpack("!H", question[-4:-2])
        address = self.known.get(".".join(labels).lower())
        answers = b""
        if address and kind == A:
            answers = struct.pack("!HHHIH", 0xC00C, A, 1, 0, 4) + socket.inet_aton(address)
        flags = 0x8580 | (0 if address else UNKNOWN)
        return query[:2] + struct.pack("!HHHHH", flags, 1, bool(answers), 0, 0) + question + answers
