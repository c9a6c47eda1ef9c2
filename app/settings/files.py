"""Text files as people write them: with byte order marks, in the encodings of Windows too."""

import codecs
import tomllib
from pathlib import Path
from typing import Any

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # first, since the mark of UTF-16 is its beginning
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What Windows' editors and PowerShell's `>` put at the beginning."""


def decoded(content: bytes) -> str:
    """The text of a file: UTF-8, or what its byte order mark says, without the mark.

    Raises:
        UnicodeDecodeError: it is in another encoding.
    """
    found = (encoding for mark, encoding in BYTE_ORDER_MARKS.items() if content.startswith(mark))
    return content.decode(next(found, "utf-8"))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, whatever the locale and the file's line ends.

    Raises:
        UnicodeDecodeError: it is not text.
        tomllib.TOMLDecodeError: it is not valid TOML.
    """
    return tomllib.loads(decoded(path.read_bytes()).replace("\r\n", "\n"))
