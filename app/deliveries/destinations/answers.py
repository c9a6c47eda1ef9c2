"""Reads one HTTP answer from bytes, as tolerantly as possible: only the status counts.

Pure: the connection feeds it. Any other fault of an answer (a malformed header, endless headers, a body that must not
be there, extra bytes) only means that its connection is not used again.
"""

from http import HTTPStatus

import httptools

MOST_BODY = 64 * 1024  # bytes of a body that are read
MOST_BYTES = 1024 * 1024
"""The most bytes of one answer that are read, including status lines, headers, chunk extensions and trailers."""

MOST_INTERIM = 100
"""The most interim answers (1xx) before the final one."""

NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
LENIENT = (
    "headers",
    "chunked_length",
    "transfer_encoding",
    "version",
    "optional_lf_after_cr",
    "optional_cr_before_lf",
    "optional_crlf_after_chunk",
    "spaces_after_chunk_size",
)


class AnswerError(Exception):
    """The bytes that arrived have no status; the text says why."""


class AnswerReader:
    """One answer while it arrives.

    Attributes:
        received: How many bytes have arrived.
        body: The beginning of the body.
        retry_after: The value of `Retry-After`, if any.
        reusable: Whether the answer ended properly, so that its connection can be used again.
    """

    def __init__(self) -> None:
        self.received = 0
        self.body = bytearray()
        self.retry_after: str | None = None
        self.reusable = False
        self._announces_body = False
        self._interim = 0
        self._over = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**{f"lenient_{name}": True for name in LENIENT})

    @property
    def status(self) -> int | None:
        """The final status; known as soon as its three digits have arrived."""
        status: int = self._parser.get_status_code()
        return status if status >= HTTPStatus.OK or status == HTTPStatus.SWITCHING_PROTOCOLS else None

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes, and returns whether the answer is complete or long enough.

        Raises:
            AnswerError: the bytes are not HTTP/1.1, or contain no final status within the bounds.
        """
        self.received += len(data)
        trouble: httptools.HttpParserError | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.reusable = False
            return True
        except httptools.HttpParserError as error:
            trouble = error
            self.reusable = False
        if self._interim > MOST_INTERIM:
            raise AnswerError(f"It sent more than {MOST_INTERIM} interim answers (1xx) and no final one.")
        if trouble is not None and (self.status is None or isinstance(trouble, httptools.HttpParserInvalidStatusError)):
            raise AnswerError(f"Its answer is not HTTP/1.1: {trouble}.")
        if self._over or trouble is not None:
            return True
        if self.received < MOST_BYTES and len(self.body) < MOST_BODY:
            return False
        if self.status is None:
            raise AnswerError(f"It sent {self.received} bytes and no status.")
        return True

    def on_message_begin(self) -> None:
        """Refuses a second answer, which no request asked for."""
        if self._over:
            raise ValueError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps `Retry-After`, and notes whether a body is announced."""
        match name.lower():
            case b"retry-after":
                self.retry_after = value.decode("latin-1")
            case b"content-length":
                self._announces_body = self._announces_body or value.strip() != b"0"
            case b"transfer-encoding":
                self._announces_body = True

    def on_body(self, data: bytes) -> None:
        """Keeps the beginning of the body."""
        self.body += data[: MOST_BODY - len(self.body)]

    def on_message_complete(self) -> None:
        """Counts an interim answer, or ends the final one."""
        status = self.status
        if status is None:
            self._interim += 1
            self.retry_after, self._announces_body = None, False
            if self._interim > MOST_INTERIM:
                raise ValueError
            return
        self._over = True
        # A body that must not be there may still follow, and would be taken for the next answer.
        self.reusable = self._parser.should_keep_alive() and not (status in NO_BODY and self._announces_body)
