"""The table of answers for the tests, which send its requests in this process and over a socket."""

from app.checker.answers import table
from app.checker.rows import SENDER, STRANGER
from tests.conftest import basic_header

ROWS = table()
ASKED = {f"{row.status} {asked.name}": (row, asked) for row in ROWS for asked in row.asked}
CREDENTIALS = {SENDER: basic_header()["Authorization"], STRANGER: basic_header("reader")["Authorization"]}
